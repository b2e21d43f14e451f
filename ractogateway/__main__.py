"""``python -m ractogateway``, and the script ``ractogateway``."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingExtraError,
    ProviderAuthenticationError,
    RactoGatewayError,
)

__all__ = ["main"]

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130
_TOOLS = ("cache", "limiter", "memory")
_MAX_SECONDS = 600.0
_MAX_REQUESTS = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own by default); the exit code.

    0 is success, 1 a failure, 2 wrong usage or a missing extra, 130 an interruption. Of ``doctor``: 0 nothing to do, 1
    warnings, 2 no server could be asked (or wrong usage, or a missing extra), 3 problems.
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # not shown: it may be a URL with a password
        parser.error("there is an argument too many; a server is named by --url")
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        return _doctor(arguments) if arguments.command == "doctor" else _demo(arguments)
    except MissingExtraError as error:
        extras = "redis" if arguments.command == "doctor" else "openai,embedded"
        needs = f"All that the {arguments.command} needs: pip install 'ractogateway[{extras}]'"
        return _complain(f"{error}\n{needs}", _MISUSED)
    except (InvalidTypeError, InvalidValueError, ProviderAuthenticationError) as error:
        return _complain(error, _MISUSED)
    except RactoGatewayError as error:
        return _complain(error, _FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return _INTERRUPTED


def _demo(arguments: argparse.Namespace) -> int:
    from ractogateway._demo.command import Options, run  # noqa: PLC0415 - needs extras, which the help does not

    return run(Options(arguments.url, arguments.requests, arguments.seconds, arguments.live, arguments.seed))


def _doctor(arguments: argparse.Namespace) -> int:
    from ractogateway.redis.doctor import TOOLS, check  # noqa: PLC0415 - needs an extra, which the help does not

    named = dict(arguments.tool or TOOLS)
    report = asyncio.run(
        check(
            arguments.url,
            tools={name: prefix or TOOLS[name] for name, prefix in named.items()},
            user=arguments.user,
            trial=not arguments.no_trial,
            timeout_seconds=arguments.timeout,
        )
    )
    sys.stdout.write(f"{json.dumps(report.as_dict(), indent=2) if arguments.json else report.as_text()}\n")
    return report.exit_code


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"ractogateway: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ractogateway", description="Exact cache, token-budget rate limiter and chat memory in Redis."
    )
    commands = parser.add_subparsers(dest="command", title="commands")
    demo = commands.add_parser(
        "demo",
        help="see all of it at work on real traffic, in a quarter of a minute, without a network",
        description="Replay real chat traffic through kit, cache, rate limiter and memory, on a server of its own and "
        "with a model that is a stand-in. Ends with exit code 0 if every promise it prints was checked and kept.",
    )
    demo.add_argument("--requests", type=_count, metavar="N", help="how many requests (default: 900; live: 30)")
    demo.add_argument("--seconds", type=_duration, metavar="S", help="how long that takes (default: 10; live: 20)")
    demo.add_argument("--url", default="embedded://", help="a Redis or Valkey server (default: %(default)s)")
    demo.add_argument("--live", action="store_true", help="ask the real OpenAI API; needs OPENAI_API_KEY, costs money")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="another cast of users and topics (default: 0)")
    _add_doctor(commands)
    return parser


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="see whether a server fits the tools: memory, disk, clock, permissions, the way there",
        description="Ask the servers behind a URL, use each tool once, and say in a line each what was found and what "
        "to do. Exit code: 0 nothing to do, 1 warnings, 2 no server could be asked (or wrong usage), 3 problems. "
        "Passwords are not shown.",
    )
    doctor.add_argument(
        "--url",
        help="any URL that the tools take (default: RACTOGATEWAY_REDIS_URL, where it cannot "
        "be seen in the list of processes; else redis://localhost:6379/0)",
    )
    doctor.add_argument(
        "--tool",
        action="append",
        type=_tool,
        metavar="NAME[=PREFIX]",
        help="cache, limiter or memory, and the key_prefix if it is another than usual; may be repeated (default: all)",
    )
    doctor.add_argument(
        "--user",
        metavar="NAME",
        help="look up what this ACL user may do, instead of using the tools; takes a URL of somebody who may ask",
    )
    doctor.add_argument("--no-trial", action="store_true", help="do not use the tools: write nothing")
    doctor.add_argument("--timeout", type=_duration, default=10.0, metavar="S", help="for everything (default: 10)")
    doctor.add_argument("--json", action="store_true", help="for programs")


def _tool(text: str) -> tuple[str, str]:
    name, equals, prefix = text.partition("=")
    if name not in _TOOLS or (equals and not prefix):
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_TOOLS)}, or one of them with =PREFIX")
    return name, prefix


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= _MAX_REQUESTS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MAX_REQUESTS:,}")
    return count


def _duration(text: str) -> float:
    seconds = float(text)
    if math.isnan(seconds) or not 0.1 <= seconds <= _MAX_SECONDS:  # noqa: PLR2004 - nothing shorter shows anything
        raise argparse.ArgumentTypeError(f"must be from 0.1 to {_MAX_SECONDS:.0f} seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
