"""A pytest plugin: whatever the suite emits is searched for secrets that its fixtures have planted.

No prompt, answer, user's id or password may reach a log, an error, a warning, a repr or the standard streams. So the
fixtures and constants of the suite use the strings below as such, and this plugin looks at

* every log record, formatted as a handler would, with its traceback;
* every error of ours that ever existed, when it is done with: its text, repr, arguments and notes, and those of
  whatever it came from, hidden or not;
* every other error of the library's doing that `pytest.raises` meets;
* warnings, and what tests and their fixtures wrote to stdout and stderr;
* the repr of every tool, kit, option and value of ours, when it is done with.

A run in which one was seen fails at its end, with the name of the test. What pytest itself prints of a failed assertion
is not looked at. The secrets are made anew for each run: no line of source code that a traceback quotes holds one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SECRET_ANSWER", "SECRET_PASSWORD", "SECRET_PROMPT", "SECRET_USER"]

_KINDS = ("prompt", "answer", "user", "password")
_MARK = os.environ.setdefault("RACTOGATEWAY_TEST_SECRET", secrets.token_hex(8))
SECRET_PROMPT, SECRET_ANSWER, SECRET_USER, SECRET_PASSWORD = (f"secret-{kind}-{_MARK}" for kind in _KINDS)
_SECRETS = dict(zip(_KINDS, (SECRET_PROMPT, SECRET_ANSWER, SECRET_USER, SECRET_PASSWORD), strict=True))

_TESTS = str(Path(__file__).parent)
_MOST_SHOWN = 20


class Watch(logging.Handler):
    """Looks at everything, and remembers what was seen where."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter())
        self.seen: dict[tuple[str, str], str] = {}
        self.test = "the collection"
        self._undo: list[Callable[[], None]] = []

    def look(self, where: str, text: str) -> None:
        """Search a text that came out at this place."""
        for kind, secret in _SECRETS.items():
            if secret in text:
                shown = text.replace(secret, f"<the {kind}>").replace("\n", " | ")
                at = shown.index(f"<the {kind}>")
                self.seen.setdefault((self.test, f"{kind} in {where}"), shown[max(at - 120, 0) : at + 60])

    # --- what is looked at -------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(TypeError, ValueError):  # a record that no handler could format
            self.look(f"the log of {record.name}", self.format(record))

    def look_at_error(self, where: str, error: BaseException) -> None:
        """An error, and what it was raised from."""
        for one in _chain(error):
            name = type(one).__name__
            notes = getattr(one, "__notes__", "")
            self.look(f"{where} ({name})", f"{_safely(str, one)} {_safely(repr, one)} {one.args!r} {notes}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        for name, text in report.sections:
            if not name.startswith("Captured log"):  # formatted with what the test asked for: seen as records
                self.look(name.lower().replace("captured ", ""), text)
        return report

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        self.look("a warning", str(warning_message.message))

    # --- installing it -----------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Begin to look."""
        from ractogateway import errors

        ours = logging.getLogger("ractogateway")
        before = ours.level
        ours.setLevel(logging.DEBUG)  # what an application may ask for is looked at, too
        self._undo.append(lambda: ours.setLevel(before))
        logging.getLogger().addHandler(self)
        self._undo.append(lambda: logging.getLogger().removeHandler(self))
        for kind in (errors.RactoGatewayError, errors.BlockingCallWarning):
            self._at_the_end_of(kind, lambda error: self.look_at_error("an error", error))
        for kind in _shown_classes():
            self._at_the_end_of(kind, lambda value: self.look(f"the repr of a {type(value).__name__}", repr(value)))
        raises = type(pytest.raises(ValueError))
        self._replace(raises, "__exit__", self._looking(raises.__exit__))

    def uninstall(self) -> None:
        """Look no more."""
        while self._undo:
            self._undo.pop()()

    def _at_the_end_of(self, kind: type, look: Callable[[Any], None]) -> None:
        def last_look(value: Any) -> None:
            with contextlib.suppress(Exception):  # half made, or the interpreter ends
                look(value)

        self._replace(kind, "__del__", last_look)

    def _replace(self, kind: type, name: str, value: Any) -> None:
        if name in vars(kind):
            old = vars(kind)[name]
            self._undo.append(lambda: setattr(kind, name, old))
        else:
            self._undo.append(lambda: delattr(kind, name))
        setattr(kind, name, value)

    def _looking(self, leave: Callable[..., bool]) -> Callable[..., bool]:
        def leave_looking(context: Any, kind: Any, error: BaseException | None, trace: Any) -> bool:
            if error is not None and _is_of_the_library(trace):
                self.look_at_error("an error", error)
            return leave(context, kind, error, trace)

        return leave_looking


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those it came from: hidden ones (``from None``) too, which error reporters may walk."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            left += [one.__cause__, one.__context__]
            yield one


def _safely(show: Callable[[object], str], error: BaseException) -> str:
    try:
        return show(error)
    except Exception:
        return ""


def _is_of_the_library(trace: Any) -> bool:
    """Whether the library, or what it called, raised this; what tests raise is theirs to show."""
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return bool(files) and not files[-1].startswith(_TESTS) and any("ractogateway" in Path(f).parts for f in files)


def _shown_classes() -> Iterator[type]:
    import ractogateway
    import ractogateway.cache
    import ractogateway.redis
    from ractogateway import anthropic_developer_kit, errors, google_developer_kit, messages, openai_developer_kit

    modules = (ractogateway.redis, ractogateway.cache, messages, openai_developer_kit)
    modules = (*modules, anthropic_developer_kit, google_developer_kit)
    found = {getattr(module, name) for module in modules for name in module.__all__} | {errors.ProviderDetails}
    for kind in found:
        if isinstance(kind, type) and not issubclass(kind, (tuple, str, int)) and not getattr(kind, "_is_protocol", 0):
            yield kind


# --- the plugin ------------------------------------------------------------------------------------------------------

_WATCH = pytest.StashKey[Watch]()
_FOUND = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = {}
    config.stash[_WATCH] = watch = Watch()
    config.pluginmanager.register(watch, "secrecy-watch")
    watch.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_WATCH].uninstall()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    import gc

    gc.collect()
    found = session.config.stash[_FOUND]
    found.update(session.config.stash[_WATCH].seen)
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist: the other side tells
        session.config.workeroutput["secrecy"] = [[*key, text] for key, text in found.items()]
    elif found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for test, what, text in getattr(node, "workeroutput", {}).get("secrecy", ()):
        node.config.stash[_FOUND][test, what] = text


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash[_FOUND]
    if found:
        terminalreporter.section("secrets were seen", sep="=", red=True)
        for (test, what), text in list(found.items())[:_MOST_SHOWN]:
            terminalreporter.line(f"SECRET {test}: {what}: {text}")
        if len(found) > _MOST_SHOWN:
            terminalreporter.line(f"… and {len(found) - _MOST_SHOWN} more")
