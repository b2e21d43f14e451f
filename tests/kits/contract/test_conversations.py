"""What a kit with a memory sends, and what it remembers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from kit_tools import CONVERSATION, LIMIT, USER, estimate, question
from kit_wires import CALL, WEATHER
from proxy import Proxy
from weather import ASK, Weather

from ractogateway import ChatConfig, RactoFile, RactoPrompt
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidValueError,
    RateLimitExceeded,
    RevisionConflict,
    StoreUnavailable,
    TurnNotRemembered,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import RedisOptions

SHORT = RedisOptions(timeout_seconds=0.3)


def roles(messages) -> list[str]:
    return [message["role"] for message in messages]


def test_what_was_said_is_sent_again(ask, asks, make, endpoint, tools):
    kit = make(memory=tools.make("memory"), default_prompt=RactoPrompt(role="You are a clerk.", aim="Answer."))
    for other in asks.values():
        other(kit, question("One"))
    ask(kit, question("Last"))
    body = str(endpoint.seen[-1].body)
    assert "clerk" in body
    assert body.index("One") < body.rindex("One") < body.index("Last")
    assert body.count("'One'") == 4
    assert roles(tools.said()) == ["user", "assistant"] * 5
    assert tools.revision() == 5


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_request_without_a_conversation_is_remembered_nowhere(ask, make, tools):
    alone = question(conversation_id=None, history=[{"role": "user", "content": "a"}])
    answer = ask(make(memory=tools.make("memory")), alone)
    assert (answer.gateway.history_messages, answer.gateway.revision) == (None, None)
    assert tools.said() == []


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_history_beside_the_memorys_own_is_refused(ask, make, endpoint, tools):
    with pytest.raises(InvalidValueError, match="history must be empty beside a conversation_id"):
        ask(make(memory=tools.make("memory")), question(history=[{"role": "user", "content": "CANARY"}]))
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_an_empty_message_behind_what_was_said_is_neither_sent_nor_remembered(ask, make, endpoint, tools):
    kit = make(memory=tools.make("memory"))
    ask(kit, question("One"))
    ask(kit, question(""))
    assert roles(endpoint.seen[-1].body["messages"]) == ["user", "assistant"]
    assert roles(tools.said()) == ["user", "assistant", "assistant"]


def test_attachments_are_part_of_the_turn(ask, make, tools):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    ask(make(memory=tools.make("memory")), question("What is this?", attachments=[image]))
    assert tools.said()[0] == {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}


def test_rounds_of_tools_are_one_turn(ask, make, tools):
    """An answer that calls tools ends no turn; the request that brings their results does."""
    kit = make(memory=tools.make("memory"))
    first = ask(kit, question("Use get_weather, please", tools=[WEATHER]))
    assert first.tool_calls
    assert first.gateway.revision is None
    assert tools.said() == []
    result = {"role": "tool", "content": "rain", "tool_call_id": first.tool_calls[0].id}
    following = [*first.messages, result]
    second = ask(kit, question("Use get_weather, please", tools=[WEATHER], following=following))
    assert second.gateway.revision == 1
    assert roles(tools.said()) == ["user", "assistant", "tool", "assistant"]
    assert ask(kit, question("And now?")).gateway.history_messages == 4


def test_rounds_that_a_kit_makes_are_one_turn_and_each_is_paid_for(ask, make, tools):
    kit = make(**tools.all())
    weather = Weather()
    config = question(ASK, tools=weather.tools, tool_rounds=3)
    answer = ask(kit, config)
    assert (answer.gateway.provider_calls, answer.gateway.revision) == (2, 1)
    assert answer.gateway.settled_tokens == answer.usage.total_tokens == tools.spent()
    assert roles(tools.said()) == ["user", "assistant", "tool", "assistant"]
    again = ask(kit, config.model_copy(update={"conversation_id": "another"}))
    assert (again.cached, again.gateway.provider_calls, again.content) == (True, 0, answer.content)
    assert tools.spent() == answer.usage.total_tokens
    assert roles(tools.said("another")) == ["user", "assistant", "tool", "assistant"]
    assert len(weather.asked) == 2  # tools always run


@pytest.mark.parametrize("method", ["chat", "astream"])
def test_a_refusal_between_rounds_leaves_no_half_turn(asks, make, endpoint, tools, method):
    weather = Weather()
    config = question(ASK, tools=weather.tools, tool_rounds=3)
    limiter = tools.make("rate_limiter")
    kit = make(rate_limiter=limiter, memory=tools.make("memory"))
    # Enough for one reservation, and after that has been settled for no other.
    limiter.consume(USER, LIMIT - estimate(kit, config) - 200)
    with pytest.raises(RateLimitExceeded):
        asks[method](kit, config)
    assert (endpoint.requests, len(weather.asked), tools.said()) == (1, 1, [])
    assert tools.spent() < LIMIT


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_an_answer_without_a_word_is_no_turn(ask, make, tools):
    """No provider takes an empty answer back."""

    class Kept(ExactMatchCache):
        def get(self, *_request, **_named):
            return LLMResponse(content=None)

    answer = ask(make(memory=tools.make("memory"), exact_cache=Kept()), question())
    assert (answer.content, answer.gateway.revision) == (None, None)
    assert tools.said() == []


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_stream_that_is_left_is_remembered_nowhere(make, tools):
    kit = make(memory=tools.make("memory"), exact_cache=ExactMatchCache())
    for _ in range(2):  # from the provider, then from the cache
        stream = kit.stream(question())
        next(stream)
        stream.close()
        assert tools.said() == []
        kit.chat(question(conversation_id=None))


# -- two at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_calls_at_the_same_time_keep_their_turns_whole(make, tools):
    kit = make("slow-50", memory=tools.make("memory"))

    async def main() -> list:
        return await asyncio.gather(*(kit.achat(question(f"Number {number}")) for number in range(8)))

    answers = asyncio.run(main())
    assert sorted(answer.gateway.revision for answer in answers) == list(range(1, 9))
    said = tools.said()
    assert roles(said) == ["user", "assistant"] * 8
    order = sorted(range(8), key=lambda number: answers[number].gateway.revision)
    assert [message["content"] for message in said] == [
        text for number in order for text in (f"Number {number}", answers[number].content)
    ]


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
@pytest.mark.parametrize("method", ["chat", "astream"])
@pytest.mark.parametrize("change", ["clear", "replace", "pop"])
def test_a_conversation_that_was_rewritten_meanwhile_is_left_alone(
    asks, make, endpoint, tools, change, method, eventually
):
    memory = tools.make("memory")
    memory.extend(CONVERSATION, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    kit = make("slow-200", memory=memory, rate_limiter=tools.make("rate_limiter"))

    def rewrite() -> None:
        eventually(lambda: endpoint.requests == 1)
        arguments = {"replace": ([{"role": "user", "content": "new"}],)}.get(change, ())
        getattr(memory, change)(CONVERSATION, *arguments)

    rewriting = threading.Thread(target=rewrite)
    rewriting.start()
    with pytest.raises(TurnNotRemembered) as e:
        asks[method](kit, question("CANARY"))
    rewriting.join()
    assert isinstance(e.value.__cause__, RevisionConflict)
    assert e.value.response.content
    assert roles(e.value.turn) == ["user", "assistant"]
    assert "CANARY" not in str(e.value)
    assert len(tools.said()) == {"clear": 0, "replace": 1, "pop": 1}[change]
    assert tools.spent() == e.value.response.usage.total_tokens  # it was paid for


# -- without Redis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_without_its_memory_nothing_is_asked(ask, make, endpoint, tools):
    kit = make(
        memory=tools.make("memory", url="redis://127.0.0.1:1/0", options=SHORT),
        rate_limiter=tools.make("rate_limiter"),
    )
    with pytest.raises(StoreUnavailable):
        ask(kit, question())
    assert (endpoint.requests, tools.spent()) == (0, 0)


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
@pytest.mark.parametrize("method", ["chat", "astream"])
def test_a_memory_that_is_lost_after_the_answer_is_told_and_can_be_made_up_for(
    asks, make, endpoint, tools, any_server, method, eventually
):
    with Proxy(any_server.url) as proxy:
        kit = make("slow-300", memory=tools.make("memory", url=proxy.url, options=SHORT))

        def lose() -> None:
            eventually(lambda: endpoint.requests == 1)
            proxy.shut()

        losing = threading.Thread(target=lose)
        losing.start()
        with pytest.raises(TurnNotRemembered) as e:
            asks[method](kit, question())
        losing.join()
    assert isinstance(e.value.__cause__, StoreUnavailable)
    assert e.value.response.content
    assert tools.said() == []
    memory = tools.make("memory")
    for _ in range(2):
        assert memory.extend(CONVERSATION, e.value.turn, request_id=e.value.request_id) == 1
    assert roles(tools.said()) == ["user", "assistant"]


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_cache_that_is_away_costs_nothing_but_its_use(ask, make, tools):
    kit = make(
        **tools.all("rate_limiter", "memory"),
        exact_cache=tools.make("exact_cache", url="redis://127.0.0.1:1/0", options=SHORT),
    )
    answer = ask(kit, question())
    assert (answer.cached, answer.gateway.revision) == (False, 1)
    assert tools.spent() == answer.usage.total_tokens


def test_a_conversation_goes_on_with_another_provider(asks, make, tools, wire):
    memory = tools.make("memory")
    memory.extend(
        CONVERSATION,
        [
            {"role": "user", "content": "Use get_weather"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": CALL["id"]},
            {"role": "assistant", "content": "It rains."},
        ],
    )
    answer = asks["chat"](make(memory=memory), ChatConfig(user_message="And now?", conversation_id=CONVERSATION))
    assert answer.content
    assert answer.gateway.history_messages == 4


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_file_that_the_memory_would_not_keep_is_refused_before_anybody_is_paid(asks, make, endpoint, tools, is_async):
    image = RactoFile.from_bytes(b"\x89PNG\r\n\x1a\n" + bytes(900_000))
    kit = make(**tools.all("rate_limiter", "memory", is_async=is_async))
    for name, ask in asks.items():
        if is_async and not name.startswith("a"):
            continue
        with pytest.raises(InvalidValueError, match="max_message_bytes"):
            ask(kit, question("Look", attachments=[image]))
    assert (endpoint.requests, tools.spent(), tools.said()) == (0, 0, [])


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_instructions_that_the_memory_would_not_keep_are_refused_before_anybody_is_paid(ask, make, endpoint, tools):
    instruction = {"role": "system", "content": "Be brief."}
    memory = tools.make("memory")
    memory.extend(CONVERSATION, [instruction] * 63)
    kit = make(**tools.all("rate_limiter", "memory"))
    with pytest.raises(InvalidValueError, match="64 system and developer messages"):
        ask(kit, question(following=[instruction] * 2))
    assert (endpoint.requests, tools.spent(), tools.revision()) == (0, 0, 1)
    assert ask(kit, question(following=[instruction])).gateway.revision == 2
    assert ask(kit, question()).gateway.revision == 3  # what is there already is no hindrance


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_memory_of_somebody_elses_that_fails_loses_no_answer(ask, make):
    class Changes:
        revision, messages, anew = 0, (), False

    class Foreign:
        def get_changes(self, _conversation_id, _since_revision):
            return Changes()

        def extend(self, *_, **__):
            raise OSError("CANARY-password")

    with pytest.raises(TurnNotRemembered, match="OSError") as caught:
        ask(make(memory=Foreign()), question())
    assert caught.value.response.content
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
