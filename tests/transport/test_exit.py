"""Programs that never close anything end cleanly: each script below is a process of its own, in development mode, with
every ResourceWarning an error, and must print nothing on stderr."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from probing import finish_script, run_script, start_script
from proxy import Proxy
from servers import wait_until

SCRIPTS = {
    "blocking, never closed": """
        cache = new_cache()
        fill(cache)
        ask(cache)
        print("done")
    """,
    "awaiting, never closed": """
        import asyncio
        from ractogateway.messages import LLMResponse

        cache = new_cache("AsyncRedisExactCache")

        async def main():
            for number in range(50):
                await cache.put(*question(number), LLMResponse(content=f"answer {number}"))
            await asyncio.gather(*(ask_async(cache) for _ in range(20)))

        asyncio.run(main())
        asyncio.run(main())
        print("done")
    """,
    "both faces, closed in the middle": """
        import asyncio

        cache = new_cache()
        for _ in range(3):
            with cache:
                fill(cache, 5)
            ask(cache, range(5))

            async def main():
                async with cache.aio:
                    await ask_async(cache.aio, range(5))
                await ask_async(cache.aio, range(5))

            asyncio.run(main())
        print("done")
    """,
    "abandoned": """
        import asyncio, gc

        for _ in range(3):
            cache = new_cache()
            fill(cache, 5)
            del cache
            gc.collect()

        async def main():
            for _ in range(3):
                cache = new_cache("AsyncRedisExactCache")
                await ask_async(cache, range(5))
                del cache
                gc.collect()

        asyncio.run(main())
        gc.collect()
        print("done")
    """,
    "abandoned in mid-call": """
        import asyncio, gc

        cache = new_cache()
        fill(cache)

        async def main():
            for _ in range(200):
                asyncio.create_task(ask_async(cache.aio))
            await asyncio.sleep(0.01)

        asyncio.run(main())
        gc.collect()
        print("done")
    """,
    "a loop that is shut down by hand": """
        import asyncio

        cache = new_cache("AsyncRedisExactCache")
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(cache.get(*question(0))) is None
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        print("done")
    """,
    "daemons in mid-call": """
        import threading, time
        from ractogateway.errors import StoreError

        cache = new_cache()
        fill(cache)

        def work():
            try:
                while True:
                    ask(cache)
            except StoreError:
                pass  # the process ends

        for _ in range(8):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.05)
        print("done")
    """,
    "a daemon that waits for an answer": """
        import threading, time
        from ractogateway.errors import StoreError

        cache = new_cache()
        fill(cache, 1)

        def work():
            try:
                cache.clear()
            except StoreError:
                pass

        import redis
        client = redis.Redis.from_url(URL)
        client.execute_command("CLIENT", "PAUSE", 700, "WRITE")
        client.close()
        waiter = threading.Thread(target=work, daemon=True)
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive()
        print("done")
    """,
    "sys.exit in the middle": """
        import sys

        fill(new_cache())
        print("done")
        sys.exit()
    """,
    "loops of several threads": """
        import asyncio, threading

        cache = new_cache()
        fill(cache)

        async def main():
            await asyncio.gather(*(ask_async(cache.aio) for _ in range(5)))

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        ask(cache)
        for thread in threads:
            thread.join()
        print("done")
    """,
}

WAITED_FOR = {
    "threads that go on after the main thread": """
        import threading
        from ractogateway.redis import ChatMemoryConfig, RedisChatMemory

        memory = RedisChatMemory(URL, config=ChatMemoryConfig(max_turns=100), options=options())
        ended = threading.main_thread().join

        def work(number):
            ended()
            for n in range(20):
                memory.append(f"after {number}", "user", str(n))

        for number in range(4):
            threading.Thread(target=work, args=(number,)).start()
        print("done")
    """,
    "an executor that still has work": """
        from concurrent.futures import ThreadPoolExecutor
        from ractogateway.redis import ChatMemoryConfig, RedisChatMemory

        memory = RedisChatMemory(URL, config=ChatMemoryConfig(max_turns=100), options=options())
        pool = ThreadPoolExecutor(4)
        for n in range(80):
            pool.submit(memory.append, "after 0", "user", str(n))
        print("done")
    """,
}


@pytest.fixture(scope="module")
def started(servers) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them, started together: the start of Python is most of their time."""
    server = servers[next(iter(servers))]
    server.flush()
    processes = {name: start_script(source, f"{server.url}?client_name=script") for name, source in SCRIPTS.items()}
    yield processes
    for process in processes.values():
        if process.returncode is None:  # its test was not selected, or failed
            process.kill()
            process.communicate()
    with server.client() as client:
        wait_until(
            lambda: not any(each["name"] == "script" for each in client.client_list()),
            what="the connections of processes that ended being closed",
        )


@pytest.mark.cell("exit with work pending", "cache", "memory", "blocking")
@pytest.mark.parametrize("name", SCRIPTS)
def test_programs_that_never_close_anything(started, name):
    assert finish_script(started[name]) == "done\n"


@pytest.mark.cell("exit with work pending", "memory", "blocking")
@pytest.mark.parametrize("name", WAITED_FOR)
def test_work_that_the_exit_waits_for_is_done(any_server, name):
    """What the interpreter itself waits for at its end finds the tools in working order."""
    assert run_script(WAITED_FOR[name], any_server.url) == "done\n"
    with any_server.client() as client:
        assert sum(client.llen(key) for key in client.keys("ractogateway:memory:*:messages")) == 80


def test_exit_handlers_may_use_the_tools(any_server):
    """Registered before the import or after it, and whatever was used before: the order is not theirs to know."""
    source = """
        import asyncio, atexit

        def handler(name):
            cache = new_cache()
            ask(cache, range(3))
            print(name, "blocking")
            asyncio.run(ask_async(new_cache("AsyncRedisExactCache"), range(3)))
            print(name, "awaiting")
            ask(old, range(3))
            print(name, "the old one")

        atexit.register(handler, "registered before")
        import ractogateway.redis
        atexit.register(handler, "registered after")
        old = new_cache()
        fill(old, 3)
        print("main")
    """
    assert run_script(source, any_server.url).splitlines() == [
        "main",
        *(
            f"registered {when} {face}"
            for when in ("after", "before")
            for face in ("blocking", "awaiting", "the old one")
        ),
    ]


@pytest.mark.cell("exit with work pending", "cache", "blocking")
def test_the_exit_does_not_wait_for_a_server_that_is_away(any_server):
    """A process whose server stopped answering ends all the same, soon."""
    source = """
        import sys, threading

        cache = new_cache(stall_seconds=60.0, timeout_seconds=60.0)
        fill(cache, 1)
        print("filled", flush=True)
        sys.stdin.readline()
        threading.excepthook = lambda _: None  # they are told that the process ends
        threads = [threading.Thread(target=ask, args=(cache, range(1)), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        threads[0].join(0.1)
        assert threads[0].is_alive()
        print("done")
    """
    with Proxy(any_server.url) as proxy:
        process = start_script(source, proxy.url)
        assert process.stdout.readline() == "filled\n"
        proxy.faults(swallow=True)
        start = time.monotonic()
        assert finish_script(process, "\n") == "done\n"
        assert time.monotonic() - start < 5.0


def test_a_finalizer_that_calls_when_all_else_has_ended(any_server):
    """Neither a private thread nor modules are left; it may fail, and the program ends."""
    source = """
        import gc

        gc.disable()
        cache = new_cache(timeout_seconds=1.0)
        fill(cache, 1)

        class Last:
            def __init__(self):
                self.itself = self

            def __del__(self):
                try:
                    ask(cache, [0])
                except Exception:
                    pass

        Last()
        print("done")
    """
    assert run_script(source, any_server.url) == "done\n"
