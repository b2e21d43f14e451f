"""What Redis Cluster says about who owns which keys: hash slots, the slot map, redirections.

See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ractogateway.redis.transport import failures
from ractogateway.redis.transport.call import Command
from ractogateway.redis.transport.hosts import Host

SLOTS: Final = REDIS_CLUSTER_HASH_SLOTS
WHERE_ARE_THE_SLOTS: Final[Command] = (b"CLUSTER", b"SLOTS")
ASKING: Final[Command] = (b"ASKING",)

_COUNTED_KEYS = frozenset({b"EVALSHA", b"EVAL"})
_UNKNOWN_NAMES = frozenset({"", "?"})
"""How a node says that a name is not known: the one that was used to reach it has to do."""


def slot_of(command: Command) -> int | None:
    """The hash slot that decides where a command goes: that of its first key. None for a command without keys."""
    if command[0] in _COUNTED_KEYS:
        key = command[3] if command[2] else None
    else:
        key = command[1] if len(command) > 1 else None
    if key is None:
        return None
    return key_slot(key if isinstance(key, bytes) else b"%d" % key)


class Redirect(NamedTuple):
    """A reply that says that a command belongs elsewhere. It was not executed.

    ``asking``: for this one command only, after ASKING; otherwise the whole slot has moved.
    """

    slot: int
    host: Host
    asking: bool

    @classmethod
    def of(cls, error: Exception, told_by: str) -> Redirect | None:
        """Read a MOVED or ASK (``MOVED 3999 127.0.0.1:6381``) of a node reached as ``told_by``; None if it is neither
        or cannot be understood.
        """
        code = failures.server_error_code(error)
        if code not in ("MOVED", "ASK"):
            return None
        words = str(error).split(" ")
        name, _, port = words[-1].rpartition(":")  # IPv6 addresses come with and without brackets
        name = name.strip("[]")
        slot = words[-2] if len(words) > 1 else ""
        if not (slot.isdecimal() and int(slot) < SLOTS and port.isdecimal()):
            return None
        return cls(int(slot), Host(told_by if name in _UNKNOWN_NAMES else name, int(port)), code == "ASK")


@dataclass(frozen=True)
class SlotMap:
    """Who owns which slots, as one node sees it.

    Attributes:
        owners: the primary of each slot; None for a slot that nobody serves.
        members: all nodes that serve, replicas too, with their ids (None where the server gives none).
        told_by: the name by which the node that told this was reached.
    """

    owners: list[Host | None]
    members: Mapping[Host, bytes | None]
    told_by: str = field(compare=False)

    @classmethod
    def of(cls, reply: Any, told_by: str) -> SlotMap:
        """Read the reply to CLUSTER SLOTS: ``[first slot, last slot, primary, replica, …]`` a range, where a node is
        ``[name, port, id, …]``.

        Raises:
            ValueError: it is something else.
        """
        owners: list[Host | None] = [None] * SLOTS
        members: dict[Host, bytes | None] = {}
        try:
            for first, last, *nodes in reply:
                hosts = [_member(node, told_by) for node in nodes]
                members.update(hosts)
                for slot in range(first, last + 1):
                    owners[slot] = hosts[0][0]
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError("not a reply to CLUSTER SLOTS") from error
        return cls(owners, members, told_by)


def _member(node: Any, told_by: str) -> tuple[Host, bytes | None]:
    name = bytes(node[0] or b"").decode()
    return Host(told_by if name in _UNKNOWN_NAMES else name, int(node[1])), bytes(node[2]) if len(node) > 2 else None  # noqa: PLR2004
