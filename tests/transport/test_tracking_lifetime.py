"""Event loops, threads, owners and processes that begin and end: each tracks for itself, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from near_copies import KEYS, Copies, Near, awaited_near, blocking_near, trackers, until
from probing import async_port, put, run_script
from servers import Server, wait_until

from ractogateway.redis.transport.tracking import own_write


def test_two_loops_and_the_private_thread(any_server):
    """Each hears for itself, and a write of one is gone from all before it returns."""
    everyone = threading.Barrier(3)
    any_server.command("MSET", KEYS[0], "old", KEYS[1], "old")

    async def visitor(*, writes: bool) -> None:
        near = await awaited_near(any_server.url)
        assert await near.get(KEYS[0]) == b"old"
        assert await near.get(KEYS[1]) == b"old"
        assert len(near.copies) == 2
        await asyncio.to_thread(everyone.wait, 5)
        if writes:
            with own_write(KEYS[0]):
                await near.port.run(put(KEYS[0], b"new"))
            assert all(KEYS[0] not in copies for copies in held)
        held.append(near.copies)
        await asyncio.to_thread(everyone.wait, 5)
        if writes:
            any_server.command("SET", KEYS[1], "new")
        await until(lambda: KEYS[1] not in near.copies)

    near = blocking_near(any_server.url)
    near.get_blocking(KEYS[0])
    near.get_blocking(KEYS[1])
    held = [near.copies]
    with ThreadPoolExecutor(2) as pool:
        visits = [pool.submit(asyncio.run, visitor(writes=writes)) for writes in (True, False)]
        everyone.wait(5)
        everyone.wait(5)
        for visit in visits:
            visit.result(5)
    wait_until(lambda: not near.copies)


def test_the_end_of_a_loop(any_server):
    """Copies go, the connection closes, and no request's context was in it."""
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    ended: list[tuple[Near, Copies]] = []

    class Curious(Copies):
        def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
            super().on_invalidate(keys)
            if keys is not None:
                seen.append(request.get())

    async def main() -> None:
        request.set("somebody's")
        near = Near(async_port(any_server.url))
        copies = near.tracker.listener(near, Curious)
        ended.append((near, copies))
        await until(lambda: near.tracker.alive)
        any_server.command("SET", KEYS[0], "value")
        await near.get(KEYS[0])
        any_server.command("SET", KEYS[0], "other")
        await until(lambda: seen)
        await near.get(KEYS[0])
        assert copies
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = connections(any_server)
    asyncio.run(main())
    assert seen == ["none"]
    (_, copies), *_ = ended
    assert copies.told[-1] is None
    assert not copies
    wait_until(lambda: connections(any_server) <= before, what="the connections being closed")


def connections(server: Server) -> int:
    with server.client() as client:
        return len(client.client_list(_type="normal"))


def test_nobody_listens_any_more(any_server):
    """The connection is not kept for nobody, and comes back for the next one."""

    async def main() -> None:
        near = await awaited_near(any_server.url)
        port, link = near.port, near.tracked._tracking_link()
        assert trackers(any_server)
        del near
        gc.collect()
        await until(lambda: link.closed)
        await until(lambda: not trackers(any_server))
        again = Near(port)
        _ = again.copies
        await until(lambda: again.tracker.alive)

    asyncio.run(main())


SCRIPT = """
    import asyncio, os, time
    from probing import *
    from servers import wait_until
    from ractogateway.redis.transport import drive
    from ractogateway.redis.transport.tracked_port import open_tracked_port

    class Copies(dict):
        def on_invalidate(self, keys):
            for key in list(self) if keys is None else keys:
                self.pop(key, None)

    class Near:
        def __init__(self, port):
            self.port, self.tracked = port, open_tracked_port(port)

        def copies(self):
            return self.tracked.tracker().listener(self, Copies)

        async def fill(self):
            value, fill = await self.tracked.fetch(get(b"near"))
            assert fill.keep(lambda: self.copies().__setitem__(b"near", value))
            return value

    blocking, awaited = Near(blocking_port(URL)), Near(async_port(URL))
    blocking.copies()

    def use_blocking():
        blocking.copies()
        wait_until(lambda: blocking.tracked.tracker().alive)
        run(blocking.port, put(b"near", b"value"))
        # The invalidation of this process's own write may refuse the first fill.
        wait_until(lambda: attempt(lambda: drive(blocking.fill())))
        assert blocking.copies()

    def attempt(fill):
        try:
            return fill() == b"value"
        except AssertionError:
            return False

    async def use_awaited():
        awaited.copies()
        while not awaited.tracked.tracker().alive:
            await asyncio.sleep(0.001)
        while True:
            try:
                return await awaited.fill()
            except AssertionError:
                await asyncio.sleep(0.001)
"""


def test_the_end_of_a_process(any_server):
    script = f"{SCRIPT}\n    use_blocking()\n    asyncio.run(use_awaited())\n    print('done')\n"
    assert run_script(script, any_server.url) == "done\n"


def test_a_forked_child(any_server):
    """It serves none of its parent's copies, tracks over connections of its own, and leaves the parent's alone."""
    source = """
    use_blocking()
    inherited = blocking.tracked.tracker()

    async def main():
        await use_awaited()
        tracker, copies = awaited.tracked.tracker(), awaited.copies()
        pid = os.fork()
        if not pid:
            try:
                assert not inherited.alive and not tracker.alive
                assert not inherited.begin((b"near",)).keep(lambda: None)
                assert blocking.tracked.tracker() is not inherited
                use_blocking()
                asyncio.events._set_running_loop(None)
                asyncio.run(use_awaited())
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        ended = await asyncio.to_thread(os.waitpid, pid, 0)
        assert ended[1] == 0, ended
        while copies:  # the child's write
            await asyncio.sleep(0.001)
        wait_until(lambda: not inherited.listener(blocking, Copies))
        assert tracker.alive and inherited.alive
        assert awaited.tracked.tracker() is tracker and blocking.tracked.tracker() is inherited

    asyncio.run(main())
    use_blocking()
    print("done")
    """
    assert run_script(f"{SCRIPT}\n{source}", any_server.url) == "done\n"
