"""The chat memory, one idea at a time. Read from top to bottom.

A conversation is a list of messages that is bounded in turns. A turn is a user's message and all that follows from it:
it is kept as a whole or dropped as a whole.
"""

from __future__ import annotations

import pytest
from servers import wait_until

from ractogateway.errors import RevisionConflict, StoreUnavailable
from ractogateway.redis import ChatMemoryConfig, RedisChatMemory, RedisOptions


@pytest.fixture
def memory(any_server):
    return RedisChatMemory(url=any_server.url, config=ChatMemoryConfig(max_turns=2, ttl_seconds=60))


def turn(number):
    return [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": f"A{number}"}]


def test_messages_come_back_in_order(memory):
    memory.append("c", "user", "Hello!")
    memory.append("c", "assistant", "Hi, how can I help?")
    assert memory.get_history("c") == [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi, how can I help?"},
    ]
    assert memory.count("c") == 2


def test_a_conversation_nobody_had_is_empty(memory):
    assert memory.get_history("never") == []


def test_a_whole_turn_goes_in_at_once(memory):
    memory.extend("c", turn(1))
    assert memory.get_history("c") == turn(1)


def test_the_oldest_turn_leaves_as_a_whole(memory):
    for number in (1, 2, 3):
        memory.extend("c", turn(number))
    assert memory.get_history("c") == turn(2) + turn(3)


def test_a_tool_result_never_loses_its_call(memory):
    asking = [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "type": "function", "function": {}}]},
        {"role": "tool", "content": "Rain.", "tool_call_id": "t1"},
        {"role": "assistant", "content": "It rains."},
    ]
    memory.extend("c", asking)
    memory.extend("c", turn(2))
    assert memory.get_history("c") == asking + turn(2), "four messages, one turn"
    memory.extend("c", turn(3))
    assert memory.get_history("c") == turn(2) + turn(3), "no half of it is left behind"


def test_a_result_in_a_user_message_starts_no_turn(memory):
    asking = [  # Anthropic's shape: results have the role of the user
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Rain."}]},
        {"role": "assistant", "content": "It rains."},
    ]
    memory.extend("c", turn(1) + asking)
    assert memory.get_history("c", last=1) == asking, "all four of them are the last turn"


def test_system_messages_stay_in_front(memory):
    memory.extend("c", turn(1))
    memory.append("c", "system", "Be kind.")
    for number in (2, 3):
        memory.extend("c", turn(number))
    assert memory.get_history("c") == [{"role": "system", "content": "Be kind."}, *turn(2), *turn(3)]


def test_a_conversation_ends_when_nobody_touches_it(any_server):
    memory = RedisChatMemory(url=any_server.url, config=ChatMemoryConfig(ttl_seconds=0.05))
    memory.append("c", "user", "Hello!")
    wait_until(lambda: memory.get_history("c") == [], what="the end of the conversation")


def test_clear_ends_it_now(memory):
    memory.extend("c", turn(1))
    memory.clear("c")
    assert (memory.get_history("c"), memory.count("c")) == ([], 0)


def test_a_message_that_is_sent_twice_is_there_once(memory):
    revisions = {memory.append("c", "user", "Hello!", request_id="message-1") for _ in range(2)}
    assert memory.count("c") == 1
    assert len(revisions) == 1, "the second call is told what the first one did"


def test_two_writers_notice_each_other(memory):
    seen = memory.extend("c", turn(1))
    memory.extend("c", turn(2))
    with pytest.raises(RevisionConflict) as conflict:
        memory.extend("c", turn(3), expected_revision=seen)
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert memory.get_history("c") == turn(1) + turn(2), "nothing was written"


def test_a_slow_writer_cannot_bring_back_what_was_cleared(memory):
    seen = memory.extend("c", turn(1))
    memory.clear("c")
    with pytest.raises(RevisionConflict):
        memory.extend("c", turn(2), expected_revision=seen)
    assert memory.get_history("c") == []


def test_only_the_last_messages_are_read_and_never_half_a_turn(memory):
    memory.append("c", "system", "Be kind.")
    memory.extend("c", turn(1) + turn(2))
    assert memory.get_history("c", last=1) == [{"role": "system", "content": "Be kind."}, *turn(2)]


def test_a_copy_is_kept_up_to_date_by_what_changed(memory):
    seen = memory.extend("c", turn(1))
    assert not memory.get_changes("c", seen), "a few bytes, however long the conversation is"
    memory.extend("c", turn(2))
    assert memory.get_changes("c", seen).messages == turn(2)


def test_a_long_history_is_read_page_by_page_from_its_end(any_server):
    memory = RedisChatMemory(url=any_server.url)
    memory.extend("c", turn(1) + turn(2) + turn(3))
    newest = memory.get_page("c", limit=2)
    before = memory.get_page("c", limit=10, before=newest.before)
    assert newest.messages == turn(3)
    assert (before.messages, before.before) == (turn(1) + turn(2), None)


def test_the_newest_message_can_be_taken_back(memory):
    memory.extend("c", turn(1))
    assert memory.pop("c") == {"role": "assistant", "content": "A1"}
    assert memory.count("c") == 1


def test_a_history_can_be_replaced_by_another_one(memory):
    memory.extend("c", turn(1) + turn(2))
    memory.replace("c", turn(3))
    assert memory.get_history("c") == turn(3)


def test_a_bound_in_tokens_drops_whole_turns_too(any_server):
    config = ChatMemoryConfig(max_tokens=5, count_tokens=lambda message: len(message["content"].split()))
    memory = RedisChatMemory(url=any_server.url, config=config)
    memory.extend("c", [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}])
    memory.append("c", "user", "four five six")
    assert [message["content"] for message in memory.get_history("c")] == ["four five six"]


def test_what_must_not_be_kept_is_taken_out_before_it_is_written(any_server):
    def redact(message):
        return {**message, "content": message["content"].replace("1234", "****")}

    memory = RedisChatMemory(url=any_server.url, config=ChatMemoryConfig(redact=redact))
    memory.append("c", "user", "My code is 1234.")
    assert memory.get_history("c")[0]["content"] == "My code is ****."


def test_what_is_trimmed_can_be_summarised(any_server):
    trimmed = []
    config = ChatMemoryConfig(max_turns=1, on_evict=lambda _conversation, messages: trimmed.extend(messages))
    memory = RedisChatMemory(url=any_server.url, config=config)
    memory.extend("c", turn(1))
    memory.extend("c", turn(2))
    assert trimmed == turn(1)


def test_a_user_can_be_forgotten(memory):
    memory.extend("c", turn(1), user_id="u-42")
    memory.fork("c", "d")
    assert memory.conversations("u-42") == ["c", "d"]
    assert memory.erase_user("u-42").messages == 4
    assert memory.get_history("d") == []


def test_a_conversation_moves_as_lines_of_json(memory):
    memory.extend("c", turn(1))
    memory.import_("d", memory.export("c"))
    assert memory.get_history("d") == turn(1)


def test_ids_may_hold_any_character(memory):
    for conversation in ("{}", "*", "a:b", "a", ":b", "💬", "\ud800"):
        memory.append(conversation, "user", "Hello!")
        assert memory.count(conversation) == 1


def test_an_outage_is_never_an_empty_history():
    memory = RedisChatMemory(url="redis://localhost:1/0", options=RedisOptions(timeout_seconds=0.1))
    with pytest.raises(StoreUnavailable):
        memory.get_history("c")
