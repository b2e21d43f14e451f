"""Async generators inside async generators, of which an event loop is to know the outermost alone.

A loop keeps a list of the async generators that were begun in it, and closes those that are dropped, or that are left
when it ends: all at once, inner and outer ones, which then meet each other ("asynchronous generator is already
running"). An inner one has an owner that closes it, so nobody else should.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ractogateway._kit.sides import Side

__all__ = ["nested"]

T = TypeVar("T")

_FEW = 256

_open: dict[AsyncGenerator[Any, None], asyncio.AbstractEventLoop] = {}
"""Those that are in use. A garbage collector that meets a cycle of an outer one's finalizes all that is in it, and an
inner one must not be closed before its owner has done that. Whose loop was closed by hand are let go of."""

_sweeps_at = _FEW


class nested(Generic[T]):  # noqa: N801 - used like a function, as contextlib's classes are
    """``async with nested(side, generator) as values: async for …`` closes it at the end, like ``aclosing``."""

    def __init__(self, side: Side, generator: AsyncGenerator[T, None]) -> None:
        self._side = side
        self._generator = generator
        self._begun = False
        self._ended = False

    async def __aenter__(self) -> Self:
        loop = self._side.loop()
        if loop is not None:
            _sweep()
            _open[self._generator] = loop
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._next()
        except BaseException:
            self._ended = True
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._ended:
                await self._side.finish(self._generator.aclose)
        finally:
            _open.pop(self._generator, None)

    def _next(self) -> Awaitable[T]:
        if self._begun:
            return self._generator.__anext__()
        self._begun = True
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            return self._generator.__anext__()
        finally:
            sys.set_asyncgen_hooks(*hooks)


def _sweep() -> None:
    global _sweeps_at  # noqa: PLW0603 - a mark of the table above
    if len(_open) < _sweeps_at:
        return
    for generator in [each for each, loop in list(_open.items()) if loop.is_closed()]:
        del _open[generator]
    _sweeps_at = max(_FEW, 2 * len(_open))
