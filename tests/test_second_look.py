"""The plugin that runs a test again: only one that failed, only if the machine stood still, once, and it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import sys

sys.path.insert(0, {tests!r})

from second_look import SecondLook


def pytest_configure(config):
    config.pluginmanager.register(SecondLook(), "second look")
"""
STANDING_STILL = """
import sys
import time


def stand_still():
    # The interpreter's other threads do not run meanwhile, whatever the machine does.
    before = sys.getswitchinterval()
    sys.setswitchinterval(10.0)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    sys.setswitchinterval(before)
    time.sleep(0.02)  # so that the one that watches sees it


tries = []
"""


@pytest.fixture
def looked_at(pytester):
    """The outcomes of a test module, and what was said."""
    pytester.makeconftest(CONFTEST.format(tests=str(Path(__file__).parent)))

    def run(source: str, *options: str):
        pytester.makepyfile(STANDING_STILL + source)
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
        return result.parseoutcomes(), result.stdout.str()

    return run


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "two processes"])
def test_a_failure_while_the_machine_stood_still_is_looked_at_again(looked_at, options):
    outcomes, said = looked_at(
        """
def test_it():
    tries.append(1)
    if len(tries) == 1:
        stand_still()
        raise AssertionError
""",
        *options,
    )
    assert outcomes == {"passed": 1}
    assert "run a second time" in said
    assert "::test_it (call): the machine stood still for 0." in said


def test_one_that_comes_again_counts_once(looked_at):
    outcomes, said = looked_at(
        """
def test_it():
    tries.append(1)
    stand_still()
    assert len(tries) > 2


def test_how_often():
    assert len(tries) == 2
"""
    )
    assert outcomes == {"failed": 1, "passed": 1}
    assert "::test_it (call): the machine stood still" in said


def test_a_failure_on_a_machine_that_ran_counts_at_once(looked_at):
    outcomes, _ = looked_at(
        """
def test_it():
    assert tries


def test_that_nobody_looks_at_again_as_it_passes():
    tries.append(1)
    stand_still()


def test_how_often():
    assert len(tries) == 1
"""
    )
    assert outcomes == {"failed": 1, "passed": 2}


def test_fixtures_are_made_anew(looked_at):
    """Those of the test, and those that it shares with others."""
    outcomes, said = looked_at(
        """
import pytest


@pytest.fixture(scope="module")
def wide():
    made.append("wide")
    yield
    made.append("wide ended")


@pytest.fixture
def narrow(wide):
    made.append("narrow")
    if len(tries) == 0:
        tries.append(1)
        stand_still()
        raise OSError
    yield
    made.append("narrow ended")


made = []


def test_it(narrow):
    assert made == ["wide", "narrow", "wide ended", "wide", "narrow"]


def test_another(narrow):
    assert made[5:] == ["narrow ended", "narrow"]
"""
    )
    assert outcomes == {"passed": 2}
    assert "::test_it (setup): the machine stood still" in said
