"""Figures that belong to one curve: the same case at several sizes, and the slope of it on logarithmic axes."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from _results import Figure

FEWEST_POINTS = 3
RATES = {"tasks", "threads"}
"""Over these the speed of all together is what grows; over all others, the cost of one operation."""


WORDS = {"kilobytes": "KB", "budget": "tokens", "keys": "entries"}
"""What a case calls its parameter, where that is not the parameter's own name."""


@dataclass
class Curve:
    """One subject over one parameter. ``points``: (size, the samples of each round there)."""

    benchmark: str
    family: str
    subject: str
    parameter: str
    unit: str
    points: list[tuple[float, Sequence[float]]] = field(default_factory=list)

    @property
    def of_speed(self) -> bool:
        return self.parameter in RATES and self.unit == "operations/s"

    @property
    def of(self) -> str:
        """What the slope is one of."""
        return "speed" if self.of_speed else "time" if self.unit in ("operations/s", "µs", "ms") else self.unit

    def medians(self) -> tuple[list[float], list[float]]:
        return [size for size, _ in self.points], [statistics.median(samples) for _, samples in self.points]

    def slopes(self) -> list[float]:
        """The exponent of a power law through the points, fitted to each round by itself."""
        invert = self.of == "time" and self.unit == "operations/s"
        rounds = min(len(samples) for _, samples in self.points)
        sizes = [math.log(size) for size, _ in self.points]
        return [
            _slope(sizes, [math.log(samples[number]) * (-1 if invert else 1) for _, samples in self.points])
            for number in range(rounds)
            if all(samples[number] > 0 for _, samples in self.points)
        ]


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    return statistics.linear_regression(xs, ys).slope


def family_of(case: str, parameter: str, size: float) -> str:
    """The case with its size left open: where the parameter's name follows it, else the first one of that size."""
    word = WORDS.get(parameter, parameter)
    for after in (rf"(?= {re.escape(word)})", r"(?![\d.,]*\d)"):
        for spelled in (f"{size:,}", f"{size:g}", str(size)):
            pattern = rf"(?<![\d.,]){re.escape(spelled)}{after}"
            if re.search(pattern, case):
                return re.sub(pattern, "n", case, count=1)
    return case


def curves(figures: Iterable[Figure]) -> list[Curve]:
    """All curves of at least three points, in the order of the figures."""
    found: dict[tuple[str, ...], Curve] = {}
    for each in figures:
        for parameter, size in each.get("parameters", {}).items():
            family = family_of(each["case"], parameter, size)
            key = (each["benchmark"], family, each["subject"], parameter, each["unit"])
            found.setdefault(key, Curve(*key)).points.append((size, each["samples"]))
    for curve in found.values():
        curve.points.sort(key=lambda point: point[0])
    return [curve for curve in found.values() if len(curve.points) >= FEWEST_POINTS]
