"""Callers that write, read back and check, while a test moves the ground under them."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

from faces import Maker
from probing import async_port, blocking_port, get, get_wordily, put
from secrecy import SECRET_USER

from ractogateway.errors import StoreUnavailable
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions
from ractogateway.redis.transport import Port, drive

__all__ = ["BUDGET", "Load", "Writer"]

BUDGET = 1_000_000

_OPTIONS = RedisOptions(timeout_seconds=1.0)
_JOIN_SECONDS = 30.0
_HASTY_SECONDS = 0.001
"""The time limit of calls whose callers are meant to give up while the reply is on its way."""


class Load:
    """Runs inside its ``with``; judge it afterwards.

    Args:
        url: where to.
        tags: hash tags of the keys; each caller has a key under each.
        tasks: callers that await, all in one event loop of their own.
        threads: callers that block.
        seconds: the time limit of a call.
        lossy: writes that were acknowledged may get lost (a failover does that). Otherwise a read must return what the
            same caller wrote last.

    Attributes:
        replies: how many calls succeeded.
        left: how many calls their callers left in the middle.
        wrong: replies that nobody may have got, and exceptions that no caller should see.
        failures: the outages that callers saw, by class.
    """

    def __init__(
        self,
        url: str,
        tags: Sequence[bytes],
        *,
        tasks: int = 50,
        threads: int = 8,
        seconds: float = 5.0,
        lossy: bool = False,
    ) -> None:
        self.replies = 0
        self.left = 0
        self.wrong: list[object] = []
        self.failures: Counter[str] = Counter()
        self._url = url
        self._tags = tags
        self._seconds = seconds
        self._lossy = lossy
        self._over = threading.Event()
        self._counting = threading.Lock()
        work = [threading.Thread(target=asyncio.run, args=(self._await(tasks),), daemon=True)]
        work += [threading.Thread(target=self._block, args=(tasks + n,), daemon=True) for n in range(threads)]
        self._threads = work

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a caller hangs"

    async def _await(self, tasks: int) -> None:
        ports = [async_port(self._url, seconds) for seconds in (self._seconds, _HASTY_SECONDS)]
        await asyncio.gather(*(self._call(*ports, number) for number in range(tasks)))

    def _block(self, number: int) -> None:
        ports = [blocking_port(self._url, seconds) for seconds in (self._seconds, _HASTY_SECONDS)]
        drive(self._call(*ports, number))

    async def _call(self, patient: Port, hasty: Port, number: int) -> None:
        """One caller's life. Driven, it blocks its thread."""
        choose = random.Random(number)
        possible: dict[bytes, set[bytes | None]] = {b"{%b}:%d" % (tag, number): {None} for tag in self._tags}
        keys = list(possible)
        written = 0
        while not self._over.is_set():
            what, key = choose.random(), choose.choice(keys)
            port = hasty if choose.random() < 0.2 else patient
            try:
                if what < 0.4:
                    written += 1
                    value = b"%d:%d" % (number, written)
                    possible[key].add(value)
                    await port.run(put(key, value))
                    if not self._lossy:
                        possible[key] = {value}
                    self._count()
                elif what < 0.8:
                    self._check(await port.run(get(key)), possible[key])
                elif what < 0.9:
                    (reply,) = set(await port.run(get_wordily(key)))
                    self._check(reply, possible[key])
                else:
                    some = choose.sample(keys, min(len(keys), 4))
                    for one, reply in zip(some, await port.run_many([get(one) for one in some]), strict=True):
                        self._check(reply, possible[one])
            except StoreUnavailable as error:
                with self._counting:
                    if port is hasty:
                        self.left += 1
                    else:
                        self.failures[type(error).__name__] += 1
            except BaseException as error:  # everything else is a bug
                self.wrong.append(error)
                raise

    def _check(self, reply: bytes | None, possible: set[bytes | None]) -> None:
        if reply not in possible:
            self.wrong.append((reply, possible))
        self._count()

    def _count(self) -> None:
        with self._counting:
            self.replies += 1


class Writer(threading.Thread):
    """Appends numbered messages and charges a token for each; repeats each step until it is acknowledged."""

    def __init__(self, number: int, make: Maker, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.conversation, self.user = f"conversation {number}", f"{SECRET_USER} {number}"
        self.memory = make("memory", config=ChatMemoryConfig(max_turns=1_000_000), options=_OPTIONS)
        self.limiter = make(
            "limiter", config=RateLimitConfig(max_tokens_per_minute=BUDGET), on_outage="raise", options=_OPTIONS
        )
        self.acknowledged: list[float] = []
        self.charged: list[float] = []
        self.failures = 0
        self.bug: BaseException | None = None
        self._over = over

    def run(self) -> None:
        number = 0
        try:
            while not self._over.is_set():
                number += 1
                name = f"{number}"
                self._insist(self.memory.append, self.conversation, "user", name, request_id=name)
                self.acknowledged.append(time.monotonic())
                self._insist(self.limiter.consume, self.user, 1, request_id=name)
                self.charged.append(time.monotonic())
                time.sleep(0.002)
        except BaseException as error:
            self.bug = error
            raise

    def _insist(self, call: Callable[..., object], *arguments: object, request_id: str) -> None:
        while True:
            try:
                call(*arguments, request_id=request_id)
            except StoreUnavailable:
                self.failures += 1
            else:
                return

    @property
    def longest_wait(self) -> float:
        return max(after - before for before, after in zip(self.charged, self.charged[1:], strict=False))
