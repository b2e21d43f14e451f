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


def _tag(tool: bytes, prefix: str, namespace: str, owner: str) -> bytes:
    parts = (tool, _bytes(prefix), _bytes(namespace), _bytes(owner))
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()
    return _text(digest[:_TAG_BYTES])


def _text(digest: bytes) -> bytes:
    return base64.urlsafe_b64encode(digest).rstrip(b"=")


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Keys of one exact cache: a generation, an index of live entries by expiry, and the entries."""

    generation: bytes
    index: bytes
    _entry: bytes

    @classmethod
    def of(cls, prefix: str, namespace: str) -> CacheKeys:
        """The keys of the cache under this prefix for this tenant."""
        base = b"%b:{%b}:" % (_bytes(prefix), _tag(b"cache", prefix, namespace, ""))
        return cls(base + b"generation", base + b"index", base + b"e:")

    @staticmethod
    def member(fingerprint: bytes) -> bytes:
        """The name of an entry in the index."""
        return _text(fingerprint)

    def entry(self, fingerprint: bytes) -> bytes:
        """The key of one answer."""
        return self._entry + _text(fingerprint)


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


def operation_id(request_id: str) -> bytes:
    """Sixteen bytes that stand for a caller's own request id."""
    return hashlib.sha256(_bytes(request_id)).digest()[:16]
