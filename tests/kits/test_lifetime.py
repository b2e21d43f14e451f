"""Clients and connections: made once, shared, and gone without anybody closing anything."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit


def config(text: object = "Hello") -> ChatConfig:
    return ChatConfig(user_message=str(text))


def run_clean(script: str, endpoint) -> str:
    """Run a script in which every forgotten socket, task and coroutine is an error; its output."""
    warnings = ["-W", "error", "-X", "dev"]
    # asyncio's debug mode, part of -X dev, also reports slow steps, which on a busy machine is no fault.
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "", "URL": endpoint.base_url, "KEY": endpoint.api_key}
    prelude = """
import asyncio, logging, os
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit
def make(model="stand-in", **options):
    return OpenAIDeveloperKit(model, api_key=os.environ["KEY"], base_url=os.environ["URL"], max_retries=0, **options)
config = ChatConfig(user_message="Hello")
"""
    done = subprocess.run(
        [sys.executable, *warnings, "-c", prelude + script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_documented_code_that_closes_nothing_leaves_nothing_behind(endpoint, eventually):
    script = """
kit = make()                # lives until the interpreter ends
endless = make("endless")
kit.chat(config)
list(kit.stream(config))
next(endless.stream(config))

async def main():
    await asyncio.gather(*(kit.achat(config) for _ in range(5)))
    async for _ in kit.astream(config):
        pass
    async for _ in endless.astream(config):
        break
    abandoned = endless.astream(config)
    await anext(abandoned)
    await kit.aembed("Hello", dimensions=2)
    await make().achat(config)  # a kit that is dropped at once

asyncio.run(main())
asyncio.run(main())
print("done")
"""
    assert run_clean(script, endpoint) == "done\n"
    eventually(lambda: endpoint.open_connections == 0)


def test_an_exception_leaves_nothing_behind(endpoint, eventually):
    script = """
kit = make("endless")
async def main():
    async for _ in kit.astream(config):
        raise ZeroDivisionError
try:
    asyncio.run(main())
except ZeroDivisionError:
    print("raised")
"""
    assert run_clean(script, endpoint) == "raised\n"
    eventually(lambda: endpoint.open_connections == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what the child holds open")
def test_a_forked_child_opens_its_own_connections_and_closes_none_of_its_parents(endpoint, eventually):
    script = """
import gc, sys

def sockets():
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return {os.readlink(link) for link in links if os.path.exists(link) and "socket:" in os.readlink(link)}

kit = make()
kit.chat(config)                              # the first connection
loop = asyncio.new_event_loop()
loop.run_until_complete(kit.achat(config))    # the second, in a loop that lives on
inherited = sockets()
pid = os.fork()
if pid == 0:
    kit.chat(config)                          # the third
    async def child():
        await kit.achat(config)               # the fourth
        gc.collect()
    asyncio.run(child())
    del loop
    gc.collect()
    assert inherited <= sockets()
    print("child", flush=True)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
kit.chat(config)
loop.run_until_complete(kit.achat(config))
loop.run_until_complete(kit.aclose())
loop.close()
print("parent")
"""
    assert run_clean(script, endpoint) == "child\nparent\n"
    assert endpoint.connections == 4
    eventually(lambda: endpoint.open_connections == 0)


def test_calls_share_connections(make_kit, endpoint):
    kit = make_kit()
    for number in range(5):
        kit.chat(config(number))
    assert endpoint.connections == 1

    async def main() -> None:
        for number in range(5):
            await kit.achat(config(number))

    asyncio.run(main())
    assert (endpoint.connections, endpoint.requests) == (2, 10)


@pytest.mark.filterwarnings("ignore::ractogateway.errors.BlockingCallWarning")
def test_a_kit_that_is_dropped_closes_its_connections(endpoint, eventually):
    def make() -> OpenAIDeveloperKit:
        return OpenAIDeveloperKit("m", api_key=endpoint.api_key, base_url=endpoint.base_url)

    async def main() -> None:
        kit = make()
        await kit.achat(config())
        kit.chat(config())
        assert endpoint.open_connections == 2
        del kit
        gc.collect()  # the SDK's own client is a cycle
        await asyncio.to_thread(eventually, lambda: endpoint.open_connections == 0)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::ractogateway.errors.BlockingCallWarning")
def test_closing_closes_and_the_next_call_opens_again(make_kit, endpoint, eventually):
    async def main() -> None:
        kit = make_kit()
        async with kit:
            await kit.achat(config())
            with kit:
                kit.chat(config())
            # The async client is closed too, by the loop it belongs to.
            await asyncio.to_thread(eventually, lambda: endpoint.open_connections == 0)
            await kit.achat(config())
            kit.chat(config())
            assert endpoint.open_connections == 2
        await asyncio.to_thread(eventually, lambda: endpoint.open_connections == 0)
        assert (await kit.achat(config())).content

    asyncio.run(main())


def test_a_client_that_is_being_closed_does_not_take_its_successor_along(make_kit, endpoint):
    async def main() -> None:
        kit = make_kit()
        await kit.achat(config())
        kit.close()  # ends the old client as soon as this loop gets to it, which is during the next line
        await asyncio.gather(*(kit.achat(config(number)) for number in range(5)))
        before = endpoint.connections
        await kit.achat(config())
        assert endpoint.connections == before

    asyncio.run(main())


def test_many_threads_and_loops_at_once(make_kit):
    kit = make_kit()
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait()
        return [kit.chat(config(number)).content, asyncio.run(kit.achat(config(number))).content]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(8)))
    assert all(blocking == asynchronous for blocking, asynchronous in answers)
    assert len({blocking for blocking, _ in answers}) == 8


def test_closed_loops_are_let_go(make_kit):
    kit = make_kit()
    for _ in range(3):
        asyncio.run(kit.achat(config()))
    assert len(kit._clients._of_loops) == 0


def test_a_loop_that_was_closed_by_hand_is_let_go_by_the_next_one(make_kit):
    kit = make_kit()
    loop = asyncio.new_event_loop()
    kit._clients._enter(loop)  # as a call does that ends before it has a client
    loop.close()
    asyncio.run(kit.achat(config()))
    assert loop not in kit._clients._of_loops


def test_making_the_first_client_does_not_block_the_loop(make_kit):
    """The SDK takes seconds to import; here it takes until the loop has run."""
    loop_ran = threading.Event()
    kit = make_kit()
    make_async = kit._clients._make_async
    kit._clients._make_async = lambda: make_async() if loop_ran.wait(10) else pytest.fail("the loop was blocked")

    async def main() -> None:
        request = asyncio.ensure_future(kit.achat(config()))
        while not request.done():
            await asyncio.sleep(0.001)
            loop_ran.set()
        assert request.result().content

    asyncio.run(main())
