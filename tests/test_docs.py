"""The documentation is true: its Python blocks are run, what they say they print is what they print, every name of the
public API has its place in the reference, and every page is found from the navigation.

The blocks of a page are one program, read from top to bottom; those of the guides stand each for itself.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import blocks, documented_server, keeps_its_promises, provider_stand_ins, run_script
from servers import Server

import ractogateway

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PUBLIC = [f"ractogateway.{name}" for name in ractogateway.__all__ if inspect.ismodule(getattr(ractogateway, name))]


def programs() -> Iterator[tuple[str, str]]:
    """What is run, and where it stands."""
    for page in PAGES:
        name, code = str(page.relative_to(DOCS)), [block for block in blocks(page, "python") if block.is_program]
        if page.parent.name == "guide":
            yield from ((f"{name}:{block.line}", block.code) for block in code)
        elif code:
            yield name, "\n".join(block.code for block in code)


PROGRAMS = dict(programs())


@pytest.fixture(scope="module")
def localhost() -> Iterator[Server]:
    with documented_server() as server:
        yield server


@pytest.fixture(scope="module")
def model() -> Iterator[dict[str, str]]:
    with provider_stand_ins() as environment:
        yield environment


@pytest.mark.parametrize("place", PROGRAMS)
def test_every_program_runs_and_prints_what_it_says(place, localhost, model, tmp_path):
    localhost.flush()
    printed = run_script(PROGRAMS[place], localhost, tmp_path, model)
    assert printed, "a program that promises nothing proves nothing"
    keeps_its_promises(PROGRAMS[place], printed)


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
