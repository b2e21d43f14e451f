"""What one server tells about itself. Whatever its ACL forbids is left out, and said to be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from ractogateway.errors import PermissionDenied, StoreRefused
from ractogateway.redis.transport.inspection import Encrypted, Inspected, pairs

_TRIPS = 20
_FEWEST_TRIPS, _LONG_ENOUGH_SECONDS = 5, 0.5
_SETTINGS = ("save", "stop-writes-on-bgsave-error", "appendfsync", "timeout")


@dataclass
class Facts:
    """One server.

    Attributes:
        name: its host and port, or its socket.
        info: INFO; empty where that is forbidden.
        may_ask_info: whether it is not.
        settings: CONFIG GET of some names; empty where that is forbidden.
        trips: seconds that round trips took.
        clock_ahead: seconds by which its clock is ahead of this machine's; None where TIME is forbidden.
        clock_error: how far off that may be.
        tracks: why it tracks no copies; empty if it does.
        lacking: of each user's tool, what its ACL forbids; None where ACL DRYRUN is forbidden.
    """

    name: str
    is_local: bool
    encrypted: Encrypted | None
    info: dict[str, str] = field(default_factory=dict)
    may_ask_info: bool = True
    settings: dict[str, str] = field(default_factory=dict)
    trips: list[float] = field(default_factory=list)
    clock_ahead: float | None = None
    clock_error: float = 0.0
    tracks: str = ""
    lacking: dict[str, list[str]] | None = None

    def number(self, name: str) -> float | None:
        """A number of INFO; None where the server does not tell it."""
        try:
            return float(self.info[name])
        except (KeyError, ValueError):
            return None

    @property
    def trip(self) -> float | None:
        """The median round trip in seconds."""
        return statistics.median(self.trips) if self.trips else None

    @property
    def is_replica(self) -> bool:
        """Whether it follows another server."""
        return self.info.get("role") == "slave"


async def gather_facts(server: Inspected) -> Facts:
    """Ask one server.

    Raises:
        StoreUnavailable: it stopped answering, or cannot answer now.
    """
    facts = Facts(server.name, server.is_local, server.encrypted)
    await _ask_the_time(server, facts)
    try:
        facts.info = _fields(await server.ask("INFO"))
    except StoreRefused:
        facts.may_ask_info = False
    for name in _SETTINGS:
        try:
            facts.settings.update(pairs(await server.ask("CONFIG", "GET", name)))
        except StoreRefused:  # renamed or forbidden, as managed services have it
            break
    facts.tracks = await _obstacle_to_tracking(server)
    return facts


async def _ask_the_time(server: Inspected, facts: Facts) -> None:
    """TIME is what every tool's user may ask, so that it measures the way, too."""
    for _ in range(_TRIPS):
        before, start = time.time(), time.perf_counter()
        try:
            seconds, microseconds = map(int, await server.ask("TIME"))
        except StoreRefused:
            return
        trip = time.perf_counter() - start
        facts.trips.append(trip)
        if trip == min(facts.trips):  # the shortest trip leaves the least doubt
            facts.clock_ahead = seconds + microseconds / 1e6 - (before + trip / 2)
            facts.clock_error = trip / 2
        if len(facts.trips) >= _FEWEST_TRIPS and sum(facts.trips) > _LONG_ENOUGH_SECONDS:
            return


async def _obstacle_to_tracking(server: Inspected) -> str:
    try:
        await server.ask("CLIENT", "TRACKING", "ON")
        await server.ask("CLIENT", "TRACKING", "OFF")
    except PermissionDenied:
        return "the ACL forbids this user CLIENT TRACKING"
    except StoreRefused as error:
        return f"the server knows no CLIENT TRACKING ({error.code})"
    return ""


def _fields(info: object) -> dict[str, str]:
    text = info.decode(errors="replace") if isinstance(info, bytes) else str(info)
    return dict(_field_lines(text.splitlines()))


def _field_lines(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and not name.startswith("#"):
            yield name, value
