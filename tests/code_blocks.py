"""Code blocks of Markdown files, run as a reader would run them: pasted into a script, against a server on
localhost:6379."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from servers import Server, valkey9

__all__ = ["Block", "blocks", "documented_server", "run_script"]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DOCUMENTED = "localhost:6379"


class Block(NamedTuple):
    """A fenced block; ``line`` is where its code starts in the file."""

    language: str
    line: int
    code: str


def blocks(document: Path, language: str) -> list[Block]:
    """All blocks of one language, in order."""
    text = document.read_text("utf-8")
    found = [Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2]) for match in _BLOCK.finditer(text)]
    return [block for block in found if block.language == language]


@contextlib.contextmanager
def documented_server() -> Iterator[Server]:
    """A server of ours on port 6379 of localhost; on a free port where somebody else's server has that one.

    Both loopback addresses are taken, since either may be what ``localhost`` means.
    """
    server = valkey9(config={"port": "6379", "bind": "127.0.0.1 -::1"})
    try:
        server.start()
    except AssertionError:  # it ended: the port is taken
        server.close()
        server = valkey9().start()
    else:
        server.port = 6379
    with server:
        yield server


def run_script(code: str, server: Server, directory: Path, environment: Mapping[str, str] = {}) -> list[str]:
    """Run a script in a Python of its own with every warning an error; the lines that it printed.

    The code is changed in nothing but the port, and in that only where port 6379 was not to be had.
    """
    address = f"localhost:{server.port}"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RACTOGATEWAY_", "OPENAI_"))}
    if address != _DOCUMENTED:
        variables["RACTOGATEWAY_REDIS_URL"] = f"redis://{address}/0"
    script = directory / "script.py"
    script.write_text(code.replace(_DOCUMENTED, address), "utf-8")
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=directory,
        env={**variables, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # What a finalizer reports (a ResourceWarning, say) does not change the exit code.
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr or f"exit code {finished.returncode}"
    return finished.stdout.splitlines()
