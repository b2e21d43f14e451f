"""The HTTP library below Google's SDK for async calls is the same wherever a kit runs, and lets go of what is left."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from kit_wires import HELLO, WEATHER

from ractogateway import ChatConfig, RactoFile
from ractogateway.errors import (
    ProviderConnectionError,
    ProviderRateLimited,
    ProviderTimeout,
)

pytestmark = pytest.mark.parametrize("wire", ["google"], indirect=True)


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


async def astream(kit: Any, config: ChatConfig) -> Any:
    return [chunk async for chunk in kit.astream(config)][-1].response


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_answers_calls_and_files(make, endpoint, eventually, method):
    kit = make("think-tools")
    ask = kit.achat if method == "achat" else lambda config: astream(kit, config)

    async def all_of_them() -> list[Any]:
        large = RactoFile(b"\x89PNG\r\n\x1a\n" + bytes(2_000_000))
        configs = [
            HELLO,
            ChatConfig(user_message="Use get_weather", tools=[WEATHER]),
            ChatConfig(user_message="What is this?", attachments=[large]),
        ]
        return [await ask(config) for config in configs]

    plain, calling, reading = run(all_of_them)
    assert plain.content
    assert [call.name for call in calling.tool_calls] == ["get_weather"]
    assert calling.tool_calls[0].provider_fields == {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
    assert reading.content
    assert endpoint.requests == 3
    eventually(lambda: endpoint.open_connections == 0)


@pytest.mark.parametrize("method", ["achat", "astream"])
@pytest.mark.parametrize(
    ("model", "kind"),
    [("error-429", ProviderRateLimited), ("cut", ProviderConnectionError), ("slow-400", ProviderTimeout)],
)
def test_failures_are_those_of_our_tree(make, method, model, kind):
    kit = make(model)
    config = HELLO.model_copy(update={"extra": {"timeout": 0.1 if model.startswith("slow") else 30}})
    with pytest.raises(kind) as e:
        run(lambda: kit.achat(config) if method == "achat" else astream(kit, config))
    assert (e.value.__cause__, e.value.__context__) == (None, None)


def test_another_library_that_happens_to_be_installed_is_not_used(make, monkeypatch):
    aiohttp = pytest.importorskip("aiohttp")

    def refuse(*_args: Any, **_named: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", refuse)
    kit = make()
    assert run(lambda: kit.achat(HELLO)).content == run(lambda: astream(kit, HELLO)).content


def test_leaving_a_stream_hangs_up_at_once(make, endpoint):
    """While the loop goes on, and with no garbage collector to help."""
    kit = make("endless")

    async def leave() -> None:
        for hangups in (1, 2):
            stream = kit.astream(HELLO)
            await anext(stream)
            await stream.aclose()
            deadline = time.monotonic() + 20
            while endpoint.hangups < hangups:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)

    gc.disable()
    try:
        run(leave)
    finally:
        gc.enable()


def test_a_cancelled_call_leaves_no_connection(make, endpoint, eventually):
    kit = make("slow-60000")

    async def cancel() -> None:
        task = asyncio.create_task(kit.achat(HELLO))
        while endpoint.requests == 0:  # noqa: ASYNC110 - counted in another thread
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel)
    eventually(lambda: endpoint.open_connections <= 1)
