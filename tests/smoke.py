"""The built wheel, used with the source out of reach: ``python -I smoke.py bare``, then ``… full`` with the extras.

Needs nothing but what the wheel brings: no pytest, no helper of the suite.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import ractogateway
from ractogateway import LLMResponse
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import MissingExtraError

REQUEST = ("question", "", "gpt-4o", 0.0, 256)
SCRIPTS = {"limiter/consume", "limiter/acquire", "cache/store", "cache/invalidate", "memory/extend", "memory/clear"}


def check_package() -> None:
    source = Path(__file__).parent.parent
    assert Path(ractogateway.__file__).parent != source / "ractogateway", "the source is used, not the wheel"
    assert ractogateway.__version__ == metadata.version("ractogateway")
    files = resources.files("ractogateway")
    assert files.joinpath("py.typed").is_file()
    for script in SCRIPTS:
        assert files.joinpath("redis", "scripts", f"{script}.lua").is_file(), f"not in the wheel: {script}"
    assert metadata.metadata("ractogateway")["License-Expression"] == "Apache-2.0"
    (command,) = metadata.entry_points(group="console_scripts", name="ractogateway")
    assert callable(command.load())


def check_in_process_cache() -> None:
    cache = ExactMatchCache(max_size=2, ttl_seconds=60)
    cache.put(*REQUEST, LLMResponse(content="answer"))
    hit = cache.get(*REQUEST)
    assert hit is not None
    assert (hit.content, hit.cached, cache.stats.hits) == ("answer", True, 1)


def check_missing_extras() -> None:
    from ractogateway.anthropic_developer_kit import AnthropicDeveloperKit
    from ractogateway.google_developer_kit import GoogleDeveloperKit
    from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit

    config = ChatConfig(user_message="question")
    for extra, use in (
        ("redis", lambda: importlib.import_module("ractogateway.redis")),
        ("redis", lambda: ractogateway.redis),
        ("anthropic", lambda: AnthropicDeveloperKit("m", api_key="a key").chat(config)),
        ("google", lambda: GoogleDeveloperKit("m", api_key="a key").chat(config)),
        ("openai", lambda: OpenAIDeveloperKit(api_key="a key").chat(config)),
    ):
        told = what_is_missing(use)
        assert told.endswith(f"pip install 'ractogateway[{extra}]'"), told


def what_is_missing(use: Callable[[], object]) -> str:
    try:
        use()
    except MissingExtraError as error:
        return str(error)
    return "nothing is missing"


def check_tools() -> None:
    from ractogateway.redis import RateLimitConfig, RedisChatMemory, RedisExactCache, RedisRateLimiter

    cache = RedisExactCache(url="embedded://", ttl_seconds=60)
    cache.put(*REQUEST, LLMResponse(content="answer"))
    hit = cache.get(*REQUEST)
    assert hit is not None
    assert (hit.content, len(cache), cache.stats.errors) == ("answer", 1, 0)
    assert cache.invalidate(*REQUEST)
    cache.clear()

    limiter = RedisRateLimiter(
        url="embedded://", config=RateLimitConfig(max_tokens_per_minute=5_000), on_outage="raise"
    )
    assert limiter.check_and_consume("u-42", 200)
    assert asyncio.run(limiter.aio.get_remaining("u-42")) == limiter.peek("u-42").remaining == 4_800
    limiter.reset("u-42")

    memory = RedisChatMemory(url="embedded://")
    memory.append("c", "user", "Hello!")
    assert memory.get_history("c") == [{"role": "user", "content": "Hello!"}]
    assert asyncio.run(memory.aio.count("c")) == 1
    memory.clear("c")


def check_kit() -> None:
    from ractogateway import openai_developer_kit as gpt
    from ractogateway.redis import RedisExactCache

    cache = RedisExactCache(url="embedded://")
    cache.put("question", "", "gpt-4o", 0.0, 4096, LLMResponse(content="answer"))
    kit = gpt.OpenAIDeveloperKit(model="gpt-4o", base_url="https://api.openai.com/v1", exact_cache=cache)
    config = gpt.ChatConfig(user_message="question")
    assert kit.chat(config).content == "answer"
    assert asyncio.run(kit.achat(config)).content == "answer"


def main(kind: str) -> None:
    check_package()
    check_in_process_cache()
    if kind == "bare":
        check_missing_extras()
    else:
        check_tools()
        check_kit()
    print(f"smoke test ({kind}): ractogateway {ractogateway.__version__} works")


if __name__ == "__main__":
    main({"bare": "bare", "full": "full"}[sys.argv[1]])
