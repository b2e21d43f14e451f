"""What a forked child does with what it inherited: connections stay untouched for ever, locks are replaced."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Protocol


class _Locked(Protocol):
    _lock: threading.Lock


_locked: weakref.WeakSet[_Locked] = weakref.WeakSet()


def new_lock_after_fork(holder: _Locked) -> None:
    """Give ``holder._lock`` a successor in every forked child: another thread may hold it at that moment, for ever."""
    _locked.add(holder)


def _replace_locks() -> None:
    for holder in list(_locked):
        holder._lock = threading.Lock()  # noqa: SLF001 - what the protocol above is for


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_locks)


def immortalise(thing: object) -> None:
    """Leak one reference on purpose, so that ``thing`` and all it refers to are never finalised in this process.

    A list of "things to keep" would not do: at interpreter exit its items are finalised after all, and an inherited
    event loop that is closed then unregisters its wake-up socket from the epoll set that the parent still sleeps on.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
