"""Without Redis every call is an error: no read is ever empty, no write is ever forgotten. While only writes are
paused, what is read by plain commands is read."""

from __future__ import annotations

import pytest
import redis
from secrecy import SECRET_ANSWER, SECRET_PROMPT, SECRET_USER
from servers import Server, valkey9

from ractogateway.errors import StoreNotReady, StoreUnavailable
from ractogateway.redis import ChatMemoryConfig, RedisChatMemory, RedisOptions

TURN = [{"role": "user", "content": SECRET_PROMPT}, {"role": "assistant", "content": SECRET_ANSWER}]
HASTY = RedisOptions(timeout_seconds=0.3, stall_seconds=0.2)

CALLS = {
    "append": lambda memory: memory.append("c", "user", "x", user_id=SECRET_USER),
    "extend": lambda memory: memory.extend("c", TURN),
    "replace": lambda memory: memory.replace("c", TURN),
    "pop": lambda memory: memory.pop("c"),
    "clear": lambda memory: memory.clear("c"),
    "get_history": lambda memory: memory.get_history("c"),
    "last": lambda memory: memory.get_history("c", last=2),
    "get_messages": lambda memory: memory.get_messages("c"),
    "get_page": lambda memory: memory.get_page("c"),
    "get_changes": lambda memory: memory.get_changes("c", 1),
    "count": lambda memory: memory.count("c"),
    "fork": lambda memory: memory.fork("c", "d"),
    "export": lambda memory: memory.export("c"),
    "import_": lambda memory: memory.import_("d", '{"role":"user","content":"x"}'),
    "migrate": lambda memory: memory.migrate("c"),
    "conversations": lambda memory: memory.conversations(SECRET_USER),
    "erase": lambda memory: memory.erase("c"),
    "erase_user": lambda memory: memory.erase_user(SECRET_USER),
    "deliver_evicted": lambda memory: memory.deliver_evicted("c"),
}


@pytest.fixture(scope="module")
def own_server():
    with valkey9(config={"maxmemory-policy": "noeviction"}) as server:
        yield server


def memory_at(server: Server) -> RedisChatMemory:
    config = ChatMemoryConfig(on_evict=lambda *_: None)
    memory = RedisChatMemory(server.url, config=config, options=HASTY)
    memory.clear("c")
    memory.extend("c", TURN, user_id=SECRET_USER)
    return memory


@pytest.mark.cell("freeze", "memory", "blocking")
@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_away_is_an_error(own_server, name):
    memory = memory_at(own_server)
    with own_server.frozen(), pytest.raises(StoreUnavailable):
        CALLS[name](memory)


def test_every_method_is_tried():
    methods = {name for name in dir(RedisChatMemory) if not name.startswith("_")}
    asks_nobody = {"aio", "check_messages", "close", "stats"}
    assert methods - asks_nobody == set(CALLS) - {"last"}


@pytest.mark.cell("out of memory", "memory", "blocking")
def test_a_full_server_still_reads_pops_clears_and_erases(own_server):
    memory = memory_at(own_server)
    own_server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        for name in ("append", "extend", "replace"):
            with pytest.raises(StoreNotReady):
                CALLS[name](memory)
        assert memory.get_history("c", last=1) == memory.get_history("c") == TURN
        assert memory.pop("c") == TURN[1]
        assert memory.erase_user(SECRET_USER).messages == 1
    finally:
        own_server.command("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.cell("pause", "memory", "blocking")
def test_while_writes_are_paused_whole_histories_are_read(own_server):
    memory = memory_at(own_server)
    revision = memory.get_page("c").revision
    with own_server.client() as admin:
        admin.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
        try:
            assert memory.get_history("c") == TURN
            assert memory.count("c") == 2
            assert not memory.get_changes("c", revision)
            with pytest.raises(StoreUnavailable):
                memory.append("c", "user", "x")
        finally:
            admin.execute_command("CLIENT", "UNPAUSE")


def test_something_else_under_a_key_is_an_error(own_server):
    memory = memory_at(own_server)
    with own_server.client() as client:
        for key in client.scan_iter(match="*:messages"):
            client.set(key, "x")
        with pytest.raises(redis.ResponseError):
            client.lrange(key, 0, -1)
        for name in ("get_history", "last", "get_page", "count", "extend", "pop"):
            with pytest.raises(Exception, match="another type") as caught:
                CALLS[name](memory)
            assert not isinstance(caught.value, StoreUnavailable)
        client.flushdb()
