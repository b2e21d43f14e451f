"""A model that writes half of a surrogate pair, which no request can hold, ends no conversation."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from kit_tools import CONVERSATION, question
from weather import ASK

from ractogateway import ToolRegistry
from ractogateway._demo import answers
from ractogateway.cache import ExactMatchCache
from ractogateway.messages import ToolCall

HALF, LOST, FACE = "\ud800", "\ufffd", "\U0001f600"


@pytest.fixture(autouse=True)
def _broken(monkeypatch) -> None:
    monkeypatch.setattr(answers, "_sentence", lambda _digest: "Half \ud800 and \ud83d\ude00, then \ud83d")


def test_its_answer_is_shown_stored_remembered_and_sent_again(ask, make, endpoint, tools):
    kit = make(memory=tools.make("memory"), exact_cache=ExactMatchCache())
    for number in (1, 2):
        answer = ask(kit, question(f"Question {number}"))
        assert answer.content == f"Half {LOST} and {FACE}, then {LOST}"
        assert answer.gateway.revision == number
    assert answer.content in str(endpoint.seen[-1].body)
    assert ask(kit, question("Question 1", conversation_id="another")).cached
    assert [message["content"] for message in tools.said()][1::2] == [answer.content] * 2


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_its_pieces_can_be_sent_on(make, method):
    kit = make()

    async def consume() -> list[Any]:
        return [chunk async for chunk in kit.astream(question(conversation_id=None))]

    chunks = list(kit.stream(question(conversation_id=None))) if method == "stream" else asyncio.run(consume())
    assert "".join(chunk.delta for chunk in chunks).encode() == chunks[-1].response.content.encode()
    for chunk in chunks:
        chunk.text.encode()


def test_a_conversation_that_holds_it_goes_on(ask, make, endpoint, tools):
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": f'{{"a": "{HALF}", "b": "\\ud800"}}'},
    }
    tools.make("memory").extend(
        CONVERSATION,
        [
            {"role": "user", "content": f"asked {HALF}"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"told {HALF}"},
            {"role": "user", "content": [{"type": "text", "text": f"part {HALF}"}]},
            {"role": "assistant", "content": "answered"},
        ],
    )
    kit = make(memory=tools.make("memory"))
    for revision in (2, 3):
        assert ask(kit, question()).gateway.revision == revision
    sent = str(endpoint.seen[-1].body)
    assert all(f"{word} {LOST}" in sent for word in ("asked", "told", "part"))
    assert tools.said()[0]["content"] == f"asked {HALF}"  # what is there is left as it is


def test_a_tool_that_repeats_it_ends_no_round(ask, make, endpoint):
    registry = ToolRegistry()

    @registry.tool
    def get_weather(city: str) -> str:
        return f"{city.encode().decode()} \ud800"

    @registry.tool
    def get_structure() -> dict[str, list[str]]:
        return {"said": [HALF], "f": iter([f"{FACE}{HALF}"])}  # an iterator can be read once

    structure = registry.call(ToolCall(id="c", name="get_structure"))["content"]
    assert json.loads(structure) == {"said": [LOST], "f": [f"{FACE}{LOST}"]}

    answer = ask(make(), question(ASK, tools=registry, tool_rounds=2, conversation_id=None))
    assert answer.following[-1]["content"].endswith(f" {LOST}")
    assert endpoint.requests == 2
