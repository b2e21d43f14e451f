"""What was found, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ractogateway._checks import check_id
from ractogateway.errors import InvalidTypeError, InvalidValueError

Level = Literal["ok", "note", "warning", "problem", "unreachable"]

_CODES: Final[dict[Level, int]] = {"ok": 0, "note": 0, "warning": 1, "unreachable": 2, "problem": 3}
_WORST: Final[tuple[Level, ...]] = ("unreachable", "problem", "warning", "note", "ok")

TOOLS: Final[Mapping[str, str]] = {
    "cache": "ractogateway:exact",
    "limiter": "ractogateway:ratelimit",
    "memory": "ractogateway:memory",
}
"""The tools, each with the prefix that its keys have unless configured otherwise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        check: the question, in a word.
        level: ``ok``; ``note``, which is for you to know, or could not be looked at; ``warning``: a promise depends on
            it; ``problem``: a tool does not work, or a promise does not hold; ``unreachable``: there was nobody to ask.
        text: what was found.
        advice: what to do; empty where there is nothing.
        servers: whom it concerns.
    """

    check: str
    level: Level
    text: str
    advice: str = ""
    servers: tuple[str, ...] = ()

    def of(self, server: str) -> Finding:
        """The same, said of this server."""
        return Finding(self.check, self.level, self.text, self.advice, (*self.servers, server))


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about the servers behind ``url``, which is shown without user, password and options."""

    url: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst of all levels."""
        worst: Level = "ok"
        for finding in self.findings:
            if _WORST.index(finding.level) < _WORST.index(worst):
                worst = finding.level
        return worst

    @property
    def exit_code(self) -> int:
        """0: nothing to do; 1: warnings; 2: no server could be asked; 3: problems."""
        return _CODES[self.level]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``url``, ``level``, ``exit_code`` and ``findings`` with the attributes of `Finding`."""
        findings = [
            {
                "check": found.check,
                "level": found.level,
                "text": found.text,
                "advice": found.advice,
                "servers": list(found.servers),
            }
            for found in self.findings
        ]
        return {"url": self.url, "level": self.level, "exit_code": self.exit_code, "findings": findings}

    def as_text(self) -> str:
        """A line for each finding, the names of servers where there are several."""
        several = len({server for found in self.findings for server in found.servers}) > 1
        lines = [self.url]
        for found in self.findings:
            where = f" [{', '.join(found.servers)}]" if several and found.servers else ""
            advice = f" -> {found.advice}" if found.advice else ""
            lines.append(f"{found.level:<12}{found.check:<13}{found.text}{advice}{where}")
        return "\n".join(lines)


def together(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What was found of several servers in the same words becomes one finding."""
    merged: dict[tuple[str, Level, str, str], tuple[str, ...]] = {}
    for found in findings:
        key = (found.check, found.level, found.text, found.advice)
        merged[key] = (*merged.get(key, ()), *found.servers)
    return tuple(Finding(*key, servers=servers) for key, servers in merged.items())


def checked_tools(tools: Mapping[str, str]) -> dict[str, str]:
    """Names of tools with the prefixes of their keys.

    Raises:
        InvalidTypeError, InvalidValueError: it is something else.
    """
    if not isinstance(tools, Mapping):
        raise InvalidTypeError(f"tools must map tools to the prefixes of their keys, not be a {type(tools).__name__}")
    if not tools or not set(tools) <= set(TOOLS):
        raise InvalidValueError(f"tools must name some of {', '.join(TOOLS)}, and nothing else")
    for prefix in tools.values():
        check_id("a prefix of tools", prefix)
    return dict(tools)
