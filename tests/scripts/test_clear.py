"""`clear.lua`, one rule a test, on every server at hand."""

from __future__ import annotations

import pytest
import redis
from memory_driver import DAY_MS, HOUR_MS, Conversation, plain_turns, user
from memory_model import APPLIED, CONFLICT, REPLAYED, Reply
from servers import Server


@pytest.fixture
def conversation(server: Server):
    with server.client() as client, Conversation(client) as conversation:
        yield conversation


def test_clear_empties_the_list_and_advances_the_revision(conversation):
    conversation.extend(*plain_turns(3))
    assert conversation.clear()[:6] == Reply(APPLIED, revision=2, dropped=6, entries=0, turns=0, tokens=0)[:6]
    assert conversation.client.exists(conversation.list) == 0


def test_a_slow_replica_cannot_bring_a_cleared_conversation_back(conversation):
    revision = conversation.extend(*plain_turns(1)).revision
    conversation.clear()
    assert conversation.say(user("late"), expected=revision) == Reply(CONFLICT, revision=2)
    assert conversation.entries() == []


def test_a_first_turn_on_its_way_does_not_survive_a_clear_either(conversation):
    assert conversation.clear()[:6] == Reply(APPLIED, revision=1, dropped=0, entries=0, turns=0, tokens=0)[:6]
    assert conversation.say(user("late"), expected=0) == Reply(CONFLICT, revision=1)


def test_a_cleared_conversation_can_start_again(conversation):
    conversation.extend(*plain_turns(2))
    revision = conversation.clear().revision
    reply = conversation.extend(*plain_turns(1), expected=revision)
    assert reply[:5] == (APPLIED, 3, 0, 2, 1)


def test_the_retry_of_an_extend_that_was_cleared_does_not_write_it_again(conversation):
    original = conversation.say(user("once"), operation=b"A" * 16)
    conversation.clear()
    assert conversation.say(user("once"), operation=b"A" * 16) == Reply(REPLAYED, original.revision)


def test_the_retry_of_a_clear_does_not_delete_what_came_after_it(conversation):
    conversation.extend(*plain_turns(1))
    conversation.clear(operation=b"C" * 16)
    conversation.extend(*plain_turns(1))
    before = conversation.snapshot()
    assert conversation.clear(operation=b"C" * 16, expected=1) == Reply(REPLAYED, revision=2, entries=2)
    assert conversation.snapshot() == before


def test_an_expected_revision_guards_a_clear(conversation):
    conversation.extend(*plain_turns(1))
    before = conversation.snapshot()
    assert conversation.clear(expected=0) == Reply(CONFLICT, revision=1, entries=2)
    assert conversation.snapshot() == before
    assert conversation.clear(expected=1).status == APPLIED


@pytest.mark.parametrize(("ttl", "life"), [(None, DAY_MS), (HOUR_MS, DAY_MS), (7 * DAY_MS, 7 * DAY_MS)])
def test_the_tombstone_lives_as_long_as_a_conversation_and_at_least_its_minimum(conversation, ttl, life):
    conversation.extend(*plain_turns(1), ttl=ttl)
    conversation.clear(ttl=ttl, tombstone=DAY_MS)
    assert life - 10_000 < conversation.client.pttl(conversation.state) <= life


@pytest.mark.parametrize(
    "options", [{"ttl": 0}, {"ttl": "x"}, {"keep": 0}, {"expected": 0.5}, {"tombstone": ""}], ids=str
)
def test_a_wrong_argument_is_refused(conversation, options):
    conversation.extend(*plain_turns(1))
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match=r"^BADARGUMENT"):
        conversation.clear(**options)
    assert conversation.snapshot() == before


@pytest.mark.parametrize("which", ["list", "state"])
def test_a_key_of_another_type_is_an_error_before_any_write(conversation, which):
    conversation.client.set(getattr(conversation, which), "somebody else's")
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        conversation.clear()
    assert conversation.snapshot() == before
