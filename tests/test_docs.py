"""The documentation is true: its Python blocks are run, what they say they print is what they print, every name of the
public API has its place in the reference, and every page is found from the navigation.

The blocks of a page are one program, read from top to bottom; those of the guides stand each for itself.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import (
    blocks,
    documented_server,
    keeps_its_promises,
    programs,
    provider_stand_ins,
    run,
    run_session,
)
from servers import Server, _free_port

import ractogateway
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.redis.config import URL_VARIABLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIAL = DOCS / "tutorial.md"
WITH_THIS_PYTHON = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
PUBLIC = [f"ractogateway.{name}" for name in ractogateway.__all__ if inspect.ismodule(getattr(ractogateway, name))]


SESSIONS = {str(page.relative_to(DOCS)): code for page in PAGES if page != TUTORIAL and (code := programs(page))}


@pytest.fixture(scope="module")
def localhost() -> Iterator[Server]:
    with documented_server() as server:
        yield server


@pytest.fixture(scope="module")
def model() -> Iterator[dict[str, str]]:
    with provider_stand_ins() as environment:
        yield environment


@pytest.mark.parametrize("page", SESSIONS)
def test_every_page_runs_twice_and_prints_what_it_says(page, localhost, model, tmp_path):
    """Against one server, one page after the other: no block is in another one's way, nor in its own."""
    run_session([*SESSIONS[page], *SESSIONS[page]], localhost, tmp_path, model)


# --- the tutorial ----------------------------------------------------------------------------------------------------

*STEPS, TOMORROW = [block for block in blocks(TUTORIAL, "python") if block.is_program]
*_, RESTART, SERVICE, SERVICE_AGAIN = [block.code for block in blocks(TUTORIAL, "bash")]


def steps(last: int) -> str:
    """The file that the reader has after a step."""
    return "\n".join(block.code for block in STEPS[:last])


@pytest.mark.parametrize("last", range(1, len(STEPS) + 1))
def test_the_tutorials_file_runs_after_each_step(last, tmp_path):
    (tmp_path / "tutorial.py").write_text(steps(last))
    command = [sys.executable, "-W", "error", "tutorial.py"]
    keeps_its_promises(steps(last), run(command, tmp_path, {URL_VARIABLE: "embedded://"}))


def test_the_tutorials_second_process_finds_what_the_first_has_left(tmp_path):
    (tmp_path / "tutorial.py").write_text(steps(len(STEPS)))
    (tmp_path / "tomorrow.py").write_text(TOMORROW.code)
    printed = run(["bash", "-c", RESTART], tmp_path, WITH_THIS_PYTHON)
    keeps_its_promises(steps(len(STEPS)) + TOMORROW.code, printed)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial asks by curl")
def test_the_tutorials_service_survives_a_restart(tmp_path):
    install, shell = (SERVICE + SERVICE_AGAIN).replace("8000", str(_free_port())).split("\n", 1)
    assert install.startswith("pip install")
    log = tmp_path / "log"  # where the machine is slow, the service tells it of a Redis that was late, and goes on
    with StandInEndpoint(api_key="a key") as model:
        settings = {
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "a key",
            URL_VARIABLE: f"embedded://{tmp_path / 'data'}",
            "no_proxy": "*",
        }
        answers = "".join(run(["bash", "-c", f"exec 2>{log}\n{shell}"], ROOT, {**WITH_THIS_PYTHON, **settings}))
        asked = [message["content"] for message in model.seen[-1].body["messages"] if message["role"] == "user"]
    assert answers.count('"answer":') == 2, (answers, log.read_text())
    assert asked == ["My name is Ann.", "What is my name?"]


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_no_python_escapes_the_tests(page):
    fences = re.findall(r"^[ \t>]*(?:```|~~~).*(?:py|ipython).*$", page.read_text(), re.MULTILINE)
    assert len(fences) == len(blocks(page, "python")), "write ```python, at the margin, and nothing behind it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_what_a_page_includes_exists(page):
    for path in re.findall(r'^--8<-- "([^":]+)', page.read_text(), re.MULTILINE):
        assert (ROOT / path).is_file()


def referenced() -> Iterator[object]:
    """What the reference shows: each name after ``:::``, and all public names of a module that stands there."""
    for page in PAGES:
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            found = pkgutil.resolve_name(path)
            yield found
            if inspect.ismodule(found):
                yield from (getattr(found, name) for name in found.__all__)


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_name_is_in_the_reference(module):
    told = set(map(id, referenced()))
    public = importlib.import_module(module)
    assert [name for name in public.__all__ if id(getattr(public, name)) not in told] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [name for page in PAGES if f"- {(name := str(page.relative_to(DOCS)))}\n" not in navigation] == []
