"""Two requests share a fingerprint if and only if they are equal, over many thousand pairs of nearly equal ones.

Equality is decided by `canonical`, which shares no code with the fingerprint.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

from canonical import canonical
from hypothesis import given, settings
from hypothesis import strategies as st

from ractogateway.cache import fingerprint

deterministic = settings(max_examples=200, deadline=None, derandomize=True, database=None)

Request = dict[str, Any]


class Colour(StrEnum):
    RED = "a"


class Odd(Enum):
    ONE = 1


def of(request: Request) -> bytes:
    return fingerprint(**request)


# Few and similar texts, so that equal and nearly equal requests are common. Some look like pieces of an encoding.
TEXTS = ["", "a", "b", "ab", "a\x00", "\x00", "1", "s1:a", "n0:", ":", "é", "e\u0301", "\ud83d", "None", "True", "m0:"]
KEYS: list[Any] = ["a", "b", "ab", "1", "history", "tools", "user", "stop", "", 1, 0, -1]
SCALARS: list[Any] = [
    *TEXTS,
    *(None, True, False, 0, 1, -1, 2, 255, 2**53, 2**53 + 1, 10**30, 0.0, -0.0, 1.0, 0.5, 1e30, 2.0**53, 5e-324),
    *(float("inf"), float("-inf"), float("nan"), b"", b"a", b"1", b"s1:a", bytearray(b"a"), Decimal(1), Decimal("1.0")),
    *(Decimal("NaN"), UUID(int=1), date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), Colour.RED, Odd.ONE),
]
HASHABLE = [scalar for scalar in SCALARS if not isinstance(scalar, bytearray)]


def some_value(rng: random.Random, depth: int = 3) -> Any:
    kind = rng.randrange(8) if depth else 7
    size = rng.randrange(4)
    if kind < 2:
        return {rng.choice(KEYS): some_value(rng, depth - 1) for _ in range(size)}
    if kind < 4:
        items = [some_value(rng, depth - 1) for _ in range(size)]
        return tuple(items) if rng.random() < 0.3 else items
    if kind == 4:
        items = {rng.choice(HASHABLE) for _ in range(size)}
        return frozenset(items) if rng.random() < 0.5 else items
    return rng.choice(SCALARS)


def some_request(rng: random.Random) -> Request:
    return {
        "user_message": rng.choice(TEXTS),
        "system_prompt": rng.choice(TEXTS),
        "model": rng.choice(TEXTS),
        "temperature": rng.choice([0, 0.0, 0.5, 1, 1.0]),
        "max_tokens": rng.choice([1, 2, 4096]),
        "context": {key: some_value(rng) for key in rng.sample(KEYS, rng.randrange(4))},
    }


def nearly(rng: random.Random, value: Any) -> Any:
    """The value with one small change somewhere, which may be one that does not count."""
    if isinstance(value, dict):
        return nearly_mapping(rng, value)
    if isinstance(value, (list, tuple)):
        return nearly_list(rng, list(value))
    if isinstance(value, (set, frozenset)):
        return rng.choice([set(value), frozenset(value), list(value), value ^ {rng.choice(HASHABLE)}])
    if isinstance(value, str):
        cut = rng.randrange(len(value) + 1)
        return rng.choice(
            [
                str(value),
                value + "\x00",
                value[:cut],
                [value],
                value.encode("utf-8", "surrogatepass"),
                [value[:cut], value[cut:]],
            ]
        )
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, -value, str(value), bool(value), [value], float(value), {value}])
    return rng.choice([value, [value], str(value), None, ""])


def nearly_mapping(rng: random.Random, value: dict[str, Any]) -> Any:
    items = list(value.items())
    rng.shuffle(items)
    change = rng.randrange(7)
    if not items or change == 0:
        return rng.choice([dict(items), list(items), {**value, rng.choice(KEYS): None}, [list(item) for item in items]])
    (key, item), rest = items[0], dict(items[1:])
    if change == 1:
        return rest
    if change == 2 and isinstance(key, str) and isinstance(item, str):  # where the key ends and the value begins
        cut = rng.randrange(len(key + item) + 1)
        return {**rest, (key + item)[:cut]: (key + item)[cut:]}
    if change == 3:
        return {**rest, rng.choice(KEYS): item}
    return {**rest, key: nearly(rng, item)}


def nearly_list(rng: random.Random, items: list[Any]) -> Any:
    change = rng.randrange(7)
    if not items or change == 0:
        return rng.choice([items, tuple(items), [*items, None], [items], [*items, []]])
    at = rng.randrange(len(items))
    if change == 1:
        return items[:at] + items[at + 1 :]
    if change == 2:
        return items[at:] + items[:at]
    if change == 3:
        return [items[:at], *items[at:]]
    return [*items[:at], nearly(rng, items[at]), *items[at + 1 :]]


def nearly_request(rng: random.Random, request: Request) -> Request:
    change = rng.randrange(8)
    if change == 0:  # where one field ends and the next begins
        joined = request["user_message"] + request["system_prompt"]
        cut = rng.randrange(len(joined) + 1)
        return {**request, "user_message": joined[:cut], "system_prompt": joined[cut:]}
    if change == 1:
        return {**request, "system_prompt": request["model"], "model": request["system_prompt"]}
    if change == 2:
        return {**request, "temperature": request["max_tokens"], "max_tokens": int(request["temperature"]) + 1}
    context = nearly(rng, request["context"])
    return {**request, "context": context if isinstance(context, dict) else {"a": context}}


def test_near_misses():
    rng = random.Random(20240501)
    equal = different = 0
    while different < 120_000:
        request = some_request(rng)
        digest, meaning = of(request), canonical(request)
        for _ in range(20):
            other = nearly_request(rng, request)
            same = canonical(other) == meaning
            equal, different = equal + same, different + (not same)
            assert (of(other) == digest) is same
    assert equal > 12_000


def test_every_pair_of_several_thousand():
    """Grouping by fingerprint and grouping by meaning give the same groups: this compares each with each."""
    rng = random.Random(20240502)
    requests = [some_request(rng) for _ in range(1_000)]
    requests += [nearly_request(rng, request) for request in requests for _ in range(4)]
    by_digest: dict[bytes, Hashable] = {}
    by_meaning: dict[Hashable, bytes] = {}
    for request in requests:
        digest, meaning = of(request), canonical(request)
        assert by_digest.setdefault(digest, meaning) == meaning
        assert by_meaning.setdefault(meaning, digest) == digest
    assert 1_000 < len(by_digest) < 5_000


texts = st.text(st.characters(codec=None), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
contexts = st.dictionaries(texts, json_values, max_size=4)


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    return value


@deterministic
@given(contexts, st.randoms(use_true_random=False))
def test_the_order_of_mappings_does_not_count(context, rng):
    assert fingerprint("u", "s", "m", 0, 1, context) == fingerprint("u", "s", "m", 0, 1, shuffled(context, rng))


@deterministic
@given(contexts, contexts)
def test_equal_contexts_and_only_those_share_a_fingerprint(one, other):
    same = canonical(one) == canonical(other)
    assert (fingerprint("u", "s", "m", 0, 1, one) == fingerprint("u", "s", "m", 0, 1, other)) is same


@deterministic
@given(contexts, st.sampled_from(["history", "tools", "response_schema", "base_url"]), json_values, json_values)
def test_each_part_of_a_context_counts(context, part, one, other):
    same = canonical(one) == canonical(other)
    first = fingerprint("u", "s", "m", 0, 1, {**context, part: one})
    assert (first == fingerprint("u", "s", "m", 0, 1, {**context, part: other})) is same
    absent = {key: value for key, value in context.items() if key != part}
    assert first != fingerprint("u", "s", "m", 0, 1, absent)


@deterministic
@given(texts, st.data())
def test_where_a_field_ends_counts(text, data):
    cuts = st.lists(st.integers(0, len(text)), min_size=2, max_size=2).map(sorted)
    (a, b), (c, d) = data.draw(cuts), data.draw(cuts)
    one, other = (text[:a], text[a:b], text[b:]), (text[:c], text[c:d], text[d:])
    assert (fingerprint(*one, 0, 1) == fingerprint(*other, 0, 1)) is (one == other)


@deterministic
@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)), st.data())
def test_numbers_are_compared_by_value(number, data):
    near = st.sampled_from(
        [number, float(number) if abs(number) < 2**1000 else number, number + 1, int(number), -number]
    )
    other = data.draw(near)
    one = fingerprint("u", "s", "m", 0, 1, {"n": number})
    assert (one == fingerprint("u", "s", "m", 0, 1, {"n": other})) is (number == other)
