"""Processes whose threads gevent made greenlets of: the blocking faces work, and let the other greenlets run."""

from __future__ import annotations

import textwrap

import pytest
from probing import run_script

pytest.importorskip("gevent", reason="gevent is not installed")

PATCH = """
import time
import gevent.monkey
gevent.monkey.patch_all()
"""
LATE = """
import time
import gevent.monkey
cache = new_cache()
warnings.simplefilter("ignore")  # gevent warns of modules that were imported before
gevent.monkey.patch_all()
"""

SCRIPTS = {
    "many greenlets": """
        import redis

        from ractogateway.redis import RateLimitConfig, RedisRateLimiter

        config = RateLimitConfig(max_tokens_per_minute=1_000)
        limiter = RedisRateLimiter(URL, config=config, on_outage="raise", options=options())
        beats = []

        def beat():
            while True:
                beats.append(time.monotonic())
                gevent.sleep(0.001)

        def spend(number):
            return sum(limiter.check_and_consume(f"{NAMESPACE}-{number % 4}", 10) for _ in range(30))

        spenders = [gevent.spawn(spend, number) for number in range(40)]
        gevent.joinall(spenders, raise_error=True)
        assert sum(each.value for each in spenders) == 4 * 100, "the budget of each of four users"
        heart = gevent.spawn(beat)
        redis.Redis.from_url(URL).execute_command("CLIENT", "PAUSE", 300, "ALL")
        assert not limiter.check_and_consume(f"{NAMESPACE}-0", 10)
        heart.kill()
        assert len(beats) > 10, "nobody else ran meanwhile"
        limiter.close()
        assert limiter.get_remaining(f"{NAMESPACE}-0") == 0
    """,
    "more greenlets than connections": """
        from ractogateway.redis import RateLimitConfig, RedisRateLimiter

        config = RateLimitConfig(max_tokens_per_minute=1_000)
        few = options(max_in_flight=4)
        limiter = RedisRateLimiter(URL, config=config, on_outage="raise", options=few)
        asking = [gevent.spawn(limiter.check_and_consume, NAMESPACE, 10) for _ in range(120)]
        gevent.joinall(asking, raise_error=True)
        assert sum(each.value for each in asking) == 100
    """,
    "waiting": """
        from ractogateway.messages import LLMResponse
        from ractogateway.redis import RateLimitConfig, RedisRateLimiter

        calls = []

        def compute():
            calls.append(1)
            gevent.sleep(0.2)
            return LLMResponse(content="computed")

        cache = new_cache()
        asking = [gevent.spawn(cache.get_or_compute, *question(1), compute) for _ in range(20)]
        gevent.joinall(asking, raise_error=True)
        assert {each.value.content for each in asking} == {"computed"}
        assert len(calls) == 1, len(calls)

        limiter = RedisRateLimiter(URL, config=RateLimitConfig(max_concurrent=1), on_outage="raise", options=options())
        with limiter.reserve(NAMESPACE, 10, lease_seconds=0.3) as reservation:
            gevent.sleep(0.7)
            assert not limiter.reserve(NAMESPACE, 10).decision.allowed, "a heartbeat keeps the slot"
            reservation.settle(5)
    """,
    "forks": """
        cache = new_cache()
        fill(cache)
        children = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                ask(cache)
                os._exit(0)
            children.append(pid)
        ask(cache)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    """,
    "Sentinels are refused": """
        from ractogateway.errors import InvalidValueError
        from ractogateway.redis import RedisRateLimiter

        try:
            RedisRateLimiter("redis+sentinel://127.0.0.1:1/name").check_and_consume("u")
        except InvalidValueError as error:
            assert "client=" in str(error)
        else:
            raise AssertionError("it was tried")
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_patched_before_the_first_import(any_server, name):
    assert run_script(PATCH + textwrap.dedent(SCRIPTS[name]) + "print('done')", any_server.url) == "done\n"


def test_patched_after_the_first_object_was_made(any_server):
    """As gunicorn does with an application that it loads before its workers."""
    assert run_script(LATE + textwrap.dedent(SCRIPTS["forks"]) + "print('done')", any_server.url) == "done\n"
