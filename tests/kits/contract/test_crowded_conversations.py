"""Many calls of one conversation at once: each was paid for, and each turn is kept, whole."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kit_tools import CONVERSATION, Tools, question

from ractogateway._kit import appending
from ractogateway._kit.appending import Run, Runs
from ractogateway.errors import RevisionConflict, TurnNotRemembered
from ractogateway.redis import ChatMemoryConfig

ROOMY = ChatMemoryConfig(max_turns=200, ttl_seconds=60)
only_openai = pytest.mark.parametrize("wire", ["openai"], indirect=True)


def check_whole(answers: list[Any], tools: Tools) -> None:
    count = len(answers)
    assert sorted(answer.gateway.revision for answer in answers) == list(range(1, count + 1))
    order = sorted(range(count), key=lambda number: answers[number].gateway.revision)
    assert [message["content"] for message in tools.said()] == [
        text for number in order for text in (f"Number {number}", answers[number].content)
    ]


@only_openai
def test_a_hundred_at_once_are_all_kept(make, tools):
    """More than a memory tells of: what a call does not know by itself, the others have found out."""
    kit = make("slow-50", memory=tools.make("memory", config=ROOMY))

    async def main() -> list[Any]:
        return await asyncio.gather(*(kit.achat(question(f"Number {number}")) for number in range(100)))

    check_whole(asyncio.run(main()), tools)


@only_openai
def test_kits_that_do_not_know_of_each_other_wait_for_each_other(make, tools):
    kits = [make("slow-50", memory=tools.make("memory", config=ROOMY)) for _ in range(5)]

    async def main() -> list[Any]:
        return await asyncio.gather(*(kits[number % 5].achat(question(f"Number {number}")) for number in range(30)))

    check_whole(asyncio.run(main()), tools)


class Crowd:
    """A memory to which others append before every write."""

    def __init__(self) -> None:
        self.revision = 0
        self.expected: list[int] = []

    def get_changes(self, _conversation_id: str, _since: int) -> Any:
        return SimpleNamespace(revision=self.revision, messages=[], anew=False)

    def extend(self, _conversation_id: str, _messages: Any, *, request_id: str, expected_revision: int) -> int:
        assert request_id
        self.expected.append(expected_revision)
        self.revision += 1
        raise RevisionConflict(expected_revision, self.revision)


@only_openai
def test_a_turn_that_others_never_let_in_is_told(ask, make, monkeypatch):
    monkeypatch.setattr(appending, "_SECONDS", 0.05)
    monkeypatch.setattr(appending, "_FIRST_PAUSE_SECONDS", 1e-6)
    monkeypatch.setattr(appending, "_LONGEST_PAUSE_SECONDS", 1e-6)
    crowd = Crowd()
    with pytest.raises(TurnNotRemembered) as e:
        ask(make(memory=crowd), question())
    assert isinstance(e.value.__cause__, RevisionConflict)
    assert crowd.expected == list(range(len(crowd.expected)))
    assert len(crowd.expected) > 2


def test_what_one_call_found_out_the_others_know():
    runs = Runs()
    early = runs.at(CONVERSATION, 3)
    assert runs.at(CONVERSATION, 3) is early
    early.goes_on(3, 90)
    assert runs.at(CONVERSATION, 50) is early
    early.goes_on(95, 99)  # what happened from 90 to 95, nobody knows
    assert early.last == 90
    late = runs.at(CONVERSATION, 91)
    assert late is not early
    assert runs.at("another", 91) is not late


def test_what_was_found_out_is_forgotten_with_the_last_call():
    runs = Runs()
    run: Run | None = runs.at(CONVERSATION, 3)
    assert run is not None
    run.goes_on(3, 90)
    del run
    assert runs.at(CONVERSATION, 50).last == 50
