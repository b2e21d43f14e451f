"""Evicted messages on their way to the user's hook.

The script that trims moves what it trims into a list, in the same step. Whoever writes next takes the list over (a
lease, renewed while the hook is at work), calls the hook, and only then deletes it. A process that dies anywhere in
between leaves the messages there: at least once, and in order. A turn of which this process cannot read a part, and
another one may, waits for that one (which gets it after turns that were trimmed later).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from ractogateway.redis._memory.codec import in_turns
from ractogateway.redis._memory.store import Place, Store
from ractogateway.redis.entries import entry_kind, is_for_others
from ractogateway.redis.scripts import memory_calls as calls

_RELEASE_SECONDS = 1.0
_BEAT_SECONDS = calls.LEASE_MS / 3000


async def deliver(store: Store, place: Place) -> int:
    """Give all that waits to ``on_evict``; how many messages it took. What makes it raise waits on."""
    hook = store.config.on_evict
    delivered = 0
    more = hook is not None
    while more and hook is not None:
        token = os.urandom(16)
        entries = await store.port.run(calls.claim_evicted(place.keys, store.terms, token=token))
        if not entries:
            break
        ours, others = _divide(store, place, entries)
        messages = store.codec.decode(place.keys, ours)
        store.counters.skipped(len(others))
        heartbeat = store.port.every(_BEAT_SECONDS, calls.renew_claim(place.keys, token=token))
        try:
            if messages:
                await store.port.call_user(hook, place.id, messages)
        except Exception as error:  # noqa: BLE001 - the write that evicted was done; its caller is not to hear of this
            store.counters.hook_failed(error)
            await store.port.run(calls.settle_evicted(place.keys, token=token, delivered=False))
            break
        except BaseException as end:  # cancelled or interrupted: let somebody else try at once
            if not isinstance(end, GeneratorExit):  # there is no loop any more to do anything in
                await store.port.cleanup(partial(_release, store, place, token), seconds=_RELEASE_SECONDS)
            raise
        finally:
            heartbeat.stop()
        more = await store.port.run(calls.settle_evicted(place.keys, token=token, delivered=True, others=others))
        delivered += len(messages)
    return delivered


def _divide(store: Store, place: Place, entries: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The entries for this process's hook, and those of turns that only somebody else can read as a whole."""
    ours: list[bytes] = []
    others: list[bytes] = []
    for turn in in_turns(entries, entry_kind):
        waits = any(is_for_others(entry) and store.codec.read(place.keys, entry) is None for entry in turn)
        (others if waits else ours).extend(turn)
    return ours, others


async def _release(store: Store, place: Place, token: bytes) -> None:
    await store.port.run(calls.settle_evicted(place.keys, token=token, delivered=False))
