"""After a fork both processes go on, each over connections of its own: no reply of one reaches the other, nothing
hangs, and what the child does to its copies does nothing to the parent. Each script is a process of its own."""

from __future__ import annotations

import os

import pytest
from probing import finish_script, run_script, start_script
from proxy import Proxy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

COMMON = """
    import asyncio, gc, os, sys, threading, time, traceback

    cache = new_cache()
    fill(cache)
    awaited = new_cache("AsyncRedisExactCache")
    over = threading.Event()
    failures = []


    def hammer():
        # Blocking callers of the parent, in mid-call whenever it forks.
        while not over.is_set():
            try:
                ask(cache)
            except BaseException as error:
                failures.append(error)
                raise


    async def hammer_async():
        async def one():
            while not over.is_set():
                await ask_async(awaited)

        await asyncio.gather(*(one() for _ in range(4)))


    def child(numbers=range(20)):
        # What a forked child of a server does: everything.
        ask(cache, numbers)

        async def main():
            for start in range(0, 10, 5):
                await asyncio.gather(*(ask_async(awaited, range(start, start + 5)) for _ in range(2)))
                gc.collect()

        asyncio.run(main())
        gc.collect()
        threads = [threading.Thread(target=ask, args=(cache, range(5))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ask(new_cache(), range(3))


    def fork(work=child, leave=os._exit):
        # In the child, `work` and out; in the parent the child's id.
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        leave(status)


    def reap(pid):
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, 6)  # development mode prints where every thread is
                os.waitpid(pid, 0)
                sys.exit("the child hangs")
            time.sleep(0.002)
        assert ended[1] == 0, f"the child ended with {os.waitstatus_to_exitcode(ended[1])}"


    def loop_in_thread():
        # An event loop of the program itself, with our connections in it.
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        return loop


    def assert_wakes(loop):
        # A loop whose wake-up socket has left its epoll set is woken by nobody.
        for _ in range(20):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(2.0)
            time.sleep(0.001)


    def stop(loop):
        async def farewell():
            await loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(farewell(), loop).result(5.0)
        loop.call_soon_threadsafe(loop.stop)
        while loop.is_running():
            time.sleep(0.001)
        loop.close()
"""


def forked(server, source: str) -> None:
    indent = "    "
    assert run_script(f"{COMMON}\n{source}\n{indent}print('done')\n", server.url).splitlines()[-1] == "done"


def test_from_plain_code(any_server):
    """Nothing is under way; the tools were used before, and are used after, in the parent and in grandchildren."""
    forked(
        any_server,
        """
    def grandparent():
        child()
        reap(fork())

    for leave in (os._exit, sys.exit):
        for work in (child, grandparent, lambda: None):
            reap(fork(work, leave))
            ask(cache)
            asyncio.run(ask_async(awaited))
            gc.collect()
    """,
    )


@pytest.mark.cell("fork", "cache", "blocking")
def test_while_both_are_under_load(any_server):
    """Threads and an event loop of the parent are in mid-call at every fork; and afterwards, when all is quiet, the
    parent's loops still wake up."""
    forked(
        any_server,
        """
    loop = loop_in_thread()
    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    load = asyncio.run_coroutine_threadsafe(hammer_async(), loop)
    for leave in (os._exit, sys.exit):
        reap(fork(leave=leave))
    children = [fork(leave=leave) for leave in (os._exit, sys.exit)]
    for pid in children:
        reap(pid)
    assert all(thread.is_alive() for thread in threads) and not load.done()
    over.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a caller of the parent hangs"
    load.result(10)
    assert not failures
    assert_wakes(loop)
    ask(cache)
    asyncio.run_coroutine_threadsafe(ask_async(awaited), loop).result(10)
    for leave in (os._exit, sys.exit):
        reap(fork(leave=leave))
        assert_wakes(loop)
    stop(loop)
    """,
    )


def test_many_children_in_a_hurry(any_server):
    """A lock that some thread of the parent holds at the very moment of the fork must not stay locked in the child."""
    forked(
        any_server,
        """
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        reap(fork(lambda: ask(cache, range(number, number + 3))))
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    """,
    )


@pytest.mark.cell("fork", "cache")
def test_from_inside_a_running_loop(any_server):
    """The child of a coroutine has a loop that looks as if it ran; its own asyncio.run works all the same."""
    forked(
        any_server,
        """
    async def main():
        load = asyncio.create_task(hammer_async())
        await asyncio.sleep(0.02)
        for _ in range(3):
            pid = fork()
            await asyncio.to_thread(reap, pid)
            await ask_async(awaited, range(10))
        assert not load.done()
        over.set()
        await load
        await ask_async(awaited)

    asyncio.run(main())
    ask(cache)
    """,
    )


def test_from_a_thread(any_server):
    """In the child only the forking thread goes on, and the main thread is another one than before."""
    forked(
        any_server,
        """
    threads = [threading.Thread(target=hammer) for _ in range(2)]
    loop = loop_in_thread()
    load = asyncio.run_coroutine_threadsafe(hammer_async(), loop)
    for thread in threads:
        thread.start()

    def forking():
        for _ in range(3):
            reap(fork())

    forker = threading.Thread(target=forking)
    forker.start()
    forker.join(60)
    assert not forker.is_alive()
    over.set()
    for thread in threads:
        thread.join(10)
    load.result(10)
    assert not failures
    assert_wakes(loop)
    stop(loop)
    """,
    )


def test_with_a_loop_between_two_runs(any_server):
    """A loop that is not running at the moment of the fork is garbage in the child like anything else. Closing it there
    would take its wake-up socket out of the epoll set that the parent goes on sleeping on."""
    forked(
        any_server,
        """
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask_async(awaited, range(5)))

    def forget_it():
        global loop
        loop = None
        gc.collect()
        child()
        gc.collect()

    async def woken_by_a_thread():
        await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.01), 5)
        await ask_async(awaited, range(5))

    for leave in (os._exit, sys.exit):
        for work in (forget_it, child):
            reap(fork(work, leave))
            loop.run_until_complete(woken_by_a_thread())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    """,
    )


def test_a_breaker_that_was_being_probed(any_server):
    """The thread that was finding out whether Redis is back stays behind in the parent; the child finds out itself."""
    with Proxy(any_server.url) as proxy:
        source = """
    import redis
    from ractogateway.errors import StoreError
    from ractogateway.redis import RedisChatMemory

    settings = options(timeout_seconds=0.6, stall_seconds=60.0, breaker_failures=1, breaker_seconds=0.05)
    memory = RedisChatMemory(URL, options=settings)
    memory.count("conversation")
    print("swallow", flush=True)
    sys.stdin.readline()

    def swallowed():
        try:
            memory.count("conversation")
        except StoreError:
            return
        raise AssertionError("this should have been swallowed")

    swallowed()
    time.sleep(0.1)
    prober = threading.Thread(target=swallowed)
    prober.start()
    prober.join(0.1)
    assert prober.is_alive()
    print("heal", flush=True)
    sys.stdin.readline()

    def probe():
        deadline = time.monotonic() + 5
        while True:
            try:
                return memory.count("conversation")
            except StoreError:
                assert time.monotonic() < deadline, "the breaker stays open for ever"
                time.sleep(0.01)

    reap(fork(probe))
    prober.join()
    print("done")
    """
        process = start_script(COMMON + source, proxy.url)
        assert process.stdout.readline() == "swallow\n"
        proxy.faults(swallow=True)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "heal\n"
        proxy.faults()
        assert finish_script(process, "\n") == "done\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(any_server, method, tmp_path):
    """Workers of a pool, in each way of making them; all but ``fork`` need a module that they can import."""
    module = tmp_path / f"workers_{method}.py"
    module.write_text(
        f"""
import asyncio, logging, multiprocessing, os, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)  # its debug mode tells of callbacks that a busy machine made slow
from ractogateway.redis import AsyncRedisChatMemory, RedisChatMemory, RedisOptions

memory = RedisChatMemory({any_server.url!r}, options=RedisOptions(timeout_seconds=10.0))
awaited = AsyncRedisChatMemory({any_server.url!r}, options=RedisOptions(timeout_seconds=10.0))


def work(number):
    for n in range(3):
        memory.append(f"conversation {{number}}", "user", f"{{number}}:{{n}}")
    history = asyncio.run(awaited.get_history(f"conversation {{number}}"))
    return [message["content"] for message in history]


if __name__ == "__main__":
    memory.append("parent", "user", "before")
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert pool.map(work, range(8), chunksize=1) == [[f"{{i}}:{{n}}" for n in range(3)] for i in range(8)]
        pool.close()
        pool.join()
    memory.append("parent", "user", "after")
    assert [message["content"] for message in memory.get_history("parent")] == ["before", "after"]
    print("done")
"""
    )
    source = f"""
        import runpy
        sys.path.insert(0, {str(tmp_path)!r})
        sys.argv = [{str(module)!r}]
        runpy.run_path({str(module)!r}, run_name="__main__")
    """
    if method != "fork":
        # A child looks its work up in the main module, which has to be a file.
        source = f"import subprocess; sys.exit(subprocess.call([sys.executable, '-X', 'dev', {str(module)!r}]))"
    assert run_script(source, any_server.url) == "done\n"
