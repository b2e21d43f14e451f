"""Peers side by side: every round runs each contender once, so that a busy or drifting machine slows all of them alike.

The order within a round is drawn anew for each (from a fixed seed), so that nobody always follows the same one, and
garbage is collected before each turn, so that nobody pays for another's. Printed are medians over the rounds, and the
median of the ratios *within* a round with the extremes: never a ratio of means. What breaks is recorded and left out
of the rounds that follow; the others go on.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import platform
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from _results import failed, ratios_of, record

Contender = Callable[[], float] | Callable[[], Awaitable[float]]
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """Figures of one contender: so much a unit, and how many times the baseline's."""

    name: str
    median: float
    ratio: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        spread = f"[{self.lowest:.2f} … {self.highest:.2f}]"
        median = f"{self.median:>10,.0f}" if self.median >= 100 else f"{self.median:>10.3g}"  # noqa: PLR2004
        return f"{self.name:<34} {median}   {self.ratio:6.2f}x   {spread}"


def rows(figures: Mapping[str, list[float]], baseline: str) -> Iterator[Row]:
    """One row a contender; ratios to the baseline of the same round."""
    for name, values in figures.items():
        ratios = ratios_of(values, figures[baseline]) if baseline in figures else [float("nan")]
        yield Row(name, statistics.median(values), statistics.median(ratios), min(ratios), max(ratios))


async def compare_async(contenders: Mapping[str, Contender], *, rounds: int) -> Figures:
    """The figure of each contender, round by round. A first round warms up and does not count."""
    figures: Figures = {name: [] for name in contenders}
    for number in range(rounds + 1):
        order = sorted(figures)
        random.Random(number).shuffle(order)
        for name in order:
            gc.collect()
            try:
                outcome = contenders[name]()
                figure = await outcome if inspect.isawaitable(outcome) else outcome
            except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
                failed(name, error)
                del figures[name]
                continue
            if number:
                figures[name].append(figure)
    return figures


def compare(contenders: Mapping[str, Callable[[], float]], *, rounds: int) -> Figures:
    """`compare_async` for contenders that block."""
    turns = compare_async(contenders, rounds=rounds)
    try:
        turns.send(None)
    except StopIteration as finished:
        return finished.value
    raise TypeError("a contender has to be awaited")


def show(
    title: str, figures: Mapping[str, list[float]], baseline: str, *, unit: str = "operations/s", **parameters: float
) -> None:
    """Print one table, and record it. ``parameters``: what a curve over several tables is drawn over."""
    print(f"\n{title}, {unit}  (ratios to {baseline})")
    for row in rows(figures, baseline):
        print(f"  {row}")
    for name, values in figures.items():
        reference = {"reference": baseline, "reference_samples": figures.get(baseline)} if name != baseline else {}
        record(title, name, values, unit=unit, **reference, **parameters)


def header(*packages: str) -> str:
    """The machine and the versions, for the top of a report."""
    versions = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores, {load}; " + ", ".join(versions)
