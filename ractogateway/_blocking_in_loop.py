"""What happens when a blocking method is called inside a running event loop.

It works (the private thread serves it, so there is no deadlock), and that loop stands still meanwhile, which a service
wants to know and a notebook does not care about.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning, InvalidValueError

__all__ = ["check_running_loop", "checked_before"]

POLICY_VARIABLE = "RACTOGATEWAY_BLOCKING_IN_LOOP"

_FACES_ADVICE = "await the Async… class or the object's .aio instead"
_PACKAGE = __name__.partition(".")[0]


class _Checked(threading.local):
    before = False


_checked = _Checked()


def check_running_loop(advice: str = _FACES_ADVICE) -> None:
    """Warn once per call site, raise or do nothing, as ``RACTOGATEWAY_BLOCKING_IN_LOOP`` says (``warn`` by default).

    Interactive sessions, where a loop always runs, are left in peace.
    """
    if asyncio._get_running_loop() is None or _checked.before:  # noqa: SLF001 - exported for this purpose, and ten times cheaper than raising
        return
    policy = os.environ.get(POLICY_VARIABLE) or "warn"
    message = f"a blocking ractogateway call stops the event loop that is running here; {advice}"
    if policy == "raise":
        raise BlockingCallInLoopError(message)
    if policy not in ("warn", "allow"):
        raise InvalidValueError(f"{POLICY_VARIABLE} must be raise, warn or allow")
    if policy == "warn" and not _interactive():
        warnings.warn(message, BlockingCallWarning, stacklevel=_user_level())


@contextmanager
def checked_before() -> Iterator[None]:
    """Blocking calls that a call makes which was checked itself: the user made one, and is told once."""
    outer, _checked.before = _checked.before, True
    try:
        yield
    finally:
        _checked.before = outer


def _user_level() -> int:
    """The ``stacklevel``, for a warning issued by the caller, of the innermost line that is not this package's.

    Counted rather than fixed: a face's method, a ``with`` block and a kit in front of a cache differ in depth, and the
    user's line is what tells call sites apart. (`warnings.warn` can skip a package by itself from Python 3.12 on.)
    """
    level = 1
    frame = sys._getframe(1)  # noqa: SLF001 - the cheap way to a frame; inspect.stack() reads source files
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    return level


def _interactive() -> bool:
    if hasattr(sys, "ps1"):
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
