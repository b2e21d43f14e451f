"""One coroutine for every kind of caller: for blocking ones it awaits only what never suspends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, cast

__all__ = ["drive"]

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose awaitables never suspend to its end, in the calling thread."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise RuntimeError("a coroutine of a blocking caller awaited something that suspends")
