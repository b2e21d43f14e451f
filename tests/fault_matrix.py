"""The fault matrix: what is done to whom, what must hold, and how FAULTS.md shows what did."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["COLUMNS", "ROWS", "Proof", "Row", "markdown"]

COLUMNS = ("cache", "limiter", "memory", "blocking")


class Row(NamedTuple):
    """How a fault is injected, and what must hold meanwhile besides what always must."""

    injected: str
    holds: str


ROWS: dict[str, Row] = {
    "kill and restart": Row(
        "SIGKILL, then a start: with an append-only file that is synchronised at every command, with one that is once "
        "a second, and without one",
        "cache: misses. Limiter: the chosen policy, counted. Memory: errors; what the server has kept is there once",
    ),
    "freeze": Row("SIGSTOP, SIGCONT", "the total deadline, not the timeout times the retries; a charge at most once"),
    "reply lost": Row(
        "a proxy that loses one reply in some, with all that follow on the connection; then it closes it, or is silent",
        "the outcome is unknown; the same operation applies once",
    ),
    "connections cut": Row("CLIENT KILL, over and over", "what is applied is the distinct operations"),
    "pause": Row("CLIENT PAUSE WRITE and ALL", "under WRITE, what is read by plain commands is read"),
    "slow server": Row("DEBUG SLEEP", "the breaker opens, and lets one probe through"),
    "slow network": Row("a proxy that delays replies and delivers them in small pieces", "nothing but the delay"),
    "scripts flushed": Row(
        "SCRIPT FLUSH between calls and inside batches", "loaded again where the server says that it has none"
    ),
    "data flushed": Row(
        "FLUSHALL under load, and while a reservation is open",
        "a late settlement makes nothing negative and brings no bucket back; what is written afterwards is there once",
    ),
    "Sentinel failover": Row(
        "SIGSTOP of the primary behind three Sentinels; a failover by command",
        "nothing is lost that the surviving side has acknowledged; nobody writes to the old primary",
    ),
    "cluster": Row(
        "slots that move under load; SIGKILL of one node of six",
        "no torn pairs, no error of somebody else's library; limits within their bounds",
    ),
    "out of memory": Row("maxmemory with noeviction", "writes are refused before the first byte of theirs; reads work"),
    "eviction": Row(
        "a cache that fills a server of a few MB under allkeys-lru and volatile-lru",
        "cache: misses. Limits and memories must not share such a server: whole and their owner's, or gone",
    ),
    "not ready": Row(
        "MISCONF (snapshots that fail), READONLY (a replica), LOADING (a large file)",
        "distinct errors, which pass by themselves",
    ),
    "clock jump": Row(
        "libfaketime under a server", "the budget holds over backward steps; no clock of the application is asked"
    ),
    "partition": Row(
        "a proxy that swallows: both directions, requests only, replies only; connections that stay half open",
        "no read without a deadline",
    ),
    "TLS and credentials": Row(
        "an expired certificate, an unknown authority, a wrong password; a rotation by ACL SETUSER under load",
        "refused at once, once, without a plaintext fallback and without a secret in the text; a rotation is unseen",
    ),
    "fork": Row("os.fork after use and under load", "no hang, no shared socket"),
    "loop switch": Row("asyncio.run twice; two loops at once", "the same object works"),
    "cancellation storm": Row("60 % of the calls cancelled at some moment", "no wrong reply; waiters outlive a leader"),
    "thread storm": Row("64 threads on first use", "one loop thread, one connection"),
    "exit with work pending": Row("a script that ends in mid-write", "acknowledged work is there; nothing hangs"),
    "bad bytes at rest": Row(
        "values cut short, exchanged, changed, of a future version",
        "cache: a miss, counted. Memory: that record skipped, counted. Limiter: refused, nothing overwritten",
    ),
}


@dataclass(frozen=True)
class Proof:
    """One test's word on one cell."""

    fault: str
    column: str
    test: str
    outcome: str
    figures: list[dict[str, Any]]


class _Shown(NamedTuple):
    """A figure's name in the report, and how those of several tests become one."""

    name: str
    merge: Any


_FIGURES = {
    "calls": _Shown("calls", sum),
    "failed": _Shown("ended as an outage", sum),
    "wrong": _Shown("wrong", sum),
    "lost": _Shown("lost", sum),
    "double": _Shown("double", sum),
    "late_ms": _Shown("ms past the deadline at most", max),
    "overslept_ms": _Shown("ms overslept by the machine meanwhile", max),
    "overdue": _Shown("more than 50 ms late without the machine being so", sum),
    "served_again_s": _Shown("s until all were served again", max),
    "outage_s": _Shown("s of outage seen by a caller at most", max),
}


def markdown(proofs: list[Proof], servers: list[str]) -> str:
    """FAULTS.md."""
    cells: dict[tuple[str, str], list[Proof]] = defaultdict(list)
    for proof in proofs:
        cells[proof.fault, proof.column].append(proof)
    return "\n".join([*_head(servers), *_overview(cells), *_details(cells)]) + "\n"


def _head(servers: list[str]) -> list[str]:
    made_of = ", ".join(
        [f"Python {platform.python_version()}"]
        + [f"{name} {importlib.metadata.version(name)}" for name in ("redis", "hiredis", "anyio", "pydantic")]
    )
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return [
        "# What holds when everything around it fails",
        "",
        "Written by `python -m nox -s faults`; do not edit. Each cell names the tests that break things on purpose,",
        "and what they counted in this run. In every row: no call waits without a bound, nobody gets what is somebody",
        "else's, service comes back unaided, and a change of state makes one line in the log. `blocking` is the",
        "blocking faces of all three tools.",
        "",
        "Calls past their deadline are measured with all callers in one process: its threads wait for one another, and",
        "for the machine, whose own lateness in the same seconds stands beside: how much too late it wakes a thread",
        "that sleeps for 2 ms. A call counts as late without the machine being so where it is more than 50 ms late,",
        "and three times the worst of these during the call does not make up for it. That a busy machine kept waiting",
        "just the thread that a call was in is not seen by that measure: look at its load.",
        "",
        f"Run on {today}, on {os.cpu_count()} cores of {platform.system()} {platform.machine()}; {made_of}.",
        f"The load of the machine in the last fifteen minutes: {os.getloadavg()[2]:.1f}.",
        *(f"{line[0].upper()}{line[1:]}." for line in servers if line.startswith(("servers", "left out"))),
        "",
    ]


def _overview(cells: dict[tuple[str, str], list[Proof]]) -> list[str]:
    lines = ["| fault | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for fault in ROWS:
        verdicts = " | ".join(_verdict(cells[fault, column]) for column in COLUMNS)
        lines += [f"| [{fault}](#{_anchor(fault)}) | {verdicts} |"]
    return [*lines, ""]


def _verdict(proofs: list[Proof]) -> str:
    if not proofs:
        return "**no proof**"
    failed = sum(proof.outcome == "failed" for proof in proofs)
    skipped = sum(proof.outcome == "skipped" for proof in proofs)
    if failed:
        return f"**{failed} of {len(proofs)} failed**"
    held = f"held, {len(proofs) - skipped} runs" if skipped < len(proofs) else "skipped"
    return held + _overdue(proofs) + (f", {skipped} skipped" if 0 < skipped < len(proofs) else "")


def _overdue(proofs: list[Proof]) -> str:
    """What a cell whose calls were not all in time has to say of it."""
    handed_in = [figures for proof in proofs for figures in proof.figures if "overdue" in figures]
    late, calls = (sum(figures[key] for figures in handed_in) for key in ("overdue", "calls"))
    return f", {late} of {calls:,} calls late" if late else ""


def _details(cells: dict[tuple[str, str], list[Proof]]) -> list[str]:
    lines: list[str] = []
    for fault, row in ROWS.items():
        lines += [f"## {_title(fault)}", "", f"Injected: {row.injected}.", "", f"Must hold: {row.holds}.", ""]
        lines += ["| | counted | tests |", "| --- | --- | --- |"]
        for column in COLUMNS:
            proofs = cells[fault, column]
            tests = sorted({proof.test.partition("[")[0] for proof in proofs})
            lines.append(f"| {column} | {_counted(proofs)} | {'<br>'.join(f'`{test}`' for test in tests) or '-'} |")
        lines.append("")
    return lines


def _counted(proofs: list[Proof]) -> str:
    handed_in = [figures for proof in proofs for figures in proof.figures]
    parts = []
    for key, (name, merge) in _FIGURES.items():
        values = [figures[key] for figures in handed_in if figures.get(key) is not None]
        if values:
            parts.append(f"{_number(merge(values))} {name}")
    notes = dict.fromkeys(str(figures["note"]) for figures in handed_in if "note" in figures)
    return "; ".join([*parts, *notes]) or _verdict(proofs)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _title(fault: str) -> str:
    return fault[0].upper() + fault[1:]


def _anchor(fault: str) -> str:
    return fault.lower().replace(" ", "-")
