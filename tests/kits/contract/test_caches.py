"""One cache before all kits: what it finds, what it keeps, and what it tells apart."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from kit_wires import HELLO, PROMPT, WEATHER, WIRES, Person
from secrecy import SECRET_PASSWORD

from ractogateway import ChatConfig
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.cache import ExactMatchCache


def test_each_method_finds_what_each_other_stored(asks, make, endpoint):
    for storing in asks.values():
        kit = make(exact_cache=ExactMatchCache())
        first = storing(kit, HELLO)
        sent = endpoint.requests
        for finding in asks.values():
            hit = finding(kit, HELLO)
            assert (hit.cached, hit.content, hit.usage.total_tokens) == (True, first.content, 0)
            assert hit.saved_usage == first.usage
        assert endpoint.requests == sent


def test_a_hit_needs_no_key_and_is_parsed_again(ask, wire, make, monkeypatch):
    monkeypatch.delenv(wire.variable, raising=False)
    cache = ExactMatchCache()
    config = ChatConfig(user_message="Who?", response_model=Person)
    first = ask(make(exact_cache=cache), config)
    hit = ask(make(exact_cache=cache, api_key=None), config)
    assert (hit.cached, hit.parsed) == (True, first.parsed)


def test_what_is_no_answer_is_not_stored(ask, make, endpoint):
    cache = ExactMatchCache()
    cut = HELLO.model_copy(update={"max_tokens": 3})
    warm = HELLO.model_copy(update={"temperature": 0.5})
    for kit, config in ((make(exact_cache=cache), cut), (make(exact_cache=cache), warm)):
        ask(kit, config)
        assert not ask(kit, config).cached
    ask(make("refuse", exact_cache=cache), HELLO)
    assert len(cache) == 0


def test_everything_that_shapes_an_answer_is_its_own_entry(ask, make):
    cache = ExactMatchCache()
    kit = make(exact_cache=cache)
    configs = [
        HELLO,
        HELLO.model_copy(update={"max_tokens": 200}),
        HELLO.model_copy(update={"prompt": PROMPT}),
        HELLO.model_copy(update={"tools": [WEATHER]}),
        HELLO.model_copy(update={"history": [{"role": "user", "content": "Hi"}]}),
    ]
    for config in configs:
        assert not ask(kit, config).cached
    assert len(cache) == len(configs)


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_the_same_question_to_another_provider_or_server_is_another_entry(ask, asks, make):
    cache = ExactMatchCache()
    with StandInEndpoint(api_key=SECRET_PASSWORD) as other:
        kits = [make(exact_cache=cache), make(exact_cache=cache, base_url=other.base_url)]
        for wire in list(WIRES.values())[1:]:
            with wire.endpoint() as endpoint:
                options = {"base_url": endpoint.base_url, "api_key": endpoint.api_key}
                with wire.kit("stand-in", exact_cache=cache, **options) as kit:
                    assert not asks["chat"](kit, HELLO).cached
        for kit in kits:
            assert not ask(kit, HELLO).cached
    assert len(cache) == len(WIRES) + 1


def test_providers_differ_at_their_own_addresses_too():
    contexts = [wire.kit("m", api_key="k")._prepare(HELLO).identity.context for wire in WIRES.values()]
    assert contexts == [None, *({"provider": name} for name in list(WIRES)[1:])]


def test_a_cache_that_fails_costs_no_answer(ask, make, caplog):
    class Broken:
        def get(self, *_args, **_kwargs):
            raise RuntimeError("CANARY")

        put = get

    with caplog.at_level(logging.WARNING, "ractogateway.kit"):
        assert ask(make(exact_cache=Broken()), HELLO).content
    assert "CANARY" not in caplog.text
    assert "exact cache lookup failed: RuntimeError" in caplog.text


def test_many_at_once_pay_once(make, endpoint):
    kit = make("slow-30", exact_cache=ExactMatchCache())

    async def many() -> list[Any]:
        return await asyncio.gather(*(kit.achat(HELLO) for _ in range(20)))

    assert len({answer.content for answer in asyncio.run(many())}) == 1
    assert endpoint.requests == 1


class Editing(ExactMatchCache):
    """Keeps what was said out of its log, by hand."""

    def get(self, *_request: Any, context: Any = None) -> None:
        edit(context)

    def put(self, *_request: Any, context: Any = None, **_named: Any) -> None:
        edit(context)


def edit(value: Any) -> None:
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, item in list(places):
        if isinstance(item, (dict, list)):
            edit(item)
        elif isinstance(item, str):
            value[place] = "<edited>"


def test_a_cache_that_edits_what_it_is_given_changes_nothing_that_is_sent(ask, make, endpoint):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    config = ChatConfig(
        user_message="And now?",
        history=[
            {"role": "user", "content": "My name is Bob."},
            {"role": "assistant", "content": "Hello Bob."},
            {"role": "user", "content": [{"type": "text", "text": "See?"}, image]},
        ],
        following=[
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain", "tool_call_id": "a"},
        ],
        attachments=[image],
        tools=[WEATHER],
    )
    for kit in (make(), make(exact_cache=Editing())):
        ask(kit, config)
    first, second = (seen.body for seen in endpoint.seen)
    assert second == first
    assert "Bob" in str(second)
