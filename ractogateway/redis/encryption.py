"""Encryption at rest: what Redis keeps can be read with a key that Redis never sees.

AES in Galois/Counter Mode (NIST SP 800-38D), by the ``cryptography`` package. A sealed value is

::

    byte   0          format version
    byte   1          n, the length of the key id
    bytes  2 to n+1   the key id, printable ASCII
    next 12 bytes     nonce, random
    the rest          ciphertext, then the tag of 16 bytes

Authenticated beside the text, and not stored: the head (version and key id), and what the caller says the value belongs
to. A value that was moved to another place thus fails like one that was changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn, Self

from ractogateway._checks import type_name
from ractogateway._extras import import_extra
from ractogateway.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Encryption"]

_VERSION = 1
_KEY_BYTES = (16, 24, 32)
_LONGEST_KEY_ID = 32
_HEAD_BYTES = 2  # and the key id
_NONCE_BYTES = 12
_TAG_BYTES = 16


class CannotDecrypt(ValueError):
    """Bytes that no key here made for this place, or that were changed since. Says nothing about their content.

    ``unknown_key`` is True where the head names a key that is not here: one that was taken away too early, most likely.
    """

    def __init__(self, reason: str, *, unknown_key: bool = False) -> None:
        super().__init__(reason)
        self.unknown_key = unknown_key


class Encryption:
    """Keys under which answers and messages are kept, for ``encryption=``. Immutable, safe to share between threads.

    To **rotate**: first give every replica the new key beside the old one, then make it ``current``, and take the old
    one away when nothing it encrypted is left (for a cache: after the longest time to live). What a key encrypted that
    is gone cannot be read: in the cache it is a miss.

    How long a key may serve: nonces are random, so a key should encrypt at most 2**32 values (NIST SP 800-38D, 8.3);
    beyond that, the chance that two share a nonce, which would betray both and allow forgeries, exceeds 2**-32. At a
    thousand values a second over all replicas that is seven weeks, at ten a second thirteen years.

    Args:
        keys: Key by key id. A key is 16, 24 or 32 random bytes (AES-128, -192, -256): ``os.urandom(32)``, never a
            password. A key id is 1 to 32 printable ASCII characters, and is stored in the clear beside each value.
        current: The id of the key that encrypts. All of them decrypt.

    Raises:
        MissingExtraError: The extra ``encryption`` is not installed.
        InvalidTypeError, InvalidValueError: A key or an id is not usable. The message shows no key.
    """

    __slots__ = ("_ciphers", "_current", "_head")

    def __init__(self, keys: Mapping[str, bytes], *, current: str) -> None:
        checked = _checked_keys(keys)
        if not isinstance(current, str):
            raise InvalidTypeError(f"current must be a key id, a str, not {type(current).__name__}")
        if current not in checked:
            raise InvalidValueError("current must be one of the ids in keys")  # not shown: it may be a key in disguise
        aead = import_extra(
            "cryptography.hazmat.primitives.ciphers.aead", extra="encryption", needed_for="Encryption at rest"
        )
        # By the bytes of the id: what stands in a value is compared, never decoded.
        self._ciphers: dict[bytes, AESGCM] = {name.encode(): aead.AESGCM(key) for name, key in checked.items()}
        self._current = str(current)
        self._head = bytes((_VERSION, len(current))) + current.encode()

    def encrypt(self, plaintext: bytes, *, associated: bytes) -> bytes:
        """Encrypt under the current key. ``associated`` is what the value belongs to: `decrypt` must be told the same.

        Takes about 1 µs, and another for each 10 KB. The value grows by 30 bytes and the length of the key id.
        """
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._head[_HEAD_BYTES:]]
        return b"%b%b%b" % (self._head, nonce, cipher.encrypt(nonce, plaintext, self._head + associated))

    def decrypt(self, data: bytes, *, associated: bytes) -> bytes:
        """What `encrypt` was given, by whichever of the keys.

        Raises:
            CannotDecrypt: For anything else: torn, changed, of another place, of a key that is not here.
        """
        if len(data) < _HEAD_BYTES or data[0] != _VERSION:
            raise CannotDecrypt("not a value that this release encrypted")
        nonce_at = _HEAD_BYTES + data[1]
        text_at = nonce_at + _NONCE_BYTES
        if len(data) < text_at + _TAG_BYTES:
            raise CannotDecrypt("torn")
        cipher = self._ciphers.get(bytes(data[_HEAD_BYTES:nonce_at]))
        if cipher is None:
            raise CannotDecrypt("encrypted by a key that is not here", unknown_key=True)
        try:
            return cipher.decrypt(data[nonce_at:text_at], data[text_at:], data[:nonce_at] + associated)
        except Exception:  # noqa: BLE001 - InvalidTag, whose class is not ours to import; or a size that no cipher takes
            failed = CannotDecrypt("changed since, or not of this place and key")
        raise failed  # outside the handler, so that nothing of the cipher's own error stays with it

    def __repr__(self) -> str:
        names = sorted(name.decode() for name in self._ciphers)
        return f"{type(self).__name__}(keys={names}, current={self._current!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # immutable; and a copy would be one more place where the keys are

    def __reduce__(self) -> NoReturn:
        raise TypeError("Encryption cannot be pickled: it holds keys")


def check_encryption(value: object) -> Encryption | None:
    """The argument ``encryption=`` of a tool."""
    if value is None or isinstance(value, Encryption):
        return value
    raise InvalidTypeError(f"encryption must be an Encryption or None, not {type_name(value)}")


def _checked_keys(keys: object) -> dict[str, bytes]:
    if not isinstance(keys, Mapping):
        raise InvalidTypeError(f"keys must be a mapping of key ids to bytes, not {type(keys).__name__}")
    for name, key in keys.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"a key id must be a str, not {type(name).__name__}")
        # Not shown where it is wrong: somebody may have swapped ids and keys.
        if not (1 <= len(name) <= _LONGEST_KEY_ID and name.isascii() and name.isprintable()):
            raise InvalidValueError(f"a key id must be 1 to {_LONGEST_KEY_ID} printable ASCII characters")
        if not isinstance(key, bytes):
            raise InvalidTypeError(f"the key {name!r} must be bytes, not {type(key).__name__}")
        if len(key) not in _KEY_BYTES:
            raise InvalidValueError(f"the key {name!r} must be 16, 24 or 32 bytes long, not {len(key)}")
    return dict(keys)
