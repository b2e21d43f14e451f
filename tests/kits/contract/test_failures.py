"""Whatever goes wrong at a provider is an error of our tree, which shows nothing."""

from __future__ import annotations

import asyncio
import pickle
import re
import socket
from urllib.parse import urlsplit

import pytest
from kit_wires import HELLO
from secrecy import SECRET_ANSWER, SECRET_PASSWORD, SECRET_PROMPT

from ractogateway._kit.failures import details_of
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderAuthenticationError,
    ProviderConnectionError,
    ProviderError,
    ProviderRateLimited,
    ProviderRequestRejected,
    ProviderTimeout,
    ProviderUnavailable,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRequestRejected),
        (401, ProviderAuthenticationError),
        (403, ProviderAuthenticationError),
        (404, ProviderRequestRejected),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
    ],
)
def test_a_status_is_an_error_of_our_tree(asks, make, status, kind):
    kit = make(f"error-{status}")
    for ask in asks.values():
        with pytest.raises(ProviderError, match=rf"HTTP status {status} \(\w+\)$") as e:
            ask(kit, HELLO)
        assert (type(e.value), e.value.status) == (kind, status)
        assert e.value.request_id.startswith("req-")
        assert e.value.retry_after_seconds == (2 if status == 429 else None)
        assert (e.value.__cause__, e.value.__context__) == (None, None)


def test_a_wrong_key_is_an_authentication_error_that_shows_nothing(ask, wire, make):
    with pytest.raises(ProviderAuthenticationError) as e:
        ask(make(api_key="CANARY-key"), HELLO.model_copy(update={"user_message": "CANARY"}))
    assert e.value.status == wire.unauthorised
    assert "CANARY" not in repr(e.value)


def test_without_a_key_nothing_is_sent(ask, wire, make, endpoint, monkeypatch):
    monkeypatch.delenv(wire.variable, raising=False)
    with pytest.raises(ProviderAuthenticationError, match=wire.variable):
        ask(make(api_key=None), HELLO)
    assert endpoint.requests == 0


def test_a_silent_provider_is_a_timeout(ask, make):
    with pytest.raises(ProviderTimeout):
        ask(make("slow-150", timeout_seconds=0.05), HELLO)
    with pytest.raises(ProviderTimeout):
        ask(make("slow-150"), HELLO.model_copy(update={"extra": {"timeout": 0.05}}))


def test_nobody_listens(ask, make):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    kit = make(base_url=f"http://me:{SECRET_PASSWORD}@127.0.0.1:{port}/{SECRET_ANSWER}?key={SECRET_PASSWORD}")
    what = rf" at 127\.0\.0\.1:{port} failed .*ConnectionRefusedError\)$"
    with pytest.raises(ProviderConnectionError, match=what) as e:
        ask(kit, HELLO)
    assert e.value.details is None


def test_a_host_that_nobody_knows_is_named(ask, make, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ProviderConnectionError, match=r" at nowhere\.invalid:443 failed .*gaierror\)$"):
        ask(make(base_url="https://nowhere.invalid/v1"), HELLO)


@pytest.mark.parametrize(("model", "why"), [("cut", r"failed or broke \(\w+Error\)"), ("garbage", "is not JSON")])
def test_an_answer_that_breaks_off_or_is_no_json(ask, make, endpoint, model, why):
    where = re.escape(urlsplit(endpoint.base_url).netloc)
    with pytest.raises(ProviderConnectionError, match=rf"the provider at {where} {why}$"):
        ask(make(model), HELLO)


def test_what_the_provider_said_is_kept_where_no_text_shows_it(ask, make, endpoint):
    with pytest.raises(ProviderError) as e:
        ask(make("error-400"), HELLO.model_copy(update={"user_message": SECRET_PROMPT}))
    said = e.value.details
    assert SECRET_PROMPT in said.message
    assert endpoint.api_key in str(said.body), "it quotes the key, as real ones do"
    assert said.type
    again = pickle.loads(pickle.dumps(e.value))
    assert again.details == said
    for shown in (str(e.value), repr(e.value), repr(e.value.args), repr(vars(e.value)), repr(said), str(said)):
        assert "secret-" not in shown


@pytest.mark.parametrize(
    ("body", "message", "kind", "code", "param"),
    [
        ({"message": "m", "type": "t", "code": "c", "param": "p"}, "m", "t", "c", "p"),
        ({"type": "error", "error": {"type": "t", "message": "m"}, "request_id": "r"}, "m", "t", None, None),
        (
            {
                "error": {
                    "code": 400,
                    "status": "INVALID_ARGUMENT",
                    "message": "m",
                    "details": [{"reason": "x"}, None, {"fieldViolations": [5, {"field": "contents"}]}],
                }
            },
            "m",
            "INVALID_ARGUMENT",
            400,
            "contents",
        ),
        ("<html>", None, None, None, None),
        ({"error": ["m"], "message": 5, "code": []}, None, None, None, None),
    ],
)
def test_what_providers_say_in_their_own_shapes(body, message, kind, code, param):
    said = details_of(body)
    assert (said.message, said.type, said.code, said.param, said.body) == (message, kind, code, param, body)


def test_nothing_said_is_nothing_kept():
    assert details_of(None) is details_of("") is None


@pytest.mark.parametrize(
    ("model", "kind"),
    [("cut", ProviderConnectionError), ("cut-clean", ProviderConnectionError), ("error-event", ProviderUnavailable)],
)
def test_a_stream_that_fails_halfway_gives_what_arrived_then_the_error(make, model, kind):
    kit = make(model, exact_cache=ExactMatchCache())
    got: list[str] = []

    async def consume() -> None:
        async for chunk in kit.astream(HELLO):
            got.append(chunk.delta)  # noqa: PERF401 - what arrived before the error has to be there

    with pytest.raises(kind) as e:
        got.extend(chunk.delta for chunk in kit.stream(HELLO))
    assert e.value.status is None, "the HTTP status had been sent as 200 long before"
    half = "".join(got)
    assert half
    got.clear()
    with pytest.raises(kind):
        asyncio.run(consume())
    assert "".join(got) == half


def test_leaving_a_stream_hangs_up(make, endpoint, eventually):
    kit = make("endless")

    async def leave() -> None:
        stream = kit.astream(HELLO)
        await anext(stream)
        await stream.aclose()

    blocking = kit.stream(HELLO)
    next(blocking)
    blocking.close()
    eventually(lambda: endpoint.hangups == 1)
    asyncio.run(leave())
    eventually(lambda: endpoint.hangups == 2)


def test_a_repeated_request_is_the_sdks_business(make, endpoint):
    with pytest.raises(ProviderUnavailable):
        make("error-503", max_retries=1).chat(HELLO)
    assert endpoint.requests == 2


@pytest.mark.parametrize("name", ["model", "stream", "messages"])
def test_extra_cannot_replace_what_the_kit_decides(ask, make, endpoint, name):
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        ask(make(), HELLO.model_copy(update={"extra": {name: "CANARY"}}))
    assert endpoint.requests == 0
