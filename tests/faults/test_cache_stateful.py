"""Several clients of the same cache against a model, while replies get lost, callers give up, scripts are forgotten,
the server dies and keys are evicted: an answer is the last one stored for its question and not overtaken, or none.

One of them has a near cache. What a call of its own process changed it never serves again; what changed elsewhere, not
any more once it was told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from servers import wait_until
from stage import PATIENT, Stage, play, staged

from ractogateway.cache.fingerprint import fingerprint
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache
from ractogateway.redis.transport import tracking

QUESTIONS, TAGS = ("a", "b", "c"), ("s", "t")

NEAR = 3
CLIENT = st.integers(0, NEAR)
"""Those of `stage`, and one with a near cache."""
QUESTION = st.sampled_from(QUESTIONS)
TAGGED = st.lists(st.sampled_from(TAGS), unique=True)


@dataclass
class Stored:
    """An answer that may be there: with these tags; `sure` if nothing but a miss of the store itself can hide it."""

    content: str
    tags: tuple[str, ...]
    sure: bool


class CacheUnderFire(Stage):
    losses = (4, 5, 7)
    served_near = 0
    """Answers that were served from a copy, in all histories."""

    def __init__(self) -> None:
        super().__init__()
        settings = {"ttl_seconds": 600, "on_outage": "raise"}
        self.enter(RedisExactCache, AsyncRedisExactCache, **settings)
        self.near = RedisExactCache(self.proxy.url, options=PATIENT, near_cache_entries=10, **settings)
        self.stack.callback(self.near.close)
        self.clients.append(self.near)
        self.copies = self.near._core._store.near
        self.near.get(*request(QUESTIONS[0]))
        wait_until(lambda: self.copies.port.tracker().alive, timeout_seconds=30, what="the tracker being alive")
        self.stored: dict[str, Stored | None] = dict.fromkeys(QUESTIONS)

    # What clients do

    @rule(client=CLIENT, question=QUESTION, tags=TAGGED)
    def put(self, client, question, tags) -> None:
        content = self.new_content(question)
        self.insist(lambda: self.clients[client].put(*request(question), answer(content), tags=tags))
        self.stored[question] = Stored(content, tuple(tags), sure=True)

    @rule(client=CLIENT, tags=TAGGED)
    def put_many(self, client, tags) -> None:
        contents = {question: self.new_content(question) for question in QUESTIONS}
        items = [(request(question), answer(content)) for question, content in contents.items()]
        self.insist(lambda: self.clients[client].put_many(items, tags=tags))
        self.stored = {question: Stored(content, tuple(tags), sure=True) for question, content in contents.items()}

    @rule(client=CLIENT, question=QUESTION)
    def get(self, client, question) -> None:
        self.check(question, self.insist(lambda: self.clients[client].get(*request(question))))

    @rule(client=CLIENT)
    def get_many(self, client) -> None:
        found = self.insist(lambda: self.clients[client].get_many([request(question) for question in QUESTIONS]))
        for question, response in zip(QUESTIONS, found, strict=True):
            self.check(question, response)

    @rule(client=CLIENT, question=QUESTION, tags=TAGGED)
    def compute(self, client, question, tags) -> None:
        """Where there is an answer, it is returned, and nothing is computed."""
        computed: list[str] = []

        def work() -> LLMResponse:
            computed.append(self.new_content(question))
            return answer(computed[-1])

        found = self.insist(lambda: self.clients[client].get_or_compute(*request(question), work, tags=tags))
        if not found.cached:
            there = self.stored[question]
            assert there is None or not there.sure, "computed though there was an answer"
            assert found.content == computed[-1]
        elif found.content not in computed:  # else its own, of an attempt that was told nothing
            self.check(question, found)
        if computed:
            self.stored[question] = Stored(computed[-1], tuple(tags), sure=False)
            # Of several attempts a later one may have found what an earlier one stored.
            self.stored[question].content = found.content

    @rule(client=CLIENT, question=QUESTION)
    def invalidate(self, client, question) -> None:
        self.insist(lambda: self.clients[client].invalidate(*request(question)))
        self.stored[question] = None

    @rule(client=CLIENT, tag=st.sampled_from(TAGS))
    def invalidate_tag(self, client, tag) -> None:
        self.insist(lambda: self.clients[client].invalidate_tag(tag))
        for question, there in self.stored.items():
            if there is not None and tag in there.tags:
                self.stored[question] = None

    @rule(client=CLIENT)
    def clear(self, client) -> None:
        self.insist(self.clients[client].clear)
        self.stored = dict.fromkeys(QUESTIONS)

    @rule(question=QUESTION, tags=TAGGED, ticks=st.integers(0, 30))
    def give_up(self, question, tags, ticks) -> None:
        """A caller is cancelled somewhere on the way, and says the same again."""
        content = self.new_content(question)
        put = partial(self.core.put, *request(question), answer(content), tags=tags)
        self.leave(put, ticks)
        self.insist(lambda: self.clients[1].put(*request(question), answer(content), tags=tags))
        self.stored[question] = Stored(content, tuple(tags), sure=True)

    @rule(client=CLIENT, question=QUESTION, tags=TAGGED, ticks=st.integers(0, 30))
    def leave_a_computation(self, client, question, tags, ticks) -> None:
        """A leader is cancelled; somebody else stores an answer then, and that is the one."""
        content = self.new_content(question)
        self.leave(partial(self.core.get_or_compute, *request(question), lambda: answer(content), tags=tags), ticks)
        self.put(client, question, tags)

    # What happens to them

    @rule(which=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def evict(self, which, count) -> None:
        """Any keys: entries, indexes, the generation, versions of tags."""
        keys = sorted(self.server.command("KEYS", "*"))
        for key in which.sample(keys, min(count, len(keys))):
            self.server.command("DEL", key)
        for there in self.stored.values():
            if there is not None:
                there.sure = False
        self.wait_until_told({question: there and there.content for question, there in self.stored.items()})

    @rule(question=QUESTION, tags=TAGGED)
    def put_elsewhere(self, question, tags) -> None:
        """By another process, whose calls drop no copies in this one."""
        before, content = self.stored[question], self.new_content(question)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracking, "forget", lambda _keys: None)
            self.direct.put(*request(question), answer(content), tags=tags)
        self.stored[question] = Stored(content, tuple(tags), sure=True)
        self.wait_until_told({question: before and before.content})

    def wait_until_told(self, before: dict[str, str | None]) -> None:
        """Until the near cache serves what everybody gets; up to then it may serve what was there before."""

        def is_told(question: str) -> bool:
            there = self.direct.get(*request(question))
            found = self.insist(lambda: self.near.get(*request(question)))
            if found == there:
                return True
            assert found is not None
            assert found.content == before[question], "neither what was there nor what is there"
            return False

        for question in before:
            wait_until(
                lambda question=question: is_told(question), timeout_seconds=30, what="the near cache being told"
            )

    # What holds at any time

    @invariant()
    def an_answer_is_the_one_that_was_stored_last(self) -> None:
        for question in QUESTIONS:
            self.check(question, self.direct.get(*request(question)))
            type(self).served_near += self.copies.find(fingerprint(*request(question))) is not None
            self.check(question, self.insist(lambda question=question: self.near.get(*request(question))))

    def check(self, question: str, found: LLMResponse | None) -> None:
        there = self.stored[question]
        if found is None:
            assert there is None or not there.sure, "what was stored is not there"
            self.stored[question] = None  # nor does it come back
        else:
            assert there is not None
            assert found.content == there.content
            there.sure = True

    def new_content(self, question: str) -> str:
        return f"answer {next(self.numbers)} to {question}"


def request(question: str) -> tuple[str, str, str, float, int]:
    return question, "", "gpt-4o", 0.0, 256


def answer(content: str) -> LLMResponse:
    return LLMResponse(content=content)


@pytest.fixture(scope="module")
def machine() -> Iterator[type[Stage]]:
    with staged(CacheUnderFire) as ready:
        yield ready


@pytest.mark.cell("reply lost", "cache", "blocking")
@pytest.mark.timeout(300)
def test_the_cache_does_what_the_model_does(machine, long_run, figures):
    examples = 60 if long_run else 15
    machine.served_near = 0
    play(machine, examples=examples, steps=40)
    assert machine.served_near > 0, "no answer was served from a copy"
    figures("cache", note=f"{examples} random histories of 40 steps as the model has them")
