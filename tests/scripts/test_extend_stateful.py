"""The memory scripts against the model: random turns, retries, conflicts and losses, on a server and on fakeredis."""

from __future__ import annotations

import itertools
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from memory_driver import HOUR_MS, Conversation
from memory_model import APPLIED, CONFLICT, REPLAYED, MemoryModel, PinnedLimit, Reply, turn_starts

from ractogateway.redis.turns import decode_entry, encode_entry

MAX_PINNED = 6

# What a turn is made of; the machine gives every message an id of its own.
STEPS = st.lists(st.sampled_from(["answer", "openai", "anthropic", "gemini", "system"]), max_size=5)
MAX_TURNS = st.integers(1, 4)
EXPECTED = st.sampled_from(["any", "current", "any", "stale"])
TTL = st.sampled_from([None, HOUR_MS])


class Memory(RuleBasedStateMachine):
    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.conversation = Conversation(client)
        self.model = MemoryModel()
        self.numbers = itertools.count()
        self.pinned: list[str] = []

    def teardown(self) -> None:
        self.conversation.client.delete(self.conversation.list, self.conversation.state)

    # What clients do

    @rule(opens=st.booleans(), steps=STEPS, cut=st.integers(0, 8), max_turns=MAX_TURNS, expected=EXPECTED, ttl=TTL)
    def extend(self, opens: bool, steps: list[str], cut: int, max_turns: int, expected: str, ttl: int | None) -> None:
        """A turn, in one call or in two; without a user message it continues the last one."""
        messages = [self.user()] if opens or not steps else []
        for step in steps:
            messages += self.step(step)
        wanted = {"any": None, "current": self.model.revision, "stale": self.model.revision + 1}[expected]
        for part in (messages[:cut], messages[cut:]):
            if part:
                reply = self.send(part, max_turns=max_turns, expected=wanted, ttl=ttl)
                if reply is None or reply.status != APPLIED:
                    return
                assert reply.turns <= max_turns
                wanted = None if wanted is None else reply.revision

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """An operation that is remembered changes nothing, whatever it brings."""
        if self.model.operations:
            operation, revision = data.draw(st.sampled_from(sorted(self.model.operations.items())))
            before = self.snapshot()
            reply = self.conversation.say(self.user(), operation=operation, max_turns=1, expected=0, ttl=1)
            assert reply == Reply(REPLAYED, revision, entries=len(self.model.entries))
            assert self.snapshot() == before

    @rule()
    def seam(self) -> None:
        """The bytes between two remembered ids are no remembered id."""
        newest_first = b"".join(reversed(self.model.operations))
        seam = newest_first[8:24]
        if len(seam) == 16 and seam not in self.model.operations:
            self.send([self.user()], operation=seam)

    @rule(expected=EXPECTED)
    def clear(self, expected: str) -> None:
        wanted = {"any": None, "current": self.model.revision, "stale": self.model.revision + 1}[expected]
        operation = self.conversation.new_operation()
        reply = self.conversation.clear(operation=operation, expected=wanted)
        assert reply == self.model.clear(operation=operation, expected=wanted)
        assert (reply.status == CONFLICT) == (expected == "stale")
        if reply.status == APPLIED:
            self.pinned = []

    # What happens behind their back

    @rule(which=st.sampled_from(["list", "state", "both"]))
    def lose(self, which: str) -> None:
        if which != "state":
            self.conversation.client.delete(self.conversation.list)
            self.model.entries, self.pinned = [], []
        if which != "list":
            self.conversation.client.delete(self.conversation.state)
            self.model.forget_state()

    @rule(garbage=st.binary(max_size=4).filter(lambda entry: entry[1:2] not in (b"P", b"U")))
    def edit(self, garbage: bytes) -> None:
        counted = self.conversation.client.hget(self.conversation.state, "n")
        for _ in range(2 if counted == b"%d" % (len(self.model.entries) + 1) else 1):
            self.conversation.client.rpush(self.conversation.list, garbage)
            self.model.entries.append(garbage)

    # What holds at any time

    @invariant()
    def the_list_is_the_models(self) -> None:
        assert self.conversation.entries() == self.model.entries

    @invariant()
    def the_state_is_the_models(self) -> None:
        stored = self.conversation.client.hmget(self.conversation.state, "r", "o")
        assert int(stored[0] or 0) == self.model.revision
        assert (stored[1] or b"") == b"".join(reversed(self.model.operations))

    @invariant()
    def no_tool_result_lost_its_call_and_no_pinned_message_is_gone(self) -> None:
        calls: set[str] = set()
        pinned = []
        for message in filter(None, map(decode_entry, self.conversation.entries())):
            calls |= set(message.get("calls", ()))
            assert calls.issuperset(message.get("results", ())), message
            if message["role"] == "system":
                pinned.append(message["content"])
        assert pinned == self.pinned

    # How they are sent

    def send(
        self,
        messages: list[dict[str, Any]],
        *,
        max_turns: int = 3,
        expected: int | None = None,
        operation: bytes | None = None,
        ttl: int | None = None,
    ) -> Reply | None:
        operation = operation or self.conversation.new_operation()
        options = {"operation": operation, "max_turns": max_turns, "expected": expected, "max_pinned": MAX_PINNED}
        before = self.snapshot()
        try:
            modelled = self.model.extend([encode_entry(message) for message in messages], **options)
        except PinnedLimit:
            with pytest.raises(redis.ResponseError, match="PINNEDLIMIT"):
                self.conversation.say(*messages, **options)
            assert self.snapshot() == before
            return None
        reply = self.conversation.say(*messages, **options, ttl=ttl)
        assert reply == modelled
        if reply.status != APPLIED:
            assert self.snapshot() == before
            return reply
        self.pinned += [message["content"] for message in messages if message["role"] == "system"]
        keys = (self.conversation.list, self.conversation.state)
        assert [self.conversation.client.pttl(key) > 0 for key in keys] == [ttl is not None] * 2
        return reply

    def snapshot(self) -> tuple[object, ...]:
        return self.conversation.entries(), self.conversation.client.hgetall(self.conversation.state)

    def user(self) -> dict[str, Any]:
        return {"role": "user", "content": f"q{next(self.numbers)}"}

    def step(self, step: str) -> list[dict[str, Any]]:
        number = str(next(self.numbers))
        call = {"role": "assistant", "content": None, "calls": [number]}
        results = {
            "openai": {"role": "tool", "tool_call_id": number},
            "anthropic": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": number}]},
            "gemini": {"role": "user", "parts": [{"function_response": {"id": number}}]},
        }
        if step in results:
            return [call, {**results[step], "results": [number]}]
        return [{"role": "system" if step == "system" else "assistant", "content": number}]


@pytest.mark.parametrize("kind", ["server", "fakeredis"])
def test_the_scripts_do_what_the_model_does(kind, request):
    client = fakeredis.FakeRedis() if kind == "fakeredis" else request.getfixturevalue("any_server").client()
    with client:
        run_state_machine_as_test(
            lambda: Memory(client),
            settings=settings(
                max_examples=60 if kind == "server" else 20,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_the_model_starts_a_turn_where_the_design_says():
    assert turn_starts([b"1P", b"1M", b"1P", b"1M", b"1U", b"junk", b"1P", b"1U"]) == [1, 4, 7]
    assert turn_starts([b"1P"]) == []
