"""What people see: progress while it runs, and a table at the end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from typing import TextIO

from ractogateway._demo.checks import Evidence, Verdict
from ractogateway._demo.records import Asked, Log
from ractogateway._demo.workload import POPULAR_SHARE, Workload

__all__ = ["Progress", "render"]

_LABEL = 24
_GREEN, _RED, _PLAIN = "\033[32m", "\033[1;31m", "\033[0m"
_CLEAR_LINE = "\r\033[K"
_BAR = 30
_STEPS = 200
_LINES = 4
_LATE, _AFTER_THE_LAST_SECONDS = 1.2, 3.0
"""A replay that takes longer than planned by this factor, and by what the last users may wait, was held up."""


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown = 0

    def say(self, line: str) -> None:
        """A line of its own."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def show(self, log: Log) -> None:
        """How far the run is."""
        step = log.settled * (_STEPS if self._is_terminal else _LINES) // log.requests
        if step == self._shown:
            return
        self._shown = step
        hits = sum(asked.cached for asked in log.asked)
        status = f"{log.settled:,} of {log.requests:,} requests, {hits:,} from the cache"
        if not self._is_terminal:
            self.say(status)
            return
        done = log.settled * _BAR // log.requests
        line = f"[{'#' * done}{'.' * (_BAR - done)}] {status}"
        self._stream.write(_CLEAR_LINE + line[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._is_terminal and self._shown:
            self._shown = 0
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()


def render(
    evidence: Evidence, workload: Workload, about_model: str, verdicts: Sequence[Verdict], *, colours: bool = False
) -> str:
    """The table, then the promises; ``colours`` for a terminal."""
    rows = [
        *_setting(evidence, workload, about_model),
        ("", ""),
        *_counts(evidence, len(workload.conversations)),
        ("", ""),
        *_timings(evidence.log, workload.replay_seconds),
    ]
    lines = [f"  {label:<{_LABEL}}{value}".rstrip() for label, value in rows]
    return "\n".join(["", *lines, "", *_promises(verdicts, colours=colours), ""])


def _setting(evidence: Evidence, workload: Workload, about_model: str) -> Iterator[tuple[str, str]]:
    terms = evidence.terms
    yield "server", evidence.server.name
    yield "model", about_model
    traces = "production traces, Azure 2023 and Mooncake"
    yield "traffic", f"{workload.span_seconds:.0f} s of {traces}, {workload.speed:.3g}x as fast"
    yield "", f"(made up: the words, the users, and that {POPULAR_SHARE:.0%} ask about popular topics)"
    yield "budget", f"{terms.budget:,} tokens a user in any {terms.window_seconds:.2f} s: a minute of that traffic"


def _counts(evidence: Evidence, conversations: int) -> Iterator[tuple[str, str]]:
    log = evidence.log
    hits = [asked for asked in log.asked if asked.cached]
    saved, paid = sum(hit.saved_tokens for hit in hits), sum(asked.billed_tokens for asked in log.asked)
    users = len({charge.user for charge in log.charges})
    yield "requests", f"{log.requests:,} by {users} users in {conversations:,} conversations"
    yield "answered from the cache", f"{len(hits):,} ({_percent(len(hits), len(log.asked))})"
    yield "tokens saved", f"{saved:,} of {saved + paid:,} ({_percent(saved, saved + paid)})"
    if log.cache_errors:
        yield "", f"({log.cache_errors:,} lookups or stores failed, which makes them misses)"
    yield "calls of the model", f"{len(log.asked) - len(hits):,}"
    yield from _refusals(log)
    kept = evidence.server.conversations.values()
    messages = f"{sum(map(len, kept)):,} messages"
    trimmed = sum(len(turns) > evidence.terms.max_turns for turns in log.turns.values())
    yield "conversations kept", f"{len(kept):,} with {messages}; {trimmed} trimmed to {evidence.terms.max_turns} turns"
    if log.failures:
        yield "failed", ", ".join(f"{count} x {name}" for name, count in sorted(log.failures.items()))


def _refusals(log: Log) -> Iterator[tuple[str, str]]:
    refusals = [charge for charge in log.charges if charge.allowed is False]
    longest = max((charge.retry_after_seconds for charge in refusals), default=0.0)
    told = f", longest retry-after {longest:.2f} s" if refusals else ""
    yield "refusals", f"{len(refusals):,}{told}"
    if refusals:
        yield "", f"({log.waited} waited and got in, {log.gave_up} gave up)"


def _timings(log: Log, planned_seconds: float) -> Iterator[tuple[str, str]]:
    seconds = max(log.ended - log.started, 1e-9)
    in_time = seconds < _LATE * planned_seconds + _AFTER_THE_LAST_SECONDS
    pace = "the traffic's own pace" if in_time else "slower than the traffic, this machine is busy"
    yield "replay", f"{seconds:.1f} s, {len(log.asked) / seconds:,.0f} answers a second: {pace}"
    yield "a hit took", _latency([asked for asked in log.asked if asked.cached])
    yield "a miss took", _latency([asked for asked in log.asked if not asked.cached])
    if log.repeats:
        rate = len(log.repeats) / log.repeats_seconds
        yield "calls per second", f"{rate:,.0f} through the kit: the same questions again, as fast as it goes"


def _promises(verdicts: Sequence[Verdict], *, colours: bool) -> Iterator[str]:
    """One line a promise. What had nothing to be checked on is no promise of this run."""
    yield "  Promises, checked afterwards on the server, the model's own counts and the client's log:"
    for verdict in verdicts:
        if verdict.tried:
            word, colour = ("kept  ", _GREEN) if verdict.kept else ("BROKEN", _RED)
            seen = f"{verdict.cases:,} {verdict.what}"
            detail = seen if verdict.kept else f"{verdict.broken:,} times in {seen}"
            yield f"  {f'{colour}{word}{_PLAIN}' if colours else word}  {verdict.promise} ({detail})"
    unseen = [verdict.what for verdict in verdicts if not verdict.tried]
    if unseen:
        yield f"  Not checked, because there were none in this run: {', '.join(unseen)}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _latency(asked: Sequence[Asked]) -> str:
    if not asked:
        return "none in this run"
    sorted_ms = sorted(one.seconds * 1000 for one in asked)

    def percentile(share: float) -> float:
        return sorted_ms[max(0, math.ceil(share * len(sorted_ms)) - 1)]

    return f"{percentile(0.5):.1f} ms (p50), {percentile(0.99):.1f} ms (p99)"
