"""Peers side by side: every round runs each contender once, in turn, so that a busy or drifting machine slows all of
them alike. Printed are medians over the rounds, and the median of the ratios within a round with its spread."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

Contender = Callable[[], float] | Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Row:
    """Figures of one contender: operations a second, and how many times the baseline's."""

    name: str
    per_second: float
    ratio: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        spread = f"[{self.lowest:.2f} … {self.highest:.2f}]"
        return f"{self.name:<34} {self.per_second:>10,.0f}/s   {self.ratio:6.2f}x   {spread}"


def rows(figures: Mapping[str, list[float]], baseline: str) -> Iterator[Row]:
    """One row a contender; ratios to the baseline of the same round."""
    for name, values in figures.items():
        ratios = [value / base for value, base in zip(values, figures[baseline], strict=True)]
        yield Row(name, statistics.median(values), statistics.median(ratios), min(ratios), max(ratios))


def compare(contenders: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Operations a second of each contender, round by round. A first round warms up and does not count."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            figure = run()
            if number:
                figures[name].append(figure)
    return figures


async def compare_async(
    contenders: Mapping[str, Callable[[], Awaitable[float]]], *, rounds: int
) -> dict[str, list[float]]:
    """`compare` for contenders that are awaited."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            figure = await run()
            if number:
                figures[name].append(figure)
    return figures


def show(title: str, figures: Mapping[str, list[float]], baseline: str) -> None:
    """Print one table."""
    print(f"\n{title}  (ratios to {baseline})")
    for row in rows(figures, baseline):
        print(f"  {row}")


def header(*packages: str) -> str:
    """The machine and the versions, for the top of a report."""
    versions = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores, {load}; " + ", ".join(versions)
