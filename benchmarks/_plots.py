"""The plots of the report: small SVGs that can be read on light and dark pages.

Their background is transparent, and no colour is near black or white. Everything is drawn from the figures of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.8), layout="constrained")
    try:
        drawn = draw(axes, figures, lines)
        if drawn:
            _share_legend(figure, axes)
            figure.savefig(path, metadata={"Date": None, "Creator": None})
    except Exception as error:  # noqa: BLE001 - the report is worth having without this plot
        print(f"no plot {path.stem}: {type(error).__name__}: {error}")
        return False
    else:
        return drawn
    finally:
        plt.close(figure)


def _share_legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend below both panels, where it hides nothing; a panel without lines is taken out."""
    handles: dict[str, Any] = {}
    for axis in axes:
        own, labels = axis.get_legend_handles_labels()
        handles |= {label: handle for handle, label in zip(own, labels, strict=True) if label not in handles}
        if not own:
            axis.axis("off")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)


def _colour(subject: str, given: dict[str, str]) -> str:
    """The same for a subject in both panels; ours stands out, whatever it is called."""
    if subject not in given:
        ours = subject == "ractogateway" or subject.startswith(("ractogateway, url=", "AsyncRedis", "RedisExact"))
        theirs = sum(colour != OURS for colour in given.values())
        given[subject] = OURS if ours else THEIRS[theirs % len(THEIRS)]
    return given[subject]


def _panel(axis: Any, lines: Sequence[Curve], case: tuple[str, str], title: str, given: dict[str, str]) -> bool:
    """Every subject of one family over its parameter, medians within the band of the rounds; logarithmic axes."""
    chosen = [line for line in lines if (line.benchmark, line.family) == case]
    for line in chosen:
        colour = _colour(line.subject, given)
        sizes, medians = line.medians()
        lowest, highest = zip(*((min(samples), max(samples)) for _, samples in line.points), strict=True)
        width = 2.4 if colour == OURS else 1.3
        axis.plot(sizes, medians, color=colour, label=line.subject, linewidth=width, marker="o", markersize=3)
        axis.fill_between(sizes, lowest, highest, color=colour, alpha=0.2, linewidth=0)
    if chosen:
        axis.set(xscale="log", yscale="log", title=title)
        axis.set(xlabel=LABELS.get(chosen[0].parameter, chosen[0].parameter), ylabel=chosen[0].unit)
        axis.minorticks_off()
        axis.grid(visible=True)
    return bool(chosen)


Panel = tuple[tuple[str, str], str]
"""(module, case with its size left open), title."""


def pair(left: Panel, right: Panel) -> Callable[..., bool]:
    """A drawing of two panels of curves."""

    def draw(axes: Any, _figures: Sequence[Figure], lines: Sequence[Curve]) -> bool:
        given: dict[str, str] = {}
        drawn = [
            _panel(axis, lines, case, title, given) for axis, (case, title) in zip(axes, (left, right), strict=True)
        ]
        return any(drawn)

    return draw


def latency(axes: Any, figures: Sequence[Figure], _lines: Sequence[Curve]) -> bool:
    """Percentiles on an axis that gives each further nine the same room."""
    given: dict[str, str] = {}
    cases: dict[str, list[Figure]] = {}
    for each in figures:
        if each.get("kind") == "quantiles":
            cases.setdefault(each["case"], []).append(each)
    for axis, (case, subjects) in zip(axes, cases.items(), strict=False):
        for each in subjects:
            count = len(each["samples"])
            shares = [(number + 1) / (count + 1) for number in range(count)]
            places = [-math.log10(1 - share) for share in shares]
            colour = _colour(each["subject"], given)
            width = 2.4 if colour == OURS else 1.3
            # Every tenth up to the 90th, for the SVG's sake; none that fewer than ten calls stand for.
            far = 1 - 10 / each["count"]
            kept = [place for place, share in enumerate(shares) if (share > 0.9 or place % 10 == 0) and share <= far]  # noqa: PLR2004
            xs, ys = [places[number] for number in kept], [each["samples"][number] for number in kept]
            axis.plot(xs, ys, color=colour, label=each["subject"], linewidth=width)
        axis.set(yscale="log", title=case, xlabel="percentile", ylabel="ms")
        ticks = [-math.log10(1 - percent / 100) for percent in PERCENTILES]
        axis.set_xticks(ticks, [f"{percent:g}" for percent in PERCENTILES])
        axis.minorticks_off()
        axis.grid(visible=True)
    return bool(cases)


def worst_window(axes: Any, figures: Sequence[Figure], _lines: Sequence[Curve]) -> bool:
    """One group of bars a limiter, one bar an attack."""
    attacks: dict[str, dict[str, float]] = {}
    for each in figures:
        if each["benchmark"] == "limiter" and each["case"].startswith("worst window, "):
            attacks.setdefault(each["case"].removeprefix("worst window, "), {})[each["subject"]] = each["median"]
    if not attacks:
        return False
    axis, _ = axes
    names = list(next(iter(attacks.values())))[::-1]
    height = 0.8 / len(attacks)
    for number, (attack, worst) in enumerate(attacks.items()):
        places = [place + (len(attacks) / 2 - number - 0.5) * height for place in range(len(names))]
        axis.barh(places, [worst.get(name, 0.0) for name in names], height * 0.9, color=THEIRS[number], label=attack)
    axis.axvline(1.0, color=OURS, linewidth=1.5, label="the limit")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="most admitted within one window, as a multiple of the limit", title="worst window by limiter")
    axis.grid(visible=True, axis="x")
    return True


THROUGHPUT = pair(
    (("transport", "GET of 1 KB, n tasks"), "GET of 1 KB by tasks that await"),
    (("transport", "GET of 1 KB, n threads"), "GET of 1 KB by threads that block"),
)
TOKENS = pair(
    (("limiter_growth", "server time of a charge of 1 % of n tokens"), "server time of a charge of 1 % of the budget"),
    (("limiter_growth", "bytes of a user who has spent half of n tokens"), "what Redis keeps of one user"),
)
ANSWERS = pair(
    (("cache_growth", "a whole cache hit of n KB, 16 tasks"), "a whole cache hit by size of the answer"),
    (("cache_growth", "get of 1 KB beside n entries, 16 tasks"), "a whole cache hit by number of entries"),
)
MESSAGES = pair(
    (("memory_growth", "a turn appended to n messages"), "a turn appended, one caller"),
    (("memory_growth", "the last four of n messages"), "the last four read, one caller"),
)
DRAWINGS: dict[str, Callable[..., bool]] = {
    "throughput": THROUGHPUT,
    "latency": latency,
    "worst_window": worst_window,
    "tokens": TOKENS,
    "answers": ANSWERS,
    "messages": MESSAGES,
}
CAPTIONS = {
    "throughput": "Throughput by number of tasks and threads",
    "latency": "Latency distributions of GET",
    "worst_window": "The worst window that each limiter admits under attack",
    "tokens": "Cost of a limiter by the number of tokens",
    "answers": "A whole cache hit by size of the answer and number of entries",
    "messages": "Chat memory by length of the conversation",
}
