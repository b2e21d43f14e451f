"""Provider failures as errors of our tree, and what none of them may show."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from email.utils import formatdate

import pytest
from pydantic import BaseModel

from ractogateway._kit.request import identify
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidValueError,
    MissingExtraError,
    ProviderAuthenticationError,
    ProviderConnectionError,
    ProviderError,
    ProviderRateLimited,
    ProviderRequestRejected,
    ProviderTimeout,
    ProviderUnavailable,
    UnsupportedEventLoopError,
)
from ractogateway.openai_developer_kit import ChatConfig, RactoPrompt
from ractogateway.openai_developer_kit.failures import retry_after_seconds
from ractogateway.openai_developer_kit.sdk import ClientSettings

HELLO = ChatConfig(user_message="Hello")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRequestRejected),
        (401, ProviderAuthenticationError),
        (403, ProviderAuthenticationError),
        (404, ProviderRequestRejected),
        (409, ProviderRequestRejected),
        (422, ProviderRequestRejected),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
    ],
)
def test_a_status_is_an_error_with_status_and_request_id(make_kit, asks, status, kind):
    kit = make_kit(f"error-{status}")
    for ask in asks.values():
        with pytest.raises(ProviderError, match=rf"HTTP status {status} \(made_to_fail\)$") as e:
            ask(kit, HELLO)
        assert type(e.value) is kind
        assert e.value.status == status
        assert e.value.request_id.startswith("req-")


@pytest.mark.parametrize(
    ("model", "least", "most"), [("error-429", 2, 2), ("error-429-ms", 1.5, 1.5), ("error-429-date", 20, 30)]
)
def test_a_rate_limit_says_when_to_come_back(ask, make_kit, model, least, most):
    with pytest.raises(ProviderRateLimited) as e:
        ask(make_kit(model), HELLO)
    assert least <= e.value.retry_after_seconds <= most


def test_retry_after_in_all_its_forms():
    soon = formatdate(time.time() + 60, usegmt=True)

    assert retry_after_seconds({}) is None
    assert retry_after_seconds({"retry-after": "1.5"}) == 1.5
    assert retry_after_seconds({"retry-after": "7", "retry-after-ms": "250"}) == 0.25
    assert retry_after_seconds({"retry-after": "7", "retry-after-ms": "soon"}) == 7
    assert retry_after_seconds({"retry-after": "-1"}) == 0
    assert 55 < retry_after_seconds({"retry-after": soon}) <= 60
    assert retry_after_seconds({"retry-after": formatdate(0, usegmt=True)}) == 0
    for nonsense in ("", "soon", "nan", "inf", "Wed, 99 Foo 2026", "Wed, 21 Oct 99999 07:28:00 GMT"):
        assert retry_after_seconds({"retry-after": nonsense}) is None


def test_the_sdk_repeats_as_often_as_it_is_told(make_kit, endpoint):
    with pytest.raises(ProviderUnavailable):
        make_kit("error-503", max_retries=1).chat(HELLO)
    assert endpoint.requests == 2


def test_nobody_listens(ask, make_kit):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProviderConnectionError) as e:
        ask(make_kit(base_url=f"http://127.0.0.1:{port}/v1"), HELLO)
    assert e.value.status is None


def test_a_provider_that_stays_silent_is_a_timeout(ask, make_kit):
    with pytest.raises(ProviderTimeout) as e:
        ask(make_kit("slow-150", timeout_seconds=0.05), HELLO)
    assert isinstance(e.value, TimeoutError)


def test_a_request_may_bring_its_own_timeout(ask, make_kit):
    with pytest.raises(ProviderTimeout):
        ask(make_kit("slow-150"), HELLO.model_copy(update={"extra": {"timeout": 0.05}}))


@pytest.mark.parametrize("model", ["cut", "garbage"])
def test_an_answer_that_is_cut_or_no_json_is_a_connection_error(ask, make_kit, model):
    with pytest.raises(ProviderConnectionError):
        ask(make_kit(model), HELLO)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("cut", ProviderConnectionError), ("cut-clean", ProviderConnectionError), ("error-event", ProviderUnavailable)],
)
def test_a_stream_that_fails_halfway_gives_what_arrived_and_then_the_error(make_kit, model, kind):
    kit = make_kit(model)
    got: list[str] = []

    async def consume() -> None:
        async for chunk in kit.astream(HELLO):
            got.append(chunk.delta)  # noqa: PERF401 - what arrived before the error has to be there

    with pytest.raises(kind):
        got.extend(chunk.delta for chunk in kit.stream(HELLO))
    half = "".join(got)
    assert half
    got.clear()
    with pytest.raises(kind):
        asyncio.run(consume())
    assert "".join(got) == half


def test_what_a_caller_throws_into_a_stream_comes_out_as_it_is(make_kit):
    stream = make_kit().stream(HELLO)
    next(stream)
    with pytest.raises(ValueError, match=r"^mine$"):
        stream.throw(ValueError("mine"))


@pytest.mark.parametrize("answer", [{"choices": []}, {"choices": None}, {"choices": [{"message": None}]}, {}])
def test_an_answer_of_another_shape_is_a_provider_error(make_kit, monkeypatch, answer):
    shape = {**answer, "usage": {"total_tokens": 0}}
    monkeypatch.setattr("ractogateway._demo.endpoint.completion", lambda *_: shape)
    with pytest.raises(ProviderError, match="is not a chat completion"):
        make_kit().chat(HELLO)


def test_no_key_at_all(ask, make_kit, monkeypatch, endpoint):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ProviderAuthenticationError, match="OPENAI_API_KEY"):
        ask(make_kit(api_key=None), HELLO)
    assert endpoint.requests == 0


def test_the_key_may_come_from_the_environment(ask, make_kit, monkeypatch, endpoint):
    monkeypatch.setenv("OPENAI_API_KEY", endpoint.api_key)
    assert ask(make_kit(api_key=None), HELLO).content


def test_no_sdk(ask, make_kit, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ractogateway\[openai\]'"):
        ask(make_kit(), HELLO)


def test_no_asyncio_loop(make_kit):
    request = make_kit().achat(HELLO)
    with pytest.raises(UnsupportedEventLoopError):
        request.send(None)


@pytest.mark.parametrize(
    "config",
    [
        ChatConfig(user_message="half an emoji: \ud83d"),
        ChatConfig(user_message="Hello", extra={"seed": object()}),
        ChatConfig(user_message="Hello", extra={"seed": float("nan")}),
    ],
)
def test_what_cannot_be_sent_is_an_invalid_value(ask, make_kit, config, endpoint):
    with pytest.raises(InvalidValueError):
        ask(make_kit(), config)
    assert endpoint.requests == 0


class Unspeakable(BaseModel):
    work: Callable[[int], int]


def test_a_response_model_without_a_schema_is_an_invalid_value(ask, make_kit, endpoint):
    with pytest.raises(InvalidValueError, match="response_model Unspeakable has no JSON schema"):
        ask(make_kit(exact_cache=ExactMatchCache()), ChatConfig(user_message="Hello", response_model=Unspeakable))
    assert endpoint.requests == 0


# -- leaks -------------------------------------------------------------------------------------------------------------


class Canary(BaseModel):
    name: str


CANARY = "CANARY"
CANARY_CONFIG = ChatConfig(
    user_message="CANARY-message",
    prompt=RactoPrompt(role="CANARY-role", aim="CANARY-aim"),
    history=[{"role": "user", "content": "CANARY-history"}],
    extra={"CANARY-extra": "CANARY-value"},
    response_model=Canary,
)
TROUBLES = ["error-400", "error-401", "error-429", "error-500", "cut", "cut-clean", "error-event", "garbage", "misfit"]


@pytest.mark.parametrize("model", TROUBLES)
def test_errors_and_logs_show_no_prompt_answer_or_key(make_kit, asks, model, caplog):
    caplog.set_level(logging.DEBUG, "ractogateway")
    caplog.set_level(logging.INFO)
    kit = make_kit(model, api_key="CANARY-key" if model == "error-401" else "stand-in")
    for method, ask in asks.items():
        if model in ("cut-clean", "error-event") and "stream" not in method:
            continue
        with pytest.raises(ProviderError) as e:
            ask(kit, CANARY_CONFIG)
        shown = "".join(traceback.format_exception(e.value)) + repr(e.value) + repr(vars(e.value))
        # Lines of this very test stand in the traceback.
        shown = "\n".join(line for line in shown.splitlines() if "CANARY_CONFIG" not in line)
        assert CANARY not in shown
        assert "unexpected" not in shown  # the misfit's answer
        assert e.value.__cause__ is e.value.__context__ is None
    assert CANARY not in caplog.text


def test_an_error_survives_pickling(make_kit):
    with pytest.raises(ProviderRateLimited) as e:
        make_kit("error-429").chat(HELLO)
    again = pickle.loads(pickle.dumps(e.value))
    assert (type(again), str(again), vars(again)) == (type(e.value), str(e.value), vars(e.value))


def test_reprs_show_no_prompt_or_key(make_kit):
    kit = make_kit(api_key="CANARY-key", default_prompt=CANARY_CONFIG.prompt, base_url="http://u:CANARY-pw@host/v1")
    identity = identify(CANARY_CONFIG, model="m", system_prompt="CANARY-prompt")
    settings = ClientSettings(url="http://x", api_key="CANARY-key", timeout_seconds=1.0, max_retries=0)

    assert repr(kit) == "OpenAIDeveloperKit(model='stand-in')"
    assert repr(identity) == "RequestIdentity(model='m')"
    assert CANARY not in repr(settings) + repr(kit._prepare(CANARY_CONFIG)) + repr(kit.stream(CANARY_CONFIG))
