"""What a forked child does with what it inherited: nothing, for ever."""

from __future__ import annotations

import ctypes


def immortalise(thing: object) -> None:
    """Leak one reference on purpose, so that ``thing`` and all it refers to are never finalised in this process.

    A list of "things to keep" would not do: at interpreter exit its items are finalised after all, and an inherited
    event loop that is closed then unregisters its wake-up socket from the epoll set that the parent still sleeps on.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
