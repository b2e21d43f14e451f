"""The replay: many users at once, each waiting when told to, all through one `ChatService`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle

from ractogateway._demo.model import Model
from ractogateway._demo.recording import RecordingKit, RecordingLimiter, RecordingMemory
from ractogateway._demo.records import Asked, Log, Terms
from ractogateway._demo.service import ChatService
from ractogateway._demo.workload import Request, Workload
from ractogateway.errors import RactoGatewayError, RateLimitExceeded
from ractogateway.prompts import RactoPrompt
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisExactCache, RedisOptions

__all__ = ["PROMPT", "Plan", "replay"]

PROMPT = RactoPrompt(role="You are the assistant of a chat service.", aim="Answer in one short sentence.")

_KEPT_SECONDS = 600.0
"""How long the demo's answers and conversations live: long enough to be checked, and nobody has to tidy up."""
_TRIES = 3
_PATIENCE_SECONDS = 30.0
"""How long a user waits for a budget, in the traffic's own time."""
_REPEATING_TASKS = 64
_AT_ONCE = 32
"""Requests in service at once, as a service's workers bound them. On a machine too slow for the traffic's pace, others
wait in line here; without a bound all would be slow until they time out."""
_PATIENT = RedisOptions(timeout_seconds=3.0)
"""The tools' own limits, 0.1 s in the cache, are those of a service with machines to itself. Here users, model and
server share one, which may be busy with other things."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and how to run.

    Attributes:
        url: the Redis server.
        terms: budget, window, memory and model.
        repeat_seconds: how long to ask again, as fast as possible, for what was answered; 0 for not at all.
        limiter, memory: the tools' configurations, under keys of this run alone.
        cache_prefix: the same for the cache.
    """

    url: str
    terms: Terms
    repeat_seconds: float
    limiter: RateLimitConfig
    memory: ChatMemoryConfig
    cache_prefix: str

    @classmethod
    def of(cls, url: str, terms: Terms, *, repeat_seconds: float) -> Plan:
        """A plan whose keys no other run shares."""
        prefix = f"ractogateway-demo:{secrets.token_hex(4)}"
        limiter = RateLimitConfig(
            max_tokens_per_minute=terms.budget, window_seconds=terms.window_seconds, key_prefix=f"{prefix}:limiter"
        )
        memory = ChatMemoryConfig(max_turns=terms.max_turns, ttl_seconds=_KEPT_SECONDS, key_prefix=f"{prefix}:memory")
        return cls(url, terms, repeat_seconds, limiter, memory, f"{prefix}:cache")


async def replay(plan: Plan, model: Model, workload: Workload, progress: Callable[[Log], None]) -> Log:
    """Send all of ``workload``; what happened. ``progress`` is called after every request.

    Raises:
        StoreError: the server cannot be used.
    """
    log = Log(requests=workload.requests)
    async with AsyncExitStack() as tools:
        cache = RedisExactCache(url=plan.url, key_prefix=plan.cache_prefix, ttl_seconds=_KEPT_SECONDS, options=_PATIENT)
        # An outage must be seen here, not bridged: decisions made without Redis stand outside the guarantee.
        limiter = RecordingLimiter(plan.url, config=plan.limiter, on_outage="raise", options=_PATIENT)
        memory = RecordingMemory(plan.url, config=plan.memory, options=_PATIENT)
        kit = RecordingKit(plan.terms.model, default_prompt=PROMPT, exact_cache=cache, **model.connection)
        for tool in (cache.aio, limiter, memory, kit):
            await tools.enter_async_context(tool)
        limiter.log = memory.log = log
        kit.asked = log.asked
        await limiter.get_remaining("nobody")  # a server that cannot be used is found before anything has begun
        await _Replay(ChatService(kit, limiter, memory), log, progress).run(workload)
        kit.asked = log.repeats
        await _repeat(kit, log, plan.repeat_seconds)
        log.cache_errors = (await cache.aio.stats()).errors
    return log


class _Replay:
    def __init__(self, service: ChatService, log: Log, progress: Callable[[Log], None]) -> None:
        self._service = service
        self._log = log
        self._progress = progress
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self, workload: Workload) -> None:
        patience_seconds = _PATIENCE_SECONDS / workload.speed
        self._log.started = time.monotonic()
        async with asyncio.TaskGroup() as users:
            for requests in workload.conversations:
                users.create_task(self._converse(requests, patience_seconds))
        self._log.ended = time.monotonic()

    async def _converse(self, requests: Sequence[Request], patience_seconds: float) -> None:
        for request in requests:
            await asyncio.sleep(self._log.started + request.at_seconds - time.monotonic())
            try:
                await self._ask(request, patience_seconds)
            except RactoGatewayError as error:
                self._log.failures[type(error).__name__] += 1
            self._progress(self._log)

    async def _ask(self, request: Request, patience_seconds: float) -> None:
        """Ask, wait as told when refused, ask again; give up when it takes too long."""
        for tries in range(1, _TRIES + 1):
            try:
                await self._reply(request)
            except RateLimitExceeded as refusal:
                wait_seconds = refusal.decision.retry_after_seconds
                if tries == _TRIES or wait_seconds > patience_seconds:
                    break
                await asyncio.sleep(wait_seconds)
            else:
                self._log.answered += 1
                self._log.waited += tries > 1
                return
        self._log.gave_up += 1

    async def _reply(self, request: Request) -> None:
        async with self._places:
            await self._service.reply(request.user, request.conversation, request.question, request.answer_tokens)


async def _repeat(kit: RecordingKit, log: Log, seconds: float) -> None:
    """Ask again for what was answered, as fast as it goes: the traffic leaves time between requests, this does not."""
    answered = list({asked.key: asked for asked in log.asked}.values())
    if not answered or not seconds:
        return
    started = time.monotonic()
    supply = cycle(answered)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_REPEATING_TASKS):
            tasks.create_task(_ask_again(kit, log, supply, started + seconds))
    log.repeats_seconds = time.monotonic() - started


async def _ask_again(kit: RecordingKit, log: Log, supply: Iterator[Asked], until: float) -> None:
    try:
        while time.monotonic() < until:
            await kit.achat(next(supply).config)
    except RactoGatewayError as error:
        log.failures[type(error).__name__] += 1
