"""Frozen samples: what a release wrote once must stay readable, and what it writes must not change unnoticed."""

from __future__ import annotations

import pytest

from ractogateway.redis import ChatMemoryConfig, Encryption, RedisChatMemory
from ractogateway.redis.entries import decode_entry, encode_entry, entry_kind, estimate_tokens, split_entry
from ractogateway.redis.keys import MemoryKeys

KEY = bytes(range(32))
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"arguments": "é"}}]}

PLAIN = [
    (b'1U{"role":"user","content":"Hello, \xe4\xb8\x96\xe7\x95\x8c!"}', {"role": "user", "content": "Hello, 世界!"}),
    (b'1P{"role":"system","content":"Be kind."}', {"role": "system", "content": "Be kind."}),
    (
        b'1M{"role":"assistant","content":null,"tool_calls":[{"id":"c1","function":{"arguments":"\xc3\xa9"}}]}',
        CALL,
    ),
    (b'1U{"role":"user","content":"\\ud800"}', {"role": "user", "content": "\ud800"}),
]
COUNTED = [
    (b'2U17|{"role":"user","content":"Hello!"}', 17, {"role": "user", "content": "Hello!"}),
    (b'2M0|{"role":"tool","content":""}', 0, {"role": "tool", "content": ""}),
]
SEALED = bytes.fromhex(
    "3355397c01026b31e54807d4a07d5070f3d929be3db84bf39d6a4ea4f150ae36676c986e0a398184d1fd081a36221373bbf8f6d3638de787449c4903813a05a376ca56928aff"
)


@pytest.mark.parametrize(("entry", "message"), PLAIN)
def test_version_1(entry, message):
    assert encode_entry(message) == entry
    assert decode_entry(entry) == message


@pytest.mark.parametrize(("entry", "tokens", "message"), COUNTED)
def test_version_2(entry, tokens, message):
    assert encode_entry(message, tokens=tokens) == entry
    assert decode_entry(entry) == message
    assert entry_kind(entry) == chr(entry[1])


@pytest.fixture
def client(any_server):
    with any_server.client() as client:
        yield client


def test_version_3(any_server, client):
    memory = RedisChatMemory(any_server.url, encryption=Encryption({"k1": KEY}, current="k1"))
    keys = MemoryKeys.of("ractogateway:memory", "", "frozen")
    client.rpush(keys.messages, SEALED)
    assert memory.get_history("frozen") == [{"role": "user", "content": "Hello!"}]
    memory.append("frozen", "user", "Hello!")
    assert [split_entry(entry)[:2] for entry in client.lrange(keys.messages, 0, -1)] == [(3, b"3U9|")] * 2
    assert len(client.lindex(keys.messages, -1)) == len(SEALED)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [(b"4U12|later", "U"), (b"9P1|\xff", "P"), (b"1X{}", None), (b"0U{}", None), (b":U{}", None), (b"", None)],
)
def test_what_later_releases_keep(entry, kind):
    assert entry_kind(entry) == kind
    assert decode_entry(entry) is None


@pytest.mark.parametrize(
    "entry", [b"2U|{}", b"2Ux|{}", b"2U1{}", b"2U\xd9\xa1|{}", b"2U" + b"1" * 16 + b"|{}", b"2X1|{}"]
)
def test_headers_that_are_none(entry):
    assert split_entry(entry) is None
    assert decode_entry(entry) is None


def test_the_estimate_is_a_token_in_four_bytes():
    assert [estimate_tokens(b"x" * size) for size in (1, 4, 5, 400)] == [1, 1, 2, 100]


STATE = {b"c": b"7 4 3 43 1 2", b"h": b"2,2;x;1,0;"}
"""Revision, length, turns, tokens, pinned and position; what the newest writes did."""


def test_a_conversation_goes_on_where_an_earlier_release_left_it(any_server, client):
    keys = MemoryKeys.of("ractogateway:memory", "", "c")
    entries = [PLAIN[1][0], *(b'1U{"role":"user","content":"q%d"}' % number for number in range(3))]
    client.rpush(keys.messages, *entries)
    client.hset(keys.state, mapping=STATE)
    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=3))
    page = memory.get_page("c", limit=2)
    assert [message["content"] for message in page.messages] == ["q1", "q2"]
    assert (page.revision, page.tokens, page.before) == (7, 43, 3)
    assert memory.get_changes("c", 6).messages == [{"role": "user", "content": f"q{n}"} for n in (1, 2)]
    assert memory.get_changes("c", 5).anew
    assert memory.extend("c", [{"role": "user", "content": "q3"}], expected_revision=7) == 8
    assert client.hgetall(keys.state) == {b"c": b"8 4 3 43 1 3", b"h": b"1,1;2,2;x;1,0;"}
