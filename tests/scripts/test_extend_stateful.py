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
from memory_model import (
    APPLIED,
    CONFLICT,
    OCCUPIED,
    REPLAYED,
    MemoryModel,
    PinnedLimit,
    Reply,
    pinned_head,
    turn_starts,
)

from ractogateway.redis.entries import decode_entry, encode_entry

MAX_PINNED = 6

# What a turn is made of; the machine gives every message an id of its own.
STEPS = st.lists(st.sampled_from(["answer", "openai", "anthropic", "gemini", "system"]), max_size=5)
MAX_TURNS = st.integers(1, 4)
EXPECTED = st.sampled_from(["any", "current", "any", "stale"])
TTL = st.sampled_from([None, HOUR_MS])
MAX_TOKENS = st.sampled_from([None, None, 20, 60, 200])
WEIGHT = st.sampled_from([None, 0, 1, 30, 1_000])


class Memory(RuleBasedStateMachine):
    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.conversation = Conversation(client)
        self.model = MemoryModel()
        self.numbers = itertools.count()
        self.pinned: list[str] = []
        self.seen: dict[int, list[bytes]] = {0: []}  # what a reader saw at each revision

    def teardown(self) -> None:
        self.conversation.forget()

    # What clients do

    @rule(
        opens=st.booleans(),
        steps=STEPS,
        cut=st.integers(0, 8),
        max_turns=MAX_TURNS,
        max_tokens=MAX_TOKENS,
        weight=WEIGHT,
        expected=EXPECTED,
        ttl=TTL,
    )
    def extend(self, opens, steps, cut, max_turns, max_tokens, weight, expected, ttl) -> None:
        """A turn, in one call or in two; without a user message it continues the last one."""
        messages = self.turn(opens, steps)
        wanted = {"any": None, "current": self.model.revision, "stale": self.model.revision + 1}[expected]
        for part in (messages[:cut], messages[cut:]):
            if part:
                bounds = {"max_turns": max_turns, "max_tokens": max_tokens}
                reply = self.send(part, **bounds, weight=weight, expected=wanted, ttl=ttl)
                if reply is None or reply.status != APPLIED:
                    return
                assert reply.turns <= max_turns
                assert max_tokens is None or reply.tokens <= max_tokens or reply.turns <= 1
                wanted = None if wanted is None else reply.revision

    @rule(mode=st.sampled_from(["replace", "fill"]), steps=STEPS, max_tokens=MAX_TOKENS, weight=WEIGHT)
    def put(self, mode, steps, max_tokens, weight) -> None:
        """Several turns in the place of what is there, or where there is nothing."""
        messages = self.turn(True, steps) + self.turn(True, steps)
        self.send(messages, mode=mode, max_turns=2, max_tokens=max_tokens, weight=weight)

    @rule(count=st.integers(1, 3), stale=st.booleans())
    def pop(self, count, stale) -> None:
        tail = self.model.entries[-count:]
        if not tail:
            return
        before = self.snapshot()
        asked = [*tail[:-1], tail[-1] + b"?"] if stale else tail
        operation = self.conversation.new_operation()
        reply = self.conversation.pop(*asked, operation=operation, expected=self.model.revision)
        assert reply[:6] == self.model.pop(asked, operation=operation, expected=self.model.revision)[:6]
        assert (reply.status == CONFLICT) == stale
        if stale:
            assert self.snapshot() == before
        else:
            gone = [decode_entry(entry) for entry in tail]
            self.pinned = [text for text in self.pinned if {"role": "system", "content": text} not in gone]
            self.remember()

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """An operation that is remembered changes nothing, whatever it brings."""
        if self.model.operations:
            operation, revision = data.draw(st.sampled_from(sorted(self.model.operations.items())))
            before = self.snapshot()
            reply = self.conversation.say(self.user(), operation=operation, max_turns=1, expected=0, ttl=1)
            assert reply[:4] == Reply(REPLAYED, revision, entries=len(self.model.entries))[:4]
            assert self.snapshot() == before

    @rule(expected=EXPECTED)
    def clear(self, expected: str) -> None:
        wanted = {"any": None, "current": self.model.revision, "stale": self.model.revision + 1}[expected]
        operation = self.conversation.new_operation()
        reply = self.conversation.clear(operation=operation, expected=wanted)
        assert reply[:6] == self.model.clear(operation=operation, expected=wanted)[:6]
        assert (reply.status == CONFLICT) == (expected == "stale")
        if reply.status == APPLIED:
            self.pinned = []
            self.remember()

    # What happens behind their back

    @rule(which=st.sampled_from(["list", "state", "both"]))
    def lose(self, which: str) -> None:
        if which != "state":
            self.conversation.client.delete(self.conversation.list)
            self.model.entries, self.pinned = [], []
        if which != "list":
            self.conversation.client.delete(self.conversation.state)
            self.model.forget_state()
            self.seen = {}  # revisions begin anew

    @rule(garbage=st.binary(max_size=4).filter(lambda entry: entry[1:2] not in (b"P", b"U")))
    def edit(self, garbage: bytes) -> None:
        counted = self.conversation.counts()["length"]
        for _ in range(2 if counted == len(self.model.entries) + 1 else 1):
            self.conversation.client.rpush(self.conversation.list, garbage)
            self.model.entries.append(garbage)

    # What holds at any time

    @invariant()
    def the_list_is_the_models(self) -> None:
        assert self.conversation.entries() == self.model.entries

    @invariant()
    def the_state_is_the_models(self) -> None:
        client = self.conversation.client
        assert self.conversation.counts()["revision"] == self.model.revision
        assert client.lrange(self.conversation.evicted, 0, -1) == self.model.evicted

    @invariant()
    def a_reader_of_any_revision_can_follow(self) -> None:
        for since, copy in self.seen.items():
            revision, how, left, entries = self.conversation.changes(since)
            assert revision == self.model.revision
            if how == 2:
                assert entries == self.model.entries
            else:
                head = pinned_head(copy)
                assert copy[:head] + copy[head + left :] + entries == self.model.entries
                assert how == 1 or (left, entries, since) == (0, [], revision)

    @invariant()
    def a_window_is_the_end_of_the_list(self) -> None:
        for last in (1, 3):
            *_, pinned, newest_first = self.conversation.window(last)
            assert (pinned, newest_first[::-1]) == self.model.window(last)

    @invariant()
    def pages_make_up_the_list(self) -> None:
        pages, before = [], None
        while True:
            *_, before, earlier, pinned, newest_first = self.conversation.window(2, before)
            pages = newest_first[::-1] + pages
            if not earlier:
                break
        assert pinned + pages == self.model.entries

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
        max_tokens: int | None = None,
        weight: int | None = None,
        expected: int | None = None,
        ttl: int | None = None,
        mode: str = "append",
    ) -> Reply | None:
        operation = self.conversation.new_operation()
        options = {"operation": operation, "max_turns": max_turns, "max_tokens": max_tokens, "expected": expected}
        options |= {"max_pinned": MAX_PINNED, "mode": mode}
        entries = [encode_entry(message, tokens=weight) for message in messages]
        before = self.snapshot()
        try:
            modelled = self.model.extend(entries, **options)
        except PinnedLimit:
            with pytest.raises(redis.ResponseError, match="PINNEDLIMIT"):
                self.conversation.extend(*entries, **options, hooked=HOUR_MS)
            assert self.snapshot() == before
            return None
        reply = self.conversation.extend(*entries, **options, ttl=ttl, hooked=HOUR_MS)
        assert reply == modelled._replace(waiting=bool(self.model.evicted))
        if reply.status != APPLIED:
            assert reply.status == CONFLICT or (reply.status == OCCUPIED and mode == "fill")
            assert self.snapshot() == before
            return reply
        self.pinned = [] if mode == "replace" else self.pinned
        self.pinned += [message["content"] for message in messages if message["role"] == "system"]
        keys = (self.conversation.list, self.conversation.state)
        assert [self.conversation.client.pttl(key) > 0 for key in keys] == [ttl is not None] * 2
        self.remember()
        return reply

    def remember(self) -> None:
        self.seen[self.model.revision] = list(self.model.entries)

    def turn(self, opens: bool, steps: list[str]) -> list[dict[str, Any]]:
        messages = [self.user()] if opens or not steps else []
        for step in steps:
            messages += self.step(step)
        return messages

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
