"""What a tool returned, or will have returned, as a model is told it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Generator
from threading import Lock
from typing import Any

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from ractogateway._leaving import late
from ractogateway._texts import well_formed
from ractogateway.errors import InvalidTypeError, ToolTimeout

__all__ = ["Pending", "as_text"]


class Pending:
    """What a model will be told once the function is done; to be awaited, or closed.

    ``seconds`` is its time limit: then it is cancelled. ``told`` is what the model is told of an error: called once,
    by whoever waits, since that one alone knows whether it still does.
    """

    def __init__(self, result: Awaitable[Any], told: Callable[[Exception], str], seconds: float | None) -> None:
        self.seconds = seconds
        self.told = told
        self._result = result
        self._is_taken = False
        self._lock = Lock()  # one thread may give up while another begins

    def __await__(self) -> Generator[Any, Any, str]:
        return self._done().__await__()

    def close(self) -> None:
        """Give up what was not begun; it will not be."""
        if self._take() and inspect.iscoroutine(self._result):
            self._result.close()

    async def outcome(self) -> str | Exception:
        """What it returned, as text, or the error, of which nobody was told yet."""
        if not self._take():
            return ToolTimeout("the tool was given up before it began")
        try:
            return as_text(await (self._result if self.seconds is None else self._in_time(self.seconds)))
        except Exception as error:  # noqa: BLE001 - tools are anybody's code
            return error

    def _take(self) -> bool:
        with self._lock:
            is_first, self._is_taken = not self._is_taken, True
        return is_first

    async def _done(self) -> str:
        found = await self.outcome()
        return found if isinstance(found, str) else self.told(found)

    async def _in_time(self, seconds: float) -> Any:
        limit = asyncio.timeout(seconds)  # not anyio's, which cancels again whatever is awaited while it cleans up
        try:
            async with limit:
                return await self._result
        except TimeoutError:
            if not limit.expired():
                raise
            raise late(seconds) from None


def as_text(result: object) -> str:
    """A result as text: itself, or as JSON, in which halves of surrogate pairs are U+FFFD.

    Raises:
        InvalidTypeError: It has no JSON form.
    """
    if isinstance(result, str):
        return result
    failure: InvalidTypeError
    try:
        value = to_jsonable_python(result)  # once: what it iterates over may be used up then
        try:
            return to_json(value).decode()
        except PydanticSerializationError:  # half of a surrogate pair
            return well_formed(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except (PydanticSerializationError, ValueError, RecursionError):
        failure = InvalidTypeError(f"the tool returned a {type(result).__name__}, which has no JSON form")
    raise failure
