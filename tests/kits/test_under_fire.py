"""The promises of a kit with all its tools, for many callers at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
from kit_tools import LIMIT, USER, Tools, estimate, question

from ractogateway._demo.answers import count_tokens, prompt_text
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway._demo.http11 import Chunks
from ractogateway._demo.shapes import envelope
from ractogateway.errors import BlockingCallWarning
from ractogateway.openai_developer_kit import OpenAIDeveloperKit

STREAMS = 50


@pytest.fixture
def tools(any_server) -> Tools:
    return Tools(any_server.url)


class Counting(StandInEndpoint):
    """Streams words for ever, or a number of them and then nothing: what it has sent is noted for each question."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.prompts: dict[str, int] = {}

    async def _stream_events(self, body: dict[str, Any], chunks: Chunks) -> None:
        asked = body["messages"][-1]["content"]
        words = int(asked.split()[1])
        self.prompts[asked] = count_tokens(prompt_text(body))
        self.sent[asked] = ""
        start = envelope(body, "chat.completion.chunk", 1)
        for _ in range(words):
            self.sent[asked] += "word "  # before it is sent: never less than what arrives
            await chunks.event(
                {**start, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
            )
        while True:  # until the client hangs up, which only writing tells
            await chunks.event({**start, "choices": []})
            await asyncio.sleep(0.01)


def test_streams_that_are_cancelled_at_random_are_charged_what_was_sent(tools, eventually):
    """Half of the readers leave when all that was sent has reached them, where the sum is exact; the others anywhere.

    The rule: the prompt by estimate, and the text that arrived: at least what the reader saw, at most what was sent.
    Who is cancelled before the server has read the question may have sent it, and is charged its prompt, or has not.
    """
    choose = random.Random(7)
    readers = [f"Say {choose.randint(1, 60)} words, {number}" for number in range(STREAMS)]
    seen: dict[str, str] = {}

    async def read(kit: OpenAIDeveloperKit, asked: str) -> None:
        async for chunk in kit.astream(question(asked, conversation_id=None, max_tokens=20)):
            seen[asked] = chunk.text

    async def main(kit: OpenAIDeveloperKit, endpoint: Counting) -> None:
        tasks = {asked: asyncio.create_task(read(kit, asked)) for asked in readers}
        for number, (asked, task) in enumerate(tasks.items()):
            patient = number % 2 == 0
            whole = "word " * int(asked.split()[1])
            while patient and seen.get(asked) != whole:  # noqa: ASYNC110 - a reader has no other sign to give
                await asyncio.sleep(0.001)
            if not patient:
                await asyncio.sleep(choose.random() * 0.02)
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    with Counting() as endpoint:
        limiter = tools.make("rate_limiter")
        kit = OpenAIDeveloperKit(
            "m", api_key=endpoint.api_key, base_url=endpoint.base_url, max_retries=0, rate_limiter=limiter
        )
        asyncio.run(main(kit, endpoint))
        eventually(lambda: endpoint.open_connections == 0)

        asked = list(endpoint.sent)
        assert len(asked) >= STREAMS // 2
        config = {text: question(text, conversation_id=None, max_tokens=20) for text in readers}
        estimates = {text: estimate(kit, config[text]) for text in readers}
        spent = tools.spent()
        least = sum(estimates[text] + count_tokens(seen.get(text, "")) for text in asked)
        most = sum(estimates[text] + count_tokens(endpoint.sent.get(text, "")) for text in readers)
        assert least <= spent <= most
        # The estimates themselves are the server's count and four tokens for the message.
        assert all(estimates[text] == endpoint.prompts[text] + 4 for text in asked)


def test_streams_that_have_received_everything_are_charged_exactly_that(tools, eventually):
    texts = [f"Say {number} words" for number in range(1, 21)]

    async def read(kit: OpenAIDeveloperKit, asked: str) -> None:
        whole = "word " * int(asked.split()[1])
        async with contextlib.aclosing(kit.astream(question(asked, conversation_id=None, max_tokens=20))) as stream:
            async for chunk in stream:
                if chunk.text == whole:
                    return

    with Counting() as endpoint:
        kit = OpenAIDeveloperKit(
            "m",
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            max_retries=0,
            rate_limiter=tools.make("rate_limiter"),
        )

        async def main() -> None:
            await asyncio.gather(*(read(kit, asked) for asked in texts))

        asyncio.run(main())
        expected = sum(endpoint.prompts[asked] + 4 + count_tokens(endpoint.sent[asked]) for asked in texts)
        assert tools.spent() == expected


FLEET = """
import asyncio, sys
from ractogateway import openai_developer_kit as gpt
from ractogateway.redis import RateLimitConfig, RedisChatMemory, RedisExactCache, RedisOptions, RedisRateLimiter

redis_url, base_url, key, limit = sys.argv[1:]
patient = RedisOptions(timeout_seconds=20.0)  # a hundred calls that begin at once keep a slow machine's loop busy
kit = gpt.Chat(
    "slow-700",
    api_key=key,
    base_url=base_url,
    max_retries=0,
    exact_cache=RedisExactCache(redis_url, ttl_seconds=60, options=patient),
    rate_limiter=RedisRateLimiter(
        redis_url, config=RateLimitConfig(max_tokens_per_minute=int(limit)), on_outage="raise", options=patient
    ),
    memory=RedisChatMemory(redis_url, options=patient),
)
config = gpt.ChatConfig(user_message="Why?", user_id="CANARY-user", max_tokens=200)

async def main():
    await kit._clients.of_this_loop()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    answers = await asyncio.gather(*(kit.achat(config) for _ in range(100)))
    print(sum(answer.cached for answer in answers), max(answer.usage.total_tokens for answer in answers))

asyncio.run(main())
"""


def test_two_hundred_equal_calls_in_two_processes_are_one_request(tools, endpoint, any_server):
    arguments = [sys.executable, "-c", FLEET, any_server.url, endpoint.base_url, endpoint.api_key, str(LIMIT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(subprocess.Popen(arguments, **pipes)) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.kill)
            assert replica.stdout.readline() == "ready\n"
        for replica in replicas:
            replica.stdin.write("go\n")
            replica.stdin.flush()
        told = [replica.communicate(timeout=60)[0].split() for replica in replicas]
    assert endpoint.requests == 1
    assert sum(int(cached) for cached, _ in told) == 199
    assert tools.spent(USER) == max(int(tokens) for _, tokens in told)


class Foreign:
    """A blocking tool of somebody else, which notes where its methods are called."""

    def __init__(self, tool: Any, names: list[str], called: list[tuple[str, int]]) -> None:
        for name in names:
            setattr(self, name, self._noted(name, getattr(tool, name), called))

    @staticmethod
    def _noted(name: str, method: Any, called: list[tuple[str, int]]) -> Any:
        def noted(*arguments: Any, **named: Any) -> Any:
            called.append((name, threading.get_ident()))
            return method(*arguments, **named)

        return noted


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_blocking_tools_do_not_run_in_the_loop(make_kit, asks, tools, method):
    called: list[tuple[str, int]] = []
    names = {"exact_cache": ["get", "put"], "rate_limiter": ["consume", "reserve"], "memory": ["get_changes", "extend"]}
    kit = make_kit(**{name: Foreign(tools.make(name), methods, called) for name, methods in names.items()})
    answer = asks[method](kit, question())  # in a loop of this thread
    names_called = [name for name, _ in called]
    assert names_called[:3] == ["get_changes", "get", "reserve"]
    assert sorted(names_called[3:]) == ["extend", "put"]  # at the same time
    assert threading.get_ident() not in {thread for _, thread in called}
    assert tools.spent() == answer.usage.total_tokens
    assert tools.revision() == 1


def test_a_blocking_call_inside_a_running_loop_warns_once_whatever_tools_there_are(make_kit, tools):
    kit = make_kit(**tools.all())

    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kit.chat(question())
            assert [each.category for each in caught] == [BlockingCallWarning]
            list(kit.stream(question()))
            assert [(each.category, each.filename) for each in caught] == [(BlockingCallWarning, __file__)] * 2

    asyncio.run(main())
    assert tools.revision() == 2


def test_a_blocking_stream_may_be_left_inside_a_running_loop(make_kit, tools, monkeypatch):
    monkeypatch.setenv("RACTOGATEWAY_BLOCKING_IN_LOOP", "allow")
    kit = make_kit(**tools.all())

    async def main() -> str:
        stream = kit.stream(question())
        text = [next(stream).text for _ in range(3)][-1]
        stream.close()
        forgotten = kit.stream(question())
        next(forgotten)
        del forgotten
        return text

    text = asyncio.run(main())
    assert tools.spent() >= 2 * estimate(kit, question()) + count_tokens(text)
    assert tools.spent() < 200  # settled: each of them had reserved more
    assert tools.said() == []
