"""Provider failures as errors of our tree, and what none of them may show."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable
from email.utils import formatdate

import openai
import pytest
from pydantic import BaseModel
from secrecy import SECRET_PROMPT

from ractogateway._kit.failures import retry_after_seconds
from ractogateway._kit.request import identify
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
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
from ractogateway.openai_developer_kit.address import resolve
from ractogateway.openai_developer_kit.sdk import ClientSettings

HELLO = ChatConfig(user_message=f"Hello {SECRET_PROMPT}")


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


BAD_KEYS = ["CANARY\n", " CANARY", "CANARY-\u00e9", "CANARY\x00", "\ud800CANARY"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_no_header_can_carry_is_refused_at_once(make_kit, key):
    with pytest.raises(InvalidValueError, match=r"^api_key must be printable ASCII") as e:
        make_kit(api_key=key)
    assert CANARY not in str(e.value)


@pytest.mark.parametrize("key", ["CANARY\n", "CANARY-\u00e9"])
def test_so_is_one_of_the_environment(ask, make_kit, monkeypatch, endpoint, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ProviderAuthenticationError, match=r"^OPENAI_API_KEY must be printable ASCII") as e:
        ask(make_kit(api_key=None), HELLO)
    assert CANARY not in "".join(map(str, _chain(e.value)))
    assert endpoint.requests == 0


@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [("HTTP_PROXY", "foo://CANARY", "ValueError"), ("SSL_CERT_FILE", "/CANARY/none.pem", "FileNotFoundError")],
)
def test_a_client_that_cannot_be_made_says_so(ask, make_kit, monkeypatch, variable, value, kind):
    monkeypatch.delattr(ssl.SSLContext, "load_verify_locations")  # the fixture's, which reads nothing
    monkeypatch.setenv(variable, value)
    with pytest.raises(ProviderConnectionError, match=rf"^the openai client could not be made \({kind}\)") as e:
        ask(make_kit(), HELLO)
    assert len(_chain(e.value)) == 1
    assert CANARY not in str(e.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://[CANARY]/v1",
        "http://[::1]CANARY/v1",
        "http://h:99999999/v1",
        "http://h:0/v1",
        "http://h:CANARY",
        "http://CANARY b/",
        "http://CANARY/a b",
        "http://\x00CANARY",
        "http://h/\ud800",
        "http://a..b/CANARY",
        "http://a\\CANARY/",
        "http://@/CANARY",
        "https://u:CANARY@[bad/v1",
        "https://u:CANARY@\u2100/v1",
        "https:///CANARY",
        "ftp://CANARY/",
        "",
    ],
)
def test_what_is_no_address_is_refused_at_once(make_kit, url):
    with pytest.raises(InvalidValueError, match=r"^base_url must") as e:
        make_kit(base_url=url)
    assert len(_chain(e.value)) == 1
    assert CANARY not in str(e.value)


def test_so_is_an_address_of_the_environment(make_kit, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://u:CANARY@h:99999/v1")
    with pytest.raises(InvalidValueError, match=r"^base_url must") as e:
        make_kit(base_url=None)
    assert CANARY not in str(e.value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        ("http://User:p%40ss@My_Host:8000/V1", "http://User:p%40ss@my_host:8000/V1"),
        ("https://b\u00fccher.example/v1", "https://b\u00fccher.example/v1"),
        ("http://h?x=A/v1", "http://h?x=A/v1"),
    ],
)
def test_addresses_of_other_forms_are_taken(url, meant):
    assert resolve(url).url == meant


@pytest.mark.parametrize(
    "seconds", [0, -1, 86_401, float("nan"), float("inf"), 10**400, -(10**5000)], ids=lambda value: type(value).__name__
)
def test_a_timeout_is_positive_and_at_most_a_day(make_kit, seconds):
    with pytest.raises(InvalidValueError, match=r"^timeout_seconds must be positive and finite, at most 86400 seconds"):
        make_kit(timeout_seconds=seconds)


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


def _cycle() -> dict[str, object]:
    part: dict[str, object] = {"type": "x"}
    part["data"] = part
    return part


def _deep() -> dict[str, object]:
    part: dict[str, object] = {"type": "x"}
    for _ in range(5000):
        part = {"data": part}
    return part


def _content(data: object) -> dict[str, object]:
    return {"history": [{"role": "user", "content": [{"type": "CANARY", "data": data}]}]}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (_content(object()), InvalidTypeError),
        (_content(b"\xffCANARY"), InvalidValueError),
        (_content(float("nan")), InvalidValueError),
        (_content([{"deep": (1.0, float("-inf"))}]), InvalidValueError),
        (_content(_cycle()), InvalidValueError),
        (_content(_deep()), InvalidValueError),
        (_content("CANARY \ud83d"), InvalidValueError),
        (_content(each for each in ()), InvalidTypeError),
        ({"tools": [{"of": threading.Lock()}]}, InvalidTypeError),
        ({"attachments": [{"of": (each for each in ())}]}, InvalidTypeError),
        ({"extra": {"CANARY": threading.Lock()}}, InvalidTypeError),
        ({"tools": [_deep()]}, InvalidValueError),
        ({"tools": [_cycle()]}, InvalidValueError),
        ({"tools": [{"CANARY": float("nan")}]}, InvalidValueError),
        ({"extra": {"extra_headers": {1: "CANARY"}}}, InvalidTypeError),
        ({"extra": {"extra_body": {"extra_headers": {1: "CANARY"}}}}, InvalidTypeError),
        ({"extra": {"extra_headers": {"x-a": "CANARY\nx-b: 1"}}}, InvalidValueError),
        ({"extra": {"timeout": -1}}, InvalidValueError),
        ({"extra": {"timeout": 10**5000}}, InvalidValueError),
        ({"extra": {"timeout": "CANARY"}}, InvalidTypeError),
        ({"response_model": BaseModel}, InvalidTypeError),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(ask, make_kit, endpoint, fields, kind):
    config = ChatConfig(user_message="Hello", **fields)
    with pytest.raises(kind) as e:
        ask(make_kit(exact_cache=ExactMatchCache()), config)
    assert CANARY not in "".join(map(str, _chain(e.value)))
    assert endpoint.requests == 0


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and whatever an error reporter would find behind it."""
    return [] if error is None else [error, *_chain(error.__cause__), *_chain(error.__context__)]


def test_what_is_no_message_is_refused(make_kit, endpoint):
    config = ChatConfig(user_message="Hello", history=[])
    config.history.append({"role": "CANARY"})
    with pytest.raises(InvalidValueError, match=r"^history holds something that is not a message$") as e:
        make_kit().chat(config)
    assert len(_chain(e.value)) == 1
    assert endpoint.requests == 0


def test_a_class_put_in_later_is_checked_too(make_kit):
    config = ChatConfig(user_message="Hello")
    config.response_model = "CANARY"
    with pytest.raises(InvalidTypeError, match="derived from pydantic's BaseModel, or None"):
        make_kit().chat(config)


def test_a_timeout_object_of_the_sdk_is_taken(ask, make_kit):
    with pytest.raises(ProviderTimeout):
        ask(make_kit("slow-150"), ChatConfig(user_message="Hello", extra={"timeout": openai.Timeout(0.05)}))


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
    kit = make_kit(model, **({"api_key": "CANARY-key"} if model == "error-401" else {}))
    for method, ask in asks.items():
        if model in ("cut-clean", "error-event") and "stream" not in method:
            continue
        with pytest.raises(ProviderError) as e:
            ask(kit, CANARY_CONFIG)
        assert (e.value.status == 401) is (model == "error-401"), "each fails in its own way"
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
