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
from binascii import b2a_base64
from dataclasses import dataclass
from functools import lru_cache

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
    """Keys of one owner's budgets: a log of charges for each limit, a record for each operation, the leases of open
    reservations, and the queue of those who wait.

    Attributes:
        slot: what a cluster hashes: keys with the same one may be touched by one script.
    """

    slot: bytes
    _base: bytes

    @classmethod
    @lru_cache(maxsize=1024)  # a quarter of what a check costs this process, and users come back
    def of(cls, prefix: str, user_id: str) -> LimiterKeys:
        """The keys of one user."""
        start, tag = _bytes(prefix), _tag(b"limiter", prefix, "", user_id)
        return cls(_own_tag(start) or tag, b"%b:{%b}:" % (start, tag))

    @property
    def tokens(self) -> bytes:
        """The log of tokens of the window."""
        return self._base + b"tokens"

    @property
    def requests(self) -> bytes:
        """The log of requests."""
        return self._base + b"requests"

    @property
    def tokens_of_day(self) -> bytes:
        """The log of tokens of the day."""
        return self._base + b"day"

    @property
    def leases(self) -> bytes:
        """Who holds a slot, and until when."""
        return self._base + b"leases"

    @property
    def queue(self) -> tuple[bytes, bytes]:
        """The tickets of those who wait: in order, and by the time at which each is given up."""
        return self._base + b"queue", self._base + b"queue:ends"

    def operation(self, operation_id: bytes) -> bytes:
        """The key that remembers that an operation was charged."""
        return self._base + b"op:" + b2a_base64(operation_id, newline=False)

    def reservation(self, operation_id: bytes) -> bytes:
        """The key that remembers a reservation, and where it was charged."""
        return self._base + b"hold:" + b2a_base64(operation_id, newline=False)


def _own_tag(prefix: bytes) -> bytes:
    """The hash tag that a prefix brings, empty if it brings none."""
    _, opened, rest = prefix.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return tag if opened and closed else b""


@dataclass(frozen=True, slots=True)
class MemoryKeys:
    """Keys of one conversation: the list of its messages, the hash with its state (revision, counts, owner), what was
    trimmed and waits for its hook, and a record an operation.
    """

    messages: bytes
    state: bytes
    evicted: bytes
    delivering: bytes
    lease: bytes
    _operation: bytes

    @classmethod
    def of(cls, prefix: str, namespace: str, conversation_id: str) -> MemoryKeys:
        """The keys of one conversation."""
        base = b"%b:{%b}:" % (_bytes(prefix), _tag(b"memory", prefix, namespace, conversation_id))
        kinds = (b"messages", b"state", b"evicted", b"delivering", b"lease", b"op:")
        return cls(*(base + kind for kind in kinds))

    def operation(self, operation_id: bytes) -> bytes:
        """The key that remembers that an operation was applied, and the revision it made."""
        return self._operation + _text(operation_id)

    @staticmethod
    def user_tag(prefix: str, namespace: str, user_id: str) -> bytes:
        """What a conversation's state says of the user whom it belongs to."""
        return _tag(b"memory user", prefix, namespace, user_id)

    @staticmethod
    def index(prefix: str, user_tag: bytes) -> bytes:
        """The key of a user's index. In a cluster it is in another slot than the conversations that it names."""
        return b"%b:{%b}:conversations" % (_bytes(prefix), user_tag)

    @staticmethod
    def older_layout(prefix: str, conversation_id: str) -> bytes:
        """The key of a conversation in the older, plain layout."""
        return b"%b:%b" % (_bytes(prefix), _bytes(conversation_id))


def member_of(conversation_id: str) -> bytes:
    """A conversation's name in the index of its user."""
    return _bytes(conversation_id)


def conversation_of(member: bytes) -> str:
    """The id that `member_of` was given."""
    return member.decode("utf-8", "surrogatepass")


def namespace_digest(prefix: str, namespace: str) -> bytes:
    """Sixteen bytes that stand for one cache in the values it keeps."""
    return _digest(b"cache", prefix, namespace, "")


def operation_id(request_id: str) -> bytes:
    """Sixteen bytes that stand for a caller's own request id."""
    return hashlib.sha256(_bytes(request_id)).digest()[:16]
