"""Code blocks of Markdown files, run as a reader would run them: pasted into a script, against a server on
localhost:6379, with stand-ins for the providers.

A block that begins with ``# from <path>`` is not run: it is an excerpt of that file, to the letter. One that consists
of a line ``--8<-- "<path>"`` is that file, once the site is built.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import Server, valkey9
from wire_endpoints import AnthropicEndpoint, GoogleEndpoint

from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.redis.config import URL_VARIABLE

__all__ = [
    "Block",
    "blocks",
    "documented_server",
    "keeps_its_promises",
    "programs",
    "provider_stand_ins",
    "run",
    "run_script",
    "run_session",
    "tidied_after_failure",
]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DOCUMENTED = "localhost:6379"
_INCLUDED = "--8<--"
_EXCERPT = re.compile(r"# from (\S+)\n")
_PROMISE = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block; ``line`` is where its code starts in the file."""

    language: str
    line: int
    code: str

    @property
    def is_included(self) -> bool:
        """Whether it stands for a whole file, which has tests of its own."""
        return self.code.startswith(_INCLUDED)

    @property
    def excerpt(self) -> tuple[str, str] | None:
        """The path of the file that it is a part of, and that part; None if it is a program."""
        said = _EXCERPT.match(self.code)
        return None if said is None else (said[1], self.code[said.end() :])

    @property
    def is_program(self) -> bool:
        return not self.is_included and self.excerpt is None


def blocks(document: Path, language: str) -> list[Block]:
    """All blocks of one language, in order."""
    text = document.read_text("utf-8")
    found = [Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2]) for match in _BLOCK.finditer(text)]
    return [block for block in found if block.language == language]


def programs(page: Path) -> list[Block]:
    """What is run of a page: blocks of README and guides each for itself, those of any other page as one program."""
    code = [block for block in blocks(page, "python") if block.is_program]
    if not code or page.name == "README.md" or page.parent.name == "guide":
        return code
    return [Block("python", code[0].line, "\n".join(block.code for block in code))]


def keeps_its_promises(code: str, printed: list[str]) -> None:
    """Every line ``print(…)  # …`` printed what it says: to the letter, or a number near the one after ``about``."""
    promised = _PROMISE.findall(code)
    assert len(printed) == len(promised), printed
    for real, said in zip(printed, promised, strict=True):
        if said.startswith("about "):
            assert float(real) == pytest.approx(float(said.removeprefix("about ")), rel=0.1)
        else:
            assert real == said


@contextlib.contextmanager
def provider_stand_ins() -> Iterator[dict[str, str]]:
    """What stands for the providers: the environment that leads the official SDKs there."""
    with (
        StandInEndpoint(api_key="a key") as endpoint,
        AnthropicEndpoint(api_key="a key") as anthropic,
        GoogleEndpoint(api_key="a key") as google,
    ):
        yield {
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": "a key",
            "ANTHROPIC_BASE_URL": anthropic.base_url,
            "ANTHROPIC_API_KEY": "a key",
            "GOOGLE_GEMINI_BASE_URL": google.base_url,
            "GEMINI_API_KEY": "a key",
        }


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


@contextlib.contextmanager
def tidied_after_failure(server: Server) -> Iterator[None]:
    """A program that did not come to its end has not tidied up, and a second look at it is to find what it found."""
    try:
        yield
    except BaseException:
        server.flush()
        raise


def run_script(code: str, server: Server, directory: Path, environment: Mapping[str, str] = {}) -> list[str]:
    """Run a script in a Python of its own with every warning an error; the lines that it printed.

    The code is changed in nothing but the port, and in that only where port 6379 was not to be had.
    """
    address = f"localhost:{server.port}"
    script = directory / "script.py"
    script.write_text(code.replace(_DOCUMENTED, address), "utf-8")
    variables = {} if address == _DOCUMENTED else {URL_VARIABLE: f"redis://{address}/0"}
    return run([sys.executable, "-W", "error", str(script)], directory, {**variables, **environment})


def run_session(session: Sequence[Block], server: Server, directory: Path, environment: Mapping[str, str] = {}) -> None:
    """Run blocks one after the other in one Python, each with names of its own, and see that they keep their promises.

    As `run_script` does it, and as somebody does who tries one after the other in a notebook.
    """
    programs = [(block.line, block.code) for block in session]
    with tidied_after_failure(server):
        lines = run_script(f"PROGRAMS = {programs!r}\n{_ONE_BY_ONE}", server, directory, environment)
        for block, printed in zip(session, map(json.loads, lines), strict=True):
            assert printed, f"line {block.line}: a block that promises nothing proves nothing"
            keeps_its_promises(block.code, printed)


_ONE_BY_ONE = """
import contextlib, io, json
for line, code in PROGRAMS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, f"<the block at line {line}>", "exec"), {"__name__": "__main__"})
    print(json.dumps(said.getvalue().splitlines()))
"""


def run(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> list[str]:
    """Run a command in a directory; the lines that it printed. Neither it nor any finalizer complains of anything."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RACTOGATEWAY_", "OPENAI_"))}
    finished = subprocess.run(
        command,
        cwd=directory,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    # What a finalizer reports (a ResourceWarning, say) does not change the exit code.
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr or f"exit code {finished.returncode}"
    return finished.stdout.splitlines()
