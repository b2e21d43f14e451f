"""Pairs of requests that other caches take for one: each stands with the key scheme it fools.

The schemes are written anew from their documented or observed behaviour; a row first shows that the pair does collide
in its scheme, so that no row can become idle unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from hashlib import md5
from typing import Any

import pytest

from ractogateway.cache import ExactMatchCache, fingerprint
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import LLMResponse

Request = dict[str, Any]


def asked(message: str = "What is my name?", system: str = "", model: str = "gpt-4o", **context: Any) -> Request:
    temperature, max_tokens = context.pop("temperature", 0.0), context.pop("max_tokens", 4096)
    return {
        "user_message": message,
        "system_prompt": system,
        "model": model,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "context": context,
    }


def fields(request: Request) -> list[Any]:
    return [value for name, value in request.items() if name != "context"]


def said(who: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"I am {who}."}, {"role": "assistant", "content": "Hello!"}]


def five_fields(request: Request) -> Hashable:
    return tuple(map(str, fields(request)))


def joined_by_nul(request: Request) -> Hashable:
    return "\x00".join(map(str, fields(request)))


def names_and_values_run_together(request: Request) -> Hashable:
    """Over an allow-list, in a fixed order, without lengths."""
    allowed = ("user", "stop", "top_p", "seed", "tools", "history")
    context = request["context"]
    return joined_by_nul(request) + "".join(f"{name}: {context[name]}" for name in allowed if name in context)


def last_message_only(request: Request) -> Hashable:
    return request["user_message"]


def as_text(request: Request) -> Hashable:
    """Every value by its str()."""
    return tuple(map(str, fields(request))), tuple(
        sorted((name, str(value)) for name, value in request["context"].items())
    )


def as_json(request: Request) -> Hashable:
    """json.dumps with default=str and sorted keys, the usual one-liner."""
    return json.dumps(request, sort_keys=True, default=str)


def as_repr(request: Request) -> Hashable:
    return repr(sorted(request["context"].items())), five_fields(request)


def lossy_text(request: Request) -> Hashable:
    """MD5 over text encoded with errors="ignore" or "replace"."""
    return md5(request["user_message"].encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


class Tool:
    """An object whose repr says nothing of it."""

    def __init__(self, description: str) -> None:
        self.description = description

    def __repr__(self) -> str:
        return "Tool()"


COLLISIONS: list[tuple[Callable[[Request], Hashable], Request, Request]] = [
    # The five documented fields alone, as the first cache of this interface had it.
    (five_fields, asked(history=said("Alice")), asked(history=said("Bob"))),
    (five_fields, asked(), asked(history=said("Bob"))),
    (five_fields, asked(), asked(tools=[{"type": "function", "function": {"name": "f"}}])),
    (five_fields, asked(), asked(base_url="http://localhost:8000/v1")),
    (five_fields, asked(temperature=0.5), asked(temperature=0.5, top_p=0.1)),
    (joined_by_nul, asked("a\x00b", "c"), asked("a", "b\x00c")),
    (joined_by_nul, asked("", "\x00x"), asked("\x00", "x")),
    # LiteLLM: name and value run together, over an allow-list.
    (names_and_values_run_together, asked(user="bob", stop="END"), asked(user="bobstop: END")),
    (names_and_values_run_together, asked(seed=1, tools=2), asked(seed="1tools: 2")),
    (names_and_values_run_together, asked(num_ctx=2048), asked(num_ctx=4096)),
    (names_and_values_run_together, asked(api_base="https://a.example"), asked(api_base="https://b.example")),
    (names_and_values_run_together, asked(), asked(reasoning_effort="high")),
    (names_and_values_run_together, asked(), asked(response_format={"type": "json_object"})),
    # GPTCache: the last message.
    (last_message_only, asked(history=said("Alice")), asked(history=said("Bob"))),
    (last_message_only, asked(system="Answer in French."), asked(system="Answer in German.")),
    (last_message_only, asked(model="gpt-4o"), asked(model="gpt-4o-mini")),
    # Values by their text.
    (as_text, asked(seed=1), asked(seed="1")),
    (as_text, asked(stop=None), asked(stop="None")),
    (as_text, asked(logprobs=True), asked(logprobs="True")),
    (as_text, asked(stop=["a", "b"]), asked(stop="['a', 'b']")),
    # JSON of whatever is given.
    (as_json, asked(logit_bias={1: 5}), asked(logit_bias={"1": 5})),
    (as_json, asked(data=b"x"), asked(data="b'x'")),
    # Texts by a lossy encoding.
    (lossy_text, asked("caf\ud83d"), asked("caf\ud83e")),
    (lossy_text, asked("caf\ud83d"), asked("caf?")),
]


@pytest.mark.parametrize(("scheme", "one", "other"), COLLISIONS)
def test_what_fools_others_does_not_fool_us(scheme, one, other):
    assert scheme(one) == scheme(other), "the row shows nothing"
    assert fingerprint(**one) != fingerprint(**other)
    cache = ExactMatchCache()
    cache.put(*fields(one), LLMResponse(content="the answer to the one"), context=one["context"])
    assert cache.get(*fields(other), context=other["context"]) is None


def test_what_has_only_a_repr_is_refused():
    one, other = asked(tools=[Tool("deletes nothing")]), asked(tools=[Tool("deletes everything")])
    assert as_repr(one) == as_repr(other)
    for request in (one, other):
        with pytest.raises(InvalidTypeError):
            fingerprint(**request)
