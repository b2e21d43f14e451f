"""The plots of the report: small SVGs that can be read on light and dark pages.

Their background is transparent, and no colour is near black or white. Everything is drawn from the figures of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from _curves import Curve, curves
from _results import Figure

NEUTRAL = "#7d8590"
OURS = "#e0603a"
THEIRS = ("#4c8fe0", "#3f9f55", "#b98a1d", "#a678e2", "#2fa8b5", "#c76b98", "#8a7f6d", "#6f86a6", "#93a63c")
STYLE = {
    "axes.edgecolor": NEUTRAL,
    "axes.labelcolor": NEUTRAL,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": NEUTRAL,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": NEUTRAL,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": NEUTRAL,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "text.color": NEUTRAL,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
}
LABELS = {
    "tasks": "tasks",
    "threads": "threads",
    "budget": "budget of a window, tokens",
    "kilobytes": "KB of an answer",
    "messages": "messages of the conversation",
    "keys": "entries in the cache",
}
PERCENTILES = (50, 90, 99, 99.9)


def draw_all(figures: Sequence[Figure], folder: Path) -> list[str]:
    """Draw what these figures allow; the names of the files that were written."""
    import matplotlib as mpl  # noqa: PLC0415 - only for the report

    mpl.use("svg")
    folder.mkdir(exist_ok=True)
    lines = curves(figures)
    with mpl.rc_context(STYLE):
        return [name for name, draw in DRAWINGS.items() if _save(draw, figures, lines, folder / f"{name}.svg")]


def _save(draw: Callable[..., bool], figures: Sequence[Figure], lines: Sequence[Curve], path: Path) -> bool:
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    try:
        drawn = draw(axes, figures, lines)
        if drawn:
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        return drawn
    finally:
        plt.close(figure)


def _colours(subjects: Iterable[str]) -> dict[str, str]:
    """Ours stands out, whatever it is called."""
    rest = iter(THEIRS * 3)
    colours = {}
    for subject in subjects:
        ours = subject == "ractogateway" or subject.startswith(("ractogateway, url=", "AsyncRedis", "RedisExact"))
        colours[subject] = OURS if ours and OURS not in colours.values() else next(rest)
    return colours


def _panel(axis: Any, lines: Sequence[Curve], benchmark: str, family: str, title: str) -> bool:
    """Every subject of one family, over its parameter, both axes logarithmic."""
    chosen = [line for line in lines if (line.benchmark, line.family) == (benchmark, family)]
    for line, colour in zip(chosen, _colours(line.subject for line in chosen).values(), strict=True):
        sizes, medians = line.medians()
        lowest = [median - min(samples) for median, (_, samples) in zip(medians, line.points, strict=True)]
        highest = [max(samples) - median for median, (_, samples) in zip(medians, line.points, strict=True)]
        width = 2.4 if colour == OURS else 1.3
        axis.errorbar(
            sizes, medians, (lowest, highest), color=colour, label=line.subject, linewidth=width, marker="o",
            markersize=3, capsize=2,
        )  # fmt: skip
    if chosen:
        axis.set(xscale="log", yscale="log", title=title)
        axis.set(xlabel=LABELS.get(chosen[0].parameter, chosen[0].parameter), ylabel=chosen[0].unit)
        axis.grid(visible=True)
        axis.legend()
    return bool(chosen)


def throughput(axes: Any, _figures: Sequence[Figure], lines: Sequence[Curve]) -> bool:
    left = _panel(axes[0], lines, "transport", "GET of 1 KB, n tasks", "GET of 1 KB by tasks that await")
    right = _panel(axes[1], lines, "transport", "GET of 1 KB, n threads", "GET of 1 KB by threads that block")
    return left or right


def latency(axes: Any, figures: Sequence[Figure], _lines: Sequence[Curve]) -> bool:
    """Percentiles on an axis that gives each further nine the same room."""
    cases: dict[str, list[Figure]] = {}
    for each in figures:
        if each.get("kind") == "quantiles":
            cases.setdefault(each["case"], []).append(each)
    for axis, (case, subjects) in zip(axes, cases.items(), strict=False):
        colours = _colours(each["subject"] for each in subjects)
        for each in subjects:
            count = len(each["samples"])
            shares = [(number + 1) / (count + 1) for number in range(count)]
            places = [-math.log10(1 - share) for share in shares]
            colour = colours[each["subject"]]
            width = 2.4 if colour == OURS else 1.3
            # Every tenth up to the 90th, for the SVG's sake.
            kept = [number for number in range(count) if number % 10 == 0 or shares[number] > 0.9]  # noqa: PLR2004
            xs, ys = [places[number] for number in kept], [each["samples"][number] for number in kept]
            axis.plot(xs, ys, color=colour, label=each["subject"], linewidth=width)
        axis.set(yscale="log", title=case, xlabel="percentile", ylabel="ms")
        ticks = [-math.log10(1 - percent / 100) for percent in PERCENTILES]
        axis.set_xticks(ticks, [f"{percent:g}" for percent in PERCENTILES])
        axis.grid(visible=True)
        axis.legend()
    return bool(cases)


def worst_window(axes: Any, figures: Sequence[Figure], _lines: Sequence[Curve]) -> bool:
    """One group of bars a limiter, one bar an attack; the second panel has the reading of it."""
    attacks: dict[str, dict[str, float]] = {}
    for each in figures:
        if each["benchmark"] == "limiter" and each["case"].startswith("worst window, "):
            attacks.setdefault(each["case"].removeprefix("worst window, "), {})[each["subject"]] = each["median"]
    if not attacks:
        return False
    axis, legend = axes
    names = list(next(iter(attacks.values())))[::-1]
    height = 0.8 / len(attacks)
    for number, (attack, worst) in enumerate(attacks.items()):
        places = [place + (len(attacks) / 2 - number - 0.5) * height for place in range(len(names))]
        axis.barh(places, [worst.get(name, 0.0) for name in names], height * 0.9, color=THEIRS[number], label=attack)
    axis.axvline(1.0, color=OURS, linewidth=1.5, label="the limit")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="most admitted within one window, as a multiple of the limit", title="worst window by limiter")
    axis.grid(visible=True, axis="x")
    legend.axis("off")
    legend.legend(*axis.get_legend_handles_labels(), loc="center left", title="attack")
    return True


def tokens(axes: Any, _figures: Sequence[Figure], lines: Sequence[Curve]) -> bool:
    time, size = "server time of a charge of 1 % of n tokens", "bytes of a user who has spent half of n tokens"
    left = _panel(axes[0], lines, "limiter_growth", time, "server time of a charge of 1 % of the budget")
    right = _panel(axes[1], lines, "limiter_growth", size, "what Redis keeps of one user")
    return left or right


def messages(axes: Any, _figures: Sequence[Figure], lines: Sequence[Curve]) -> bool:
    left = _panel(axes[0], lines, "memory_growth", "a turn appended to n messages", "a turn appended, one caller")
    right = _panel(axes[1], lines, "memory_growth", "the last four of n messages", "the last four read, one caller")
    return left or right


def answers(axes: Any, _figures: Sequence[Figure], lines: Sequence[Curve]) -> bool:
    title = "a whole cache hit by size of the answer"
    left = _panel(axes[0], lines, "cache_growth", "a whole cache hit of n KB, 16 tasks", title)
    title = "a whole cache hit by number of entries"
    right = _panel(axes[1], lines, "cache_growth", "get of 1 KB beside n entries, 16 tasks", title)
    return left or right


DRAWINGS: dict[str, Callable[..., bool]] = {
    "throughput": throughput,
    "latency": latency,
    "worst_window": worst_window,
    "tokens": tokens,
    "answers": answers,
    "messages": messages,
}
CAPTIONS = {
    "throughput": "Throughput by number of tasks and threads",
    "latency": "Latency distributions of GET",
    "worst_window": "The worst window that each limiter admits under attack",
    "tokens": "Cost of a limiter by the number of tokens",
    "answers": "A whole cache hit by size of the answer and number of entries",
    "messages": "Chat memory by length of the conversation",
}
