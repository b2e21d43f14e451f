"""The way to Redis: the only package that knows connections and imports the redis library."""

from __future__ import annotations

from ractogateway._extras import missing_extra

try:
    import redis as _redis  # noqa: F401 - only to see whether it is there
except ModuleNotFoundError as _error:
    raise missing_extra("redis", "ractogateway.redis") from _error

from ractogateway.redis.transport.call import Call, Script, plain_call, script_call
from ractogateway.redis.transport.heartbeats import Heartbeat
from ractogateway.redis.transport.opening import open_async_port, open_blocking_port, open_worker_port
from ractogateway.redis.transport.port import Port, TimeLimits, drive
from ractogateway.redis.transport.tracked_port import TrackedPort, open_tracked_port
from ractogateway.redis.transport.tracking import Fill, Listener, Tracker
from ractogateway.redis.transport.types import AsyncClient, BlockingClient

__all__ = [
    "AsyncClient",
    "BlockingClient",
    "Call",
    "Fill",
    "Heartbeat",
    "Listener",
    "Port",
    "Script",
    "TimeLimits",
    "TrackedPort",
    "Tracker",
    "drive",
    "open_async_port",
    "open_blocking_port",
    "open_tracked_port",
    "open_worker_port",
    "plain_call",
    "script_call",
]
