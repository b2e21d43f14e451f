"""Does this server fit the tools? Asked at start-up, or by ``python -m ractogateway doctor --url …``.

    report = await check("redis://localhost:6379/0", tools={"limiter": "ractogateway:ratelimit"})
    for finding in report.findings:
        print(finding.level, finding.text, finding.advice)

Everything a server tells is gathered once (`facts`), and then looked at by one function a question, in `server`,
`storage`, `connection` and `access`. Last, each tool is used once, the way programs use it (`trial`).
"""

from __future__ import annotations

from ractogateway.redis.doctor.checkup import check
from ractogateway.redis.doctor.findings import TOOLS, Finding, Level, Report

__all__ = ["TOOLS", "Finding", "Level", "Report", "check"]
