"""The exact cache on a cluster: spread over its nodes, and whole all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis.cluster
from redis.crc import key_slot
from servers import wait_until
from topologies import Cluster

from ractogateway.cache import CacheRequest
from ractogateway.messages import LLMResponse, Usage
from ractogateway.redis import RedisExactCache, RedisOptions
from ractogateway.redis.keys import CacheBuckets

REQUEST = ("question", "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="answer", usage=Usage(total_tokens=10))
OPTIONS = RedisOptions(timeout_seconds=5.0)


def ask(number: int) -> CacheRequest:
    return CacheRequest(f"question {number}", "", "gpt-4o", 0.0, 256)


@pytest.fixture(params=["url", "client"])
def cache(request: pytest.FixtureRequest, nodes: Cluster) -> Iterator[RedisExactCache]:
    if request.param == "url":
        yield RedisExactCache(url=nodes.url, ttl_seconds=60, on_outage="raise", options=OPTIONS)
    else:
        with redis.cluster.RedisCluster(host=nodes.nodes[0].host, port=nodes.nodes[0].port) as client:
            yield RedisExactCache(client=client, ttl_seconds=60, on_outage="raise")


def test_the_buckets_are_spread_over_the_slots():
    slots = [key_slot(keys.generation) for keys in CacheBuckets("p", "n", spread=True).all]
    assert len(set(slots)) > 240
    for third in range(3):
        assert 50 < sum(third * 5461 <= slot < (third + 1) * 5461 for slot in slots) < 120


def test_everything_is_there(nodes, cache):
    cache.put_many([(ask(number), LLMResponse(content=f"answer {number}")) for number in range(100)], tags=["t"])
    assert all(primary.client().dbsize() > 50 for primary in nodes.primaries())
    found = cache.get_many(map(ask, range(110)))
    assert [answer and answer.content for answer in found] == [f"answer {n}" if n < 100 else None for n in range(110)]
    assert cache.get(*ask(7)[:5]).content == "answer 7"
    assert len(cache) == 100
    cache.put_many([(ask(number), ANSWER) for number in range(10)])
    cache.invalidate_tag("t")
    assert len(cache) == 10
    assert cache.invalidate(*ask(3)[:5])
    assert cache.stats.fleet.hits == 101
    cache.clear()
    assert len(cache) == 0
    assert cache.get_many([ask(1)]) == [None]


def test_one_computation(nodes, cache):
    other = RedisExactCache(url=nodes.url, ttl_seconds=60, on_outage="raise", options=OPTIONS)
    computed, gate = [], threading.Event()

    def compute() -> LLMResponse:
        computed.append(1)
        assert gate.wait(20)
        return ANSWER

    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(one.get_or_compute, *REQUEST, compute, tags=["t"]) for one in (cache, other) for _ in range(4)
        ]
        wait_until(lambda: computed, what="somebody computing")
        gate.set()
        answers = [call.result(20) for call in calls]
    assert len(computed) == 1
    assert sum(answer.cached for answer in answers) == 7
    other.invalidate_tag("t")
    assert cache.get(*REQUEST) is None
