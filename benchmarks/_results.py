"""What a benchmark found, as records of one schema.

Modules print for people and call `record` for programs. Records go, one a line, to the file that the environment names
(``RACTOGATEWAY_BENCH_RECORDS``; ``python benchmarks`` sets it); without it they go nowhere. A line is written as soon
as its figure is known, so that what comes later cannot take it away.

A **figure** is `benchmark` (the module), `case` (what was done), `subject` (by whom), `unit`, `samples` (one a round),
`median`, and, beside a `reference` of the same case, `ratio` with `lowest` and `highest`: the median and the extremes
of subject over reference *within a round*. `parameters` are the numbers that a curve is drawn over. `goal` is added
when the run is put together. A **failure** is something that broke, **absent** a peer that is not installed.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECORDS_VARIABLE = "RACTOGATEWAY_BENCH_RECORDS"
SCHEMA = 1

Figure = dict[str, Any]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def ratios_of(samples: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Round by round; a reference of one sample (a constant) stands beside every round."""
    if len(reference) == 1:
        reference = list(reference) * len(samples)
    return [own / other if other else math.inf for own, other in zip(samples, reference, strict=True)]


def write(line: Mapping[str, Any]) -> None:
    if path := os.environ.get(RECORDS_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"benchmark": Path(sys.argv[0]).stem, **line}) + "\n")


def record(  # the schema has so many fields
    case: str,
    subject: str,
    samples: Sequence[float],
    *,
    unit: str,
    reference: str | None = None,
    reference_samples: Sequence[float] | None = None,
    **parameters: float,
) -> None:
    """Keep one figure."""
    line: Figure = {
        "kind": "figure",
        "case": case,
        "subject": subject,
        "unit": unit,
        "samples": [_rounded(sample) for sample in samples],
        "median": _rounded(statistics.median(samples)),
        "parameters": parameters,
    }
    if reference is not None and reference_samples:
        ratios = ratios_of(samples, reference_samples)
        line |= {
            "reference": reference,
            "ratio": _rounded(statistics.median(ratios)),
            "lowest": _rounded(min(ratios)),
            "highest": _rounded(max(ratios)),
        }
    write(line)


def record_quantiles(case: str, subject: str, values: Sequence[float], *, unit: str, **parameters: float) -> None:
    """Keep a distribution as its quantiles: a thousandth apart, from the first to the last but one."""
    cuts = statistics.quantiles(values, n=1000)
    line = {"kind": "quantiles", "case": case, "subject": subject, "unit": unit, "count": len(values)}
    write({**line, "samples": [_rounded(cut) for cut in cuts], "parameters": parameters})


def failed(subject: str, error: BaseException | str) -> None:
    """Say that something broke, and go on. Only the first line is kept, for it may name files of this machine."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = text.strip().split("\n", 1)[0][:200]
    print(f"  FAILED: {subject}: {text}", file=sys.stderr)
    write({"kind": "failure", "subject": subject, "error": text})


def absent(subject: str, missing: ImportError) -> None:
    """Say that a peer is not installed here."""
    print(f"  left out: {subject} ({missing})")
    write({"kind": "absent", "subject": subject, "error": str(missing).split("\n", 1)[0][:200]})
