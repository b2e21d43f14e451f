"""The README is true: every Python block is run, what it says it prints is what it prints, and every link leads
somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import (
    Block,
    blocks,
    documented_server,
    keeps_its_promises,
    programs,
    provider_stand_ins,
    run_script,
    run_session,
    tidied_after_failure,
)
from servers import Server

from ractogateway.errors import InvalidValueError
from ractogateway.redis import RedisOptions, RedisRateLimiter, chat_memory, exact_cache, rate_limiter
from ractogateway.redis.config import DEFAULT_URL, URL_VARIABLE
from ractogateway.redis.scripts.limiter_calls import LOG_ENTRIES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PYTHON = programs(README)
EXCERPTS = [block.excerpt for block in blocks(README, "python") if block.excerpt]
SHELL = blocks(README, "bash")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def localhost() -> Iterator[Server]:
    with documented_server() as server:
        yield server


@pytest.fixture(scope="module")
def model() -> Iterator[dict[str, str]]:
    with provider_stand_ins() as environment:
        yield environment


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_every_block_runs_and_prints_what_it_says(block, localhost, model, tmp_path):
    """Against one server, in the order of the page: no block is in another one's way."""
    with tidied_after_failure(localhost):
        printed = run_script(block.code, localhost, tmp_path, model)
        assert printed, "a block that promises nothing proves nothing"
        keeps_its_promises(block.code, printed)


def test_the_blocks_run_again_against_what_they_have_left(localhost, model, tmp_path):
    """Whatever ran before this test: twice, so that every block meets itself."""
    run_session([*PYTHON, *PYTHON], localhost, tmp_path, model)


@pytest.mark.parametrize(("path", "code"), EXCERPTS, ids=[path for path, _ in EXCERPTS])
def test_every_excerpt_is_one(path, code):
    assert code in (ROOT / path).read_text()


def test_a_wrong_promise_would_be_noticed(localhost, tmp_path):
    wrong = Block("python", 1, "print(1 + 1)  # 3\n")
    with pytest.raises(AssertionError):
        test_every_block_runs_and_prints_what_it_says(wrong, localhost, {}, tmp_path)


def test_a_warning_would_be_noticed(localhost, tmp_path):
    with pytest.raises(AssertionError):
        run_script("import socket\nsocket.socket()\n", localhost, tmp_path)


def test_the_two_commands():
    assert [block.code for block in SHELL[:2]] == [
        "python -m pip install nox && python -m nox -s demo\n",
        "python -m pip install nox && python -m nox -s tests\n",
    ]
    sessions = (ROOT / "noxfile.py").read_text()
    assert "\ndef demo(" in sessions
    assert "\ndef tests(" in sessions


def test_every_extra_exists():
    named = set(re.findall(r"ractogateway\[([a-z,]+)\]", README.read_text()))
    table = set(re.findall(r"^\| `(\w+)` \|", README.read_text().partition("| extra |")[2], re.MULTILINE))
    assert {"redis", "openai", "anthropic", "google", "embedded", "all"} <= table
    assert named | table <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_within_the_project(document):
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert document != "README.md" or {"CHANGELOG.md", "SECURITY.md"} <= set(links)


def test_the_changelog_knows_this_version():
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tutorial.md"])
def test_a_checkout_is_named_as_long_as_there_is_no_release(page):
    released = f"## {PROJECT['version']} - unreleased" not in (ROOT / "CHANGELOG.md").read_text()
    assert ("Until the first release, install from a checkout" in (ROOT / page).read_text()) is not released


def test_the_numbers_are_those_of_the_code():
    guides = ("outages", "guarantees", "servers")
    pages = [README, *(ROOT / "docs" / "guide" / f"{name}.md" for name in guides)]
    readme, text = README.read_text(), " ".join(" ".join(page.read_text() for page in pages).split())
    for tool in (exact_cache, rate_limiter, chat_memory):
        connected, connecting = f"{tool._LIMITS.connected:g} s", f"{tool._LIMITS.connecting:g} s"
        promised = connected if connected == connecting else f"{connected}, {connecting} while it connects"
        assert f"| {promised} |" in readme
    options = RedisOptions()
    assert f"After {options.breaker_failures} failed calls in a row" in text
    assert f"does not try for {options.breaker_seconds:g} s" in text
    merged_above = LOG_ENTRIES * 3 // 4
    assert f"beyond {merged_above} charges in one window" in text
    assert f"up to 1/{merged_above} of the window" in text
    assert URL_VARIABLE in text
    assert DEFAULT_URL in text


ADDRESSES = {
    "redis": "redis://h",
    "rediss": "rediss://h",
    "unix": "unix:///s",
    "embedded": "embedded://",
    "redis+sentinel": "redis+sentinel://h/service",
    "rediss+sentinel": "rediss+sentinel://h/service",
    "redis+cluster": "redis+cluster://h",
    "rediss+cluster": "rediss+cluster://h",
    "http": "http://h",
}


@pytest.mark.parametrize("scheme", ADDRESSES)
def test_the_addresses_are_those_that_work(scheme):
    told = f'"{scheme}://' in README.read_text()
    try:
        RedisRateLimiter(url=ADDRESSES[scheme])
    except InvalidValueError:
        assert not told, "the README promises it"
    else:
        assert told, "the README does not know it yet"
