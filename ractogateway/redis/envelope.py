"""How an answer is kept in Redis: bytes that say what they are and whom they belong to.

::

    byte   0       format version
    byte   1       codec of the payload: 0 none, 1 zlib, 2 Zstandard
    byte   2       protection of the body: 0 checksum, 1 encryption
    bytes  3-18    the first half of the request's fingerprint
    bytes 19-34    the first half of a digest of prefix and namespace
    bytes 35-      the body: a CRC-32 of everything else (4 bytes, big endian) and the payload, or the payload encrypted
                   (see `encryption`)

The payload is the answer as JSON, through the codec. Fingerprint and namespace in the value make a swapped reply, a
renamed key or somebody else's value a miss instead of a wrong answer; the checksum does the same for a torn value. An
encrypted body is authenticated together with the bytes before it and with the name of its key. A version, codec or
protection that this release does not know is a miss too: it was written by a later release.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import StrEnum

from ractogateway.errors import MissingExtraError
from ractogateway.redis.compression import MAX_EXPANDED_BYTES, PLAIN, CannotExpand, Codec, codec_with
from ractogateway.redis.encryption import CannotDecrypt, Encryption

_VERSION = 1
_CHECKSUM, _ENCRYPTION = 0, 1
_DIGEST_BYTES = 16
_OWNER_AT = 3
_BODY_AT = _OWNER_AT + 2 * _DIGEST_BYTES
_PAYLOAD_AT = _BODY_AT + 4


class Flaw(StrEnum):
    """Why a value that is there is a miss all the same."""

    UNKNOWN_FORMAT = "unknown_format"
    """Of a version, codec or protection that this release does not know."""
    MISSING_CODEC = "missing_codec"
    """Compressed by Zstandard, and the extra ``zstd`` is not installed here."""
    FOREIGN = "foreign"
    """Of another request or namespace: swapped, or renamed."""
    TORN = "torn"
    """Changed or cut short since it was written, or larger than anything this library compresses."""
    UNDECIPHERABLE = "undecipherable"
    """Encrypted by a key that is not here, changed or moved since; or in plain text where keys are configured."""
    UNREADABLE = "unreadable"
    """Intact, and not an answer."""


class BadEnvelope(ValueError):
    """The bytes are not an entry for this request that can be read here. Its text says why, and nothing of them."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


class Envelopes:
    """Wraps and opens the encoded answers of one cache.

    Args:
        namespace: What tells the cache's prefix and namespace from all others (16 bytes).
        key_of: The Redis key under which the answer to a fingerprint is kept.
        compress_above_bytes: Larger payloads are compressed when that makes them smaller.
        codec: What compresses. Whatever the codec, values by any other known one are read.
        encryption: The keys. With keys, a value in plain text is not opened: anybody could have put it there.
    """

    def __init__(
        self,
        namespace: bytes,
        key_of: Callable[[bytes], bytes],
        *,
        compress_above_bytes: int,
        codec: Codec,
        encryption: Encryption | None = None,
    ) -> None:
        self._namespace = namespace
        self._key_of = key_of
        self._compress_above_bytes = compress_above_bytes
        self._codec = codec
        self._encryption = encryption

    def seal(self, payload: bytes, fingerprint: bytes) -> bytes:
        """Wrap an encoded answer for the request of this fingerprint."""
        codec_id = PLAIN
        if self._compress_above_bytes < len(payload) <= MAX_EXPANDED_BYTES:
            compressed = self._codec.compress(payload)
            if len(compressed) < len(payload):
                codec_id, payload = self._codec.id, compressed
        owner = fingerprint[:_DIGEST_BYTES] + self._namespace
        if self._encryption is None:
            head = bytes((_VERSION, codec_id, _CHECKSUM)) + owner
            return b"%b%b%b" % (head, zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big"), payload)
        head = bytes((_VERSION, codec_id, _ENCRYPTION)) + owner
        return head + self._encryption.encrypt(payload, associated=head + self._key_of(fingerprint))

    def unseal(self, value: bytes, fingerprint: bytes) -> bytes:
        """The encoded answer.

        Raises:
            BadEnvelope: For anything that was not sealed for exactly this request, namespace and (if encrypted) key, by
                a release that this one understands.
        """
        if value and value[0] != _VERSION:
            raise BadEnvelope(Flaw.UNKNOWN_FORMAT)
        if len(value) < _PAYLOAD_AT:
            raise BadEnvelope(Flaw.TORN)
        if value[_OWNER_AT:_BODY_AT] != fingerprint[:_DIGEST_BYTES] + self._namespace:
            raise BadEnvelope(Flaw.FOREIGN)
        codec_id, protection = value[1], value[2]
        if protection == _CHECKSUM:
            payload = self._checked(value)
        elif protection == _ENCRYPTION:
            payload = self._decrypted(value, fingerprint)
        else:
            raise BadEnvelope(Flaw.UNKNOWN_FORMAT)
        return payload if codec_id == PLAIN else _expanded(payload, codec_id)

    def _checked(self, value: bytes) -> bytes:
        if self._encryption is not None:
            raise BadEnvelope(Flaw.UNDECIPHERABLE)
        payload = value[_PAYLOAD_AT:]
        if zlib.crc32(payload, zlib.crc32(value[:_BODY_AT])) != int.from_bytes(value[_BODY_AT:_PAYLOAD_AT], "big"):
            raise BadEnvelope(Flaw.TORN)
        return payload

    def _decrypted(self, value: bytes, fingerprint: bytes) -> bytes:
        if self._encryption is None:
            raise BadEnvelope(Flaw.UNDECIPHERABLE)
        try:
            associated = value[:_BODY_AT] + self._key_of(fingerprint)
            return self._encryption.decrypt(value[_BODY_AT:], associated=associated)
        except CannotDecrypt:
            raise BadEnvelope(Flaw.UNDECIPHERABLE) from None


def _expanded(payload: bytes, codec_id: int) -> bytes:
    try:
        codec = codec_with(codec_id)
    except MissingExtraError:
        raise BadEnvelope(Flaw.MISSING_CODEC) from None
    if codec is None:
        raise BadEnvelope(Flaw.UNKNOWN_FORMAT)
    try:
        return codec.expand(payload)
    except CannotExpand:
        raise BadEnvelope(Flaw.TORN) from None
