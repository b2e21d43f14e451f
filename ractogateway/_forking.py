"""What a forked child does with what it inherited: connections stay untouched for ever, locks are new."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol


class _Renewable(Protocol):
    def renew_after_fork(self) -> None: ...


_renewables: weakref.WeakSet[_Renewable] = weakref.WeakSet()


def renewed_after_fork(holder: _Renewable) -> None:
    """Call ``holder.renew_after_fork()`` in every forked child: another thread of the parent may hold its lock, or be
    in the middle of something, and in the child it will stay there for ever.
    """
    _renewables.add(holder)


def _renew() -> None:
    for holder in list(_renewables):
        holder.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def immortalise(thing: object) -> None:
    """Leak one reference on purpose, so that ``thing`` and all it refers to are never finalised in this process.

    A list of "things to keep" would not do: at interpreter exit its items are finalised after all, and an inherited
    event loop that is closed then unregisters its wake-up socket from the epoll set that the parent still sleeps on.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
