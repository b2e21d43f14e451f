"""The ACL rules of SECURITY.md: each lets its tool do everything, and no word of it can be left out."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
import redis
import redis.asyncio
from servers import Server, ServerNotInstalled, redis7, redis8, valkey9, wait_until

from ractogateway.errors import PermissionDenied, StoreRefused
from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    BudgetLeases,
    ChatMemoryConfig,
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisRateLimiter,
)

pytestmark = pytest.mark.usefixtures("patience")

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()
RULES = {
    user: (password, rule.split())
    for user, password, rule in re.findall(r"^ACL SETUSER (\w+) on >(\w+) (.+)$", SECURITY, re.MULTILINE)
}

REQUEST = ("question", "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="answer")
MONTH = 31 * 86_400.0


def use_cache(where: dict[str, object]) -> None:
    """Every method, and every branch of its scripts: entries that expire, that have no end, that outlive others."""
    cache = RedisExactCache(**where, ttl_seconds=0.001, on_outage="raise")
    cache.put(*REQUEST, ANSWER)
    wait_until(lambda: cache.get(*REQUEST) is None, what="the entry's end")
    for ttl_seconds in (60, 3600):
        cache.put(*REQUEST, ANSWER, ttl_seconds=ttl_seconds)
    lasting = RedisExactCache(**where, on_outage="raise")
    lasting.put(*REQUEST, ANSWER)
    assert lasting.get(*REQUEST).content == "answer"
    assert (len(lasting), lasting.stats.size) == (1, 1)
    assert lasting.invalidate(*REQUEST)
    tagged = RedisExactCache(**where, ttl_seconds=60, stale_seconds=1, on_outage="raise")
    assert tagged.get_or_compute(*REQUEST, lambda: ANSWER, tags=["tag"]).content == "answer"
    assert tagged.get_many([REQUEST])[0].content == "answer"
    tagged.invalidate_tag("tag")
    fleet = tagged.stats.fleet
    if fleet is None or not fleet.misses:  # what counts never fails a request
        raise PermissionDenied("the counters are out of reach")
    with pytest.raises(ValueError, match="no answer"):
        tagged.get_or_compute(*REQUEST, fail)
    hasty = RedisExactCache(**where, ttl_seconds=60, on_outage="raise", max_wait_seconds=0.0)
    hasty.get_or_compute(*REQUEST, lambda: ANSWER)
    if hasty.get(*REQUEST) is None:  # failing to give up a lease fails no request, either
        raise PermissionDenied("the lease is still there")
    lasting.clear()


def fail() -> LLMResponse:
    raise ValueError("no answer")


def use_limiter(where: dict[str, object]) -> None:
    """Every method; a log that grows by entries, and one so full that a charge goes into its last entry."""
    limiter = RedisRateLimiter(**where, config=RateLimitConfig(window_seconds=MONTH), on_outage="raise")
    for _ in range(150):
        assert limiter.check_and_consume("u-42", 1)
    assert limiter.consume("u-42", 1, request_id="req-1").allowed
    assert limiter.consume("u-42", 1, request_id="req-1").allowed
    assert not limiter.consume("u-42", 10_000).allowed
    assert limiter.get_remaining("u-42") == limiter.peek("u-42").remaining == 10_000 - 151
    limiter.reset("u-42")
    assert limiter.get_remaining("u-42") == 10_000

    limits = RateLimitConfig(max_requests_per_minute=9, max_tokens_per_day=900, max_concurrent=1, window_seconds=0.1)
    limiter = RedisRateLimiter(**where, config=limits, on_outage="raise")
    assert [decision.allowed for decision in limiter.consume_many([("u-43", 900), ("u-43", 1)])] == [True, False]
    limiter.reset("u-43")
    reservation = limiter.reserve("u-43", 100, lease_seconds=0.03)
    assert not limiter.reserve("u-43", 1).decision.allowed
    with ThreadPoolExecutor(1) as other:
        first = other.submit(limiter.wait, "u-43", 801, timeout_seconds=0.1)
        assert not limiter.wait("u-43", 801, timeout_seconds=0.1).allowed
        assert not first.result().allowed
    assert not reservation.slot_lost
    reservation.settle(50)
    assert limiter.reserve("u-43", 1, lease_seconds=0.01).decision.allowed
    wait_until(lambda: limiter.reserve("u-43", 1).decision.allowed, what="the end of a lease that nobody renews")
    assert limiter.wait("u-43", 800, timeout_seconds=5).allowed

    limiter = RedisRateLimiter(**where, budget_leases=BudgetLeases(seconds=1.0), on_outage="raise")
    assert all(limiter.check_and_consume("u-44", 1) for _ in range(3))


def use_memory(where: dict[str, object]) -> None:
    """Every method; conversations with an end and without, turns that leave, pinned messages that come late."""
    for ttl_seconds in (60, None):
        evicted: list[object] = []
        config = ChatMemoryConfig(max_turns=1, ttl_seconds=ttl_seconds, on_evict=lambda *told: evicted.append(told))
        memory = RedisChatMemory(**where, config=config)
        memory.append("c", "system", "first")
        for _ in range(2):
            memory.extend("c", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
        memory.append("c", "system", "second", request_id=f"req-{ttl_seconds}")
        memory.append("c", "user", "again", user_id="u")
        assert memory.count("c") == len(memory.get_history("c")) == 3
        assert (len(memory.get_history("c", last=1)), memory.get_page("c").count) == (3, 3)
        assert memory.get_changes("c", 0).anew
        assert memory.deliver_evicted("c") == 0
        assert len(evicted) >= 1
        memory.fork("c", "d")
        memory.import_("e", memory.export("c"), user_id="u")
        memory.replace("e", [])
        assert memory.pop("d") is not None
        assert memory.conversations("u") == ["c", "d"]
        assert memory.migrate("older") == 0
        memory.clear("c")
        assert memory.get_history("c") == []
        memory.erase("d")
        memory.erase_user("u")


USES: dict[str, Callable[[dict[str, object]], None]] = {
    "cache": use_cache,
    "limiter": use_limiter,
    "memory": use_memory,
}


@pytest.fixture(params=USES)
def tool(request):
    return request.param


@pytest.fixture
def users(server: Server):
    if not server.owned:
        pytest.skip("makes ACL users, which is nothing to do to a server that is not ours")
    yield server
    server.command("ACL", "DELUSER", *RULES)


def allow(server: Server, user: str, rule: list[str]) -> str:
    """Make the user anew with this rule; the URL with its credentials."""
    password = RULES[user][0]
    server.flush()
    server.command("SCRIPT", "FLUSH")
    server.command("ACL", "SETUSER", user, "reset", "on", f">{password}", *rule)
    return server.url.replace("redis://", f"redis://{user}:{password}@")


def test_there_is_a_rule_for_each_tool():
    assert set(RULES) == set(USES)
    assert all(rule[1] == "-@all" for _, rule in RULES.values())


def test_a_rule_suffices_by_url(users, tool):
    USES[tool]({"url": allow(users, tool, RULES[tool][1])})


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_rule_suffices_by_client(users, tool, protocol):
    with redis.Redis.from_url(allow(users, tool, RULES[tool][1]), protocol=protocol) as client:
        USES[tool]({"client": client})


def test_the_rules_suffice_for_the_async_cores(users):
    urls = {tool: allow(users, tool, RULES[tool][1]) for tool in USES}

    async def main() -> None:
        cache = AsyncRedisExactCache(url=urls["cache"], on_outage="raise")
        await cache.put(*REQUEST, ANSWER)
        assert await cache.size() == 1
        limiter = AsyncRedisRateLimiter(url=urls["limiter"], on_outage="raise")
        assert await limiter.check_and_consume("u-42", 1)
        memory = AsyncRedisChatMemory(url=urls["memory"])
        assert await memory.append("c", "user", "q") == 1

    anyio.run(main)


def test_no_word_of_a_rule_is_too_many(users, tool):
    rule = RULES[tool][1]
    for spared in rule:
        if spared != "-@all":
            without = {"url": allow(users, tool, [word for word in rule if word != spared])}
            assert is_refused(USES[tool], without), f"{tool} gets by without {spared}"


def is_refused(use: Callable[[dict[str, object]], None], where: dict[str, object]) -> bool:
    try:
        use(where)
    except PermissionDenied:
        return True
    return False


def test_another_prefix_is_out_of_reach(users):
    url = allow(users, "limiter", RULES["limiter"][1])
    with pytest.raises(StoreRefused):
        RedisRateLimiter(url=url, config=RateLimitConfig(key_prefix="other")).check_and_consume("u-42")


def test_another_database_needs_select(users, tool):
    rule = RULES[tool][1]
    with pytest.raises(StoreRefused):
        USES[tool]({"url": allow(users, tool, rule).removesuffix("/0") + "/1"})
    USES[tool]({"url": allow(users, tool, [*rule, "+select"]).removesuffix("/0") + "/1"})


def test_copies_and_push_need_tracking(users):
    more = re.search(r"near cache need `([^`]+)`", SECURITY)[1].split()
    rule = RULES["cache"][1]
    for words in (rule, *([*rule, *more[:at], *more[at + 1 :]] for at in range(len(more))), [*rule, *more]):
        # An address of its own: what a connection was once refused is not asked for again so soon.
        url = allow(users, "cache", words) + f"?health_check_interval={900 + len(words)}"
        cache = RedisExactCache(url=url, ttl_seconds=60, near_cache_entries=5)
        cache.put(*REQUEST, ANSWER)
        tracker = cache._core._tracked.tracker()
        wait_until(lambda cache=cache, tracker=tracker: cache.get(*REQUEST) and (tracker.alive or tracker.reason))
        assert tracker.alive == (words == [*rule, *more])
        cache.close()


@pytest.mark.parametrize(
    "make", [valkey9, pytest.param(redis8, marks=pytest.mark.slow), pytest.param(redis7, marks=pytest.mark.slow)]
)
def test_a_cluster_needs_its_map(make):
    more = re.search(r"^- A `redis\+cluster://` URL needs `([^`]+)`", SECURITY, re.MULTILINE)[1].split()
    # The port of the cluster bus is the server's own plus 10,000 unless it is told another one, which may be taken.
    with made(make, config={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        wait_until(lambda: serves_its_slots(server), what="the cluster's readiness")
        for tool, use in USES.items():
            url = "redis+cluster" + allow(server, tool, RULES[tool][1]).removeprefix("redis")
            assert is_refused(use, {"url": url})
            allow(server, tool, [*RULES[tool][1], *more])
            use({"url": url})
            for command in (["ASKING"], ["CLUSTER", "MYID"], ["CLUSTER", "SLOTS"]):
                assert server.command("ACL", "DRYRUN", tool, *command) in (b"OK", "OK")


def made(make: Callable[..., Server], **settings: object) -> Server:
    try:
        return make(**settings)
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))


def serves_its_slots(server: Server) -> bool:
    try:
        return server.command("GET", "any") is None
    except redis.RedisError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
