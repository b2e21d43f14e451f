"""RESULTS.md, made from the figures of a run and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _curves import curves
from _goals import Verdict, judge
from _plots import CAPTIONS, draw_all
from _results import Figure

PLOTS = "plots"
NOT_MEASURED = """\
- **Distance.** Server and callers share one machine, over loopback: there is no network whose round trips would hide
  what a client costs, and server and callers take processor time from each other.
- **More cores.** On two cores a client that works on threads of its own (valkey-glide) competes with the server; on
  many it would look better.
- **TLS**, Sentinel failover, other event loops (uvloop), other Pythons than the one above, and free-threaded ones.
- **Persistence and replication**: nothing is written to disk, no replica is waited for (but in the cluster, where
  replicas follow).
- **Services as such.** LiteLLM's limiter stands in as a script with its semantics; gateways and their HTTP are not
  measured. The model's own time, thousands of times all of this, is nowhere in a figure.
- **Long runs.** Rounds take parts of a second: growth over hours, fragmentation and memory that creeps are not seen.
- **Every configuration of a peer.** Each is called as its documentation says, with pools as large as the tasks need;
  somebody who knows it better may get more out of it."""
READING = """\
A **ratio** compares two subjects *within* a round, and is the median of those; in brackets stand the lowest and the
highest round. All subjects have a turn in every round, in an order that is drawn anew, after one round that warms up.
Absolute figures say more about the machine than about the code."""
MIXED = "**Put together from several runs**, which are named at each benchmark: ratios hold within a benchmark."


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Write the report and the plots beside it."""
    figures = [record for record in result["records"] if record["kind"] in ("figure", "quantiles")]
    folder = path.parent / PLOTS
    try:
        plots = draw_all(figures, folder)
    except ImportError:
        print("matplotlib is not installed: plots stay as they are")
        plots = [name for name in CAPTIONS if (folder / f"{name}.svg").exists()]
    lines = [
        "# Results",
        "",
        "Made by `python benchmarks report` from `results.json`; not to be edited.",
        "",
        *_header(result),
        "",
        *_goals(judge(figures), result),
        *_broken(result["records"]),
        "## Curves",
        "",
        *(line for name in plots for line in (f"![{CAPTIONS[name]}]({PLOTS}/{name}.svg)", "")),
        *_slopes(figures),
        "## What is not measured",
        "",
        NOT_MEASURED,
        "",
        *_tables(result, figures),
    ]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {path.name}: {len(figures)} figures, {len(plots)} plots")


def number(value: float) -> str:
    """Three significant digits, thousands in groups."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _header(result: Mapping[str, Any]) -> Iterator[str]:
    machine, runs = result["machine"], result["runs"]
    yield (
        f"{result['started']}, {result['minutes']:g} minutes, pace `{result['pace']}`. {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']:g} GiB, {machine['system']}, {machine['python']}; "
        f"load average when the modules began {min(run['load'] for run in runs):g} to "
        f"{max(run['load'] for run in runs):g} (each leaves some to the next)."
    )
    yield ""
    yield ", ".join(f"{package} {version}" for package, version in result["versions"].items()) + "."
    yield ""
    yield READING
    if any(run["pace"] == "smoke" for run in runs):
        yield ""
        yield "**This run only proves that everything runs**: its rounds are too short for figures to mean anything."
    if len({run["started"] for run in runs}) > 1:
        yield ""
        yield MIXED


# --- goals and failures ----------------------------------------------------------------------------------------------


def _goals(verdicts: Sequence[Verdict], result: Mapping[str, Any]) -> Iterator[str]:
    arguments = {run["module"]: run["arguments"] for run in result["runs"]}
    met = sum(verdict.met is True for verdict in verdicts)
    missed = sum(verdict.met is False for verdict in verdicts)
    yield "## Goals"
    yield ""
    yield f"{met} met, {missed} missed, {len(verdicts) - met - missed} not measured."
    for part, title in (("speed", "Speed to reach"), ("footprint", "Footprint")):
        yield ""
        yield f"### {title}"
        yield ""
        yield "| goal | wanted | measured | spread | verdict | repeat |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for verdict in verdicts:
            if verdict.goal.part == part:
                yield _goal(verdict, arguments)
    yield ""
    yield "Where two references are named in a goal, the faster one stands for them; a repeat prints all of them."
    yield ""


def _goal(verdict: Verdict, arguments: Mapping[str, str]) -> str:
    goal = verdict.goal
    command = f"python benchmarks/{goal.benchmark}.py {arguments.get(goal.benchmark, '')}".strip()
    if verdict.met is None:
        return f"| {goal.text} | {goal.wanted()} | - | - | not measured | `{command}` |"
    unit = "x" if goal.unit == "x" else f" {goal.unit}"
    over = f" ({verdict.reference})" if len(goal.references) > 1 else ""
    single = verdict.lowest == verdict.highest
    spread = "one figure" if single else f"{number(verdict.lowest)} … {number(verdict.highest)}"
    word = f"**{verdict.word()}**" if not verdict.met else verdict.word()
    return f"| {goal.text}{over} | {goal.wanted()} | {number(verdict.median)}{unit} | {spread} | {word} | `{command}` |"


def _broken(records: Sequence[Figure]) -> Iterator[str]:
    failures = [record for record in records if record["kind"] == "failure"]
    missing = {record["subject"]: record for record in records if record["kind"] == "absent"}
    if failures:
        yield "## What failed"
        yield ""
        yield from (f"- `{each['benchmark']}`: {each['subject']}: {each['error']}" for each in failures)
        yield ""
    if missing:
        yield "Not installed, so left out: " + ", ".join(sorted(missing)) + "."
        yield ""


# --- slopes and tables -----------------------------------------------------------------------------------------------


def _slopes(figures: Sequence[Figure]) -> Iterator[str]:
    yield "### Slopes"
    yield ""
    yield (
        "The exponent *e* of a power law (n to the *e*) fitted to the medians' logarithms, round by round: the median, "
        "and the range of the rounds. 0 is a cost that does not grow, 1 one in proportion; for tasks and threads it is "
        "the speed of all of them together, where 1 would be perfect scaling. A straight line is not claimed: see the "
        "plots."
    )
    yield ""
    yield "| case | n | subject | slope of | e | rounds |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for curve in curves(figures):
        slopes = curve.slopes()
        if not slopes:
            continue
        first, last = number(curve.points[0][0]), number(curve.points[-1][0])
        spread = f"{min(slopes):.2f} … {max(slopes):.2f}" if len(slopes) > 1 else "one"
        case = curve.family.replace("|", "/")
        middle = statistics.median(slopes)
        yield f"| {case} | {first} … {last} | {curve.subject} | {curve.of} | {middle:.2f} | {spread} |"
    yield ""


def _tables(result: Mapping[str, Any], figures: Sequence[Figure]) -> Iterator[str]:
    yield "## All figures"
    for run in result["runs"]:
        own = [each for each in figures if each["benchmark"] == run["module"] and each["kind"] == "figure"]
        yield ""
        yield f"### {run['module']}"
        yield ""
        yield f"`python benchmarks/{run['module']}.py {run['arguments']}`".replace(" `", "`")
        yield f"({run['started']}, {run['seconds']:.0f} s)"
        yield ""
        if own:
            yield "<details><summary>figures</summary>"
            yield ""
            yield from _cases(own)
            yield "</details>"
        else:
            yield "It recorded no figures: what it found, it printed."


def _cases(figures: Sequence[Figure]) -> Iterator[str]:
    cases: dict[tuple[str, str], list[Figure]] = {}
    for each in figures:
        cases.setdefault((each["case"], each["unit"]), []).append(each)
    for (case, unit), own in cases.items():
        reference = next((each["reference"] for each in own if "ratio" in each), None)
        yield f"**{case}**, {unit}" + (f" (ratios to {reference})" if reference else "")
        yield ""
        yield "| subject | median | lowest … highest | ratio | lowest … highest |"
        yield "| --- | ---: | --- | ---: | --- |"
        for each in own:
            samples = each["samples"]
            spread = f"{number(min(samples))} … {number(max(samples))}" if len(samples) > 1 else "-"
            ratio = f"{each['ratio']:.2f}x" if "ratio" in each else "-"
            within = f"{each['lowest']:.2f} … {each['highest']:.2f}" if "ratio" in each else "-"
            yield f"| {each['subject']} | {number(each['median'])} | {spread} | {ratio} | {within} |"
        yield ""
