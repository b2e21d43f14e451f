"""What the blocking faces have in common: a core that is driven in the calling thread, and its awaitable twin."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

from ractogateway._blocking_in_loop import check_running_loop
from ractogateway._driving import drive
from ractogateway._refusing import OfOneProcess
from ractogateway.redis._core import Core

C = TypeVar("C", bound=Core)
T = TypeVar("T")


class Face(OfOneProcess, Generic[C]):
    """A core behind blocking methods, and its awaitable twin."""

    _driven: Callable[..., C]
    _awaited: Callable[..., C]

    def __init__(self, url: str | None, client: Any, **settings: Any) -> None:
        self._core: C = self._driven(url, client, **settings)
        self._arguments = (url, client, settings)

    @cached_property
    def aio(self) -> C:
        """The same tool for ``await``, from any event loop; calls over a given blocking client use worker threads."""
        url, client, settings = self._arguments
        twin: C = self._awaited(url, client, **settings)
        twin._share_state_of(self._core)  # noqa: SLF001 - the two are one object to the user
        return twin

    def close(self) -> None:
        """Close the connection, unless another object shares it; a given client stays open.

        The object stays usable, and closing is never needed: a forgotten object's connection ends after a grace.
        """
        self._run(self._core.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._core).replace(type(self._core).__name__, type(self).__name__, 1)

    @staticmethod
    def _run(coroutine: Coroutine[Any, Any, T]) -> T:
        return run_blocking(coroutine)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a core's coroutine in the calling thread."""
    try:
        check_running_loop()
    except BaseException:
        coroutine.close()
        raise
    return drive(coroutine)
