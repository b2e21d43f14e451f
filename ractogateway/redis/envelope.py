"""How an answer is kept in Redis: bytes that say what they are and whom they belong to.

::

    byte   0       format version
    byte   1       codec: 0 plain, 1 zlib
    bytes  2-17    the first half of the request's fingerprint
    bytes 18-21    CRC-32 of everything after it
    bytes 22-      the answer as JSON, encoded by the codec

The fingerprint in the value makes a swapped reply, a renamed key or somebody else's value a miss instead of a wrong
answer; the checksum does the same for a torn value. A version or codec that this release does not know is a miss too:
it was written by a later release.
"""

from __future__ import annotations

import zlib

_VERSION = 1
_PLAIN, _ZLIB = 0, 1
_FINGERPRINT_BYTES = 16
_CHECKSUM_AT = 2 + _FINGERPRINT_BYTES
_PAYLOAD_AT = _CHECKSUM_AT + 4
_MAX_DECODED_BYTES = 64 * 1024 * 1024
"""A compressed value that would grow beyond this is not one of ours."""


class BadEnvelope(ValueError):
    """The bytes are not an entry for this request that this release can read."""


def seal(payload: bytes, fingerprint: bytes, *, compress_above_bytes: int) -> bytes:
    """Wrap an encoded answer. It is compressed when it is larger than the threshold and gets smaller by it."""
    codec = _PLAIN
    if compress_above_bytes < len(payload) <= _MAX_DECODED_BYTES:
        compressed = zlib.compress(payload, level=1)
        if len(compressed) < len(payload):
            codec, payload = _ZLIB, compressed
    head = bytes((_VERSION, codec)) + fingerprint[:_FINGERPRINT_BYTES]
    return b"%b%b%b" % (head, zlib.crc32(payload).to_bytes(4, "big"), payload)


def unseal(value: bytes, fingerprint: bytes) -> bytes:
    """The encoded answer.

    Raises:
        BadEnvelope: for anything that was not sealed for exactly this request by a release that this one understands.
    """
    if len(value) < _PAYLOAD_AT or value[0] != _VERSION:
        raise BadEnvelope("not an entry of this format")
    if value[2:_CHECKSUM_AT] != fingerprint[:_FINGERPRINT_BYTES]:
        raise BadEnvelope("an entry of another request")
    payload = value[_PAYLOAD_AT:]
    if zlib.crc32(payload) != int.from_bytes(value[_CHECKSUM_AT:_PAYLOAD_AT], "big"):
        raise BadEnvelope("torn")
    if value[1] == _PLAIN:
        return payload
    if value[1] == _ZLIB:
        return _inflate(payload)
    raise BadEnvelope("unknown codec")


def _inflate(payload: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        decoded = inflater.decompress(payload, _MAX_DECODED_BYTES)
    except zlib.error:
        raise BadEnvelope("not zlib") from None
    if not inflater.eof:
        raise BadEnvelope("too large or cut short")
    return decoded
