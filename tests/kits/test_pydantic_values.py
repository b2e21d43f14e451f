"""Pydantic instances in a request: sent as the SDK sends them, and told apart by exactly that. Over real HTTP."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field, field_serializer

from ractogateway.cache import ExactMatchCache
from ractogateway.openai_developer_kit import ChatConfig


class Reasoning(BaseModel):
    effort: str = "medium"
    summary: str | None = None


class TopK(BaseModel):
    number: int = Field(serialization_alias="top_k")


class MinP(BaseModel):
    number: int = Field(serialization_alias="min_p")


class Loud(BaseModel):
    word: str

    @field_serializer("word")
    def _loudly(self, word: str) -> str:
        return word.upper()


class Quiet(BaseModel):
    word: str


PAIRS = {
    "unset": (Reasoning(), {}, Reasoning(effort="medium"), {"effort": "medium"}),
    "none": (Reasoning(), {}, Reasoning(summary=None), {"summary": None}),
    "alias": (TopK(number=1), {"top_k": 1}, MinP(number=1), {"min_p": 1}),
    "serializer": (Loud(word="a"), {"word": "A"}, Quiet(word="a"), {"word": "a"}),
}
PLACES = {
    "extra": lambda value: {"extra": {"custom": {"deep": [value]}}},
    "extra_body": lambda value: {"extra": {"extra_body": {"custom": {"deep": (value,)}}}},
    "tools": lambda value: {"tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]},
    "attachments": lambda value: {"attachments": [{"type": "text", "text": "a", "custom": value}]},
    "history": lambda value: {"history": [{"role": "assistant", "content": "a", "custom": [value]}]},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pair", PAIRS)
def test_instances_that_are_sent_differently_share_nothing(pair, place, make_kit, endpoint):
    one, one_sent, other, other_sent = PAIRS[pair]
    kit = make_kit(exact_cache=ExactMatchCache())
    put = PLACES[place]

    def chat(value: object) -> bool:
        return kit.chat(ChatConfig(user_message="Hello", **put(value))).cached

    assert [chat(one), chat(other), chat(one), chat(other)] == [False, False, True, True]
    bodies = [request.body for request in endpoint.seen]
    # What is sent is what a plain mapping would send, which therefore shares the entry.
    assert [chat(one_sent), chat(other_sent)] == [True, True]
    plain = make_kit()
    for value in (one_sent, other_sent):
        plain.chat(ChatConfig(user_message="Hello", **put(value)))
    assert bodies == [request.body for request in endpoint.seen][-2:]
    assert bodies[0] != bodies[1]
