"""One small run of the demo, shared by the tests that look at what it found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import ractogateway
from ractogateway._demo.audit import audit
from ractogateway._demo.checks import Evidence
from ractogateway._demo.model import stand_in_model
from ractogateway._demo.records import Terms
from ractogateway._demo.runner import PROMPT, Plan, replay
from ractogateway._demo.traffic import read_sample
from ractogateway._demo.workload import Workload, make_workload

Command = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class SmallRun:
    evidence: Evidence
    workload: Workload


@pytest.fixture(scope="session")
def small_run() -> SmallRun:
    """A run in which everything happens: hits, refusals, conversations long enough to be trimmed."""
    sample = read_sample()
    turns = Counter(row.conversation for row in sample)
    chosen = [row for row in sample if turns[row.conversation] > 2 or row.conversation < 150]
    rows = [replace(row, at_seconds=number / 5) for number, row in enumerate(chosen)]
    workload = make_workload(rows, speed=60.0, seed=3, longest_question_tokens=300)
    return run_small(workload)


def run_small(workload: Workload, **changed_model: str) -> SmallRun:
    with stand_in_model(0.005) as stand_in:
        model = replace(stand_in, **changed_model)
        terms = Terms(5_000, 1.5, max_turns=2, model=model.name, system_prompt=PROMPT.compile())
        plan = Plan.of("embedded://", terms, repeat_seconds=0.02)
        log = asyncio.run(replay(plan, model, workload, lambda _: None))
        return SmallRun(Evidence(terms, log, audit(plan, log), model.bill), workload)


@pytest.fixture(scope="session")
def failing_run() -> SmallRun:
    """A run whose model fails every time."""
    workload = make_workload(read_sample()[:5], speed=1000.0, seed=0, longest_question_tokens=10)
    return run_small(workload, name="error-503")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``python <arguments>`` in an empty folder, with this package importable, and no key in the environment."""
    source = str(Path(ractogateway.__file__).parent.parent)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RACTOGATEWAY_"))}

    def run(*arguments: str, **more_env: str) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**env, "PYTHONPATH": source, **more_env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert list(tmp_path.iterdir()) == [], "the demo writes no file"
        return finished

    return run
