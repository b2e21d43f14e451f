"""Which slot a command belongs to, and what the nodes of a cluster say about slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as redis_errors

from ractogateway.redis.transport.failures import ErrorReply
from ractogateway.redis.transport.hosts import Host
from ractogateway.redis.transport.slots import SLOTS, Redirect, SlotMap, slot_of


@pytest.mark.parametrize(
    ("command", "slot"),
    [
        ((b"GET", b"foo"), 12182),  # the examples of the cluster specification, and what CLUSTER KEYSLOT answers
        ((b"GET", b"123456789"), 12739),
        ((b"GET", b"{user1000}.following"), 3443),
        ((b"MGET", b"{user1000}.followers", b"{user1000}.following"), 3443),
        ((b"GET", b"foo{}{bar}"), 8363),
        ((b"GET", b"foo{{bar}}zap"), 4015),
        ((b"GET", b"foo{bar}{zap}"), 5061),
        ((b"GET", b""), 0),
        ((b"GET", 123456789), 12739),
        ((b"EVALSHA", b"sha", 1, b"foo", b"argument"), 12182),
        ((b"EVAL", b"return 1", 2, b"foo", b"bar"), 12182),
        ((b"EVALSHA", b"sha", 0, b"foo"), None),
        ((b"PING",), None),
    ],
)
def test_slot_of(command, slot):
    assert slot_of(command) == slot


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ErrorReply("MOVED 3999 127.0.0.1:6381"), Redirect(3999, Host("127.0.0.1", 6381), asking=False)),
        (ErrorReply("ASK 3999 node.example:6381"), Redirect(3999, Host("node.example", 6381), asking=True)),
        (ErrorReply("MOVED 0 ::1:6381"), Redirect(0, Host("::1", 6381), asking=False)),
        (ErrorReply("MOVED 0 [::1]:6381"), Redirect(0, Host("::1", 6381), asking=False)),
        (ErrorReply("MOVED 16383 :6381"), Redirect(16383, Host("seed", 6381), asking=False)),
        (ErrorReply("MOVED 16383 ?:6381"), Redirect(16383, Host("seed", 6381), asking=False)),
        # redis-py strips the code of the errors that it has classes for
        (redis_errors.MovedError("3999 127.0.0.1:6381"), Redirect(3999, Host("127.0.0.1", 6381), asking=False)),
        (redis_errors.AskError("3999 127.0.0.1:6381"), Redirect(3999, Host("127.0.0.1", 6381), asking=True)),
        (ErrorReply("ERR it has MOVED to 127.0.0.1:6381"), None),
        (ErrorReply("CLUSTERDOWN Hash slot not served"), None),
        (ErrorReply("MOVED"), None),
        (ErrorReply("MOVED 3999"), None),
        (ErrorReply("MOVED 16384 127.0.0.1:6381"), None),
        (ErrorReply("MOVED x 127.0.0.1:6381"), None),
        (ErrorReply("MOVED 3999 127.0.0.1"), None),
        (ErrorReply("MOVED 3999 127.0.0.1:"), None),
    ],
)
def test_redirect(error, expected):
    assert Redirect.of(error, "seed") == expected


def test_slot_map():
    first, second, third = [b"10.0.0.1", 1, b"id-1"], [None, 2, b"id-2", {}], [b"?", 3]
    found = SlotMap.of([[0, 99, first, second], [100, 16382, third]], "seed")
    assert found.owners == [Host("10.0.0.1", 1)] * 100 + [Host("seed", 3)] * 16283 + [None]
    assert found.members == {Host("10.0.0.1", 1): b"id-1", Host("seed", 2): b"id-2", Host("seed", 3): None}
    assert SlotMap.of([], "seed").owners == [None] * SLOTS


def test_a_slot_map_is_the_same_whoever_tells_it():
    reply = [[0, 99, [b"10.0.0.1", 1, b"id-1"]]]
    assert SlotMap.of(reply, "seed") == SlotMap.of(reply, "other seed") != SlotMap.of([], "seed")


replies = st.recursive(
    st.none() | st.integers(-5, 20_000) | st.binary(max_size=9) | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(replies)
def test_a_reply_that_is_no_slot_map_is_a_value_error(reply):
    try:
        found = SlotMap.of(reply, "seed")
    except ValueError:
        return
    assert len(found.owners) == SLOTS
