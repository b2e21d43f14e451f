"""`extend.lua`, one rule a test, on every server at hand."""

from __future__ import annotations

import pytest
import redis
from memory_driver import DAY_MS, HOUR_MS, Conversation, assistant, plain_turns, system, user
from memory_model import APPLIED, CONFLICT, REPLAYED, Reply
from servers import Server, valkey9, wait_until

from ractogateway.redis.entries import decode_entry, encode_entry

CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "42"}
ANTHROPIC_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]}
GEMINI_RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}


class _Applied:
    """An applied reply with these numbers, whatever its tokens."""

    def __init__(self, **numbers):
        self.numbers = numbers

    def __eq__(self, reply):
        return reply.status == APPLIED and all(getattr(reply, name) == it for name, it in self.numbers.items())

    __hash__ = None

    def __repr__(self):
        return f"applied({self.numbers})"


def applied(**numbers):
    return _Applied(**numbers)


@pytest.fixture
def conversation(server: Server):
    with server.client() as client, Conversation(client) as conversation:
        yield conversation


# Appending and trimming


def test_messages_come_back_in_order(conversation):
    messages = [user("Hello!"), CALL, RESULT, assistant("Hi")]
    assert conversation.say(*messages) == applied(revision=1, dropped=0, entries=4, turns=1)
    assert [decode_entry(entry) for entry in conversation.entries()] == messages


def test_twenty_turns_of_two_messages_are_forty_messages(conversation):
    for number in range(25):
        reply = conversation.extend(*plain_turns(1, first=number), max_turns=20)
    assert reply == applied(revision=25, dropped=2, entries=40, turns=20)
    assert conversation.entries() == plain_turns(20, first=5)


@pytest.mark.parametrize("result", [RESULT, ANTHROPIC_RESULT, GEMINI_RESULT], ids=["openai", "anthropic", "gemini"])
def test_a_tool_result_leaves_with_its_call(conversation, result):
    conversation.say(user("weather?"), CALL, result, assistant("sunny"), max_turns=1)
    assert conversation.say(user("thanks"), max_turns=1).dropped == 4
    assert conversation.texts() == ["thanks"]


def test_messages_appended_one_by_one_trim_like_a_whole_turn(conversation):
    for message in (user("q0"), CALL, RESULT, assistant("a0"), user("q1")):
        reply = conversation.say(message, max_turns=1)
    assert (reply.dropped, conversation.texts()) == (4, ["q1"])


def test_what_precedes_the_first_user_message_is_one_turn(conversation):
    assert conversation.say(assistant("Welcome!"), assistant("Ask me."), max_turns=2).turns == 1
    assert conversation.extend(*plain_turns(1), max_turns=2).turns == 2
    assert conversation.extend(*plain_turns(1, first=1), max_turns=2).dropped == 2
    assert conversation.entries() == plain_turns(2)


def test_the_last_turn_stays_however_long_it_is(conversation):
    steps = [assistant(str(number)) for number in range(100)]
    reply = conversation.say(user("old"), user("go"), *steps, max_turns=1)
    assert reply == applied(revision=1, dropped=1, entries=101, turns=1)


def test_a_smaller_bound_drops_several_turns_at_once(conversation):
    conversation.extend(*plain_turns(10), max_turns=10)
    assert conversation.extend(*plain_turns(1, first=10), max_turns=3).dropped == 16
    assert conversation.entries() == plain_turns(3, first=8)


@pytest.mark.parametrize(("max_turns", "kept"), [(10_000, 10_000), (20, 20)])
def test_twenty_thousand_messages_in_one_call(conversation, max_turns, kept):
    conversation.extend(*plain_turns(20, first=-20), max_turns=20)
    reply = conversation.extend(*plain_turns(10_000), max_turns=max_turns)
    assert reply == applied(revision=2, dropped=20_040 - 2 * kept, entries=2 * kept, turns=kept)
    assert conversation.entries() == plain_turns(kept, first=10_000 - kept)


# Pinned messages


def test_pinned_messages_stand_first_in_the_order_they_came(conversation):
    conversation.say(user("q0"), system("s0"), assistant("a0"))
    conversation.say(system("s1"), user("q1"), system("s2"))
    assert conversation.texts() == ["s0", "s1", "s2", "q0", "a0", "q1"]


def test_pinned_messages_survive_every_trim(conversation):
    for number in range(6):
        conversation.say(user(f"q{number}"), system(f"s{number}"), max_turns=2)
    assert conversation.texts() == ["s0", "s1", "s2", "s3", "s4", "s5", "q4", "q5"]


def test_a_developer_message_is_pinned_and_is_no_turn(conversation):
    reply = conversation.say({"role": "developer", "content": "Be brief."}, system("s"))
    assert reply == applied(revision=1, dropped=0, entries=2, turns=0)


def test_the_pinned_limit_counts_those_already_there(conversation):
    conversation.say(system("s0"), user("q0"), max_pinned=2)
    with pytest.raises(redis.ResponseError, match=r"^PINNEDLIMIT"):
        conversation.say(system("s1"), system("s2"), max_pinned=2)
    conversation.say(system("s1"), max_pinned=2)
    assert conversation.say(user("q1"), max_pinned=0).status == APPLIED
    assert conversation.texts() == ["s0", "s1", "q0", "q1"]


def test_a_new_pinned_message_joins_those_at_the_head_whatever_else_is_in_the_list(conversation):
    conversation.say(system("s0"), user("q0"))
    conversation.client.rpush(conversation.list, encode_entry(system("stray")))
    assert conversation.say(system("s1"), max_pinned=2).entries == 4
    assert conversation.texts() == ["s0", "s1", "q0", "stray"]


# Operation ids and revisions


def test_a_replay_returns_the_revision_of_the_original_and_writes_nothing(conversation):
    original = conversation.say(user("once"), operation=b"A" * 16)
    conversation.say(user("later"))
    before = conversation.snapshot()
    reply = conversation.say(user("once"), operation=b"A" * 16, expected=0)  # its condition held when it was applied
    assert reply == Reply(REPLAYED, original.revision, dropped=0, entries=2, turns=-1)
    assert conversation.snapshot() == before


def test_every_operation_is_remembered_for_its_time_with_its_revision(conversation):
    operations = [bytes([number]) * 16 for number in range(200)]
    for operation in operations:
        conversation.say(user("x"), operation=operation)
    remembered = [conversation.say(user("x"), operation=operation) for operation in operations]
    assert [(reply.status, reply.revision) for reply in remembered] == [(REPLAYED, number) for number in range(1, 201)]


def test_an_operation_is_forgotten_after_its_time(conversation):
    conversation.say(user("x"), operation=b"A" * 16, keep=1)
    wait_until(lambda: not conversation.client.exists(conversation.operation_key(b"A" * 16)))
    assert conversation.say(user("x"), operation=b"A" * 16).status == APPLIED


def test_an_expected_revision_must_be_the_current_one(conversation):
    assert conversation.say(user("q0"), expected=0).status == APPLIED
    assert conversation.say(user("q1"), expected=1).status == APPLIED
    for stale in (0, 1, 3):
        assert conversation.say(user("q2"), expected=stale) == Reply(CONFLICT, revision=2, entries=2)
    assert conversation.texts() == ["q0", "q1"]


# Time to live


def test_both_keys_expire_to_the_millisecond(conversation):
    conversation.say(user("q"), ttl=123_457, tombstone=60_000)
    list_end, state_end = map(conversation.client.pexpiretime, (conversation.list, conversation.state))
    assert list_end == state_end
    assert 113_457 < conversation.client.pttl(conversation.list) <= 123_457
    conversation.say(user("q"), ttl=123_457, tombstone=200_001)
    list_end, state_end = map(conversation.client.pexpiretime, (conversation.list, conversation.state))
    assert state_end - list_end == 200_001 - 123_457


def test_every_extend_renews_the_ttl_and_no_ttl_removes_it(conversation):
    conversation.say(user("q"), ttl=10_000)
    conversation.say(user("q"), ttl=HOUR_MS)
    assert conversation.client.pttl(conversation.list) > 10_000
    conversation.say(user("q"), ttl=None)
    assert [conversation.client.pttl(key) for key in (conversation.list, conversation.state)] == [-1, -1]


def test_a_conversation_that_expired_keeps_its_revision_and_operations(conversation):
    conversation.say(user("q0"), ttl=1, operation=b"A" * 16)
    wait_until(lambda: not conversation.client.exists(conversation.list))
    assert conversation.say(user("q0"), operation=b"A" * 16) == Reply(REPLAYED, revision=1)
    assert conversation.say(user("q1"), expected=1) == applied(revision=2, dropped=0, entries=1, turns=1)


# Refusals write nothing


@pytest.mark.parametrize(
    "options",
    [
        {"max_turns": 0},
        {"max_turns": 1.5},
        {"max_turns": "many"},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": 10**17},
        {"ttl": "soon"},
        {"tombstone": 0},
        {"mode": "prepend"},
        {"max_tokens": 0},
        {"max_tokens": 0.5},
        {"keep": 0},
        {"hooked": 0},
        {"expected": -1},
        {"expected": "new"},
        {"max_pinned": -1},
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(conversation, options):
    conversation.say(system("s"), user("q"))
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match=r"^BADARGUMENT"):
        conversation.say(user("private"), **options)
    assert conversation.snapshot() == before


@pytest.mark.parametrize("entry", [b"", b"1", b"1X{}", b'{"role":"user"}', b"0U{}", b":U{}"], ids=repr)
def test_one_bad_entry_refuses_the_whole_call(conversation, entry):
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match=r"^BADARGUMENT"):
        conversation.extend(*plain_turns(1), entry)
    assert conversation.snapshot() == before


def test_a_call_without_entries_is_refused(conversation):
    with pytest.raises(redis.ResponseError, match=r"^BADARGUMENT"):
        conversation.extend()


def test_a_conflict_and_a_full_head_write_nothing(conversation):
    conversation.say(system("s"), user("q"), ttl=None)
    before = conversation.snapshot()
    assert conversation.say(user("x"), expected=9, ttl=1).status == CONFLICT
    with pytest.raises(redis.ResponseError, match=r"^PINNEDLIMIT"):
        conversation.say(user("x"), system("t"), max_pinned=1, ttl=1)
    assert conversation.snapshot() == before


@pytest.mark.parametrize("which", ["list", "state", "evicted", "operation"])
def test_a_key_of_another_type_is_an_error_before_any_write(conversation, which):
    operation = b"A" * 16
    key = conversation.operation_key(operation) if which == "operation" else getattr(conversation, which)
    conversation.extend(*plain_turns(2))
    conversation.client.delete(key)
    conversation.client.hset(key, "somebody", "else's") if which != "state" else conversation.client.set(key, "x")
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        conversation.extend(*plain_turns(1), max_turns=1, operation=operation, hooked=HOUR_MS)
    assert conversation.snapshot() == before


def test_a_full_server_refuses_before_any_write_and_still_clears():
    with (
        valkey9(config={"maxmemory-policy": "noeviction"}) as server,
        server.client() as client,
        Conversation(client) as conversation,
    ):
        conversation.extend(*plain_turns(2))
        before = conversation.snapshot()
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            conversation.extend(*plain_turns(1), max_turns=1)
        assert conversation.snapshot() == before
        assert conversation.clear() == applied(revision=2, dropped=4, entries=0, turns=0)


# Changes behind the state's back


@pytest.mark.parametrize("lost", ["list", "state"])
def test_a_lost_key_is_noticed(conversation, lost):
    conversation.extend(*plain_turns(3), max_turns=3)
    conversation.client.delete(getattr(conversation, lost))
    reply = conversation.extend(*plain_turns(1, first=3), max_turns=3)
    kept = plain_turns(1, first=3) if lost == "list" else plain_turns(3, first=1)
    assert (conversation.entries(), reply.turns) == (kept, len(kept) // 2)
    assert reply.revision == (2 if lost == "list" else 1)


def test_an_unreadable_entry_belongs_to_the_turn_it_stands_in(conversation):
    conversation.extend(*plain_turns(2), max_turns=2)
    conversation.client.lset(conversation.list, 1, b"\xff\0 garbage")
    assert conversation.extend(*plain_turns(1, first=2), max_turns=2).dropped == 2
    assert conversation.entries() == plain_turns(2, first=1)


def edit(conversation, *entries):
    """Put these in place of the first entries: the list keeps its length, so the stored count of turns is trusted."""
    for index, entry in enumerate(entries):
        conversation.client.lset(conversation.list, index, entry)


def test_an_edit_that_keeps_the_length_costs_no_pinned_message_and_not_the_last_turn(conversation):
    conversation.extend(encode_entry(system("s")), *plain_turns(2), max_turns=3)
    edit(conversation, encode_entry(system("s")), b"garbage", encode_entry(system("moved")), b"garbage", b"garbage")
    assert conversation.say(assistant("a2"), max_turns=1) == applied(revision=2, dropped=0, entries=6, turns=1)
    assert conversation.say(user("q3"), max_turns=1).dropped == 4
    assert conversation.texts() == ["s", "moved", "q3"]


def test_a_pinned_message_edited_into_the_last_turn_stays_there_once(conversation):
    head, moved = encode_entry(system("s")), encode_entry(system("moved"))
    conversation.extend(head, *plain_turns(3), max_turns=3)
    edit(conversation, head, *plain_turns(1), b"garbage", *plain_turns(1, first=1), moved)
    conversation.say(assistant("more"), max_turns=1)
    assert conversation.texts() == ["s", "q1", "a1", "moved", "more"]


def test_a_conversation_edited_down_to_pinned_messages_has_no_turn(conversation):
    conversation.extend(*plain_turns(1), max_turns=2)
    edit(conversation, encode_entry(system("s0")), encode_entry(system("s1")))
    conversation.set_count("turns", 3)
    reply = conversation.say(system("s2"), max_turns=2)
    assert (reply.turns, conversation.texts()) == (0, ["s0", "s1", "s2"])


def test_entries_of_a_future_version_are_trimmed_by_their_kind(conversation):
    conversation.extend(b"2P\x80sealed", b"2U\x80sealed", b"2M\x80sealed", *plain_turns(1), max_turns=1)
    assert conversation.entries() == [b"2P\x80sealed", *plain_turns(1)]


def test_the_state_says_what_it_counted(conversation):
    conversation.extend(*plain_turns(3), max_turns=2, ttl=None, tombstone=DAY_MS)
    conversation.extend(encode_entry(system("s")), max_turns=2)
    counts = conversation.counts()
    assert (counts["revision"], counts["turns"], counts["length"]) == (2, 2, 5)
    assert (counts["pinned"], counts["position"]) == (1, 2)


@pytest.mark.parametrize("state", [b"", b"x", b"7 2", b"7 2 1 x 0 0", b"-1 2 1 9 0 0", b"7 2 1 9 0 0 0"])
def test_a_state_that_makes_no_sense_is_no_state(conversation, state):
    conversation.extend(*plain_turns(1))
    conversation.client.hset(conversation.state, "c", state)
    assert conversation.extend(*plain_turns(1, first=1), max_turns=1)[:5] == (APPLIED, 1, 2, 2, 1)
    assert conversation.entries() == plain_turns(1, first=1)
