"""Several clients on the same conversations against a model, while replies get lost, callers give up, scripts are
forgotten and the server dies: every acknowledged message is there once and in order, no turn is torn, no bound
exceeded, and what was trimmed reaches the hook."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import pytest
import redis
from anyio.from_thread import start_blocking_portal
from faces import Awaited
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from memory_model import MemoryModel
from proxy import Proxy
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import Server, valkey9

from ractogateway.errors import RevisionConflict, StoreUnavailable
from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisChatMemory, RedisOptions
from ractogateway.redis.entries import decode_entry, encode_entry

SCRIPTS = (b"EVALSHA", b"EVAL")
PATIENT = RedisOptions(timeout_seconds=20.0, breaker_failures=1_000_000)
CONVERSATIONS = ("c", "d")
USER = "u"
MAX_TURNS, MAX_TOKENS = 3, 40

CLIENT = st.integers(0, 2)
WHERE = st.sampled_from(CONVERSATIONS)
TURN = st.lists(st.sampled_from(["answer", "tool", "anthropic"]), max_size=3)


def tokens(message: dict[str, Any]) -> int:
    return 3 + len(str(message.get("content") or "")) // 8


class UnderFire(RuleBasedStateMachine):
    server: Server
    proxy: Proxy

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.stack = contextlib.ExitStack()
        self.delivered: set[str] = set()
        self.numbers = itertools.count()
        self.models = {conversation: MemoryModel() for conversation in CONVERSATIONS}
        self.forgiven: set[str] = set()  # trimmed, then erased before they were delivered
        config = ChatMemoryConfig(
            max_turns=MAX_TURNS, max_tokens=MAX_TOKENS, ttl_seconds=600, count_tokens=tokens, on_evict=self.evicted
        )
        self.portal = self.stack.enter_context(start_blocking_portal())
        client = redis.Redis.from_url(self.proxy.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
        self.stack.callback(client.close)
        self.core = AsyncRedisChatMemory(url=self.proxy.url, config=config, options=PATIENT)
        self.clients: list[Any] = [
            RedisChatMemory(url=self.proxy.url, config=config, options=PATIENT),
            Awaited(self.core, self.portal),
            RedisChatMemory(client=client, config=config),
        ]
        self.direct = RedisChatMemory(url=self.server.url, config=config, options=PATIENT)

    def evicted(self, _conversation: str, messages: list[dict[str, Any]]) -> None:
        self.delivered |= {message["id"] for message in messages}

    def teardown(self) -> None:
        try:
            self.everything_trimmed_was_delivered()
        finally:
            self.proxy.faults()
            self.portal.call(self.core.aclose)
            self.direct.close()
            self.clients[0].close()
            self.stack.close()

    # What clients do

    @rule(client=CLIENT, where=WHERE, steps=TURN)
    def extend(self, client, where, steps) -> None:
        """A turn."""
        messages = self.turn(steps)
        assert self.insist(client, "extend", where, messages, user_id=USER) == self.apply(where, messages)

    @rule(client=CLIENT, where=WHERE, steps=TURN, torn=st.booleans(), stale=st.booleans())
    def extend_if_nothing_happened(self, client, where, steps, torn, stale) -> None:
        """A turn, in one call or message by message."""
        messages = self.turn(steps)
        for part in [[message] for message in messages] if torn else [messages]:
            revision = self.models[where].revision
            write = partial(self.insist, client, "extend", where, part, user_id=USER)
            if stale:
                with pytest.raises(RevisionConflict) as caught:
                    write(expected_revision=revision + 1)
                assert caught.value.actual == revision
            else:
                assert write(expected_revision=revision) == self.apply(where, part)

    @rule(where=WHERE, steps=TURN, ticks=st.integers(0, 30))
    def give_up(self, where, steps, ticks) -> None:
        """A caller is cancelled somewhere on the way, and says the same again."""
        messages, request_id = self.turn(steps), f"given up {next(self.numbers)}"
        call = partial(self.core.extend, where, messages, user_id=USER, request_id=request_id)
        future = self.portal.start_task_soon(call)
        for _ in range(ticks):
            self.portal.call(_tick)
        future.cancel()
        with contextlib.suppress(CancelledError, StoreUnavailable):
            future.result()
        made = self.insist(1, "extend", where, messages, user_id=USER, request_id=request_id)
        assert made == self.apply(where, messages)

    @rule(how=st.sampled_from(["replace", "pop", "pop", "clear", "erase"]), client=CLIENT, where=WHERE, steps=TURN)
    def change(self, how, client, where, steps) -> None:
        """What else there is to do; a client that may not hear of it is not asked for what cannot be said twice."""
        getattr(self, how)(client if how == "replace" else client % 2, where, steps)

    def replace(self, client, where, steps) -> None:
        messages = self.turn(steps) + self.turn([])
        assert self.insist(client, "replace", where, messages, user_id=USER) == self.apply(where, messages, "replace")

    def pop(self, client, where, _steps) -> None:
        model = self.models[where]
        tail = model.entries[-1:]
        popped = self.clients[client].pop(where)
        assert [popped] == [decode_entry(entry) for entry in tail] or (popped is None and not tail)
        if tail:
            model.pop(tail, operation=self.operation(), expected=None)

    def clear(self, client, where, _steps) -> None:
        self.clients[client].clear(where)
        self.models[where].clear(operation=self.operation(), expected=None)

    def erase(self, client, where, _steps) -> None:
        self.clients[client].erase(where)
        self.models[where].clear(operation=self.operation(), expected=None)
        self.forgiven |= self.trimmed(where) - self.delivered

    # What happens to them

    @rule(
        one_in=st.sampled_from([3, 5, 7]),
        what=st.sampled_from(["lose", "lose", "calm", "forget scripts", "cut", "die"]),
    )
    def strike(self, one_in, what) -> None:
        # One in two would hit the second step of a user's first write each time that a client without retries tries.
        if what == "lose":
            self.proxy.faults(lose_one_in=one_in, losing=SCRIPTS)
        elif what == "calm":
            self.proxy.faults()
        elif what == "forget scripts":
            self.server.command("SCRIPT", "FLUSH")
        elif what == "cut":
            self.proxy.cut()
        else:
            self.server.kill()
            self.server.start()

    # What holds at any time

    @invariant()
    def every_acknowledged_message_is_there_once_and_in_order(self) -> None:
        for where, model in self.models.items():
            assert self.direct.get_history(where) == [decode_entry(entry) for entry in model.entries]

    @invariant()
    def no_bound_is_exceeded(self) -> None:
        for where in CONVERSATIONS:
            history = self.direct.get_history(where)
            turns = sum(message["role"] == "user" and "tool_use_id" not in str(message) for message in history)
            assert turns <= MAX_TURNS
            assert turns <= 1 or sum(map(tokens, history)) <= MAX_TOKENS

    @invariant()
    def no_result_is_without_its_call(self) -> None:
        for where in CONVERSATIONS:
            history = self.direct.get_history(where)
            called = {call for message in history for call in message.get("calls", ())}
            assert called.issuperset(result for message in history for result in message.get("results", ()))

    @invariant()
    def the_users_conversations_are_known(self) -> None:
        holding = {where for where, model in self.models.items() if model.entries}
        assert set(self.direct.conversations(USER)) == holding

    def everything_trimmed_was_delivered(self) -> None:
        with self.server.client() as client:
            for lease in client.scan_iter(match="*:lease"):  # of callers who were told nothing, before it runs out
                client.delete(lease)
        for where in CONVERSATIONS:
            self.direct.deliver_evicted(where)
        owed = set().union(*map(self.trimmed, CONVERSATIONS))
        assert owed - self.forgiven <= self.delivered <= owed

    # How it is done

    def insist(self, client: int, method: str, *arguments: Any, **named: Any) -> Any:
        """Call until it is acknowledged; always the same request."""
        named.setdefault("request_id", f"request {next(self.numbers)}")
        while True:
            try:
                return getattr(self.clients[client], method)(*arguments, **named)
            except StoreUnavailable:
                continue

    def apply(self, where: str, messages: list[dict[str, Any]], mode: str = "append") -> int:
        entries = [encode_entry(message, tokens=tokens(message)) for message in messages]
        bounds = {"max_turns": MAX_TURNS, "max_tokens": MAX_TOKENS, "max_pinned": 64}
        return (
            self.models[where].extend(entries, operation=self.operation(), expected=None, mode=mode, **bounds).revision
        )

    def operation(self) -> bytes:
        return b"%d" % next(self.numbers)

    def trimmed(self, where: str) -> set[str]:
        return {decode_entry(entry)["id"] for entry in self.models[where].evicted}

    def turn(self, steps: list[str]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "question"}]
        for step in steps:
            if step == "answer":
                messages.append({"role": "assistant", "content": "a long answer " * 3})
                continue
            call = str(next(self.numbers))
            messages.append({"role": "assistant", "content": None, "calls": [call]})
            results = {
                "tool": {"role": "tool", "tool_call_id": call, "content": "42"},
                "anthropic": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call}]},
            }
            messages.append({**results[step], "results": [call]})
        return [{**message, "id": f"m{next(self.numbers)}"} for message in messages]


async def _tick() -> None:
    return


@pytest.fixture(scope="module")
def ground() -> Iterator[type[UnderFire]]:
    # Written through at every command: what was acknowledged survives SIGKILL.
    with valkey9(aof=True, config={"appendfsync": "always"}) as server, Proxy(server.url, seed=3) as proxy:

        class Ground(UnderFire):
            pass

        Ground.server, Ground.proxy = server, proxy
        yield Ground


def play(ground: type[UnderFire], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        ground,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.cell("reply lost", "memory", "blocking")
@pytest.mark.timeout(120)
def test_the_memory_does_what_the_model_does(ground):
    play(ground, examples=25, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_memory_does_what_the_model_does_for_long(ground):
    play(ground, examples=200, steps=40)
