"""The documentation that users already hold (`documented.md`, word for word): each code block runs as a script, and its
variables hold what it says."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_blocks import blocks, documented_server, run_script
from servers import Server

DOCUMENTED = Path(__file__).with_name("documented.md")
CACHE, LIMITER, MEMORY, CLIENT = (block.code for block in blocks(DOCUMENTED, "python"))

CHECK_CACHE = """
request = ("Hello!", "", "gpt-4o", 0.0, 4096)
cache.put(*request, gpt.LLMResponse(content="Hi!"))
assert cache.get(*request).content == "Hi!"
assert kit.chat(gpt.ChatConfig(user_message="Hello!")).content == "Hi!", "the kit does not use the cache it was given"
assert 3599 < _ttl_of_the_entry() <= 3600
"""
CHECK_LIMITER = """
assert remaining == 4800
assert not limiter.check_and_consume(user_id="u-42", tokens=4801)
assert limiter.check_and_consume(user_id="u-42", tokens=4800)
assert limiter.get_remaining("u-42") == 0
assert limiter.get_remaining("u-43") == 5000
"""
CHECK_MEMORY = """
assert history == [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi, how can I help?"},
]
assert memory.get_history(conv_id) == [], "it was cleared"
"""
CHECK_CLIENT = """
request = ("Hello!", "", "gpt-4o", 0.0, 4096)
cache.put(*request, LLMResponse(content="Hi!"))
assert cache.get(*request).content == "Hi!"
assert 599 < _ttl_of_the_entry() <= 600
assert client.ping(), "the client is still ours"
"""
ALL_THREE_TAKE_A_CLIENT = """
assert cache.get("", "", "", 0.0, 1) is None
assert RedisRateLimiter(client=client).get_remaining("nobody") == 10_000
assert RedisChatMemory(client=client).get_history("none") == []
"""
# Found by its type: what the key is called is not documented.
TTL_OF_THE_ENTRY = """
def _ttl_of_the_entry():
    import redis

    with redis.Redis.from_url("redis://localhost:6379/0") as asking:
        return min(asking.pttl(key) for key in asking.scan_iter(_type="string")) / 1000
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with documented_server() as server:
        yield server


@pytest.fixture
def localhost(running: Server) -> Server:
    running.flush()
    return running


def test_the_cache_block(localhost, tmp_path):
    # No key is set and nothing is called: the answer comes out of the cache.
    run_script(CACHE + TTL_OF_THE_ENTRY + CHECK_CACHE, localhost, tmp_path)


def test_the_limiter_block(localhost, tmp_path):
    run_script(LIMITER + CHECK_LIMITER, localhost, tmp_path)


def test_the_limiter_block_when_the_budget_is_spent(localhost, tmp_path):
    spent = LIMITER.replace(
        "estimated_tokens = 200", 'limiter.check_and_consume("u-42", 4_801)\nestimated_tokens = 200'
    )
    with pytest.raises(AssertionError, match=r"RuntimeError: Rate limit exceeded — try again later\."):
        run_script(spent, localhost, tmp_path)


def test_the_memory_block(localhost, tmp_path):
    run_script(MEMORY + CHECK_MEMORY, localhost, tmp_path)


def test_the_memory_is_a_list(localhost, tmp_path):
    kept = MEMORY.replace("memory.clear(conv_id)\n", "")
    assert kept != MEMORY
    run_script(kept, localhost, tmp_path)
    with localhost.client() as client:
        (conversation,) = client.scan_iter(_type="list")
        assert client.llen(conversation) == 2
        assert 0 < client.ttl(conversation) <= 1800


def test_the_client_block(localhost, tmp_path):
    # It goes on where the first block ended: the class is imported there.
    imports = "from ractogateway import LLMResponse\nfrom ractogateway.redis import RedisExactCache\n"
    run_script(imports + CLIENT + TTL_OF_THE_ENTRY + CHECK_CLIENT, localhost, tmp_path)


def test_the_page_from_top_to_bottom(localhost, tmp_path):
    run_script(CACHE + LIMITER + MEMORY + CLIENT + ALL_THREE_TAKE_A_CLIENT, localhost, tmp_path)


def test_a_failing_assertion_would_be_noticed(localhost, tmp_path):
    with pytest.raises(AssertionError):
        run_script(LIMITER + "assert remaining == 4801\n", localhost, tmp_path)


def test_the_extra_exists():
    (install,) = blocks(DOCUMENTED, "bash")
    assert install.code == "pip install ractogateway[redis]\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["name"] == "ractogateway"
    assert "redis" in project["optional-dependencies"]
