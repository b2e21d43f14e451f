"""The only place where a Redis key is spelled.

A key is ``<prefix>:{<tag>}:<kind>``, some kinds with a further digest. The tag is a digest of prefix, namespace and id,
each with its length before it, so that

* no two owners share a key, whatever characters their ids hold (``app`` + ``x:y`` is not ``app:x`` + ``y``);
* an id with ``{``, ``}`` or ``*`` in it chooses no cluster slot and matches no glob;
* no id can be read from a key;
* all keys of one owner are in one cluster slot, so that a script may touch them together.

The prefix stands in front as it was given: that is what an ACL pattern (``~prefix:*``) names.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

_TAG_BYTES = 16


def _bytes(text: str) -> bytes:
    # Lone surrogates are legal in a Python string, and two of them must not become the same "?".
    return text.encode("utf-8", "surrogatepass")


def _digest(tool: bytes, prefix: str, namespace: str, owner: str) -> bytes:
    parts = (tool, _bytes(prefix), _bytes(namespace), _bytes(owner))
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()[:_TAG_BYTES]


def _tag(tool: bytes, prefix: str, namespace: str, owner: str) -> bytes:
    return _text(_digest(tool, prefix, namespace, owner))


def _text(digest: bytes) -> bytes:
    return base64.urlsafe_b64encode(digest).rstrip(b"=")


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Keys of one bucket of an exact cache, all in one cluster slot: a generation, an index of live entries by expiry,
    entries, leases, and for each tag a version and an index of its own.

    In a cluster a cache has many buckets, so that its entries are spread over the nodes; elsewhere it has one.
    """

    generation: bytes
    index: bytes
    _base: bytes

    @classmethod
    def of(cls, prefix: str, namespace: str, bucket: str = "") -> CacheKeys:
        """The keys of one bucket of the cache under this prefix for this tenant."""
        base = b"%b:{%b}:" % (_bytes(prefix), _tag(b"cache", prefix, namespace, bucket))
        return cls(base + b"generation", base + b"index", base)

    @staticmethod
    def member(fingerprint: bytes) -> bytes:
        """The name of an entry in an index."""
        return _text(fingerprint)

    def entry(self, fingerprint: bytes) -> bytes:
        """The key of one answer."""
        return self.entry_of(_text(fingerprint))

    def entry_of(self, member: bytes) -> bytes:
        """The key of the answer with this name in an index."""
        return self._base + b"e:" + member

    def lease(self, fingerprint: bytes) -> bytes:
        """The key that says who computes an answer."""
        return self._base + b"l:" + _text(fingerprint)

    def tag(self, tag_id: bytes) -> bytes:
        """The key of the version of a tag."""
        return self._base + b"t:" + _text(tag_id)

    def tag_index(self, tag_id: bytes) -> bytes:
        """The key of the names of the entries that carry a tag."""
        return self._base + b"i:" + _text(tag_id)


class CacheBuckets:
    """All buckets of one exact cache.

    Args:
        spread: whether there are many, for the nodes of a cluster.
    """

    __slots__ = ("all", "counters")

    COUNT = 256
    """Of a spread cache. Every process of a fleet must have the same idea of it."""

    def __init__(self, prefix: str, namespace: str, *, spread: bool) -> None:
        names = [str(number) for number in range(self.COUNT)] if spread else [""]
        self.all = tuple(CacheKeys.of(prefix, namespace, name) for name in names)
        # What all replicas count together; in a cluster in a slot of its own.
        self.counters = b"%b:{%b}:counters" % (_bytes(prefix), _tag(b"cache", prefix, namespace, "counters"))

    def of(self, fingerprint: bytes) -> CacheKeys:
        """The bucket of an answer."""
        return self.all[fingerprint[0] % len(self.all)]

    def entry(self, fingerprint: bytes) -> bytes:
        """The key of an answer."""
        return self.of(fingerprint).entry(fingerprint)


def cache_tag_id(tag: str) -> bytes:
    """Sixteen bytes that stand for a tag of cached answers."""
    return hashlib.sha256(_bytes(tag)).digest()[:16]


@dataclass(frozen=True, slots=True)
class LimiterKeys:
    """Keys of one user's budget: the log of charges, and a record an operation."""

    log: bytes
    _operation: bytes

    @classmethod
    def of(cls, prefix: str, user_id: str) -> LimiterKeys:
        """The keys of one user."""
        base = b"%b:{%b}:" % (_bytes(prefix), _tag(b"limiter", prefix, "", user_id))
        return cls(base + b"tokens", base + b"op:")

    def operation(self, operation_id: bytes) -> bytes:
        """The key that remembers that an operation was charged."""
        return self._operation + _text(operation_id)


@dataclass(frozen=True, slots=True)
class MemoryKeys:
    """Keys of one conversation: the list of its messages, and the hash with its state (revision, turns, recent
    operations).
    """

    messages: bytes
    state: bytes

    @classmethod
    def of(cls, prefix: str, namespace: str, conversation_id: str) -> MemoryKeys:
        """The keys of one conversation."""
        base = b"%b:{%b}:" % (_bytes(prefix), _tag(b"memory", prefix, namespace, conversation_id))
        return cls(base + b"messages", base + b"state")


def namespace_digest(prefix: str, namespace: str) -> bytes:
    """Sixteen bytes that stand for one cache in the values it keeps."""
    return _digest(b"cache", prefix, namespace, "")


def operation_id(request_id: str) -> bytes:
    """Sixteen bytes that stand for a caller's own request id."""
    return hashlib.sha256(_bytes(request_id)).digest()[:16]
