"""A memory whose calls wait for a go: a test decides which caller's command runs next, and who dies before it does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from ractogateway.errors import RactoGatewayError
from ractogateway.redis import AsyncRedisChatMemory
from ractogateway.redis.transport.client_port import ClientPort

__all__ = ["Actor", "SteppedMemory", "bury"]


class _Step:
    def __await__(self) -> Generator[None, None, None]:
        yield


class _Still:
    def stop(self) -> None:
        return


class _SteppedPort(ClientPort):
    async def run(self, call: Any) -> Any:
        await _Step()
        return await super().run(call)

    def every(self, interval_seconds: float, call: Any) -> Any:
        return _Still()  # time passes when the test says so

    async def call_user(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await _Step()  # a process may die before its hook, or in it
        result = await super().call_user(function, *arguments)
        await _Step()
        return result


class SteppedMemory(AsyncRedisChatMemory):
    """Pass ``client=``, a blocking one."""

    _open_port = staticmethod(lambda _url, client, _options, _limits: _SteppedPort(client))


class Actor:
    """One caller; each `step` runs one command."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self.done = False

    def step(self) -> None:
        try:
            self._work.send(None)
        except StopIteration:
            self.done = True
        except RactoGatewayError:  # a conflict, another user's: a caller's business
            self.done = True

    def finish(self) -> None:
        while not self.done:
            self.step()

    def die(self) -> None:
        """Without a chance to clean up: what a killed process does not do, its coroutine must not either."""
        self.done = True
        _graveyard.append(self._work)


_graveyard: list[Coroutine[Any, Any, Any]] = []


def bury() -> None:
    """Close the coroutines of the dead, after the test."""
    for work in _graveyard:
        work.close()
    _graveyard.clear()
