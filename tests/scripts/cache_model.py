"""The exact cache's bucket as plain Python: what the scripts must do, without the way they do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from ractogateway.redis.scripts.cache_calls import Status

Stamp = tuple[int, tuple[tuple[str, int], ...]]


@dataclass
class Entry:
    stamp: Stamp
    content: str
    compute_ms: int
    stale: bool = False


@dataclass(frozen=True)
class Told:
    """The reply to a lookup: of the stamp only whether there is one."""

    status: Status
    value: str = ""
    owns: bool = False


@dataclass
class Bucket:
    """One bucket. Generations and versions are numbers that never come twice."""

    generation: int | None = None
    versions: dict[str, int] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    leases: dict[str, tuple[str, Stamp]] = field(default_factory=dict)
    index: set[str] = field(default_factory=set)
    tag_indexes: dict[str, set[str]] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def alive(self, stamp: Stamp) -> bool:
        generation, versions = stamp
        return generation == self.generation and all(self.versions.get(tag) == version for tag, version in versions)

    def is_overtaken(self, stamp: Stamp, known: tuple[str, ...]) -> bool:
        """Whether a lease is dead as far as these tags tell: no others are asked about where there is an answer."""
        generation, versions = stamp
        return generation != self.generation or any(
            tag in known and self.versions.get(tag) != version for tag, version in versions
        )

    def stamp(self, tags: tuple[str, ...]) -> Stamp:
        if self.generation is None:
            self.generation = next(self._numbers)
        for tag in tags:
            if tag not in self.versions:
                self.versions[tag] = next(self._numbers)
        return self.generation, tuple((tag, self.versions[tag]) for tag in tags)

    def look_up(self, name: str, token: str, tags: tuple[str, ...], early: float | None, *, stale: bool) -> Told:
        entry, lease = self.entries.get(name), self.leases.get(name)
        known = (*tags, *(tag for tag, _ in entry.stamp[1])) if entry is not None else tags
        if lease is not None and self.is_overtaken(lease[1], known):
            lease = None
        mine = lease is not None and lease[0] == token and self.alive(lease[1])

        def take() -> bool:
            if not mine:
                self.leases[name] = (token, self.stamp(tags))
            return True

        free = lease is None or (mine and all(tag in known for tag, _ in lease[1][1]))
        if entry is not None and self.alive(entry.stamp):
            if not entry.stale:
                due = early is not None and entry.compute_ms * early >= LIFE_MS
                return Told(Status.HIT, entry.content, due and free and take())
            if stale:
                return Told(Status.STALE, entry.content, free and take())
        if lease is not None and not mine and self.alive(lease[1]):
            return Told(Status.WAIT, lease[0])
        return Told(Status.OWN, token, take())

    def store(self, name: str, content: str, tags: tuple[str, ...], compute_ms: int, claim: str | None) -> bool:
        if claim is not None:
            lease = self.leases.get(name)
            if lease is None or lease[0] != claim:
                return False
            if not self.alive(lease[1]):
                del self.leases[name]
                return False
        self.entries[name] = Entry(self.stamp(tags), content, compute_ms)
        self.leases.pop(name, None)
        self.index.add(name)
        for tag in tags:
            self.tag_indexes.setdefault(tag, set()).add(name)
        return True

    def renew(self, name: str, token: str) -> bool:
        lease = self.leases.get(name)
        return lease is not None and lease[0] == token and self.alive(lease[1])

    def release(self, name: str, token: str) -> bool:
        lease = self.leases.get(name)
        if lease is None or lease[0] != token:
            return False
        del self.leases[name]
        return True

    def invalidate(self, name: str) -> bool:
        """Whether it was live as far as generation and time tell."""
        entry = self.entries.pop(name, None)
        self.leases.pop(name, None)
        self.index.discard(name)
        return entry is not None and entry.stamp[0] == self.generation and not entry.stale

    def clear(self) -> None:
        self.generation = None
        self.index.clear()

    def invalidate_tag(self, tag: str) -> None:
        self.versions.pop(tag, None)

    def bury(self, tag: str) -> None:
        for name in sorted(self.tag_indexes.get(tag, ())):
            entry = self.entries.get(name)
            carried = dict(entry.stamp[1]) if entry is not None else {}
            foreign = entry is None or entry.stamp[0] != self.generation
            if foreign or (tag in carried and carried[tag] != self.versions.get(tag)):
                self.entries.pop(name, None)
                self.index.discard(name)
                self.tag_indexes[tag].discard(name)
            elif tag not in carried:
                self.tag_indexes[tag].discard(name)


LIFE_MS = 60_000
"""Of every fresh entry, as far as the model knows: minutes that no test takes."""
