"""The plugin that looks for secrets sees each kind of leak, names the test, and fails the run; and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEAKS = {
    "log": """
        def test_it():
            logging.getLogger("anybody").warning("asked %s", SECRET_PROMPT)
        """,
    "log with an error": """
        def test_it():
            try:
                raise KeyError(SECRET_ANSWER)
            except KeyError:
                logging.getLogger("anybody").exception("it failed")
        """,
    "stdout": """
        def test_it():
            print("the key is", SECRET_PASSWORD)
        """,
    "stderr in a fixture": """
        @pytest.fixture
        def noisy():
            sys.stderr.write(SECRET_USER)

        def test_it(noisy):
            pass
        """,
    "an error that was caught": """
        def test_it():
            try:
                raise StoreError(f"no answer for {SECRET_USER}")
            except StoreError:
                pass
        """,
    "an error that was never raised": """
        def test_it():
            StoreError(SECRET_PASSWORD)
        """,
    "the cause": """
        def test_it():
            with pytest.raises(StoreError):
                try:
                    int(SECRET_PROMPT)
                except ValueError as error:
                    raise StoreError("no number") from error
        """,
    "the context": """
        def test_it():
            with pytest.raises(StoreError):
                try:
                    int(SECRET_PROMPT)
                except ValueError:
                    raise StoreError("no number")
        """,
    "a hidden context": """
        def test_it():
            with pytest.raises(StoreError):
                try:
                    int(SECRET_PROMPT)
                except ValueError:
                    raise StoreError("no number") from None
        """,
    "a note": """
        def test_it():
            error = StoreError("no")
            error.add_note(SECRET_PROMPT)
        """,
    "a warning": """
        @pytest.mark.filterwarnings("default")
        def test_it():
            warnings.warn(f"do not say {SECRET_ANSWER}")
        """,
    "the library's warning": """
        def test_it():
            with pytest.warns(BlockingCallWarning):
                warnings.warn(f"do not say {SECRET_ANSWER}", BlockingCallWarning)
        """,
    "a repr": """
        def test_it():
            RateLimitConfig(key_prefix=SECRET_USER)
        """,
}

SILENCE = """
    def test_what_users_hold(caplog):
        from ractogateway.redis import CacheRequest, RedisExactCache

        cache = RedisExactCache(url=f"redis://{SECRET_USER}:{SECRET_PASSWORD}@127.0.0.1:1", namespace=SECRET_USER)
        assert cache.get(SECRET_PROMPT, SECRET_PROMPT, "m", 0.0, 1) is None
        assert SECRET_PASSWORD not in repr(cache)
        assert SECRET_PROMPT not in repr(CacheRequest(SECRET_PROMPT, SECRET_PROMPT, "m", 0.0, 1))

    def test_of_its_own():
        with pytest.raises(ValueError):
            raise ValueError(SECRET_PROMPT)
    """

HEAD = """
import logging, sys, warnings
import pytest
from secrecy import SECRET_ANSWER, SECRET_PASSWORD, SECRET_PROMPT, SECRET_USER
from ractogateway.errors import BlockingCallWarning, StoreError
from ractogateway.redis import RateLimitConfig
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run tests of their own in a process of their own."""
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here.parent}:{here}")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("RACTOGATEWAY_TEST_SECRET")  # secrets of its own: what it prints is no leak of this run

    def run_tests(*options: str, **sources: str) -> pytest.RunResult:
        dedented = {name: HEAD + "\n".join(line[4:] for line in text.splitlines()) for name, text in sources.items()}
        pytester.makepyfile(**dedented)
        return pytester.runpytest_subprocess("-p", "secrecy", "-p", "no:cacheprovider", *options)

    return run_tests


def indented(source: str) -> str:
    return source.replace("\n    ", "\n")


def names(leak: str) -> str:
    return "test_" + "".join(letter if letter.isalpha() else "_" for letter in leak)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_every_kind_of_leak_is_seen(run, options):
    result = run(*options, test_silence=SILENCE, **{names(leak): indented(source) for leak, source in LEAKS.items()})
    result.assert_outcomes(passed=len(LEAKS) + 2, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = [line for line in result.outlines if line.startswith("SECRET")]
    for leak in LEAKS:
        assert any(f" {names(leak)}.py::test_it: " in line for line in told), f"{leak}\n" + "\n".join(told)
    assert not any("test_silence" in line for line in told), told
    assert "secret-" not in "\n".join(told), "the report shows none itself"


def test_what_pytest_prints_of_a_failure_is_its_own(run):
    fails = """
    def test_it():
        assert [SECRET_PROMPT] == [SECRET_ANSWER]
    """
    result = run(test_silence=SILENCE, test_fails=fails)
    result.assert_outcomes(passed=2, failed=1)
    assert "secrets were seen" not in result.stdout.str()
