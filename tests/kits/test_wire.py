"""Oddities of servers that call themselves compatible. Pure: no server does all of these."""

from __future__ import annotations

from types import SimpleNamespace as Obj

import pytest

from ractogateway._kit.reading import make_tool_call
from ractogateway.errors import ProviderConnectionError, ProviderError
from ractogateway.openai_developer_kit import FinishReason, ToolCall, Usage
from ractogateway.openai_developer_kit.streaming import StreamCollector
from ractogateway.openai_developer_kit.wire import read_completion, read_embeddings, read_usage


def completion(reason: object = "stop", **message: object) -> Obj:
    return Obj(choices=[Obj(message=Obj(**message), finish_reason=reason)])


def delta(reason: object = None, *, index: object = 0, **fields: object) -> Obj:
    return Obj(choices=[Obj(index=index, delta=Obj(**fields), finish_reason=reason)])


def fragment(index: object, arguments: str, **more: object) -> Obj:
    return Obj(index=index, function=Obj(arguments=arguments, name=more.pop("name", None)), **more)


def test_an_answer_with_nothing_but_text():
    answer = read_completion(completion(content="Hi!"))

    assert (answer.content, answer.finish_reason, answer.usage, answer.model) == (
        "Hi!",
        FinishReason.STOP,
        Usage(),
        None,
    )


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("end_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("function_call", FinishReason.TOOL_CALLS),
        ("something new", FinishReason.UNKNOWN),
        (None, FinishReason.UNKNOWN),
        (["stop"], FinishReason.UNKNOWN),
    ],
)
def test_finish_reasons(reason, expected):
    assert read_completion(completion(reason, content="Hi!")).finish_reason is expected


def test_a_tool_call_that_ends_with_stop_is_still_one():
    calls = [
        Obj(id=None, function=Obj(name="look", arguments={"at": 1})),
        Obj(id="x", custom=Obj(name="sql", input="SELECT 1")),
    ]
    answer = read_completion(completion("stop", content="", tool_calls=calls))

    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert answer.content is None
    assert answer.tool_calls == [
        ToolCall(id="call_0", name="look", arguments={"at": 1}, arguments_json='{"at": 1}'),
        ToolCall(id="x", name="sql", arguments_json="SELECT 1"),
    ]


@pytest.mark.parametrize("written", ["", "[1]", "null", "{", "[" * 100_000, None, 7])
def test_arguments_that_are_no_object(written):
    call = make_tool_call("x", "look", written, 0)

    assert call.arguments == {}
    assert call.arguments_json == (written if isinstance(written, str) else "")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_has_two_names(name):
    collector = StreamCollector()
    chunks = [collector.add(delta(**{name: "Hm."})), collector.add(delta("stop", content="Hi!"))]

    assert [chunk.thinking_delta for chunk in chunks] == ["Hm.", ""]
    assert collector.finish().thinking == read_completion(completion(**{name: "Hm."})).thinking == "Hm."


def test_usage_with_holes():
    usage = Obj(prompt_tokens=3, completion_tokens=None, total_tokens="5", prompt_tokens_details=Obj(cached_tokens=2))

    assert read_usage(usage) == Usage(prompt_tokens=3, total_tokens=3, cached_tokens=2)
    assert read_usage(None) == Usage()


def test_a_stream_of_several_tool_calls_with_and_without_numbers():
    for numbers in ((0, 0, 1, 1), (None, None, None, None)):
        collector = StreamCollector()
        parts = [
            fragment(numbers[0], '{"a"', id="x", name="one"),
            fragment(numbers[1], ": 1}"),
            fragment(numbers[2], "{", id="y", name="two"),
            fragment(numbers[3], "}"),
        ]
        assert [collector.add(delta(tool_calls=[part])) for part in parts] == [None] * 4
        collector.add(delta("tool_calls"))

        assert [(call.id, call.name, call.arguments) for call in collector.finish().tool_calls] == [
            ("x", "one", {"a": 1}),
            ("y", "two", {}),
        ]


def test_only_the_first_choice_of_a_stream_is_followed():
    collector = StreamCollector()
    for piece in (delta(content="a"), delta(index=1, content="b"), Obj(choices=[]), Obj(choices=None), delta("stop")):
        collector.add(piece)

    assert collector.finish().content == "a"


def test_a_stream_without_an_end_is_broken():
    collector = StreamCollector()
    collector.add(delta(content="a"))
    with pytest.raises(ProviderConnectionError, match="in the middle"):
        collector.finish()


@pytest.mark.parametrize("answer", ["text", None, Obj(data=None), Obj(data=[Obj(index=0)])])
def test_embeddings_of_another_shape(answer):
    with pytest.raises(ProviderError, match="not a list of embeddings"):
        read_embeddings(answer)
