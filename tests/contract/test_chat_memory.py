"""What every face of the chat memory promises, on every server."""

from __future__ import annotations

import pytest
from secrecy import SECRET_PROMPT
from servers import wait_until

from ractogateway.errors import RevisionConflict
from ractogateway.messages import Message
from ractogateway.redis import ChatMemoryConfig

AWKWARD_IDS = ["session-abc", "{", "}", "{}", "*", "a:b", "\ud800", "\udfff", "日本", "x" * 5_000, " ", "\x00"]


def turn(number: int) -> list[dict]:
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": f"answer {number}"},
    ]


def tool_turn(number: int) -> list[dict]:
    call = {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": "42"},
        {"role": "assistant", "content": f"answer {number}"},
    ]


def test_a_conversation_is_kept_in_order(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=20, ttl_seconds=1800))
    memory.append("session-abc", "user", SECRET_PROMPT)
    memory.append("session-abc", "assistant", "Hi, how can I help?")
    assert memory.get_history("session-abc") == [
        {"role": "user", "content": SECRET_PROMPT},
        {"role": "assistant", "content": "Hi, how can I help?"},
    ]
    assert memory.count("session-abc") == 2
    memory.clear("session-abc")
    assert memory.get_history("session-abc") == []
    assert memory.count("session-abc") == 0


def test_conversations_share_nothing(make):
    memory = make("memory")
    for number, conversation in enumerate(AWKWARD_IDS):
        memory.append(conversation, "user", str(number))
    memory.clear("*")
    for number, conversation in enumerate(AWKWARD_IDS):
        expected = [] if conversation == "*" else [{"role": "user", "content": str(number)}]
        assert memory.get_history(conversation) == expected


def test_prefixes_and_namespaces_share_nothing(make):
    make("memory", config=ChatMemoryConfig(key_prefix="app")).append("x:y", "user", "secret")
    make("memory", namespace="acme").append("c", "user", "secret")
    assert make("memory", config=ChatMemoryConfig(key_prefix="app:x")).get_history("y") == []
    assert make("memory").get_history("c") == []
    assert make("memory", namespace="acm").get_history("ec") == []


def test_twenty_turns_are_forty_messages(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=20))
    for number in range(25):
        for message in turn(number):
            memory.append("c", message["role"], message["content"])
    assert memory.get_history("c") == [message for number in range(5, 25) for message in turn(number)]


def test_a_tool_result_never_loses_its_call(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    for number in range(4):
        memory.extend("c", tool_turn(number))
    assert memory.get_history("c") == tool_turn(2) + tool_turn(3)


def test_system_messages_stay_in_front(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=1))
    memory.append("c", "system", "first")
    memory.extend("c", turn(0))
    memory.append("c", "developer", "second")
    memory.extend("c", turn(1))
    assert memory.get_history("c") == [
        {"role": "system", "content": "first"},
        {"role": "developer", "content": "second"},
        *turn(1),
    ]


def test_one_turn_larger_than_the_bound_is_kept(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=1))
    long_turn = [{"role": "user", "content": "go"}] + [{"role": "assistant", "content": str(n)} for n in range(50)]
    memory.extend("c", long_turn)
    assert memory.get_history("c") == long_turn


def test_messages_of_any_provider_come_out_as_they_went_in(make):
    memory = make("memory")
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": '{"a": "é"}'}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "ok"}]},
        {"role": "model", "parts": [{"text": "日本 \ud800"}, {"functionCall": {"name": "f", "args": {"x": 1.5}}}]},
    ]
    memory.extend("c", messages)
    assert memory.get_history("c") == messages


def test_a_message_object_is_stored_like_its_dict(make):
    memory = make("memory")
    memory.extend("c", [Message(role="user", content="hi"), {"role": "assistant", "content": "ho"}])
    assert memory.get_history("c") == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def test_a_request_id_is_written_once(make):
    memory = make("memory")
    first = memory.append("c", "user", "hi", request_id="r-1")
    memory.append("c", "assistant", "ho")
    assert memory.append("c", "user", "hi", request_id="r-1") == first
    assert memory.count("c") == 2


def test_revisions_advance_and_conflicts_are_told(make):
    memory = make("memory")
    assert memory.extend("c", turn(0), expected_revision=0) == 1
    assert memory.extend("c", turn(1), expected_revision=1) == 2
    with pytest.raises(RevisionConflict) as caught:
        memory.extend("c", turn(2), expected_revision=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert memory.get_history("c") == turn(0) + turn(1)


def test_a_slow_writer_cannot_bring_a_cleared_conversation_back(make):
    memory = make("memory", config=ChatMemoryConfig(ttl_seconds=60))
    revision = memory.extend("c", turn(0))
    memory.clear("c")
    with pytest.raises(RevisionConflict):
        memory.extend("c", turn(1), expected_revision=revision)
    assert memory.get_history("c") == []


def test_clear_can_expect_a_revision(make):
    memory = make("memory")
    memory.extend("c", turn(0))
    with pytest.raises(RevisionConflict):
        memory.clear("c", expected_revision=7)
    assert memory.count("c") == 2
    memory.clear("c", expected_revision=1)
    assert memory.count("c") == 0


def test_half_a_second_is_half_a_second(make):
    memory = make("memory", config=ChatMemoryConfig(ttl_seconds=0.5))
    memory.append("c", "user", "hi")
    assert memory.count("c") == 1
    wait_until(lambda: memory.count("c") == 0, timeout_seconds=3, what="the end of the conversation's life")


def test_with_a_ttl_nothing_is_left_behind_for_ever(make, expiring_keys):
    memory = make("memory", config=ChatMemoryConfig(ttl_seconds=60))
    memory.extend("c", turn(0))
    memory.extend("d", turn(0))
    memory.clear("d")
    if "fake" not in make.face:
        expiring_keys()


def test_a_write_is_all_or_nothing(make):
    memory = make("memory", config=ChatMemoryConfig(max_message_bytes=1_000))
    with pytest.raises(ValueError, match=r"1000 bytes|max_message_bytes"):
        memory.extend("c", [{"role": "user", "content": "ok"}, {"role": "assistant", "content": "x" * 2_000}])
    assert memory.count("c") == 0


def test_pinned_messages_have_a_hard_cap(make):
    memory = make("memory")
    memory.extend("c", [{"role": "system", "content": str(number)} for number in range(64)])
    with pytest.raises(ValueError, match="64 system and developer messages"):
        memory.append("c", "developer", "one too many")
    assert memory.count("c") == 64
    instruction = {"role": "developer", "content": "hi"}
    memory.check_messages([instruction] * 64 + [{"role": "user", "content": "hi"}])  # of messages alone
    with pytest.raises(ValueError, match="64 system and developer messages"):
        memory.check_messages([instruction] * 65)


def test_a_tool_result_beside_a_text_keeps_its_call(make_on_one):
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
    result = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}, {"type": "text", "text": "and?"}],
    }
    turn = [{"role": "user", "content": "q"}, call, result, {"role": "assistant", "content": "a"}]
    memory = make_on_one("memory", config=ChatMemoryConfig(max_turns=1))
    memory.extend("c", turn)
    assert memory.get_history("c") == memory.get_history("c", last=1) == turn
    assert memory.get_page("c", limit=1).messages == turn


def test_message_objects_go_back_as_they_came(make_on_one):
    memory = make_on_one("memory")
    turn = [
        {"role": "user", "parts": [{"text": "weather?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {}}}]},
        {"role": "model", "content": None, "tool_calls": [{"id": "1"}]},
    ]
    memory.extend("c", turn)
    memory.replace("c", memory.get_messages("c"))
    assert memory.get_history("c") == turn
