"""The exact cache's scripts against a model, on random schedules, on all servers at hand and in fakeredis's Lua at
once: whatever is stored, computed, invalidated, evicted or stale, all must answer alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count
from typing import Any

import fakeredis
import pytest
import redis
from cache_model import LIFE_MS, Bucket, Told
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Servers, wait_until

from ractogateway.errors import WrongKeyType
from ractogateway.redis.keys import CacheKeys, cache_tag_id
from ractogateway.redis.scripts import cache_calls as calls
from ractogateway.redis.scripts.cache_calls import Found, Status
from ractogateway.redis.stamps import FRESH_BYTES, Entry, head, tags_of
from ractogateway.redis.transport import Call, TimeLimits, drive, open_blocking_port

NAMES = ["a", "b"]
TAGS = ["s", "t", "u"]
GRACE_MS = 30_000
LEASE_MS = 40_000

_numbers = count()


class Scripts:
    """One bucket by its scripts, on several servers, in the terms of the model."""

    def __init__(self, clients: list[redis.Redis]) -> None:
        self.clients = clients
        self.ports = [open_blocking_port(None, client, None, TimeLimits(5.0, 5.0)) for client in clients]
        self.keys = CacheKeys.of("ractogateway:test", f"{os.getpid()}-{next(_numbers)}")
        self.claims: dict[tuple[str, str], list[bytes]] = {}
        self.lease_tags: dict[tuple[str, str], tuple[str, ...]] = {}

    def ask(self, call: Call[Any] | list[Call[Any]]) -> list[Any]:
        each = call if isinstance(call, list) else [call] * len(self.ports)
        return [drive(port.run(one)) for port, one in zip(self.ports, each, strict=True)]

    def alike(self, call: Call[Any] | list[Call[Any]]) -> Any:
        replies = self.ask(call)
        assert all(reply == replies[0] for reply in replies), f"the servers differ: {replies}"
        return replies[0]

    def look_up(self, name: str, token: str, tags: tuple[str, ...], early: float | None, *, stale: bool) -> Told:
        told, founds = [], []
        for port in self.ports:
            found = self._look_up(port, name, token, tags, early, stale)
            founds.append(found)
            if found.status in (Status.HIT, Status.STALE):
                value = Entry.of(found.value).envelope.decode()
            else:
                value = found.value.strip(b"-").decode()
            told.append(Told(found.status, value, bool(found.stamp)))
        assert all(one == told[0] for one in told), f"the servers differ: {told}"
        if told[0].owns:
            self.claims[name, token] = [token_of(token) + found.stamp for found in founds]
            self.lease_tags[name, token] = tuple(TAG_OF[tag_id] for tag_id, _ in tags_of(founds[0].stamp))
        return told[0]

    def _look_up(self, port, name, token, tags, early, stale) -> Found:
        other: list[bytes] = []
        for _ in range(3):
            call = calls.look_up(
                self.keys,
                fingerprint(name),
                token=token_of(token),
                lease_ms=LEASE_MS,
                life_ms=2 * LIFE_MS,
                early=early,
                stale=stale,
                own_tags=ids(tags),
                other_tags=other,
                fresh=os.urandom(FRESH_BYTES),
            )
            found = drive(port.run(call))
            if found.status is not Status.TELL:
                return found
            other += [tag_id for tag_id, _ in tags_of(found.value) if tag_id not in (*ids(tags), *other)]
        raise AssertionError("it never tells")

    def store(self, name: str, content: str, tags: tuple[str, ...], compute_ms: int, claim: str | None) -> bool:
        claims = [b""] * len(self.ports)
        if claim is not None:
            claims = self.claims.get((name, claim), [token_of(claim) + bytes(17)] * len(self.ports))
        return self.alike(
            [
                calls.store_answer(
                    self.keys,
                    fingerprint(name),
                    content.encode(),
                    ttl_ms=LIFE_MS,
                    grace_ms=GRACE_MS,
                    head=head(compute_ms, GRACE_MS),
                    tags=ids(tags),
                    fresh=os.urandom(FRESH_BYTES),
                    claim=one,
                )
                for one in claims
            ]
        )

    def renew(self, name: str, token: str) -> bool:
        claims = self.claims.get((name, token), [token_of(token) + bytes(17)] * len(self.ports))
        tags = ids(self.lease_tags.get((name, token), ()))
        return self.alike(
            [
                calls.renew_lease(self.keys, fingerprint(name), claim=claim, lease_ms=LEASE_MS, tags=tags)
                for claim in claims
            ]
        )

    def release(self, name: str, token: str) -> bool:
        return self.alike(calls.release_lease(self.keys, fingerprint(name), token_of(token)))

    def invalidate(self, name: str) -> bool:
        stamps = self.ask(calls.forget_answer(self.keys, fingerprint(name)))
        assert len({bool(stamp) for stamp in stamps}) == 1
        return bool(stamps[0])

    def clear(self) -> None:
        self.ask(calls.forget_all_answers(self.keys))

    def invalidate_tag(self, tag: str) -> None:
        self.ask(calls.forget_tag(self.keys, cache_tag_id(tag)))

    def bury(self, tag: str) -> None:
        tag_id = cache_tag_id(tag)
        scanned = self.ask(calls.scan_tag(self.keys, tag_id, 0, 100))
        assert len({tuple(sorted(members)) for _, members in scanned}) == 1
        if scanned[0][1]:
            self.alike(calls.bury(self.keys, tag_id, sorted(scanned[0][1])))

    def size(self) -> int:
        return self.alike(calls.count_answers(self.keys))

    def command(self, *words: Any) -> None:
        for client in self.clients:
            client.execute_command(*words)

    def grow_stale(self, name: str) -> None:
        """Its time of grace has come; the index would say so by its clock."""
        for client in self.clients:
            if client.pexpire(self.keys.entry(fingerprint(name)), GRACE_MS - 1000):
                client.zadd(self.keys.index, {self.keys.member(fingerprint(name)): 1}, xx=True)


def fingerprint(name: str) -> bytes:
    return name.encode() * 32


def token_of(token: str) -> bytes:
    return token.encode().ljust(16, b"-")


def ids(tags: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(cache_tag_id(tag) for tag in tags)


TAG_OF = {cache_tag_id(tag): tag for tag in TAGS}

names, tokens = st.sampled_from(NAMES), st.sampled_from(["1", "2", "3"])
tag_sets = st.sets(st.sampled_from(TAGS)).map(sorted).map(tuple)
steps = st.one_of(
    st.tuples(st.just("look_up"), names, tokens, tag_sets, st.sampled_from([None, 0.0, 1e6]), st.booleans()),
    st.tuples(st.just("put"), names, tag_sets, st.sampled_from([0, 1000])),
    st.tuples(st.just("fill"), names, tokens),
    st.tuples(st.just("renew"), names, tokens),
    st.tuples(st.just("release"), names, tokens),
    st.tuples(st.just("invalidate"), names),
    st.tuples(st.just("clear")),
    st.tuples(st.just("invalidate_tag"), st.sampled_from(TAGS)),
    st.tuples(st.just("bury"), st.sampled_from(TAGS)),
    st.tuples(st.just("grow_stale"), names),
    st.tuples(st.just("evict"), st.sampled_from(["generation", "entry", "lease", "tag"]), names, st.sampled_from(TAGS)),
)


@pytest.fixture(scope="module")
def clients(servers: Servers) -> Iterator[list[redis.Redis]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(server.client()) for server in servers.values()] + [fakeredis.FakeRedis()]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(schedule=st.lists(steps, min_size=5, max_size=30))
def test_the_scripts_do_what_the_model_does(clients: list[redis.Redis], schedule: list[tuple[Any, ...]]) -> None:
    real, model = Scripts(clients), Bucket()
    for number, (what, *arguments) in enumerate(schedule):
        assert perform(real, model, what, arguments, f"answer {number}")
        assert real.size() == len(model.index)
        for name in NAMES:
            seen = model.entries.get(name)
            live = seen is not None and model.alive(seen.stamp) and not seen.stale
            assert readable(real, name) == (seen.content if live else None)


def perform(real: Scripts, model: Bucket, what: str, arguments: list[Any], content: str) -> bool:
    """One step of both; whether they agree."""
    if what == "look_up":
        name, token, tags, early, stale = arguments
        return real.look_up(name, token, tags, early, stale=stale) == model.look_up(
            name, token, tags, early, stale=stale
        )
    if what == "put":
        name, tags, compute_ms = arguments
        return real.store(name, content, tags, compute_ms, None) == model.store(name, content, tags, compute_ms, None)
    if what == "fill":
        name, token = arguments
        tags = real.lease_tags.get((name, token), ())
        return real.store(name, content, tags, 1000, token) == model.store(name, content, tags, 1000, token)
    if what == "grow_stale":
        real.grow_stale(*arguments)
        entry = model.entries.get(arguments[0])
        if entry is not None:
            entry.stale = True
            model.index.discard(arguments[0])
        return True
    if what == "evict":
        evict(real, model, *arguments)
        return True
    return getattr(real, what)(*arguments) == getattr(model, what)(*arguments)


OVERTAKING = [
    ("clear",),
    ("invalidate", "a"),
    ("invalidate_tag", "t"),
    ("put", "a", (), 0),
    ("release", "a", "1"),
    ("evict", "generation", "a", "t"),
    ("evict", "lease", "a", "t"),
    ("evict", "tag", "a", "t"),
]


@pytest.mark.parametrize("step", OVERTAKING, ids=lambda step: " ".join(map(str, step[:2])))
def test_a_lease_that_was_overtaken_stores_nothing(clients, step):
    what, *arguments = step
    for then in ((), ("look_up", "a", "2", ("t",), None, False), ("look_up", "a", "2", (), None, False)):
        real, model = Scripts(clients), Bucket()
        assert perform(real, model, "look_up", ["a", "1", ("s", "t"), None, False], "")
        assert perform(real, model, "renew", ["a", "1"], "")
        assert perform(real, model, what, arguments, "other")
        if then:
            assert perform(real, model, then[0], list(then[1:]), "")
        assert not real.renew("a", "1")
        assert perform(real, model, "fill", ["a", "1"], "late")
        assert not model.store("a", "late", ("s", "t"), 0, "1")
        assert readable(real, "a") == ("other" if what == "put" else None)


def test_an_entry_that_lost_its_tag_is_not_looked_at_again(server):
    with server.client() as client:
        real = Scripts([client])
        for tags in (("t",), ()):
            real.store("a", "answer", tags, 0, None)
        real.bury("t")
        assert not client.exists(real.keys.tag_index(ids("t")[0]))
        assert readable(real, "a") == "answer"


def evict(real: Scripts, model: Bucket, kind: str, name: str, tag: str) -> None:
    if kind == "generation":
        real.command("DEL", real.keys.generation)
        model.generation = None
    elif kind == "entry":
        real.command("DEL", real.keys.entry(fingerprint(name)))
        model.entries.pop(name, None)  # and it is still counted
    elif kind == "lease":
        real.command("DEL", real.keys.lease(fingerprint(name)))
        model.leases.pop(name, None)
    else:
        real.command("DEL", real.keys.tag(cache_tag_id(tag)))
        model.versions.pop(tag, None)


def readable(real: Scripts, name: str) -> str | None:
    """What plain commands find, as `get` reads it."""
    seen = set()
    for port in real.ports:
        generation, value = drive(port.run(calls.read_entry(real.keys, fingerprint(name))))
        entry = Entry.of(value, generation) if generation is not None and value is not None else None
        if entry is not None and entry.tags:
            versions = drive(port.run(calls.read_versions(real.keys, [tag_id for tag_id, _ in entry.tags])))
            entry = entry if versions == [version for _, version in entry.tags] else None
        if entry is not None and drive(port.run(calls.read_life(real.keys, fingerprint(name)))) <= entry.grace_ms:
            entry = None
        seen.add(entry.envelope.decode() if entry is not None else None)
    assert len(seen) == 1, f"the servers differ: {seen}"
    return seen.pop()


# --- lives -----------------------------------------------------------------------------------------------------------


def stored(keys: CacheKeys, name: str, ttl_ms: int | None, tags: tuple[str, ...] = ()) -> Call[bool]:
    return calls.store_answer(
        keys,
        fingerprint(name),
        b"answer",
        ttl_ms=ttl_ms,
        grace_ms=0,
        head=head(0, 0),
        tags=ids(tags),
        fresh=os.urandom(FRESH_BYTES),
    )


def test_what_an_entry_depends_on_outlives_it(server):
    with server.client() as client:
        port = open_blocking_port(None, client, None, TimeLimits(5.0, 5.0))
        keys = CacheKeys.of("ractogateway:test", "lives")
        needed = [keys.generation, keys.tag(ids("t")[0])]
        counted = [keys.index, keys.tag_index(ids("t")[0])]
        for ttl_ms in (100, 10_000, 1_000, 500_000):
            drive(port.run(stored(keys, "a", ttl_ms, ("t",))))
            assert all(client.pttl(key) > ttl_ms for key in needed + counted)
        drive(port.run(stored(keys, "a", None, ("t",))))
        assert [client.pttl(key) for key in needed] == [-1, -1]
        assert all(client.pttl(key) == -1 for key in counted)


def test_names_of_entries_that_have_expired_are_swept(server):
    with server.client() as client:
        port = open_blocking_port(None, client, None, TimeLimits(5.0, 5.0))
        keys = CacheKeys.of("ractogateway:test", "swept")
        for number in range(20):
            drive(port.run(stored(keys, f"{number}", 1, ("t",))))
        wait_until(lambda: drive(port.run(calls.count_answers(keys))) == 0, what="the end of all")
        drive(port.run(stored(keys, "last", 60_000, ("t",))))
        assert client.zcard(keys.index) == client.zcard(keys.tag_index(ids("t")[0])) == 1


@pytest.mark.parametrize("kind", ["index", "tag index"])
def test_a_foreign_key_is_found_before_anything_is_written(server, kind):
    with server.client() as client:
        port = open_blocking_port(None, client, None, TimeLimits(5.0, 5.0))
        keys = CacheKeys.of("ractogateway:test", kind)
        client.set(keys.index if kind == "index" else keys.tag_index(ids("t")[0]), "foreign")
        with pytest.raises(WrongKeyType):
            drive(port.run(stored(keys, "a", 1000, ("t",))))
        assert client.dbsize() == 1


def test_a_lookup_that_comes_twice_owns_its_lease(server):
    """As after a lost reply."""
    with server.client() as client:
        real = Scripts([client])
        first, second = (real.look_up("a", "1", ("t",), None, stale=False) for _ in range(2))
        assert first == second == Told(Status.OWN, "1", owns=True)
        assert real.look_up("a", "2", (), None, stale=False) == Told(Status.WAIT, "1")
        assert real.store("a", "answer", ("t",), 5, "1")
        assert not real.store("a", "answer", ("t",), 5, "1")


def test_nonsense_in_the_place_of_an_entry_is_no_answer(server):
    with server.client() as client:
        real = Scripts([client])
        real.store("a", "answer", (), 5, None)
        key = real.keys.entry(fingerprint("a"))
        whole = client.get(key)
        for value in (b"", b"x", whole[:16], whole[:16] + b"\xff", whole[:16] + b"\x40" + b"x" * 100):
            client.set(key, value)
            assert real.look_up("a", "1", (), None, stale=False) == Told(Status.OWN, "1", owns=True)
            assert readable(real, "a") is None
            assert real.release("a", "1")
