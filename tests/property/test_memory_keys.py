"""No two conversations, users or operations share a key, whatever their ids, prefixes and tenants are made of."""

from __future__ import annotations

import re

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ractogateway.redis.keys import MemoryKeys, conversation_of, member_of, operation_id

deterministic = settings(max_examples=300, deadline=None, derandomize=True, database=None)

# Made to collide: the characters that keys are made of, and pieces of keys.
PIECES = st.lists(
    st.sampled_from(
        ["a", "ab", ":", "{", "}", "0", "1:", "messages", "state", ":op:", "memory", " user", "\ud800", "é"]
    ),
    max_size=5,
).map("".join)
TEXT = PIECES | st.text(st.characters(), max_size=6)
PREFIX = TEXT.filter(lambda prefix: prefix and "{}" not in prefix)
ID = TEXT.filter(bool)
OWNERS = st.tuples(PREFIX, TEXT, ID)


def keys_of(prefix, namespace, conversation) -> set[bytes]:
    keys = MemoryKeys.of(prefix, namespace, conversation)
    fixed = {keys.messages, keys.state, keys.evicted, keys.delivering, keys.lease}
    return fixed | {keys.operation(operation_id(name)) for name in ("", "r", "messages")}


def index_of(prefix, namespace, user) -> bytes:
    return MemoryKeys.index(prefix, MemoryKeys.user_tag(prefix, namespace, user))


@given(OWNERS, OWNERS)
@deterministic
def test_conversations_share_no_key(one, other):
    assume(one != other)
    assert not keys_of(*one) & keys_of(*other)


@given(OWNERS, st.data())
@deterministic
def test_characters_moved_between_prefix_tenant_and_id_make_another_conversation(one, data):
    """The same text, cut elsewhere: what joined keys confuse."""
    text = "".join(one)
    first = data.draw(st.integers(1, len(text)))
    second = data.draw(st.integers(first, len(text)))
    other = (text[:first], text[first:second], text[second:])
    assume(other != one and other[2] and "{}" not in other[0])
    assert not keys_of(*one) & keys_of(*other)


@given(OWNERS, OWNERS)
@deterministic
def test_an_index_is_no_conversation_and_no_other_users(one, other):
    assert index_of(*one) not in keys_of(*other) | keys_of(*one)
    assert (index_of(*one) == index_of(*other)) == (one == other)


@given(OWNERS)
@deterministic
def test_all_keys_of_a_conversation_are_in_one_slot(one):
    tags = {re.search(rb"\{([^}]+)\}", key)[1] for key in keys_of(*one)}
    assert len(tags) == 1


@given(ID, ID)
@deterministic
def test_a_member_is_its_conversation(one, other):
    assert conversation_of(member_of(one)) == one
    assert (member_of(one) == member_of(other)) == (one == other)
