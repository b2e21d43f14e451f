"""The official SDK against a stand-in for OpenAI's API, over real HTTP."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from secrecy import SECRET_ANSWER, SECRET_PASSWORD

from ractogateway._demo import answers
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.openai_developer_kit import ChatConfig, LLMResponse, OpenAIDeveloperKit

Ask = Callable[[OpenAIDeveloperKit, ChatConfig], LLMResponse]


def _chat(kit: OpenAIDeveloperKit, config: ChatConfig) -> LLMResponse:
    return kit.chat(config)


def _achat(kit: OpenAIDeveloperKit, config: ChatConfig) -> LLMResponse:
    return asyncio.run(kit.achat(config))


def _stream(kit: OpenAIDeveloperKit, config: ChatConfig) -> LLMResponse:
    return list(kit.stream(config))[-1].response


def _astream(kit: OpenAIDeveloperKit, config: ChatConfig) -> LLMResponse:
    async def consume() -> LLMResponse:
        return [chunk async for chunk in kit.astream(config)][-1].response

    return asyncio.run(consume())


ASKERS: dict[str, Ask] = {"chat": _chat, "achat": _achat, "stream": _stream, "astream": _astream}


@pytest.fixture(params=ASKERS)
def ask(request: pytest.FixtureRequest) -> Ask:
    """One request by each of the four methods in turn, as if they were one function."""
    return ASKERS[request.param]


@pytest.fixture
def asks() -> dict[str, Ask]:
    """The four methods by name, for tests of how they work together."""
    return ASKERS


@pytest.fixture(scope="session")
def _endpoint() -> Iterator[StandInEndpoint]:
    with StandInEndpoint(api_key=SECRET_PASSWORD) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(_endpoint: StandInEndpoint) -> StandInEndpoint:
    """The stand-in, its counters at zero. Shared, because starting one costs more than most tests."""
    eventually(lambda: _endpoint.open_connections == 0)  # nothing of an earlier test is still being counted
    _endpoint.requests = _endpoint.tokens_billed = _endpoint.hangups = _endpoint.connections = 0
    _endpoint.seen.clear()
    return _endpoint


@pytest.fixture(autouse=True)
def _no_certificate_store(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each client reads it, for 25 ms: more than the rest of most tests here, and the stand-in speaks plain HTTP.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_args, **_kwargs: None)


@pytest.fixture(autouse=True)
def _secret_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = answers._sentence
    monkeypatch.setattr(answers, "_sentence", lambda digest: f"{SECRET_ANSWER} {sentence(digest)}")


@pytest.fixture
def make_kit(endpoint: StandInEndpoint) -> Iterator[Callable[..., OpenAIDeveloperKit]]:
    """Makes kits that talk to the stand-in and do not retry; closes them."""
    kits: list[OpenAIDeveloperKit] = []

    def make(model: str = "stand-in", **options: Any) -> OpenAIDeveloperKit:
        defaults = {"api_key": endpoint.api_key, "base_url": endpoint.base_url, "max_retries": 0}
        kits.append(OpenAIDeveloperKit(model, **{**defaults, **options}))
        return kits[-1]

    yield make
    for kit in kits:
        kit.close()


def eventually(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait until ``condition`` holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually
