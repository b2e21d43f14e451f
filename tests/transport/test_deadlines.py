"""No call by URL outlives its deadline by more than 50 ms, whatever the server or the network does; the error says
whether the command may have been executed; and when the fault is over, the same object works, without help."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from faces import Maker
from probing import Watch, async_port, echo, get, incr, outcome, own_server, put
from proxy import Proxy
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import Server, wait_until

from ractogateway.errors import NotSent, StoreTimeout, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import RedisOptions

LIMIT = 0.1
REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
URL_FACES = ["async url", "blocking url", "aio of url"]


# --- the faults ------------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """Somewhere to connect to, what goes wrong there while ``raging()``, and how a call must end meanwhile.

    ``warm``: a connection exists before it begins, so that commands leave and their outcome stays unknown.
    """

    url: str
    warm: bool
    raging: Callable[[], AbstractContextManager[object]]

    @property
    def kinds(self) -> tuple[type[StoreUnavailable], ...]:
        """How a call may end: in the middle, or (without a connection) during an attempt or between two."""
        return (StoreTimeout,) if self.warm else (StoreTimeout, NotSent)

    def check(self, errors: list[object]) -> None:
        """The errors of calls that were all made at one time; the first of them at least was sent, if any could be."""
        assert all(isinstance(error, self.kinds) for error in errors), errors
        assert any(error.may_have_applied for error in errors) is self.warm


_numbers = itertools.count()


@contextmanager
def frozen(server: Server, *, warm: bool) -> Iterator[Fault]:
    """The process is stopped: the kernel still accepts connections."""
    # A URL of its own: the connections of earlier tests are still there for whoever names theirs.
    url = f"{server.url}?client_name=caller{next(_numbers)}"
    yield Fault(url, warm, server.frozen)


@contextmanager
def swallowed(server: Server, *, warm: bool) -> Iterator[Fault]:
    """A partition: nothing arrives any more, and nobody says so."""
    with Proxy(server.url) as proxy:
        yield Fault(proxy.url, warm, lambda: during(proxy, swallow=True))


@contextmanager
def delayed(server: Server, *, warm: bool) -> Iterator[Fault]:
    """Every reply comes, too late."""
    with Proxy(server.url, seed=5) as proxy:
        yield Fault(proxy.url, warm, lambda: during(proxy, delay_seconds=2.0))


@contextmanager
def refused(server: Server, *, warm: bool) -> Iterator[Fault]:
    """Nobody listens."""
    with Proxy(server.url) as proxy:
        yield Fault(proxy.url, warm, proxy.refusing)


@contextmanager
def slammed(server: Server, *, warm: bool) -> Iterator[Fault]:
    """Every connection is accepted and closed at once, as by a load balancer without a server behind it."""
    with Proxy(server.url) as proxy:
        yield Fault(proxy.url, warm, lambda: during(proxy, slam=True))


@contextmanager
def during(proxy: Proxy, **faults: Any) -> Iterator[None]:
    proxy.faults(**faults)
    if "slam" in faults:
        proxy.cut()
    yield
    proxy.faults()
    proxy.cut()


FAULTS = {
    "frozen": (frozen, True),
    "frozen before": (frozen, False),
    "swallowed": (swallowed, True),
    "swallowed before": (swallowed, False),
    "delayed": (delayed, True),
    "delayed before": (delayed, False),
    "refused before": (refused, False),
    "slammed before": (slammed, False),
}


@pytest.fixture(scope="module")
def victim() -> Iterator[Server]:
    """A server to freeze, shared by the tests of this module."""
    with own_server() as server:
        yield server


@pytest.fixture(params=FAULTS)
def fault(request, victim) -> Iterator[Fault]:
    make, warm = FAULTS[request.param]
    with make(victim, warm=warm) as prepared:
        yield prepared


# --- the limit -------------------------------------------------------------------------------------------------------


def test_thirty_callers_are_in_time(fault, callers_of):
    callers = callers_of(fault.url, LIMIT)
    if fault.warm:
        callers.warm()
    with fault.raging(), Watch() as watch:
        outcomes = callers.outcomes([echo(b"a"), [echo(b"b"), get(b"c"), put(b"d", b"e")]] * 15)
    fault.check([error for error, _ in outcomes])
    for _, seconds in outcomes:
        watch.assert_kept(LIMIT, seconds)
    wait_until(lambda: callers.outcome(echo(b"back")).result == b"back", what="the same port's next call")


@pytest.mark.cell("partition", "cache", "limiter", "memory")
@pytest.mark.parametrize("fault", ["frozen", "swallowed before", "refused before"], indirect=True)
@pytest.mark.parametrize("face", URL_FACES)
def test_every_face_is_in_time_and_recovers(fault, face):
    with ExitStack() as stack:
        make = Maker(face, fault, stack)
        calls = calls_of(make, RedisOptions(timeout_seconds=LIMIT))
        for call in calls if fault.warm else ():
            wait_until(lambda call=call: not isinstance(outcome(call)[0], Exception), what="a connection")
        make.portal  # noqa: B018 - its thread starts now, not in the time that is measured
        with fault.raging():
            for call in calls:
                with Watch() as watch:
                    error, seconds = outcome(call)
                watch.assert_kept(LIMIT, seconds)
                assert isinstance(error, (StoreTimeout, NotSent)), repr(error)
        for call in calls:
            wait_until(lambda call=call: not isinstance(outcome(call)[0], Exception), what="the next call")


def calls_of(make: Maker, options: RedisOptions) -> list[Callable[[], Any]]:
    """One call of each tool, set to raise in an outage."""
    cache = make("cache", on_outage="raise", options=options)
    limiter = make("limiter", on_outage="raise", options=options)
    memory = make("memory", options=options)
    return [
        lambda: cache.put(*REQUEST, LLMResponse(content=SECRET_ANSWER)),
        lambda: limiter.consume("user", 1),
        lambda: memory.append("conversation", "user", "hello"),
    ]


@pytest.mark.parametrize("face", URL_FACES)
def test_the_cache_waits_less_when_it_is_connected(victim, face):
    """Without options: 0.1 s, and 0.4 s while a connection has to be made."""
    with Proxy(victim.url) as proxy, ExitStack() as stack:
        make = Maker(face, proxy, stack)
        cache = make("cache", on_outage="raise", options=None)
        call = lambda: cache.get(*REQUEST)  # noqa: E731 - called in three places
        wait_until(lambda: not isinstance(outcome(call).result, Exception), what="a connection")
        proxy.faults(swallow=True)
        with Watch() as watch:
            error, seconds = outcome(call)
        assert isinstance(error, StoreTimeout)
        watch.assert_kept(0.1, seconds)
        proxy.cut()
        waits: list[float] = []

        def waits_longer() -> bool:  # from when the cut is noticed on
            error, seconds = outcome(call)
            assert isinstance(error, StoreUnavailable)
            waits.append(seconds)
            return seconds > 0.11

        with Watch() as watch:
            wait_until(waits_longer, what="more time for connecting than for a call")
        watch.assert_kept(0.4, waits[-1])


@pytest.mark.parametrize("kind", ["deaf", "full"])
def test_a_server_that_accepts_nobody(kind, callers_of):
    """``deaf``: the kernel accepts, the program never does. ``full``: the kernel does not answer either."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if kind == "full" else 64))
        address = listener.getsockname()
        for _ in range(4 if kind == "full" else 0):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        callers = callers_of(f"redis://127.0.0.1:{address[1]}/0", LIMIT)
        with Watch() as watch:
            error, seconds = callers.outcome(echo(b"x"))
    watch.assert_kept(LIMIT, seconds)
    assert isinstance(error, (StoreTimeout, NotSent))
    assert not error.may_have_applied


def test_connecting_counts_in_the_total(victim, callers_of):
    """The time that a connection took is missing for the answer: the limit is one for both."""
    with Proxy(victim.url, seed=1) as proxy:
        callers = callers_of(proxy.url, 0.3)
        # Each step of the handshake is late, and then the answer never comes.
        proxy.faults(delay_seconds=0.02, lose_one_in=1, losing=(b"ECHO",), after_loss="silence")
        with Watch() as watch:
            error, seconds = callers.outcome(echo(b"x"))
    watch.assert_kept(0.3, seconds)
    assert isinstance(error, StoreTimeout)
    assert error.may_have_applied


def test_a_fault_that_changes_in_mid_call(victim, callers_of):
    """First every attempt fails at once, then one hangs: the limit of the call is still the limit."""
    with Proxy(victim.url) as proxy:
        callers = callers_of(proxy.url, 0.6).warm()
        proxy.faults(slam=True)
        proxy.cut()
        with Watch() as watch:
            call = callers.start(echo(b"x"))
            time.sleep(0.4)
            proxy.faults(swallow=True)
            error, seconds = call.result(10.0)
    watch.assert_kept(0.6, seconds)
    assert isinstance(error, StoreUnavailable)


# --- what comes too late ---------------------------------------------------------------------------------------------


def test_a_late_reply_reaches_nobody(victim, callers_of):
    """The server is busy for longer than a caller waits. What it answers then is not the next caller's reply."""
    hasty, patient = callers_of(victim.url, 0.03).warm(), callers_of(victim.url).warm()
    with victim.frozen():
        late = hasty.outcomes(echo(b"late %d" % n) for n in range(50))
        waiting = [patient.start(echo(b"patient %d" % n)) for n in range(50)]
    assert all(isinstance(result, StoreTimeout) for result, _ in late)
    assert [future.result(5.0).result for future in waiting] == [b"patient %d" % n for n in range(50)]
    again = hasty.outcomes(echo(b"again %d" % n) for n in range(50))
    for n, (result, _) in enumerate(again):
        assert isinstance(result, StoreTimeout) or result == b"again %d" % n


def test_what_was_reported_as_not_sent_is_never_sent(victim, callers_of):
    """One command may be under way. Those behind it wait until their time is up, and must not be sent after that."""
    victim.flush()
    callers = callers_of(victim.url, LIMIT, max_in_flight=1, stall_seconds=30.0).warm()
    with victim.frozen():
        errors = [result for result, _ in callers.outcomes([incr(b"n")] * 10)]
    assert all(isinstance(error, StoreTimeout) for error in errors)
    possible = sum(error.may_have_applied for error in errors)
    assert possible == 1, "with one command in flight at most, one outcome is unknown"
    wait_until(lambda: victim.command("GET", "n") == b"1", what="the one that was sent being executed")
    callers.warm()  # behind everything that could have been sent on the same connection
    assert victim.command("GET", "n") == b"1"


def test_an_unknown_outcome_is_not_forgotten_over_retries(victim, callers_of):
    """A command was sent, its reply lost, and from then on nobody listens. The last thing that went wrong is that
    nothing could be sent; but the command may have been executed, and here it was."""
    victim.flush()
    with Proxy(victim.url) as proxy:
        callers = callers_of(proxy.url, 0.2).warm()
        proxy.faults(lose_one_in=1, losing=(b"SET",), slam=True)
        error = callers.outcome(put(b"k", b"v")).result
    assert isinstance(error, StoreUnavailable)
    assert victim.command("GET", "k") == b"v"
    assert error.may_have_applied


def test_a_port_that_gave_up_on_a_connection_makes_another(victim, callers_of):
    """A stalled connection is given up as a whole after ``stall_seconds``, inside the deadline of who waits longer."""
    with Proxy(victim.url) as proxy:
        callers = callers_of(proxy.url, 5.0, stall_seconds=0.1).warm()
        proxy.faults(swallow=True)
        waiting = [callers.start(echo(b"%d" % n)) for n in range(20)]
        wait_until(lambda: proxy.open == 0 or proxy.accepted > 1, what="the dead connection being given up")
        proxy.faults()
        assert [future.result(10.0).result for future in waiting] == [b"%d" % n for n in range(20)]


def test_a_loop_that_stood_still_does_not_blame_redis(any_server):
    """A command that could not leave for that long is given the time to be answered."""

    async def stand_still() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - which is what must not be done in a loop, and is

    async def main() -> list[object]:
        port = async_port(any_server.url, 0.1)
        assert await port.run(echo(b"warm")) == b"warm"
        return await asyncio.gather(port.run(echo(b"at once")), port.run(echo(b"after this tick")), stand_still())

    assert asyncio.run(main()) == [b"at once", b"after this tick", None]
