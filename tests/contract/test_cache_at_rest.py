"""What somebody else does to the entries in Redis: nothing that was changed, moved or copied is ever an answer."""

from __future__ import annotations

from zlib import crc32

import pytest
import redis
from servers import wait_until

from ractogateway.messages import LLMResponse
from ractogateway.redis import Encryption
from ractogateway.redis._cache.store import AnswerStore

ALICE = ("What is my name?", "", "gpt-4o", 0.0, 256)
BOB = ("What is my name?", "I am Bob.", "gpt-4o", 0.0, 256)
HERS, HIS = LLMResponse(content="You are Alice. " * 100), LLMResponse(content="You are Bob. " * 100)
KEYS = {"old": b"o" * 32, "new": b"n" * 32}

HOW = {
    "plain": {"compress_above_bytes": 10**6},
    "zlib": {},
    "zstd": {"compression": "zstd"},
    "encrypted": {"compress_above_bytes": 10**6, "encryption": Encryption(KEYS, current="new")},
}


@pytest.fixture(params=HOW)
def cache(request, make):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    return make("cache", ttl_seconds=60, **HOW[request.param])


@pytest.fixture
def store(server):
    with server.client() as client:
        yield client


def entries(store: redis.Redis) -> list[bytes]:
    return sorted(key for key in store.scan_iter() if b":e:" in key)


@pytest.mark.cell("bad bytes at rest", "cache")
def test_entries_that_were_exchanged_are_misses(cache, store):
    cache.put(*ALICE, HERS)
    cache.put(*BOB, HIS)
    one, other = entries(store)
    values = store.mget(one, other)
    store.mset({one: values[1], other: values[0]})
    assert (cache.get(*ALICE), cache.get(*BOB)) == (None, None)
    cache.put(*ALICE, HERS)
    assert cache.get(*ALICE).content == HERS.content
    store.mset({one: values[0], other: values[1]})
    assert cache.get(*BOB).content == HIS.content


@pytest.mark.cell("bad bytes at rest", "cache")
def test_entries_that_were_cut_or_changed_are_misses(cache, store):
    cache.put(*ALICE, HERS)
    (key,) = entries(store)
    whole = store.get(key)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    damaged += [whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    damaged += [whole + b"\0", b"", b"nonsense", whole * 2, b"\0" * len(whole)]
    for value in damaged:
        store.set(key, value)
        assert cache.get(*ALICE) is None
    store.set(key, whole)
    assert cache.get(*ALICE).content == HERS.content


@pytest.mark.parametrize(
    "numbers", [b"not hexadecimal!", b"-0000001+0000001", b"0_0_0_000000_000", b" 0000000 0000000"]
)
def test_a_head_that_is_no_number_is_corrupt(make, store, numbers):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    cache = make("cache", ttl_seconds=60)
    cache.put(*ALICE, HERS)
    (key,) = entries(store)
    value = store.get(key)
    store.set(key, value[:17] + numbers + crc32(numbers).to_bytes(4, "big") + value[37:])
    assert cache.get(*ALICE) is None
    assert cache.get_many([ALICE]) == [None]
    assert cache.stats.corrupt == 2
    assert cache.get_or_compute(*ALICE, lambda: HERS) is HERS
    assert cache.get(*ALICE).content == HERS.content


def test_an_entry_that_was_invalidated_leaves_the_indexes_of_its_tags(make, store):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    cache = make("cache")
    before = len(store.keys())
    cache.put(*ALICE, HERS, tags=["one", "two"])
    cache.put(*BOB, HIS, tags=["two"])
    assert cache.invalidate(*ALICE)
    assert cache.get(*BOB).content == HIS.content
    assert cache.invalidate(*BOB)
    # Left are the generation and the version of each tag, which tell that nothing of theirs was invalidated.
    assert len(store.keys()) == before + 3


def test_an_entry_of_another_namespace_is_a_miss(cache, make, store):
    stranger = make("cache", ttl_seconds=60, namespace="another tenant", encryption=HOW["encrypted"]["encryption"])
    cache.put(*ALICE, HERS)
    (own,) = entries(store)
    stranger.put(*ALICE, HIS)
    (foreign,) = set(entries(store)) - {own}
    store.set(own, store.get(foreign))
    assert cache.get(*ALICE) is None


def test_nothing_of_an_encrypted_answer_can_be_read_in_redis(make, store):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    make("cache", ttl_seconds=60, **HOW["plain"]).put(*ALICE, HERS)
    assert b"Alice" in store.get(entries(store)[0])
    make("cache", ttl_seconds=60, **HOW["encrypted"]).put(*ALICE, HERS)
    for key in store.scan_iter():
        assert b"Alice" not in key
        assert store.type(key) != b"string" or b"Alice" not in store.get(key)


def test_keys_rotate(make):
    def with_keys(*names: str, current: str):
        keys = Encryption({name: KEYS[name] for name in names}, current=current)
        return make("cache", ttl_seconds=60, encryption=keys)

    before, during, after = (
        with_keys("old", current="old"),
        with_keys(*KEYS, current="new"),
        with_keys("new", current="new"),
    )
    before.put(*ALICE, HERS)
    assert during.get(*ALICE).content == HERS.content
    assert after.get(*ALICE) is None
    during.put(*ALICE, HERS)
    assert after.get(*ALICE).content == HERS.content
    assert before.get(*ALICE) is None
    assert make("cache", ttl_seconds=60).get(*ALICE) is None


def test_jitter_spreads_the_ends_of_entries_that_were_written_together(make, store):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    cache = make("cache", ttl_seconds=1_000, ttl_jitter=0.5)
    for number in range(60):
        cache.put(f"question {number}", *ALICE[1:], HERS)
    left = sorted(store.pttl(key) / 1000 for key in entries(store))
    assert 490 < left[0] < 700
    assert 800 < left[-1] <= 1_000


@pytest.mark.parametrize("tags", [[], ["tag"]])
def test_an_answer_whose_time_is_over_is_not_returned_for_a_newer_ones_time(make, store, monkeypatch, tags):
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    cache = make("cache", ttl_seconds=60, stale_seconds=60)
    cache.put(*ALICE, HERS, tags=tags)
    (key,) = entries(store)
    newer = store.get(key)
    cache.put(*ALICE, HIS, ttl_seconds=0.05, tags=tags)
    wait_until(lambda: cache.get(*ALICE) is None, what="the end of its time")
    prove = AnswerStore._dead_among

    async def prove_later(self, suspects):
        store.set(key, newer, px=120_000)
        return await prove(self, suspects)

    monkeypatch.setattr(AnswerStore, "_dead_among", prove_later)
    assert cache.get(*ALICE) is None
    assert cache.get(*ALICE).content == HERS.content
