"""Two requests of a kit share a cache entry only if the provider would be sent the same.

What is sent is the oracle: the arguments that the kit hands to the SDK, without the few that are documented to have no
influence. Nothing of it is shared with the identity that a cache is asked for."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import pytest
from canonical import canonical
from pydantic import BaseModel, Field, create_model

from ractogateway.anthropic_developer_kit import AnthropicDeveloperKit
from ractogateway.cache import fingerprint
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.google_developer_kit import GoogleDeveloperKit
from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit, RactoFile, ToolRegistry
from ractogateway.prompts import RactoPrompt

PAIRS = 6_000
SILENT_AT_OPENAI = {"user", "metadata", "store", "service_tier", "stream_options", "prompt_cache_key"}
SILENT = {
    "https://api.openai.com/v1": SILENT_AT_OPENAI,
    "https://eu.api.openai.com/v1": SILENT_AT_OPENAI,
    "https://api.anthropic.com": {"metadata", "service_tier"},
}
TRACING = {"traceparent", "x-request-id"}

TEXTS = ["", "a", "b", "ab", "a\nb", "role", "user: a", '","b":"', "é", "e\u0301", "0", "None"]
MODELS = [create_model("A", x=(int, ...)), create_model("A", x=(str, ...)), create_model("B", x=(int, ...))]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000}}


PNG = b"\x89PNG\r\n\x1a\n" + bytes(2_000)
FILES = [
    RactoFile(data, name) for data in (PNG, PNG + b"B", b"%PDF-1", b"%PDF-2", b"a", b"b") for name in (None, "a", "b")
]


def registry(function: Any, **options: Any) -> ToolRegistry:
    tools = ToolRegistry()
    tools.register(function, name="f", **options)
    return tools


def says(x: int) -> int:
    """Says."""
    return x


def also_says(x: int) -> int:
    """Says."""
    return x + 1


REGISTRIES = [
    registry(says),
    registry(also_says),
    registry(says, description="Says more."),
    registry(lambda: 1, description="Says."),
]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
SIGNED = {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
THOUGHTS = {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]}


class Person(BaseModel):
    name: str


class Aliased(BaseModel):
    n: int | None = Field(default=None, serialization_alias="a")


INSTANCES = [Aliased(n=1), Aliased(n=None), Aliased(), [Person(name="a")], {"a": Person(name="b")}]


Kit = OpenAIDeveloperKit | AnthropicDeveloperKit | GoogleDeveloperKit


def kits() -> list[Kit]:
    """More than one of each; two of a kind differ in the model, the address or the prompt."""
    return [
        OpenAIDeveloperKit("m", base_url="https://api.openai.com/v1"),
        OpenAIDeveloperKit("n", base_url="https://api.openai.com/v1"),
        OpenAIDeveloperKit("m", base_url="https://eu.api.openai.com/v1"),
        OpenAIDeveloperKit("m", base_url="http://localhost:8000/v1"),
        OpenAIDeveloperKit("m", base_url="http://localhost:8001/v1", default_prompt=RactoPrompt(role="a", aim="b")),
        AnthropicDeveloperKit("m", base_url="https://api.anthropic.com"),
        AnthropicDeveloperKit("claude-sonnet-5", base_url="https://api.anthropic.com"),
        AnthropicDeveloperKit("m", base_url="http://localhost:8000/v1"),
        GoogleDeveloperKit("m", base_url="https://generativelanguage.googleapis.com"),
        GoogleDeveloperKit("m", base_url="http://localhost:8000/v1"),
    ]


def some_text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def some_message(rng: random.Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": rng.choice(["user", "assistant", "system", "model"]), "content": some_text(rng)}
    if rng.random() < 0.3:
        message["name"] = some_text(rng)
    if rng.random() < 0.2:
        message["content"] = [{"type": "text", "text": some_text(rng)}]
    return message


def some_round(rng: random.Random) -> list[dict[str, Any]]:
    call = {**CALL, **rng.choice([{}, SIGNED])}
    said = {"role": "assistant", "content": rng.choice([None, "a"]), "tool_calls": [call], **rng.choice([{}, THOUGHTS])}
    return [said, {"role": "tool", "tool_call_id": "c", "content": rng.choice(["1", "2"])}]


def some_attachment(rng: random.Random) -> RactoFile | dict[str, Any]:
    if rng.random() < 0.4:
        return rng.choice(FILES)
    if rng.random() < 0.5:
        return {"type": "text", "text": some_text(rng)}
    url = IMAGE["image_url"]["url"]  # one of two images that differ at the very end
    return {"type": "image_url", "image_url": {"url": url + rng.choice(["", "B"])}}


def some_parameter(rng: random.Random) -> tuple[str, Any]:
    value = rng.choice([0, 0.0, 1, True, "1", None, "a", ["a"], [1], {"a": 1}, {1: 1}, {"1": 1}, *INSTANCES])
    name = rng.choice(["seed", "stop", "top_p", "user", "store", "metadata", "temperature", "max_tokens", "timeout"])
    if name == "timeout":
        return name, rng.choice([1, 2.5])
    return rng.choice(
        [(name, value), (name, value), ("extra_headers", some_headers(rng)), ("extra_body", {name: value})]
    )


def some_headers(rng: random.Random) -> dict[str, str]:
    names = rng.sample(["x-a", "X-A", "x-b", "traceparent", "X-Request-Id"], rng.randrange(3))
    return {name: rng.choice(["1", "2"]) for name in names}


FIELDS = {
    "user_message": some_text,
    "prompt": lambda rng: rng.choice([None, RactoPrompt(role=some_text(rng) or "r", aim="b")]),
    "temperature": lambda rng: rng.choice([0.0, -0.0, 0.5, 1.0]),
    "max_tokens": lambda rng: rng.choice([1, 2]),
    "history": lambda rng: [some_message(rng) for _ in range(rng.randrange(3))],
    "tools": lambda rng: rng.choice([None, [], [TOOL], [TOOL, TOOL], *REGISTRIES, REGISTRIES[0].definitions]),
    "tool_rounds": lambda rng: rng.choice([0, 1, 3]),
    "correction_retries": lambda rng: rng.choice([0, 1]),
    "following": lambda rng: [message for _ in range(rng.randrange(3)) for message in some_round(rng)],
    "response_model": lambda rng: rng.choice([None, *MODELS, Person]),
    "attachments": lambda rng: [some_attachment(rng) for _ in range(rng.randrange(3))],
    "extra": lambda rng: dict(some_parameter(rng) for _ in range(rng.randrange(4))),
}


def some_settings(rng: random.Random) -> dict[str, Any]:
    return {name: make(rng) for name, make in FIELDS.items() if rng.random() < 0.4} | {"user_message": some_text(rng)}


def nearly(rng: random.Random, settings: dict[str, Any]) -> dict[str, Any]:
    """The same with one field made anew, taken away, or moved to where it might be mistaken for another."""
    change = rng.randrange(8)
    if change == 0 and settings.get("history"):
        *rest, last = settings["history"]
        return {**settings, "history": rest, "attachments": [moved(rng, str(last["content"]))]}
    if change == 1:
        return {**settings, "extra": {**settings.get("extra", {}), "tools": settings.get("tools")}, "tools": None}
    if change == 2:
        optional = [name for name in settings if name != "user_message"]
        return {name: value for name, value in settings.items() if not optional or name != optional[0]}
    if change == 3 and settings.get("extra"):
        return {**settings, "extra": nearly_extra(rng, settings["extra"])}
    name = rng.choice(list(FIELDS))
    return {**settings, name: FIELDS[name](rng)}


def moved(rng: random.Random, text: str) -> Any:
    """A text as an attachment, of one kind or the other."""
    part = {"type": "text", "text": text}
    return RactoFile(text.encode()) if text.strip() and rng.random() < 0.5 else part


def nearly_extra(rng: random.Random, extra: dict[str, Any]) -> dict[str, Any]:
    name = rng.choice(list(extra))
    rest = {other: value for other, value in extra.items() if other != name}
    if name == "extra_headers" and extra[name]:
        header = rng.choice(list(extra[name]))
        return {**extra, name: {**extra[name], header: rng.choice(["1", "2"])}}
    return rng.choice([rest, dict([*rest.items(), some_parameter(rng)]), {**rest, "extra_body": {name: extra[name]}}])


def meaning(kit: Kit, request: Any) -> Hashable:
    """What leaves for the provider, without what is documented to be silent there."""
    provider = kit._provider
    url = provider.address.url if isinstance(kit, OpenAIDeveloperKit) else provider.url
    body = kit._preparation.arguments(request, stream=False)
    body.update(body.pop("extra_body", None) or {})
    if isinstance(kit, GoogleDeveloperKit):
        body.update(body.pop("config"))
        body["extra_headers"] = (body.pop("http_options", None) or {}).get("headers")
    body.pop("timeout", None)
    headers = body.pop("extra_headers", None) or {}
    kept = sorted((name.lower(), value) for name, value in headers.items() if name.lower() not in TRACING)
    shown = {name: value for name, value in body.items() if name not in SILENT.get(url, ())}
    about = {"kit": type(kit).__name__, "url": url, "headers": kept, "model": request.config.response_model}
    return canonical({**about, "body": shown})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("pairs", "seed"), [(PAIRS, 20250101), pytest.param(60_000, 20250102, marks=pytest.mark.slow)])
def test_requests_that_share_an_entry_are_sent_alike(pairs, seed):
    rng = random.Random(seed)
    at = kits()

    def prepared(kit: Kit, settings: dict[str, Any]) -> tuple[bytes, Hashable] | None:
        try:
            request = kit._prepare(ChatConfig(**settings))
            return fingerprint(*request.identity.fields, request.identity.context), meaning(kit, request)
        except (InvalidTypeError, InvalidValueError):  # which this provider has no words for, or nothing was said
            return None

    different = shared = 0
    seen = set()
    while different < pairs:
        kit, settings = rng.choice(at), some_settings(rng)
        one = prepared(kit, settings)
        for _ in range(6):
            kit_of_other = kit if rng.random() < 0.8 else rng.choice(at)
            other = prepared(kit_of_other, nearly(rng, settings))
            if one is None or other is None:
                continue
            if other[1] != one[1]:
                different += 1
                seen.add(type(kit))
                assert other[0] != one[0], settings
            shared += other[0] == one[0]
    assert len(seen) == 3
    assert shared > pairs / 50, "equal requests occur too"
