"""The kinds of clients that may be given, for annotations and for the check at the edge."""

from __future__ import annotations

from typing import TypeAlias

import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.cluster
import redis.client
import redis.cluster

from ractogateway._checks import type_name
from ractogateway.errors import InvalidTypeError

BlockingClient: TypeAlias = redis.Redis | redis.cluster.RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster

_BLOCKING = (redis.Redis, redis.cluster.RedisCluster)
_AWAITED = (redis.asyncio.Redis, redis.asyncio.cluster.RedisCluster)
_PIPELINES = (
    redis.client.Pipeline,
    redis.cluster.ClusterPipeline,
    redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.ClusterPipeline,
)


def check_blocking_client(client: object) -> None:
    """A redis-py client, cluster client or fake for blocking calls."""
    _refuse_pipeline(client)
    if isinstance(client, _AWAITED):
        raise InvalidTypeError(
            f"client is a redis.asyncio client ({type(client).__name__}): pass it to the Async… class, "
            "or pass a redis.Redis here"
        )
    if not isinstance(client, _BLOCKING):
        raise InvalidTypeError(f"client must be a redis.Redis or a RedisCluster, not {type_name(client)}")


def check_async_client(client: object) -> None:
    """A redis.asyncio client, cluster client or fake."""
    _refuse_pipeline(client)
    if isinstance(client, _BLOCKING):
        raise InvalidTypeError(
            f"client is a blocking client ({type(client).__name__}): pass it to the class without Async in its name, "
            "or pass a redis.asyncio.Redis here"
        )
    if not isinstance(client, _AWAITED):
        raise InvalidTypeError(
            f"client must be a redis.asyncio.Redis or a redis.asyncio RedisCluster, not {type_name(client)}"
        )


def is_cluster_client(client: BlockingClient | AsyncClient) -> bool:
    """Whether this client spreads keys over several servers."""
    return isinstance(client, (redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster))


def _refuse_pipeline(client: object) -> None:
    if isinstance(client, _PIPELINES):
        raise InvalidTypeError("client is a Pipeline, which only queues commands: pass the client it was made from")
