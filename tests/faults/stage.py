"""What the stateful tests under faults have in common: several clients of one tool behind a proxy, what may strike
them, and how a client insists."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any

import redis
from anyio.from_thread import start_blocking_portal
from faces import Awaited
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from injection import SCRIPTS
from proxy import Proxy
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import Server, valkey9

from ractogateway.errors import StoreUnavailable
from ractogateway.redis import RedisOptions

__all__ = ["CLIENT", "Stage", "play", "staged"]

PATIENT = RedisOptions(timeout_seconds=20.0, breaker_failures=1_000_000)
CLIENT = st.integers(0, 2)
"""Of `Stage.clients`: blocking by URL, awaiting by URL, blocking over a given client that does not repeat itself."""


class Stage(RuleBasedStateMachine):
    """Subclasses add rules for what clients do, and invariants; and close what they have made in `teardown`."""

    server: Server
    proxy: Proxy
    losses = (3, 5, 7)
    """Of so many replies one is lost. More than one call has, or a client without retries would never get through."""

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.stack = contextlib.ExitStack()
        self.numbers = itertools.count()
        self.portal = self.stack.enter_context(start_blocking_portal())
        self.given = redis.Redis.from_url(self.proxy.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
        self.stack.callback(self.given.close)
        self.clients: list[Any] = []
        self.core: Any = None
        self.direct: Any = None

    def enter(self, blocking: Callable[..., Any], awaiting: Callable[..., Any], **settings: Any) -> None:
        """The clients, and one that no fault strikes."""
        self.core = awaiting(self.proxy.url, options=PATIENT, **settings)
        first = blocking(self.proxy.url, options=PATIENT, **settings)
        self.clients = [first, Awaited(self.core, self.portal), blocking(client=self.given, **settings)]
        self.direct = blocking(self.server.url, options=PATIENT, **settings)
        for closing in (first.close, self.direct.close, lambda: self.portal.call(self.core.aclose)):
            self.stack.callback(closing)

    def teardown(self) -> None:
        self.proxy.faults()
        self.stack.close()

    @rule(
        often=st.integers(0, 2),
        what=st.sampled_from(["lose", "lose", "calm", "forget scripts", "cut", "die"]),
    )
    def strike(self, often: int, what: str) -> None:
        if what == "lose":
            self.proxy.faults(lose_one_in=self.losses[often], losing=SCRIPTS)
        elif what == "calm":
            self.proxy.faults()
        elif what == "forget scripts":
            self.server.command("SCRIPT", "FLUSH")
        elif what == "cut":
            self.proxy.cut()
        else:
            self.server.kill()
            self.server.start()

    def insist(self, call: Callable[[], Any]) -> Any:
        """Until it is acknowledged; always the same request."""
        while True:
            try:
                return call()
            except StoreUnavailable:
                continue

    def leave(self, work: Callable[[], Coroutine[Any, Any, Any]], ticks: int) -> None:
        """Begin a call of the awaiting client, and cancel it after some turns of the loop."""
        future = self.portal.start_task_soon(work)
        for _ in range(ticks):
            self.portal.call(_tick)
        future.cancel()
        with contextlib.suppress(CancelledError, StoreUnavailable):
            future.result()


async def _tick() -> None:
    return


@contextlib.contextmanager
def staged(kind: type[Stage]) -> Iterator[type[Stage]]:
    """The machine, with a server that writes through at every command: what was acknowledged survives SIGKILL."""
    with valkey9(aof=True, config={"appendfsync": "always"}) as server, Proxy(server.url, seed=3) as proxy:
        yield type(kind.__name__, (kind,), {"server": server, "proxy": proxy})


def play(machine: type[Stage], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
