"""Between an answer and its caller: it is settled, stored and remembered at the same time, whoever waits or fails."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kit_tools import ARGUMENTS, CONVERSATION, Tools, question
from proxy import Proxy

from ractogateway import ToolRegistry
from ractogateway.errors import StoreUnavailable, TurnNotRemembered
from ractogateway.redis import RedisOptions

SHORT = RedisOptions(timeout_seconds=0.3)
SCRIPTS = (b"EVALSHA", b"EVAL")
WHOLE = ["user", "assistant"]


@pytest.fixture
def tools(any_server) -> Tools:
    return Tools(any_server.url)


@pytest.fixture
def proxies(any_server) -> Iterator[dict[str, Proxy]]:
    """A way to the server for each tool."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Proxy(any_server.url)) for name in ARGUMENTS}


class Writes:
    """Of the three tools, each behind a proxy of its own: held up at the server from `hold` to `release`."""

    def __init__(self, admin: redis.Redis, proxies: dict[str, Proxy]) -> None:
        self._admin = admin
        self._proxies = proxies
        self._before: dict[str, int] = {}

    def hold(self) -> None:
        self._admin.client_pause(60_000, all=False)
        self._before = self._scripts()

    def release(self) -> None:
        self._admin.client_unpause()

    def are_under_way(self) -> bool:
        """Whether each tool has sent one since."""
        return bool(self._before) and all(sent > self._before[name] for name, sent in self._scripts().items())

    def _scripts(self) -> dict[str, int]:
        return {name: sum(proxy.commands[each] for each in SCRIPTS) for name, proxy in self._proxies.items()}


@pytest.fixture
def writes(any_server, proxies) -> Iterator[Writes]:
    with redis.Redis.from_url(any_server.url) as admin:
        writes = Writes(admin, proxies)
        yield writes
        writes.release()


def before_it_is_asked(kit: Any, action: Callable[[], object]) -> None:
    """Have something done whenever a kit is about to ask the provider: all that comes before has been done then."""
    for side in (kit._async, kit._blocking):
        for name in ("send", "open"):
            setattr(side, name, _after(action, getattr(side, name)))


def _after(action: Callable[[], object], method: Any) -> Any:
    async def called(*arguments: Any) -> Any:
        action()
        return await method(*arguments)

    return called


def through(tools: Tools, proxies: dict[str, Proxy], **settings: Any) -> dict[str, Any]:
    return {name: tools.make(name, url=proxies[name].url, **settings) for name in ARGUMENTS}


def roles(tools: Tools, conversation_id: str = CONVERSATION) -> list[str]:
    return [message["role"] for message in tools.said(conversation_id)]


async def call(kit: Any, method: str, config: Any) -> Any:
    if method == "achat":
        return await kit.achat(config)
    return [chunk async for chunk in kit.astream(config)][-1].response


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_the_three_writes_are_under_way_together(make_kit, tools, proxies, writes, eventually, method):
    kit = make_kit(**through(tools, proxies))

    async def main() -> None:
        await call(kit, method, question("First"))  # the server knows the scripts
        before_it_is_asked(kit, writes.hold)
        asked = asyncio.create_task(call(kit, method, question()))
        await asyncio.to_thread(eventually, writes.are_under_way)
        assert not asked.done()  # nobody gets an answer whose turn may be lost
        writes.release()
        answer = await asked
        assert answer.gateway.settled_tokens == answer.usage.total_tokens
        assert answer.gateway.revision == 2

    asyncio.run(main())
    assert roles(tools) == WHOLE * 2


@pytest.mark.parametrize("turns", range(14))
def test_who_is_cancelled_after_the_answer_loses_nothing_that_was_paid_for(
    make_kit, endpoint, tools, monkeypatch, eventually, turns
):
    kit = make_kit(**tools.all())
    costs = []

    async def main() -> None:
        answered, send = asyncio.Event(), kit._async.send

        async def sent(*arguments: Any) -> Any:
            answer = await send(*arguments)
            costs.append(answer.usage.total_tokens)
            answered.set()
            return answer

        monkeypatch.setattr(kit._async, "send", sent)
        asked = asyncio.create_task(kit.achat(question()))
        await answered.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await asyncio.to_thread(eventually, lambda: tools.spent() == costs[0])
        again = await kit.achat(question(conversation_id=None))
        assert (again.cached, endpoint.requests) == (True, 1)

    asyncio.run(main())
    assert roles(tools) in ([], WHOLE)


def test_who_is_cancelled_while_all_is_being_written_loses_nothing_either(
    make_kit, endpoint, tools, proxies, writes, eventually
):
    kit = make_kit(**through(tools, proxies))

    async def main() -> None:
        first = await kit.achat(question("First", conversation_id="another"))
        before_it_is_asked(kit, writes.hold)
        asked = asyncio.create_task(kit.achat(question()))
        await asyncio.to_thread(eventually, writes.are_under_way)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        writes.release()
        again = await kit.achat(question(conversation_id=None))
        assert (again.cached, endpoint.requests) == (True, 2)
        cost = first.usage.total_tokens + again.saved_usage.total_tokens
        await asyncio.to_thread(eventually, lambda: tools.spent() == cost)

    asyncio.run(main())
    assert roles(tools) in ([], WHOLE)


@pytest.mark.parametrize("method", ["chat", "achat", "stream", "astream"])
def test_a_turn_that_cannot_be_appended_is_settled_and_stored(make_kit, endpoint, asks, tools, monkeypatch, method):
    around = tools.all()
    kit = make_kit(**around)

    async def lost(*_: object, **__: object) -> int:
        raise StoreUnavailable("lost")

    monkeypatch.setattr(around["memory"].aio, "extend", lost)
    monkeypatch.setattr(around["memory"]._core, "extend", lost)
    with pytest.raises(TurnNotRemembered) as e:
        asks[method](kit, question())
    assert tools.spent() == e.value.response.usage.total_tokens
    assert roles(tools) == []
    assert asks[method](kit, question(conversation_id=None)).cached
    assert endpoint.requests == 1


class Unsettled:
    """An async limiter whose reservations cannot be settled."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter

    async def consume(self, *arguments: Any) -> Any:
        raise NotImplementedError

    async def reserve(self, user_id: str, tokens: int) -> Any:
        reservation = await self._limiter.reserve(user_id, tokens)

        async def settle(_: int) -> bool:
            raise StoreUnavailable("lost")

        reservation.settle = settle
        return reservation


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_what_cannot_be_settled_is_stored_and_remembered(make_kit, endpoint, asks, tools, method):
    around = {**tools.all(is_async=True), "rate_limiter": Unsettled(tools.make("rate_limiter", is_async=True))}
    kit = make_kit(**around)
    answer = asks[method](kit, question())
    assert (answer.gateway.settled_tokens, tools.spent()) == (None, answer.gateway.reserved_tokens)
    assert roles(tools) == WHOLE
    assert asks[method](kit, question(conversation_id=None)).cached
    assert endpoint.requests == 1


@pytest.mark.parametrize("method", ["chat", "achat", "stream", "astream"])
def test_what_cannot_be_stored_is_settled_and_remembered(make_kit, asks, tools, proxies, method):
    cache = tools.make("exact_cache", url=proxies["exact_cache"].url, options=SHORT)
    kit = make_kit(exact_cache=cache, **tools.all("rate_limiter", "memory"))
    before_it_is_asked(kit, proxies["exact_cache"].shut)
    answer = asks[method](kit, question())
    assert answer.gateway.settled_tokens == answer.usage.total_tokens == tools.spent()
    assert roles(tools) == WHOLE


class Ahead:
    """An async cache of somebody else that hands answers out before they are stored, which then fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get(self, *_: object, **__: object) -> None:
        return None

    async def put(self, *_: object, **__: object) -> None:
        self.asked.append("put")

    async def get_or_compute(self, *request: Any, **_: object) -> Any:
        return await request[-1]()

    async def get_or_compute_ahead(self, *request: Any, **_: object) -> Any:
        async def stored() -> None:
            await asyncio.sleep(0.02)
            self.asked.append("stored")
            raise OSError("CANARY-secret")

        return await request[-1](), stored


def test_a_cache_of_somebody_elses_that_fails_behind_its_answer_fails_no_request(make_kit, caplog):
    cache = Ahead()
    answer = asyncio.run(make_kit(exact_cache=cache).achat(question()))
    assert (answer.raw is not None, cache.asked) == (True, ["stored"])
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "store failed: OSError" in line
    assert "CANARY" not in line


def test_a_turn_that_cannot_be_appended_is_told_of_when_all_else_has_ended(make_kit, tools, monkeypatch):
    memory, cache = tools.make("memory", is_async=True), Ahead()

    async def lost(*_: object, **__: object) -> int:
        raise StoreUnavailable("lost")

    monkeypatch.setattr(memory, "extend", lost)
    with pytest.raises(TurnNotRemembered):
        asyncio.run(make_kit(exact_cache=cache, memory=memory).achat(question()))
    assert cache.asked == ["stored"]


def test_a_tool_that_raises_is_told_of_when_the_answer_before_it_is_stored(make_kit):
    registry, cache = ToolRegistry(on_error="raise"), Ahead()

    @registry.tool
    async def get_weather(city: str) -> str:
        raise ZeroDivisionError

    config = question("Use get_weather", tools=registry, tool_rounds=1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(make_kit(exact_cache=cache).achat(config))
    assert cache.asked == ["stored"]


def test_who_replaced_get_or_compute_alone_is_asked_by_it(make_kit):
    class Own(Ahead):
        async def get_or_compute(self, *request: Any, **named: Any) -> Any:
            self.asked.append("own")
            return await super().get_or_compute(*request, **named)

    cache = Own()
    asyncio.run(make_kit(exact_cache=cache).achat(question()))
    assert cache.asked == ["own"]


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_replies_that_get_lost_after_the_answer_change_nothing(
    make_kit, endpoint, asks, tools, proxies, eventually, method
):
    kit = make_kit(**through(tools, proxies))
    begun = threading.Event()

    def lose() -> None:
        for proxy in proxies.values():
            proxy.faults(lose_one_in=1, losing=SCRIPTS)
        begun.set()

    def stop_losing() -> None:
        begun.wait(20)
        for proxy in proxies.values():
            eventually(lambda proxy=proxy: proxy.lost > 0)
            proxy.faults()

    before_it_is_asked(kit, lose)
    stopping = threading.Thread(target=stop_losing)
    stopping.start()
    answer = asks[method](kit, question())
    stopping.join()
    assert answer.gateway.settled_tokens == answer.usage.total_tokens == tools.spent()
    assert (roles(tools), answer.gateway.revision, tools.revision()) == (WHOLE, 1, 1)
    assert asks[method](kit, question(conversation_id=None)).cached
    assert endpoint.requests == 1
