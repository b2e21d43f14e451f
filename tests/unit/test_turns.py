"""The shape of stored messages: provider by provider, and what is refused."""

from __future__ import annotations

import enum
import json
from types import MappingProxyType

import pytest
from pydantic import BaseModel

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message, MessageRole
from ractogateway.redis.entries import decode_entry, encode_entry, entry_kind
from ractogateway.redis.turns import check_message, kind_of

LIMIT = 1_048_576
SECRET = "4111 1111 1111 1111"

OPENAI_TURN = [
    {"role": "developer", "content": "Be brief.", "name": "ops"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "wie ist das Wetter in 東京?"}, {"type": "image_url", "image_url": {}}],
    },
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "東京"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "21.5 °C"},
    {"role": "assistant", "content": "21,5 Grad 🌤", "id": "msg_1", "metadata": {"cost": 0.0012, "n": 3, "final": True}},
]
ANTHROPIC_TURN = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}]},
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3"}]}],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "3 degrees"}]},
]
GEMINI_TURN = [
    {"role": "user", "parts": [{"text": "weather?"}]},
    {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Oslo"}}}]},
    {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {"celsius": 3}}}]},
    {"role": "model", "parts": [{"text": "3 degrees"}]},
]


def stored(message, **options):
    return encode_entry(check_message(message, **{"max_message_bytes": LIMIT, **options}))


# What goes in comes out


@pytest.mark.parametrize("message", OPENAI_TURN + ANTHROPIC_TURN + GEMINI_TURN, ids=lambda message: message["role"])
def test_a_message_of_any_provider_comes_out_equal_and_in_order(message):
    back = decode_entry(stored(message))
    assert back == message
    assert json.dumps(back) == json.dumps(message)


def test_a_plain_message_is_exactly_role_and_content():
    assert stored({"role": "user", "content": "Hello!"}) == b'1U{"role":"user","content":"Hello!"}'
    assert check_message(Message(role="user", content="Hello!"), max_message_bytes=LIMIT) == {
        "role": "user",
        "content": "Hello!",
    }


def test_text_is_stored_as_utf8_not_escaped():
    assert "東京 🌤".encode() in stored({"role": "user", "content": "東京 🌤"})


def test_a_message_object_keeps_its_further_fields():
    message = Message(role=MessageRole.ASSISTANT, content=None, tool_calls=[{"id": "c1"}])
    back = decode_entry(stored(message))
    assert back == {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}


def test_the_role_becomes_a_plain_string_and_the_given_mapping_is_left_alone():
    given = MappingProxyType({"role": MessageRole.USER, "content": "x"})
    checked = check_message(given, max_message_bytes=LIMIT)
    assert type(checked["role"]) is str
    assert given["role"] is MessageRole.USER


def test_a_missing_content_stays_missing_and_a_null_content_stays_null():
    assert decode_entry(stored({"role": "assistant", "tool_calls": []})) == {"role": "assistant", "tool_calls": []}
    assert decode_entry(stored({"role": "assistant", "content": None})) == {"role": "assistant", "content": None}


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\\\ud800", '"\udfff"', "\udc00\ud800"], ids=ascii)
def test_a_lone_surrogate_survives(text):
    entry = stored({"role": "user", "content": text, text: 1})
    assert decode_entry(entry) == {"role": "user", "content": text, text: 1}
    assert entry.decode("utf-8")  # other programs can read it


def test_the_halves_of_a_pair_come_out_as_their_character():
    # A stream cut within an emoji leaves them behind; JSON has no way to keep them apart.
    assert decode_entry(stored({"role": "user", "content": "\ud83d\ude00"})) == {"role": "user", "content": "😀"}


# Kinds


@pytest.mark.parametrize(
    ("turn", "kinds"), [(OPENAI_TURN, "PUMMM"), (ANTHROPIC_TURN, "UMMM"), (GEMINI_TURN, "UMMM")], ids=["o", "a", "g"]
)
def test_a_turn_starts_at_the_user_and_not_at_a_tool_result(turn, kinds):
    assert "".join(map(kind_of, turn)) == kinds
    assert "".join(entry_kind(encode_entry(message)) for message in turn) == kinds


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"content": ""},
        {"content": None},
        {"content": []},
        {"parts": []},
        {"content": [{"type": "text", "text": "and?"}]},
        {"parts": [{"text": "hi", "function_response": None}]},
        {"parts": "hi"},
    ],
    ids=str,
)
def test_a_user_message_without_a_tool_result_starts_a_turn(fields):
    assert kind_of({"role": "user", **fields}) == "U"


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "tool_result"}, {"type": "tool_result"}]},
        {"content": None, "parts": [{"text": None, "function_response": {"name": "f"}}]},
        {"content": "", "parts": [{"functionResponse": {}}, {"functionResponse": {}}]},
        {"content": [{"type": "tool_result"}, {"type": "text", "text": "and?"}]},
        {"content": [{"type": "text", "text": ""}, {"type": "tool_result"}]},
        {"content": "and?", "parts": [{"functionResponse": {}}]},
        {"content": [{"type": "tool_result"}], "parts": [{"text": "and?"}]},
        {"parts": [{"functionResponse": {}}, {"text": "and?"}]},
    ],
    ids=str,
)
def test_a_user_message_with_a_tool_result_does_not_whatever_else_it_carries(fields):
    assert kind_of({"role": "user", **fields}) == "M"


# What is at rest may be anything


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"1",
        b"1U",
        b"1U{",
        b'1X{"role":"user"}',
        b'2U{"role":"user"}',
        b'{"role":"user","content":"x"}',
        b"1U[]",
        b"1U{}",
        b'1U{"role":7}',
        b'1U{"role":"user","n":NaN}',
        b'1U{"role":"user"} ...',
        b"1U" + b"[" * 100_000,
        b'1U{"role":"user","n":' + b"9" * 10_000 + b"}",
        '1U{"role":"user"}'.encode("utf-16"),
    ],
    ids=lambda entry: repr(entry[:30]),
)
def test_a_corrupt_or_unknown_entry_is_none(entry):
    assert decode_entry(entry) is None
    assert decode_entry(entry.decode("latin-1")) is None


def test_bytes_that_are_no_utf8_are_none():
    assert decode_entry(b'1U{"role":"user","content":"\xff"}') is None


def test_an_entry_may_be_text():
    assert decode_entry('1M{"role":"assistant","content":"é"}') == {"role": "assistant", "content": "é"}
    assert entry_kind("1M{}") == "M"


def test_the_kind_of_a_future_version_can_be_read():
    assert [entry_kind(entry) for entry in (b"9P\xff", b"2U", b"1M", b"1", b"", b"0U", b"{U", b"1u", b"\xb9U")] == [
        *"PUM",
        *[None] * 6,
    ]


# What is refused, and what an error tells


class Number(enum.Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"content": SECRET.encode()}, "message.content "),
        ({"content": ({"type": "text"},)}, "message.content "),
        ({"content": [SECRET]}, r"message.content\[0\] "),
        ({"content": [{"type": "text", "text": SECRET.encode()}]}, r"message.content\[0\].text "),
        ({"tool_calls": [{"f": [1, {SECRET}]}]}, r"message.tool_calls\[0\].f\[1\] "),
        ({"metadata": {1: SECRET}}, "message.metadata "),
        ({"metadata": {"tags": (SECRET,)}}, "message.metadata.tags "),
        ({"metadata": {SECRET: Number.ONE}}, "message.metadata.<key> "),
        ({"metadata": MappingProxyType({"a": SECRET})}, "message.metadata "),
        ({7: SECRET}, "keys of message "),
    ],
    ids=str,
)
def test_what_is_not_json_is_refused_by_its_path(fields, path):
    with pytest.raises(InvalidTypeError, match=path) as caught:
        check_message({"role": "user", **fields}, max_message_bytes=LIMIT)
    assert_private(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1 << 4096, -(1 << 4096)])
def test_a_number_that_json_cannot_hold_is_refused(number):
    message = {"role": "user", "content": SECRET, "metadata": {"scores": [0.5, number]}}
    with pytest.raises(InvalidValueError, match=r"message.metadata.scores\[1\]") as caught:
        check_message(message, max_message_bytes=LIMIT)
    assert_private(caught.value)


def test_a_circular_or_very_deep_message_is_refused():
    circular = {"role": "user", "content": SECRET}
    circular["self"] = circular
    deep = {"role": "user", "x": json.loads("[" * 150 + "]" * 150)}
    for message in (circular, deep):
        with pytest.raises(InvalidValueError, match="nested") as caught:
            check_message(message, max_message_bytes=LIMIT)
        assert_private(caught.value)


@pytest.mark.parametrize("message", [None, SECRET, [("role", "user")], 7], ids=["None", "str", "list", "int"])
def test_what_is_no_message_is_refused(message):
    with pytest.raises(InvalidTypeError) as caught:
        check_message(message, max_message_bytes=LIMIT)
    assert_private(caught.value)


def test_a_role_must_be_there_and_known():
    with pytest.raises(InvalidTypeError, match="role"):
        check_message({"content": SECRET}, max_message_bytes=LIMIT)
    with pytest.raises(InvalidValueError, match="role") as caught:
        check_message({"role": SECRET, "content": "x"}, max_message_bytes=LIMIT)
    assert_private(caught.value)


def test_the_encoder_refuses_by_path_too():
    for value, error in ((SECRET.encode(), InvalidTypeError), (float("nan"), InvalidValueError)):
        with pytest.raises(error, match=r"message\.content") as caught:
            encode_entry({"role": "user", "content": value, "name": SECRET})
        assert_private(caught.value)


def assert_private(error):
    # The whole chain: an error that is shown with its cause must not leak through that either.
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


# Size


@pytest.mark.parametrize("text", ["x" * 1000, "\0" * 200, "東" * 333, "🌤" * 250, "\ud800" * 170, '"' * 500], ids=ascii)
def test_the_limit_is_the_size_of_the_json_to_the_byte(text):
    message = {"role": "user", "content": text}
    size = len(encode_entry(message)) - 2
    check_message(message, max_message_bytes=size)
    with pytest.raises(InvalidValueError, match=f"{size - 1} .*{size}") as caught:
        check_message(message, max_message_bytes=size - 1)
    assert text[:4] not in str(caught.value)


class Foreign(BaseModel):
    """What a provider's package hands out."""

    role: str = "assistant"


@pytest.mark.parametrize(
    "message",
    [Foreign(), {"role": "assistant", "tool_calls": [Foreign()]}, {"role": "assistant", "content": [Foreign()]}],
    ids=["message", "value", "part"],
)
def test_an_object_of_a_providers_package_is_told_what_to_do(message):
    with pytest.raises(InvalidTypeError, match=r"not Foreign: pass its model_dump\(\)$"):
        check_message(message, max_message_bytes=LIMIT)
