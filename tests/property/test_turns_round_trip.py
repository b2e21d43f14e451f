"""Any JSON goes through an entry unharmed; any bytes are read without an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractogateway._checks import ROLES
from ractogateway.errors import InvalidValueError
from ractogateway.redis.entries import decode_entry, encode_entry, entry_kind
from ractogateway.redis.turns import check_message, kind_of, to_json

deterministic = settings(max_examples=100, deadline=None, derandomize=True, database=None)

TEXT = st.text(st.characters(), max_size=20)  # control characters and surrogates included
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
PARTS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=3)
MESSAGES = st.builds(
    lambda extra, required: {**extra, **required},
    st.dictionaries(TEXT.filter(lambda key: key not in ("role", "content")), VALUES, max_size=3),
    st.fixed_dictionaries(
        {"role": st.sampled_from(sorted(ROLES))}, optional={"content": st.none() | TEXT | PARTS, "parts": PARTS}
    ),
)


def paired(value):
    """The value with surrogate pairs read as the characters they stand for, as every JSON parser reads them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(value, list):
        return [paired(item) for item in value]
    if isinstance(value, dict):
        return {paired(key): paired(item) for key, item in value.items()}
    return value


def same(one, other):
    """Equal, and of the same types: True is not 1, 1 is not 1.0, and 0.0 is not -0.0."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


@given(MESSAGES)
@deterministic
def test_a_message_comes_out_as_it_went_in(message):
    entry = encode_entry(check_message(message, max_message_bytes=1_048_576))
    assert same(decode_entry(entry), paired(message))
    assert same(decode_entry(entry.decode("utf-8")), paired(message))
    assert entry_kind(entry) == kind_of(message)


@given(MESSAGES, st.data())
@deterministic
def test_the_size_limit_is_exact_however_it_is_estimated(message, data):
    size = len(encode_entry(message)) - 2
    limit = data.draw(st.integers(0, 3 * size))
    if limit >= size:
        check_message(message, max_message_bytes=limit)
    else:
        with pytest.raises(InvalidValueError):
            check_message(message, max_message_bytes=limit)


@given(
    st.binary(max_size=60) | st.builds(lambda head, rest: head + rest, st.sampled_from([b"1U", b"1M{"]), st.binary())
)
@deterministic
def test_bytes_at_rest_never_raise(entry):
    assert decode_entry(entry) is None
    entry_kind(entry)


@given(MESSAGES, st.data())
@deterministic
def test_a_damaged_entry_is_none_or_a_message(message, data):
    entry = bytearray(encode_entry(message))
    entry[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
    read = decode_entry(bytes(entry[: data.draw(st.integers(0, len(entry)))]))
    assert read is None or isinstance(read["role"], str)


@given(st.sampled_from(sorted(ROLES)), TEXT, st.booleans())
@deterministic
def test_a_plain_message_is_the_json_that_the_standard_library_writes(role, content, turned):
    message = {"content": content, "role": role} if turned else {"role": role, "content": content}
    assert to_json(message) == json.dumps(message, ensure_ascii=False, separators=(",", ":"))
