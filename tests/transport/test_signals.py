"""SIGTERM and SIGINT in processes that are in the middle of calls, as their operators send them: each leaves at once,
with the status that it chose, and what was acknowledged before is on the server."""

from __future__ import annotations

import re
import signal
import time
from subprocess import Popen

import pytest
from probing import finish_script, start_script
from proxy import Proxy

from ractogateway.redis import RateLimitConfig, RedisRateLimiter

PRE_FORK = """
    import asyncio, signal, threading

    from ractogateway.redis import AsyncRedisRateLimiter, RateLimitConfig, RedisRateLimiter

    config = RateLimitConfig(max_tokens_per_minute=10_000_000, window_seconds=600.0)
    blocking = RedisRateLimiter(URL, config=config, on_outage="raise", options=options())
    awaited = AsyncRedisRateLimiter(URL, config=config, on_outage="raise", options=options())
    assert blocking.check_and_consume("fleet") and asyncio.run(awaited.check_and_consume("fleet"))

    def leave(*_):
        sys.exit(0)

    def serve(pipe):
        # A worker of a pre-fork server: threads that block, a loop in a thread, and signals in the main thread.
        ready, over, allowed = [], threading.Event(), []

        def block():
            while not over.is_set():
                allowed.append(blocking.check_and_consume("fleet"))

        async def wait():
            while not over.is_set():
                allowed.append(await awaited.check_and_consume("fleet"))

        threads = [threading.Thread(target=block) for _ in range(2)]
        threads.append(threading.Thread(target=asyncio.run, args=(wait(),)))
        for thread in threads:
            thread.start()
        try:
            while True:
                allowed.append(blocking.check_and_consume("fleet"))
                if len(allowed) > 50 and not ready:
                    ready.append(os.write(pipe, b"r"))
        finally:
            over.set()
            for thread in threads:
                thread.join(10)
            os.write(pipe, b"%d all=%d;" % (len(allowed), all(allowed)))

    signal.signal(signal.SIGTERM, leave)
    pids, pipes = [], []
    for _ in range(4):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            serve(writing)
        os.close(writing)
        pids.append(pid)
        pipes.append(reading)
    for pipe in pipes:
        assert os.read(pipe, 1) == b"r"
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    for pipe in pipes:
        with os.fdopen(pipe) as told:
            print(told.read())
    assert blocking.check_and_consume("fleet")
"""

WAITING = {
    "blocking, a handler that exits": """
        import signal
        cache = new_cache(timeout_seconds=60.0, stall_seconds=60.0)
        fill(cache, 1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print("ready", flush=True)
        sys.stdin.readline()
        print("waiting", flush=True)
        ask(cache, range(1))
    """,
    "a thread that blocks, a handler that exits": """
        import signal, threading
        from ractogateway.errors import StoreError
        cache = new_cache(timeout_seconds=60.0, stall_seconds=60.0)
        fill(cache, 1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        threading.excepthook = lambda _: None  # it is told that the process ends
        print("ready", flush=True)
        sys.stdin.readline()
        threading.Thread(target=ask, args=(cache, range(1)), daemon=True).start()
        print("waiting", flush=True)
        signal.pause()
    """,
    "awaiting, a handler of the loop": """
        import asyncio, signal
        cache = new_cache("AsyncRedisExactCache", timeout_seconds=60.0, stall_seconds=60.0)

        async def main():
            assert await cache.get(*question(0)) is None
            task = asyncio.create_task(cache.get(*question(0)))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancel())
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            task.cancel()
            await asyncio.wait([task])
            task = asyncio.create_task(cache.get(*question(0)))
            print("waiting", flush=True)
            try:
                await task
            except asyncio.CancelledError:
                return 7

        sys.exit(asyncio.run(main()))
    """,
    "awaiting, no handler": """
        import asyncio
        cache = new_cache("AsyncRedisExactCache", timeout_seconds=60.0, stall_seconds=60.0)

        async def main():
            assert await cache.get(*question(0)) is None
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            tasks = [asyncio.create_task(cache.get(*question(0))) for _ in range(10)]
            print("waiting", flush=True)
            await asyncio.gather(*tasks)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            sys.exit(7)
    """,
}


def test_the_workers_of_a_pre_fork_server(any_server):
    """Parent used both faces before; four children under load in threads and a loop; SIGTERM ends them in order. What
    they were told is what the server has."""
    told = finish_script(start_script(PRE_FORK, any_server.url))
    counts = [(int(count), every) for count, every in re.findall(r"(\d+) all=(\d)", told)]
    assert len(counts) == 4
    assert all(every == "1" for _, every in counts)
    config = RateLimitConfig(max_tokens_per_minute=10_000_000, window_seconds=600.0)
    charged = 10_000_000 - RedisRateLimiter(any_server.url, config=config).get_remaining("fleet")
    acknowledged = 3 + sum(count for count, _ in counts)
    assert acknowledged <= charged <= acknowledged + 4, "each child was torn out of one call at most"


@pytest.mark.parametrize("name", WAITING)
def test_whoever_waits_for_an_answer_leaves_at_once(any_server, name):
    with Proxy(any_server.url) as proxy:
        process = start_script(WAITING[name], proxy.url)
        expect(process, "ready")
        proxy.faults(swallow=True)
        process.stdin.write("\n")
        process.stdin.flush()
        expect(process, "waiting")
        time.sleep(0.1)  # so that most are inside the call; the outcome is the same for those that are not
        start = time.monotonic()
        process.send_signal(signal.SIGINT if "no handler" in name else signal.SIGTERM)
        _, err = process.communicate(timeout=30.0)
        assert process.returncode == 7, err
        assert not err
        assert time.monotonic() - start < 5.0, "it waited for the server"


def expect(process: Popen[str], line: str) -> None:
    assert process.stdout.readline() == f"{line}\n", process.communicate(timeout=5.0)
