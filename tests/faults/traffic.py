"""Callers of every tool and face that keep books, while a fault rages: what was acknowledged, what was decided, what
came back, and when.

    with ExitStack() as stack:
        traffic = Traffic(scene, stack)
        traffic.live_through(lambda: fault.raging(scene), seconds=0.6, stops=fault.stops)
        traffic.settle_accounts()
        book = traffic.books["limiter", "blocking url"]

Writes that were not acknowledged are said again, under the same id, until they are; so what Redis holds in the end must
be what was acknowledged, no more and no less.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from books import GRACE_SECONDS, Book, Lines, Naps
from faces import Maker
from servers import wait_until

from ractogateway.errors import StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions

__all__ = ["ACCOUNT", "FACES", "SECONDS", "SHARED_BUDGET", "TOOLS", "Traffic"]

TOOLS = ("cache", "limiter", "memory")
FACES = ("async url", "blocking url")
SECONDS = {"cache": 0.1, "limiter": 0.15, "memory": 0.15}
"""The time limit of a call."""
ACCOUNT, SHARED_BUDGET, POLICY_BUDGET = 10_000_000, 300, 1_000_000
WINDOW_SECONDS = 3600.0  # nothing that is charged in a test leaves again
_PAUSE_SECONDS = 0.002
_WARM_CALLS = 15
_PATIENCE_SECONDS = 30.0
_UNAVAILABLE = object()


class Caller(threading.Thread):
    """One caller of one tool. Subclasses say what a step is, and judge what is there in the end."""

    tool = ""

    def __init__(self, traffic: Traffic, face: str, number: int) -> None:
        super().__init__(daemon=True, name=f"{self.tool} {face} {number}")
        self.traffic, self.number = traffic, number
        self.book = traffic.books[self.tool, face]
        self.name_of_own = f"{self.tool} {face} {number}"
        self.choose = random.Random(self.name_of_own)
        self.successes = 0
        self.last_success = self.first_success_after = 0.0
        self.outage = 0.0

    def run(self) -> None:
        try:
            while not self.traffic.over.is_set():
                self.step()
                time.sleep(_PAUSE_SECONDS)
        except BaseException as error:  # no caller may see anything but an outage
            self.book.wrong.append(repr(error))
            raise

    def step(self) -> None:
        raise NotImplementedError

    def judge(self) -> None:
        """When the fault is over, and every caller has stopped."""

    def has_noticed_quietly(self) -> bool:
        """Whether the tool that shows no outage has met one."""
        return True

    def is_served_quietly(self) -> bool:
        """Whether it has noticed that it is over."""
        return True

    def call(self, function: Callable[[], Any], *, timed: bool = True, tells: bool = True) -> Any:
        """What it returns; `_UNAVAILABLE` for an outage. Who makes do without Redis does not tell of a service."""
        began = time.monotonic()
        result: Any = _UNAVAILABLE
        try:
            result = function()
        except StoreUnavailable as error:
            self.book.failed[type(error).__name__] += 1
        ended = time.monotonic()
        self.book.calls += 1
        late = ended - began - SECONDS[self.tool] if timed else 0.0
        self.book.late = max(self.book.late, late)
        if timed and late > -_PAUSE_SECONDS:
            self.book.ran_out.append((began, ended, late))
        if late > GRACE_SECONDS:
            self.book.suspects.append((began, ended, late))
        if tells and result is not _UNAVAILABLE:
            self._succeeded(ended)
        return result

    def _succeeded(self, now: float) -> None:
        self.successes += 1
        if self.last_success:
            self.outage = max(self.outage, now - self.last_success)
        self.last_success = now
        ended = self.traffic.ended_at
        if ended and not self.first_success_after:
            self.first_success_after = max(now, ended)

    def insist(self, function: Callable[[], Any]) -> Any:
        """Until it is served."""
        while (result := self.call(function, timed=False)) is _UNAVAILABLE:
            assert time.monotonic() < self.traffic.ended_at + _PATIENCE_SECONDS, "no service"
            time.sleep(_PAUSE_SECONDS)
        return result

    def meanwhile(self) -> bool:
        return self.traffic.raging.is_set()


class CacheCaller(Caller):
    """Asks for what others have stored, stores, computes; each answer tells which question it is for."""

    tool = "cache"

    def __init__(self, traffic: Traffic, face: str, number: int) -> None:
        super().__init__(traffic, face, number)
        make, options = traffic.makers[face], traffic.options("cache")
        self.quiet = make("cache", ttl_seconds=600, options=options)
        self.strict = make("cache", ttl_seconds=600, on_outage="raise", options=options)
        self.own = 0

    def step(self) -> None:
        question, what = f"question {self.choose.randrange(40)}", self.choose.random()
        if what < 0.25:
            self.check(question, self.call(lambda: self.quiet.get(*_request(question)), tells=False))
        elif what < 0.4:
            self.call(lambda: self.quiet.put(*_request(question), _answer(question), tags=["tag"]), tells=False)
        elif what < 0.55:
            answer = lambda: self.quiet.get_or_compute(*_request(question), lambda: _answer(question))  # noqa: E731
            self.check(question, self.call(answer, timed=False, tells=False), missing=False)
        elif what < 0.75:
            found = self.call(lambda: self.strict.get(*_request(question)))
            if found is not _UNAVAILABLE:
                self.check(question, found)
                self.book.read_meanwhile += self.meanwhile()
        elif what < 0.9:
            self.call(lambda: self.strict.put(*_request(question), _answer(question)))
        else:
            self.forget()

    def forget(self) -> None:
        """What was invalidated is no answer any more, wherever the fault struck in between."""
        self.own += 1
        request = _request(f"{self.name_of_own}: {self.own}")
        if self.call(lambda: self.strict.put(*request, _answer("forgotten"))) is _UNAVAILABLE:
            return
        if self.call(lambda: self.strict.invalidate(*request)) is _UNAVAILABLE:
            return
        if self.call(lambda: self.strict.get(*request)) not in (None, _UNAVAILABLE):
            self.book.wrong.append("an answer that was invalidated")

    def has_noticed_quietly(self) -> bool:
        return self.quiet.stats.errors > 0

    def is_served_quietly(self) -> bool:
        errors = self.quiet.stats.errors
        self.quiet.get(*_request("question 0"))
        return self.quiet.stats.errors == errors

    def check(self, question: str, found: LLMResponse | None, *, missing: bool = True) -> None:
        right = missing if found is None else found.content == _answer(question).content
        if not right:
            self.book.wrong.append((question, found))


class LimiterCaller(Caller):
    """Charges an account of its own, one that all share and that is soon empty, and one by the policy for outages."""

    tool = "limiter"

    def __init__(self, traffic: Traffic, face: str, number: int) -> None:
        super().__init__(traffic, face, number)
        make, options = traffic.makers[face], traffic.options("limiter")

        def limiter(budget: int, on_outage: str) -> Any:
            config = RateLimitConfig(max_tokens_per_minute=budget, window_seconds=WINDOW_SECONDS)
            return make("limiter", config=config, on_outage=on_outage, options=options)

        self.strict = limiter(ACCOUNT, "raise")
        self.shared = limiter(SHARED_BUDGET, "raise")
        self.local = limiter(POLICY_BUDGET, "local")
        self.charged: list[tuple[float, int]] = []
        self.pending: tuple[str, int] | None = None
        self.degraded = 0

    def step(self) -> None:
        what = self.choose.random()
        if what < 0.5:
            self.charge()
        elif what < 0.65:
            self.spend_what_is_shared()
        elif what < 0.85:
            decision = self.call(lambda: self.local.consume(self.name_of_own + ", by policy", 1), tells=False)
            self.degraded += decision.degraded
            self.book.degraded += decision.degraded
            if not decision.allowed:
                self.book.wrong.append(f"refused by policy: {decision}")
        else:
            self.look()

    def charge(self) -> None:
        """An operation, or once more the one whose outcome is not known."""
        self.pending = self.pending or (f"operation {len(self.charged)}", self.choose.randint(1, 9))
        name, tokens = self.pending
        decision = self.call(lambda: self.strict.consume(self.name_of_own, tokens, request_id=name))
        if decision is not _UNAVAILABLE:
            self.pending = None
            self.charged.append((time.monotonic(), tokens))
            if not decision.allowed or decision.degraded:
                self.book.wrong.append(f"not charged: {decision}")

    def spend_what_is_shared(self) -> None:
        tokens = self.choose.randint(1, 5)
        decision = self.call(lambda: self.shared.consume("shared", tokens))
        if decision is not _UNAVAILABLE and decision.allowed:
            self.traffic.spend(tokens)

    def look(self) -> None:
        remaining = self.call(lambda: self.strict.get_remaining(self.name_of_own))
        if remaining is _UNAVAILABLE:
            return
        self.book.read_meanwhile += self.meanwhile()
        known = ACCOUNT - sum(tokens for _, tokens in self.charged)
        possible = {known, known - (self.pending[1] if self.pending else 0)}
        if self.traffic.forgets == "nothing" and remaining not in possible:
            self.book.wrong.append(f"{remaining} remain of {possible}")

    def has_noticed_quietly(self) -> bool:
        return self.degraded > 0

    def is_served_quietly(self) -> bool:
        return not self.local.consume(self.name_of_own + ", by policy", 1).degraded

    def judge(self) -> None:
        while self.pending:
            self.charge()
        charged = ACCOUNT - self.insist(lambda: self.strict.get_remaining(self.name_of_own))
        everything = sum(tokens for _, tokens in self.charged)
        kept = sum(tokens for at, tokens in self.charged if not self.traffic.may_forget(at))
        if charged > everything:
            self.book.double.append(f"{charged} charged for {everything}")
        if charged < kept:
            self.book.lost.append(f"{charged} charged for {kept}")


class MemoryCaller(Caller):
    """Appends numbered messages to a conversation of its own and to one that all share, and reads them back."""

    tool = "memory"

    def __init__(self, traffic: Traffic, face: str, number: int) -> None:
        super().__init__(traffic, face, number)
        config = ChatMemoryConfig(max_turns=1_000_000, ttl_seconds=600)
        self.memory = traffic.makers[face]("memory", config=config, options=traffic.options("memory"))
        self.acknowledged: dict[str, list[float]] = {self.name_of_own: [], "shared": []}
        self.pending: str | None = None

    def step(self) -> None:
        if self.choose.random() < 0.7:
            self.append()
        else:
            self.look()

    def append(self) -> None:
        """The next message, or once more the one of which no answer came."""
        self.pending = self.pending or self.choose.choice([self.name_of_own, self.name_of_own, "shared"])
        where = self.pending
        number = len(self.acknowledged[where])
        text, name = f"{self.name_of_own}: {number}", f"{self.name_of_own}, {where}, {number}"
        if self.call(lambda: self.memory.append(where, "user", text, request_id=name)) is not _UNAVAILABLE:
            self.acknowledged[where].append(time.monotonic())
            self.pending = None

    def look(self) -> None:
        """A read shows what was acknowledged, or raises; never less."""
        there = len(self.acknowledged[self.name_of_own])
        history = self.call(lambda: self.memory.get_history(self.name_of_own))
        if history is _UNAVAILABLE:
            return
        self.book.read_meanwhile += self.meanwhile()
        numbers = [_number(message) for message in history]
        possible = {there, there + 1} if self.pending == self.name_of_own else {there}
        if self.traffic.forgets == "nothing" and (numbers != list(range(len(numbers))) or len(numbers) not in possible):
            self.book.wrong.append(f"{numbers} of {possible}")

    def judge(self) -> None:
        while self.pending:
            self.append()
        for where, acknowledged in self.acknowledged.items():
            history = self.insist(lambda where=where: self.memory.get_history(where))
            own = [_number(message) for message in history if message["content"].startswith(f"{self.name_of_own}:")]
            if where == self.name_of_own and len(own) != len(history):
                self.book.wrong.append("somebody else's message")
            self.book.double += [number for number, count in Counter(own).items() if count > 1]
            kept = {number for number, at in enumerate(acknowledged) if not self.traffic.may_forget(at)}
            self.book.lost += sorted(kept - set(own))
            if own != sorted(own) or not set(own) <= set(range(len(acknowledged))):
                self.book.wrong.append(f"out of order, or never said: {own}")


class Traffic:
    """Callers of all tools over all faces, and their books.

    Args:
        url: where they connect to.
        forgets: see `injection.Fault`.
        options: for the `RedisOptions` of all.
        callers: of each tool by each face.
        maker: of the tools, by face.
        margin_seconds: around a fault that makes the server forget "the last moments", before and after.
    """

    def __init__(
        self,
        url: str,
        stack: ExitStack,
        *,
        forgets: str = "nothing",
        options: dict[str, Any] | None = None,
        callers: int = 2,
        faces: Sequence[str] = FACES,
        maker: type[Maker] = Maker,
        margin_seconds: float = 2.0,
    ) -> None:
        self.url = url
        self.forgets = forgets
        self.books = {(tool, face): Book() for tool in TOOLS for face in faces}
        self.makers = {face: maker(face, self, stack) for face in faces}
        self.over, self.raging = threading.Event(), threading.Event()
        self.began_at = self.ended_at = 0.0
        self.overslept = 0.0
        self.spent = 0
        self.lines: list[tuple[str, str, float]] = []
        self._options = options or {}
        self._margin_seconds = margin_seconds if forgets == "the last moments" else 0.0
        self._spending = threading.Lock()
        kinds = (CacheCaller, LimiterCaller, MemoryCaller)
        self.callers = [kind(self, face, n) for kind in kinds for face in faces for n in range(callers)]

    def options(self, tool: str) -> RedisOptions:
        return RedisOptions(**{"timeout_seconds": SECONDS[tool], "stall_seconds": 0.3, **self._options})

    def spend(self, tokens: int) -> None:
        with self._spending:
            self.spent += tokens

    def may_forget(self, at: float) -> bool:
        """Whether the server may have lost what it acknowledged at this moment."""
        if self.forgets == "nothing":
            return False
        since = self.began_at - self._margin_seconds if self.forgets == "the last moments" else 0.0
        return since < at <= self.ended_at + self._margin_seconds

    def live_through(
        self, raging: Callable[[], AbstractContextManager[object]], *, seconds: float, stops: str = "nothing"
    ) -> None:
        """Callers call; the fault rages for so long, and until all have noticed; they are served again, and stop."""
        with Naps() as naps, Lines(self.lines):
            for caller in self.callers:
                caller.start()
            self._wait_for(lambda: all(caller.successes > _WARM_CALLS for caller in self.callers), "a load")
            time.sleep(1.2 * self._margin_seconds)  # so that there is something that must not be forgotten
            self.began_at = time.monotonic()
            with raging():
                self.raging.set()
                time.sleep(seconds)
                self._wait_until_noticed(stops)
                self.raging.clear()
            self.ended_at = time.monotonic()
            self._wait_for(lambda: all(caller.first_success_after for caller in self.callers), "service after it")
            time.sleep(1.2 * self._margin_seconds)
            before = [caller.successes for caller in self.callers]
            self._wait_for(
                lambda: all(c.successes > n + _WARM_CALLS for c, n in zip(self.callers, before, strict=True)), "a load"
            )
            self.over.set()
            for caller in self.callers:
                caller.join(_PATIENCE_SECONDS)
                wait_until(caller.is_served_quietly, timeout_seconds=_PATIENCE_SECONDS, what="service after it")
        assert not any(caller.is_alive() for caller in self.callers), "a caller hangs"
        self.overslept = naps.worst
        for book in self.books.values():
            book.overdue = sum(not naps.explain(*suspect) for suspect in book.suspects)
            excesses = [naps.excess(*call) for call in book.ran_out]
            book.overrun = statistics.median_low(excesses) if len(excesses) > 2 else 0.0

    def settle_accounts(self) -> None:
        """Compare what was acknowledged with what is there."""
        for caller in self.callers:
            caller.judge()
            caller.book.outage = max(caller.book.outage, caller.outage)
            caller.book.served_again = max(caller.book.served_again, caller.first_success_after - self.ended_at)
        if self.forgets == "nothing" and self.spent > SHARED_BUDGET:
            for (tool, _), book in self.books.items():
                book.wrong += [f"{self.spent} spent of {SHARED_BUDGET}"] if tool == "limiter" else []

    def _wait_until_noticed(self, stops: str) -> None:
        """Or for long enough: whether they have is for the tests to say."""
        until = time.monotonic() + _PATIENCE_SECONDS / 3
        while not (
            all(self._noticed(tool, book, stops) for (tool, _), book in self.books.items())
            and (stops != "all" or all(caller.has_noticed_quietly() for caller in self.callers))
        ):
            if time.monotonic() > until:
                return
            time.sleep(_PAUSE_SECONDS)

    @staticmethod
    def _noticed(tool: str, book: Book, stops: str) -> bool:
        outage = stops == "nothing" or (bool(book.failed) and (tool != "limiter" or book.degraded > 0))
        return outage and (stops != "writes" or tool == "limiter" or book.read_meanwhile > 0)

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """For it, or for a caller that has died of what he saw."""
        ended = lambda: condition() or not all(caller.is_alive() for caller in self.callers)  # noqa: E731
        wait_until(ended, timeout_seconds=_PATIENCE_SECONDS, what=what)


def _request(question: str) -> tuple[str, str, str, float, int]:
    return question, "", "gpt-4o", 0.0, 256


def _answer(question: str) -> LLMResponse:
    return LLMResponse(content=f"answer to {question}")


def _number(message: dict[str, Any]) -> int:
    return int(message["content"].rpartition(" ")[2])
