"""Encryption at rest: what opens a value, what does not, and that neither keys nor content are ever shown."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis import Encryption
from ractogateway.redis.encryption import CannotDecrypt

OLD, NEW = b"o" * 32, b"n" * 16
PLACE = b"ractogateway:exact:{tag}:e:digest"
TEXT = b"an answer that nobody else may read"
FROZEN = (  # TEXT at PLACE, by the key 2025
    "0104323032354e1b5b02f80a570af5115f9cde0a10bcdc98956fe349bc795da34c08c9bdeb4dc9e1ef3b"
    "ac41e8496240f27d0ed7297145d8c04170a8d85ad879ad27d05eb2"
)


@pytest.fixture
def encryption() -> Encryption:
    return Encryption({"2024": OLD, "2025": NEW}, current="2025")


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("text", [b"", TEXT, os.urandom(100_000)])
def test_what_was_encrypted_comes_back(size, text):
    encryption = Encryption({"k": os.urandom(size)}, current="k")
    sealed = encryption.encrypt(text, associated=PLACE)
    assert encryption.decrypt(sealed, associated=PLACE) == text
    assert len(sealed) == len(text) + 31
    assert not text or text not in sealed


def test_the_form_is_the_one_described():
    """Frozen: values written by this release must stay readable, and readable by others."""
    sealed = Encryption({"2025": NEW}, current="2025").encrypt(TEXT, associated=PLACE)
    head, nonce, ciphertext = sealed[:6], sealed[6:18], sealed[18:]
    assert head == b"\x01\x042025"
    assert AESGCM(NEW).decrypt(nonce, ciphertext, head + PLACE) == TEXT


def test_a_value_of_an_earlier_run_is_still_read(encryption):
    frozen = bytes.fromhex(FROZEN)
    assert encryption.decrypt(frozen, associated=PLACE) == TEXT


def test_rotation(encryption):
    before = Encryption({"2024": OLD}, current="2024")
    during = Encryption({"2024": OLD, "2025": NEW}, current="2024")
    after = Encryption({"2025": NEW}, current="2025")
    old, new = before.encrypt(TEXT, associated=PLACE), encryption.encrypt(TEXT, associated=PLACE)
    for reader in (encryption, during):
        assert reader.decrypt(old, associated=PLACE) == reader.decrypt(new, associated=PLACE) == TEXT
    for reader, value in ((before, new), (after, old)):
        with pytest.raises(CannotDecrypt, match="not here") as caught:
            reader.decrypt(value, associated=PLACE)
        assert caught.value.unknown_key


def test_a_key_of_the_same_name_and_other_bytes_opens_nothing(encryption):
    stranger = Encryption({"2025": b"x" * 16}, current="2025")
    with pytest.raises(CannotDecrypt) as caught:
        stranger.decrypt(encryption.encrypt(TEXT, associated=PLACE), associated=PLACE)
    assert not caught.value.unknown_key


@pytest.mark.parametrize("elsewhere", [b"", PLACE[:-1], PLACE + b"2", PLACE.upper()])
def test_a_value_belongs_to_its_place(encryption, elsewhere):
    sealed = encryption.encrypt(TEXT, associated=PLACE)
    with pytest.raises(CannotDecrypt):
        encryption.decrypt(sealed, associated=elsewhere)


def test_no_changed_or_torn_value_opens(encryption):
    sealed = encryption.encrypt(TEXT, associated=PLACE)
    changed = [
        sealed[:at] + bytes((sealed[at] ^ bit,)) + sealed[at + 1 :] for at in range(len(sealed)) for bit in (1, 128)
    ]
    torn = [sealed[:size] for size in range(len(sealed))]
    assert len(changed) + len(torn) > 150
    for value in (
        *changed,
        *torn,
        sealed + b"\0",
        sealed + sealed,
        b"\xff" * 300,
        bytes(300),
        b"\x01\xff",
        b"\x02" + sealed[1:],
    ):
        with pytest.raises(CannotDecrypt):
            encryption.decrypt(value, associated=PLACE)


def test_a_key_id_cannot_be_exchanged():
    """Two ids of one key: the head is authenticated, so even then the name in a value is the one it was made under."""
    both = Encryption({"a": OLD, "b": OLD}, current="a")
    sealed = both.encrypt(TEXT, associated=PLACE)
    with pytest.raises(CannotDecrypt):
        both.decrypt(sealed.replace(b"a", b"b", 1), associated=PLACE)


def test_where_the_head_ends_counts():
    """Head and associated data are authenticated together; no byte can move from one to the other."""
    one = Encryption({"k": OLD}, current="k").encrypt(TEXT, associated=b"1" + PLACE)
    other = Encryption({"k1": OLD}, current="k1")
    with pytest.raises(CannotDecrypt):
        other.decrypt(b"\x01\x02k1" + one[3:], associated=PLACE)


def test_no_nonce_is_used_twice_whatever_the_threads(encryption):
    def some(_: int) -> list[bytes]:
        return [encryption.encrypt(TEXT, associated=PLACE) for _ in range(500)]

    with ThreadPoolExecutor(8) as threads:
        sealed = [value for values in threads.map(some, range(8)) for value in values]
        opened = set(threads.map(lambda value: encryption.decrypt(value, associated=PLACE), sealed))
    assert opened == {TEXT}
    assert len({value[6:18] for value in sealed}) == len(sealed) == 4_000


# --- what is never shown ---------------------------------------------------------------------------------------------


def test_repr_shows_key_ids_only(encryption):
    assert repr(encryption) == "Encryption(keys=['2024', '2025'], current='2025')"
    assert str(encryption) == repr(encryption)


def test_keys_leave_by_no_copy(encryption):
    assert copy.copy(encryption) is encryption
    assert copy.deepcopy({"e": encryption})["e"] is encryption
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(encryption)
    assert not hasattr(encryption, "__dict__")


def test_a_failure_keeps_nothing_of_the_content(encryption):
    with pytest.raises(CannotDecrypt) as caught:
        encryption.decrypt(encryption.encrypt(TEXT, associated=PLACE), associated=b"elsewhere")
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not any(
        piece in "".join(traceback.format_exception(caught.value)) for piece in ("ractogateway:exact", "nobody")
    )


@pytest.mark.parametrize(
    ("keys", "current", "kind"),
    [
        (None, "k", InvalidTypeError),
        ([("k", OLD)], "k", InvalidTypeError),
        ({b"k": OLD}, "k", InvalidTypeError),
        ({"k": OLD.decode()}, "k", InvalidTypeError),
        ({"k": bytearray(OLD)}, "k", InvalidTypeError),
        ({"k": OLD}, None, InvalidTypeError),
        ({"k": OLD}, b"k", InvalidTypeError),
        ({}, "k", InvalidValueError),
        ({"k": OLD}, "l", InvalidValueError),
        ({"k": OLD[:31]}, "k", InvalidValueError),
        ({"k": b""}, "k", InvalidValueError),
        ({"k": OLD * 2}, "k", InvalidValueError),
        ({"": OLD}, "", InvalidValueError),
        ({"k" * 33: OLD}, "k" * 33, InvalidValueError),
        ({"k\n": OLD}, "k\n", InvalidValueError),
        ({"ké": OLD}, "ké", InvalidValueError),
        ({"k": OLD, "\ud83d": NEW}, "k", InvalidValueError),
        ({OLD.decode() + "!": b"id"}, "id", InvalidValueError),
    ],
)
def test_wrong_arguments(keys, current, kind):
    with pytest.raises(kind) as caught:
        Encryption(keys, current=current)
    assert OLD.decode() not in str(caught.value)


def test_the_longest_and_oddest_legal_ids():
    for name in ("k", "k" * 32, " ", "~", "a=1&b={2}"):
        encryption = Encryption({name: NEW}, current=name)
        assert encryption.decrypt(encryption.encrypt(TEXT, associated=b""), associated=b"") == TEXT
