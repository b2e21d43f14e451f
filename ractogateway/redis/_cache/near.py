"""Copies of answers in this process, each for as long as it is known to be what Redis holds.

One `NearCache` belongs to one cache object. For every event loop (all blocking callers share one) it has one set of
copies, which the tracker of that loop's connection keeps true; see `ractogateway.redis.transport.tracking`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from ractogateway.cache.fingerprint import fingerprint
from ractogateway.messages import LLMResponse
from ractogateway.redis.keys import CacheKeys
from ractogateway.redis.transport import Fill, TrackedPort

_NUMBERS: Final = (int, float)


class Copy(NamedTuple):
    """An answer as it is kept.

    Attributes:
        response: marked as a hit; never handed out itself.
        changeable: its fields that must not be shared.
        ends_at: when it must not be served any longer, by time.monotonic.
        compute_seconds: how long it took to make.
        entry_key, other_keys: the Redis keys that it depends on.
    """

    response: LLMResponse
    changeable: tuple[str, ...]
    ends_at: float
    compute_seconds: float
    entry_key: bytes
    other_keys: Sequence[bytes]


class Copies:
    """The copies of one event loop, least recently used out first.

    Changes happen under the tracker's lock. Lookups take no lock: each is one dictionary operation.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_fingerprint: OrderedDict[bytes, Copy] = OrderedDict()
        self._fingerprints: dict[bytes, bytes] = {}  # by the key of the entry
        self._dependants: dict[bytes, set[bytes]] = {}  # other key -> fingerprints

    def get(self, fingerprint: bytes) -> Copy | None:
        """The copy, now the most recently used one."""
        copy = self._by_fingerprint.get(fingerprint)
        if copy is not None:
            try:
                self._by_fingerprint.move_to_end(fingerprint)
            except KeyError:  # it was dropped a moment ago, but after it was found
                return copy
        return copy

    def put(self, fingerprint: bytes, copy: Copy) -> None:
        """Keep a copy. Under the tracker's lock."""
        self._drop(fingerprint)
        while len(self._by_fingerprint) >= self._most:
            self._drop(next(iter(self._by_fingerprint)))
        self._by_fingerprint[fingerprint] = copy
        self._fingerprints[copy.entry_key] = fingerprint
        for key in copy.other_keys:
            self._dependants.setdefault(key, set()).add(fingerprint)

    def __len__(self) -> int:
        return len(self._by_fingerprint)

    def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
        """See `Listener`."""
        if keys is None:
            self._by_fingerprint.clear()
            self._fingerprints.clear()
            self._dependants.clear()
            return
        for key in keys:
            fingerprint = self._fingerprints.get(key)
            if fingerprint is not None:
                self._drop(fingerprint)
            for dependant in list(self._dependants.get(key, ())):
                self._drop(dependant)

    def _drop(self, fingerprint: bytes) -> None:
        copy = self._by_fingerprint.pop(fingerprint, None)
        if copy is None:
            return
        self._fingerprints.pop(copy.entry_key, None)
        for key in copy.other_keys:
            dependants = self._dependants.get(key)
            if dependants is not None:
                dependants.discard(fingerprint)
                if not dependants:
                    del self._dependants[key]


class NearCache:
    """The copies of one cache object.

    Args:
        port: what they are filled through.
        most: how many are kept, for each event loop.
    """

    def __init__(self, port: TrackedPort, most: int) -> None:
        self.port = port
        self._most = most
        self._names: dict[tuple[object, ...], bytes] = {}

    def name(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        context: Mapping[str, Any] | None,
    ) -> bytes:
        """`fingerprint` of a request; remembered, for it would be half of the time that a copy takes.

        Only of plain requests, whose fields tell by their types and values alone what they are.

        Raises:
            InvalidTypeError, InvalidValueError: as `fingerprint`.
        """
        plain = (
            (context is None or (type(context) is dict and not context))
            and type(user_message) is type(system_prompt) is type(model) is str
            and type(temperature) in _NUMBERS
            and type(max_tokens) is int
        )
        if not plain:
            return fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        request = (user_message, system_prompt, model, temperature, max_tokens)
        name = self._names.get(request)
        if name is None:
            name = fingerprint(*request)
            if len(self._names) >= self._most:
                self._names.clear()
            self._names[request] = name
        return name

    def find(self, fingerprint: bytes, early: float = 0.0) -> LLMResponse | None:
        """A copy of the answer that is the caller's own, or None.

        None, too, when it ends within ``early`` times what it took to compute it: then the store is to be asked, which
        knows who renews it.
        """
        tracker = self.port.tracker()
        copies = tracker.listener(self, self._make)  # also where nothing is tracked yet: somebody must want it
        copy = copies.get(fingerprint) if tracker.alive else None
        if copy is None or time.monotonic() + early * copy.compute_seconds >= copy.ends_at:
            return None
        return copy.response.twin(copy.changeable)

    def keep(self, fingerprint: bytes, copy: Copy, fills: Sequence[Fill]) -> bool:
        """Keep an answer that was read by these fills, unless one of them was overtaken; whether it was kept."""
        kept = False

        def store() -> None:
            nonlocal kept
            fills[0].tracker.listener(self, self._make).put(fingerprint, copy)
            kept = True

        step: Callable[[], object] = store
        for fill in fills:
            step = partial(fill.keep, step)
        return bool(step()) and kept

    def __len__(self) -> int:
        return len(self.port.tracker().listener(self, self._make))

    def _make(self) -> Copies:
        return Copies(self._most)


def depends_on(keys: CacheKeys, tag_ids: Sequence[bytes]) -> tuple[bytes, ...]:
    """The keys, beside its own, whose change makes an entry another one or none."""
    return (keys.generation, *(keys.tag(tag_id) for tag_id in tag_ids))
