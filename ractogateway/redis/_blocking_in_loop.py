"""What happens when a blocking method is called inside a running event loop.

It works (the private thread serves it, so there is no deadlock), and that loop stands still meanwhile, which a service
wants to know and a notebook does not care about.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings

from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning, InvalidValueError

POLICY_VARIABLE = "RACTOGATEWAY_BLOCKING_IN_LOOP"

_ADVICE = (
    "a blocking ractogateway call stops the event loop that is running here; "
    "await the Async… class or the object's .aio instead"
)
_USER_FRAME = 4  # the user's line, seen from here: face's helper, face's method, user


def check_running_loop() -> None:
    """Warn once per call site, raise or do nothing, as ``RACTOGATEWAY_BLOCKING_IN_LOOP`` says (``warn`` by default).

    Interactive sessions, where a loop always runs, are left in peace.
    """
    if asyncio._get_running_loop() is None:  # noqa: SLF001 - exported for this purpose, and ten times cheaper than raising
        return
    policy = os.environ.get(POLICY_VARIABLE, "warn")
    if policy == "raise":
        raise BlockingCallInLoopError(_ADVICE)
    if policy not in ("warn", "allow"):
        raise InvalidValueError(f"{POLICY_VARIABLE} must be raise, warn or allow")
    if policy == "warn" and not _interactive():
        warnings.warn(_ADVICE, BlockingCallWarning, stacklevel=_USER_FRAME)


def _interactive() -> bool:
    if hasattr(sys, "ps1"):
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
