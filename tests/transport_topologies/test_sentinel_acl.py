"""The least that suffices behind Sentinels: of SECURITY.md, for the servers and for the Sentinels themselves."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from servers import FACTORIES, ServerNotInstalled
from topologies import sentinels

from ractogateway.errors import StoreRefused
from ractogateway.redis import RateLimitConfig, RedisOptions, RedisRateLimiter
from ractogateway.redis.doctor import check

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()
LIMITER = re.search(r"^ACL SETUSER limiter on >password (.+)$", SECURITY, re.MULTILINE)[1].split()
OF_THE_SENTINELS = re.search(r"Sentinels have an ACL of their\s+own.*?`(-@all [^`]+)`", SECURITY, re.DOTALL)[1].split()


def limiter(url: str) -> RedisRateLimiter:
    return RedisRateLimiter(
        url, config=RateLimitConfig(), on_outage="raise", options=RedisOptions(timeout_seconds=10.0)
    )


@pytest.mark.parametrize(
    "name", ["valkey9", pytest.param("redis8", marks=pytest.mark.slow), pytest.param("redis7", marks=pytest.mark.slow)]
)
def test_the_least_that_suffices(name):
    try:
        FACTORIES[name]()
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with sentinels(FACTORIES[name]) as watched:
        for server in watched.servers:
            server.command("ACL", "SETUSER", "app", "on", ">secret", *LIMITER)
        allow_on_sentinels(watched, OF_THE_SENTINELS)
        credentials = "?sentinel_username=app&sentinel_password=secret"
        url = f"redis+sentinel://app:secret@{watched.hosts}/the-service/0{credentials}"
        one = limiter(url)
        assert one.check_and_consume("u", 10)
        report = asyncio.run(check(url, tools={"limiter": "ractogateway:ratelimit"}))
        assert [found.level for found in report.findings if found.check == "sentinels"] == ["note"]
        assert report.findings[-1].level == "ok", "the trial"
        watched.fail_over()
        assert one.check_and_consume("u", 10), "the successor is found with the same rights"

        allow_on_sentinels(watched, ["-@all"])
        with pytest.raises(StoreRefused):
            limiter(url + "&client_name=new").check_and_consume("u")


def allow_on_sentinels(watched, rule: list[str]) -> None:
    for watcher in watched.watchers:
        watcher.command("ACL", "SETUSER", "app", "reset", "on", ">secret", *rule)
