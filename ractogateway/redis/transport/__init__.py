"""The way to Redis: the only package that knows connections and imports the redis library."""

from __future__ import annotations

from ractogateway._driving import drive
from ractogateway._extras import missing_extra

try:
    import redis as _redis  # noqa: F401 - only to see whether it is there
except ModuleNotFoundError as _error:
    raise missing_extra("redis", "ractogateway.redis") from _error

from ractogateway.redis.transport.call import Call, Script, plain_call, script_call
from ractogateway.redis.transport.heartbeats import Heartbeat
from ractogateway.redis.transport.opening import open_async_port, open_blocking_port, open_worker_port
from ractogateway.redis.transport.port import Loop, Port, TimeLimits
from ractogateway.redis.transport.tracked_port import TrackedPort, open_tracked_port
from ractogateway.redis.transport.tracking import Fill, Listener, Tracker, forget, own_write
from ractogateway.redis.transport.types import AsyncClient, BlockingClient
from ractogateway.redis.transport.waking import Signal

__all__ = [
    "AsyncClient",
    "BlockingClient",
    "Call",
    "Fill",
    "Heartbeat",
    "Listener",
    "Loop",
    "Port",
    "Script",
    "Signal",
    "TimeLimits",
    "TrackedPort",
    "Tracker",
    "drive",
    "forget",
    "open_async_port",
    "open_blocking_port",
    "open_tracked_port",
    "open_worker_port",
    "own_write",
    "plain_call",
    "script_call",
]
