"""The FastAPI and aiohttp examples of the documentation, asked over HTTP."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from examples.web_apps import COMMANDS, WebApp, running
from servers import Server, Servers, wait_until

from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.redis import RateLimitConfig, RedisChatMemory, RedisRateLimiter

BUDGET, SLOTS = 2_000, 4

_numbers = itertools.count()


@pytest.fixture(scope="module")
def model() -> Iterator[StandInEndpoint]:
    with StandInEndpoint(api_key="a key") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def store(servers: Servers) -> Server:
    shared = servers[next(iter(servers))]
    shared.flush()
    return shared


@pytest.fixture(scope="module", params=COMMANDS)
def app(request, model, store) -> Iterator[WebApp]:
    settings = {
        "RACTOGATEWAY_REDIS_URL": store.url,
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "a key",
        "CHAT_TOKENS_PER_MINUTE": f"{BUDGET}",
    }
    with running(request.param, settings) as app:
        yield app


@pytest.fixture
def user() -> str:
    """Nobody who has asked before."""
    return f"u-{next(_numbers)}"


@pytest.fixture
def limiter(store) -> RedisRateLimiter:
    limits = RateLimitConfig(max_tokens_per_minute=BUDGET, max_concurrent=SLOTS)
    return RedisRateLimiter(url=store.url, config=limits)


@pytest.fixture
def memory(store) -> RedisChatMemory:
    return RedisChatMemory(url=store.url)


def ask(app: WebApp, user: str, text: str, conversation: str = "c") -> httpx.Response:
    return app.client.post(f"/conversations/{conversation}", json={"text": text}, headers={"X-User-Id": user})


@contextmanager
def streamed(app: WebApp, user: str, text: str) -> Iterator[Iterator[dict[str, object]]]:
    """The events of an answer, one by one."""
    with app.client.stream(
        "POST", "/conversations/c/stream", json={"text": text}, headers={"X-User-Id": user}
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        yield (json.loads(line.removeprefix("data: ")) for line in lines if line)


def asked(model: StandInEndpoint) -> list[str]:
    """The texts that the model was sent last, but for the system message."""
    return [message["content"] for message in model.seen[-1].body["messages"][1:]]


def test_an_answer_is_served_and_the_next_question_knows_it(app, model, user):
    first = ask(app, user, f"Who is {user}?").json()
    assert first["answer"]
    assert not first["cached"]
    assert ask(app, user, "And who else?").status_code == 200
    assert asked(model) == [f"Who is {user}?", first["answer"], "And who else?"]


def test_a_cached_answer_is_remembered_and_costs_nothing(app, model, user, limiter):
    question, another = f"What is {user}?", f"another {user}"
    first = ask(app, user, question).json()
    requests = model.requests
    again = ask(app, another, question).json()
    assert (again["answer"], again["cached"]) == (first["answer"], True)
    assert model.requests == requests
    assert limiter.get_remaining(user) < BUDGET
    assert limiter.get_remaining(another) == BUDGET
    ask(app, another, "Go on")
    assert asked(model) == [question, first["answer"], "Go on"]


def test_a_spent_budget_is_a_429_that_says_when_to_come_back(app, model, user, limiter):
    limiter.consume(user, BUDGET)
    requests = model.requests
    refused = ask(app, user, "One more?")
    still = limiter.peek(user, 500).retry_after_seconds
    assert refused.status_code == 429
    assert still <= int(refused.headers["Retry-After"]) <= 60
    with app.client.stream(
        "POST", "/conversations/c/stream", json={"text": "One more?"}, headers={"X-User-Id": user}
    ) as stream:
        assert stream.status_code == 429, "before a stream has begun, too"
    assert model.requests == requests


def test_what_can_never_pass_is_not_asked_to_come_back(app, user):
    refused = ask(app, user, "x" * 4 * BUDGET)
    assert refused.status_code == 413
    assert "Retry-After" not in refused.headers


HOSTILE = {"empty": {"text": ""}, "long": {"text": "x" * 20_001}, "number": {"text": 1}, "nothing": {}, "list": []}


@pytest.mark.parametrize("body", [*map(json.dumps, HOSTILE.values()), "{", ""], ids=[*HOSTILE, "no JSON", "no body"])
def test_what_is_no_question_is_refused(app, model, user, body):
    requests = model.requests
    headers = {"X-User-Id": user, "Content-Type": "application/json"}
    assert app.client.post("/conversations/c", content=body, headers=headers).status_code == 422
    assert model.requests == requests


def test_whoever_names_no_user_is_refused(app):
    assert app.client.post("/conversations/c", json={"text": "Hello!"}).status_code in {401, 422}


def test_a_model_that_refuses_is_an_error_that_tells_only_the_log(app, model, user, limiter):
    logged = app.output.count("ProviderAuthenticationError: ")
    model.api_key = "another one"
    try:
        whole = ask(app, user, f"Who is {user}?")
        with streamed(app, user, f"Who is {user}?") as events:
            (event,) = events
    finally:
        model.api_key = "a key"
    assert whole.status_code == 502
    assert whole.json() == {"detail": "The model did not answer."}
    assert event == {"error": "The model did not answer."}
    assert app.output.count("ProviderAuthenticationError: ") == logged + 2
    assert all_slots_are_free(limiter, user)
    assert limiter.get_remaining(user) == BUDGET, "what was not billed is not charged"
    assert ask(app, user, f"Who is {user}?").status_code == 200, "nothing is stuck"


def test_a_stream_brings_the_answer_in_pieces_and_keeps_it(app, model, user, limiter):
    with streamed(app, user, f"Tell me about {user}") as events:
        *pieces, last = events
    text = "".join(piece["delta"] for piece in pieces)
    assert len(pieces) > 1
    assert last == {"done": True, "cached": False}
    assert BUDGET - 500 < limiter.get_remaining(user) < BUDGET, "settled to what was used"
    ask(app, user, "Go on")
    assert asked(model) == [f"Tell me about {user}", text, "Go on"]


def test_conversations_survive_a_restart_of_the_application(app, model, user):
    first = ask(app, user, f"Remember {user}").json()
    app.restart()
    ask(app, user, "What was I saying?")
    assert asked(model) == [f"Remember {user}", first["answer"], "What was I saying?"]


def test_conversations_of_other_users_are_out_of_reach(app, model, user):
    ask(app, user, f"My secret is {user}")
    ask(app, f"another {user}", f"What is the secret? {user}")
    assert asked(model) == [f"What is the secret? {user}"]


def test_who_asks_the_same_at_the_same_time_waits_for_one_answer(app, model, user):
    requests, model.latency_seconds = model.requests, 0.3
    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: ask(app, f"{user}.{number}", f"All of {user}?"), range(16)))
    finally:
        model.latency_seconds = 0.0
    assert [answer.status_code for answer in answers] == [200] * 16
    assert len({answer.json()["answer"] for answer in answers}) == 1
    assert model.requests == requests + 1


def all_slots_are_free(limiter: RedisRateLimiter, user: str) -> bool:
    with ExitStack() as open_ones:
        for _ in range(SLOTS):
            reservation = limiter.reserve(user, 1)
            open_ones.callback(reservation.cancel)
            if not reservation.decision.allowed:
                return False
    return True


@contextmanager
def slowly(model: StandInEndpoint) -> Iterator[None]:
    """A word a second: whatever happens in the block, happens before the end of a stream."""
    model.chunk_seconds = 1.0
    try:
        yield
    finally:
        model.chunk_seconds = 0.0


def test_a_reader_who_hangs_up_leaves_nothing_behind_but_the_charge(app, model, user, limiter, memory):
    hangups = model.hangups
    with slowly(model):
        with streamed(app, user, f"Tell me slowly about {user}") as events:
            assert next(events)["delta"]
        wait_until(lambda: model.hangups > hangups, timeout_seconds=20.0, what="the end of the stream to the model")
    wait_until(lambda: all_slots_are_free(limiter, user), timeout_seconds=20.0, what="the slot")
    assert limiter.get_remaining(user) < BUDGET, "or hanging up would be a way around the limit"
    assert memory.count(json.dumps([user, "c"])) == 0


def test_a_conversation_that_is_deleted_meanwhile_stays_deleted(app, model, user, memory):
    with ExitStack() as stack:
        with slowly(model):
            events = stack.enter_context(streamed(app, user, f"Tell me more about {user}"))
            next(events)
            assert app.client.delete("/conversations/c", headers={"X-User-Id": user}).status_code == 204
        *_, last = events
    assert "gone on" in last["error"]
    assert memory.count(json.dumps([user, "c"])) == 0


def test_so_many_answers_of_one_user_may_be_under_way(app, user, limiter):
    with ExitStack() as open_ones:
        for _ in range(SLOTS):
            open_ones.enter_context(limiter.reserve(user, 1))
        assert ask(app, user, f"One too many of {user}").status_code == 429
