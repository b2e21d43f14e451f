"""What the tests of the transport have in common: raw commands, a watch that knows how busy the machine is, scripts in
processes of their own, and a server that a test may ill-treat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from anyio.from_thread import start_blocking_portal
from servers import FACTORIES, Server, ServerNotInstalled

import ractogateway
from ractogateway.redis import RedisOptions
from ractogateway.redis.transport import (
    Call,
    Port,
    TimeLimits,
    drive,
    open_async_port,
    open_blocking_port,
    plain_call,
)

__all__ = [
    "AT_ONCE_SECONDS",
    "Callers",
    "Outcome",
    "Watch",
    "alone",
    "async_port",
    "blocking_port",
    "echo",
    "finish_script",
    "get",
    "get_wordily",
    "incr",
    "outcome",
    "own_server",
    "put",
    "reading",
    "run",
    "run_many",
    "run_script",
    "start_script",
    "wire_of",
]

# --- raw commands ----------------------------------------------------------------------------------------------------


def echo(payload: bytes) -> Call[bytes]:
    """The server sends the payload back: a reply that tells whose it is."""
    return plain_call(b"ECHO", (), (payload,), bytes, replay_safe=True)


def get(key: bytes) -> Call[bytes | None]:
    return plain_call(b"GET", (key,), (), lambda reply: reply, replay_safe=True)


def get_wordily(key: bytes) -> Call[list[bytes | None]]:
    """`get` a hundred times: a few such commands do not wait for the end of the tick."""
    return plain_call(b"MGET", (key,) * 100, (), list, replay_safe=True)


def put(key: bytes, value: bytes) -> Call[Any]:
    return plain_call(b"SET", (key,), (value,), lambda reply: reply, replay_safe=True)


def incr(key: bytes) -> Call[int]:
    """Not safe to send twice: the value afterwards tells how often it was executed."""
    return plain_call(b"INCR", (key,), (), int, replay_safe=False)


_NEVER = 1_000_000


def async_port(url: str, seconds: float = 5.0, **options: Any) -> Port:
    """A port with one time limit, whose circuit breaker stays out of the way unless ``options`` say otherwise."""
    return open_async_port(url, None, RedisOptions(**{"breaker_failures": _NEVER, **options}), _limits(seconds))


def blocking_port(url: str, seconds: float = 5.0, **options: Any) -> Port:
    """The same for blocking callers."""
    return open_blocking_port(url, None, RedisOptions(**{"breaker_failures": _NEVER, **options}), _limits(seconds))


def _limits(seconds: float) -> TimeLimits:
    return TimeLimits(seconds, seconds)


def run(port: Port, call: Call[Any]) -> Any:
    """One call over a blocking port."""
    return drive(port.run(call))


def run_many(port: Port, *calls: Call[Any]) -> list[Any]:
    return drive(port.run_many(calls))


def wire_of(port: Port) -> Any:
    """The connection of a blocking port."""
    return port._lane(bulky=False).link()._wire  # type: ignore[attr-defined]


def alone(port: Port) -> None:
    """Call until this thread reads its own replies, as a lone blocking caller does after a while."""
    deadline = time.monotonic() + 20
    while True:
        assert run(port, echo(b"alone")) == b"alone"
        if wire_of(port)._turn is None:
            return
        assert time.monotonic() < deadline, "no caller reads for itself"


def reading(port: Port) -> bool:
    """Whether a caller of this blocking port waits at the socket at this moment."""
    wire = wire_of(port)
    return any(wire._turn is exchange for exchange in list(wire._in_flight))


# --- time ------------------------------------------------------------------------------------------------------------


AT_ONCE_SECONDS = 4.0
"""What ends before this did not wait for the five seconds of `Callers`, however busy the machine is."""


class Watch:
    """Measures a call, and beside it how late this machine wakes a thread that sleeps.

    A call by URL may outlive its deadline by 50 ms. Between the deadline and the caller are up to three threads (the
    private loop's, the caller's, in the tests of async faces the portal's), so three times the worst lateness seen
    *during this call* is granted on top: nothing on an idle machine, what the machine took on a busy one.
    """

    GRACE_SECONDS = 0.05
    _THREADS = 3
    _NAP_SECONDS = 0.002

    def __init__(self) -> None:
        self.lateness = 0.0
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._sleeper = threading.Thread(target=self._sleep)
        self._sleeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sleeper.join()

    def _sleep(self) -> None:
        while not self._done.is_set():
            start = time.monotonic()
            time.sleep(self._NAP_SECONDS)
            self.lateness = max(self.lateness, time.monotonic() - start - self._NAP_SECONDS)

    def assert_kept(self, limit: float, seconds: float) -> None:
        """That something with this time limit took no more than these seconds, but for the grace and the lateness."""
        allowed = limit + self.GRACE_SECONDS + self._THREADS * self.lateness
        assert seconds <= allowed, (
            f"took {seconds:.3f} s of {limit:.3f} s (+{self.GRACE_SECONDS} s, "
            f"+{self._THREADS} x {self.lateness:.4f} s that this machine overslept)"
        )


class Outcome(NamedTuple):
    """How a call ended: its result or its exception, and the seconds it took."""

    result: Any
    seconds: float


def outcome(function: Callable[[], Any]) -> Outcome:
    start = time.monotonic()
    try:
        result = function()
    except Exception as error:
        result = error
    return Outcome(result, time.monotonic() - start)


async def _awaited_outcome(work: Coroutine[Any, Any, Any]) -> Outcome:
    start = time.monotonic()
    try:
        result = await work
    except Exception as error:
        result = error
    return Outcome(result, time.monotonic() - start)


# --- callers ---------------------------------------------------------------------------------------------------------


class Callers:
    """Many callers of one port, so that a test is written once for those that await and those that block.

    Awaiting ones live in one event loop, in a thread of its own; each blocking one has a thread.
    """

    KINDS = ("awaiting", "blocking")

    def __init__(self, kind: str, url: str, seconds: float = 5.0, **options: Any) -> None:
        self._stack = ExitStack()
        if kind == "awaiting":
            portal = self._stack.enter_context(start_blocking_portal())
            self._start = lambda port, call: portal.start_task_soon(lambda: _awaited_outcome(_work(port, call)))
        else:
            pool = self._stack.enter_context(ThreadPoolExecutor(128))
            self._start = lambda port, call: pool.submit(outcome, lambda: drive(_work(port, call)))
        make = async_port if kind == "awaiting" else blocking_port
        self._port = make(url, seconds, **options)
        self._patient = make(url, 10.0, **options)

    def warm(self) -> Self:
        """Make the connection, however long this machine takes for it."""
        result = self._start(self._patient, echo(b"warm")).result().result
        assert result == b"warm", repr(result)
        return self

    def start(self, call: Call[Any] | list[Call[Any]]) -> Future[Outcome]:
        """Let a caller make a call (a list is sent as one batch)."""
        return self._start(self._port, call)

    def outcome(self, call: Call[Any] | list[Call[Any]]) -> Outcome:
        """How the call ends."""
        return self.start(call).result(60.0)

    def outcomes(self, calls: Iterable[Call[Any] | list[Call[Any]]]) -> list[Outcome]:
        """How they end that are made at the same time."""
        started = [self.start(call) for call in calls]
        return [future.result(60.0) for future in started]

    def result(self, call: Call[Any] | list[Call[Any]]) -> Any:
        """What the call returns."""
        result = self.outcome(call).result
        if isinstance(result, Exception):
            raise result
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _work(port: Port, call: Call[Any] | list[Call[Any]]) -> Coroutine[Any, Any, Any]:
    return port.run_many(call) if isinstance(call, list) else port.run(call)


# --- processes -------------------------------------------------------------------------------------------------------

_PREAMBLE = """
import logging, os, sys, warnings
logging.getLogger("asyncio").setLevel(logging.ERROR)  # its debug mode tells of callbacks that a busy machine made slow
warnings.filterwarnings("ignore", message="This process .* is multi-threaded")  # fork, from Python 3.12 on
URL = sys.argv[1]
NAMESPACE = str(os.getpid())  # of this process and its forks: scripts may run side by side


def options(**settings):
    from ractogateway.redis import RedisOptions

    return RedisOptions(**{"timeout_seconds": 10.0, "breaker_failures": 1_000_000, **settings})


def new_cache(kind="RedisExactCache", **settings):
    import ractogateway.redis

    return getattr(ractogateway.redis, kind)(
        URL, namespace=NAMESPACE, on_outage="raise", options=options(**settings)
    )


def question(number):
    return f"question {number}", "", "model", 0.0, 10


def fill(cache, count=50):
    from ractogateway.messages import LLMResponse

    for number in range(count):
        cache.put(*question(number), LLMResponse(content=f"answer {number}"))


def ask(cache, numbers=range(50)):
    # Each answer tells whose it is.
    for number in numbers:
        assert cache.get(*question(number)).content == f"answer {number}", number


class InterruptAt:
    # Ctrl-C at the so many-th moment of the block at which Python could handle a signal outside of this script.
    def __init__(self, moment):
        self.left, self.place = moment, None

    def __enter__(self):
        sys.setprofile(self.profile)

    def __exit__(self, *_):
        sys.setprofile(None)

    def profile(self, frame, event, argument):
        if event in ("call", "c_return") and frame.f_code.co_filename != "<string>":
            self.left -= 1
            if self.left == 0:
                self.place = frame.f_code.co_qualname
                raise KeyboardInterrupt


def alone(cache, number=0):
    # Until this thread reads its own replies.
    import time

    deadline = time.monotonic() + 20
    while True:
        ask(cache, [number])
        if cache._core._port._lane(bulky=False).link()._wire._turn is None:
            return
        assert time.monotonic() < deadline, "no caller reads for itself"


async def ask_async(cache, numbers=range(50)):
    for number in numbers:
        assert (await cache.get(*question(number))).content == f"answer {number}", number
"""


def start_script(source: str, url: str) -> subprocess.Popen[str]:
    """Start a script in a Python of its own, in development mode with every ResourceWarning an error."""
    path = [str(Path(ractogateway.__file__).parents[1]), str(Path(__file__).parent)]
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", _PREAMBLE + textwrap.dedent(source), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def run_script(source: str, url: str, *, timeout_seconds: float = 30.0) -> str:
    """Run a script to its end, as `start_script` does; what it printed.

    It must end with status 0 and with nothing on stderr: warnings inside finalizers cannot be raised, they are printed
    there.
    """
    return finish_script(start_script(source, url), timeout_seconds=timeout_seconds)


def finish_script(process: subprocess.Popen[str], stdin: str = "", *, timeout_seconds: float = 30.0) -> str:
    """Let a script that was started end, as `run_script` does; what it printed from now on."""
    with process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # development mode prints where every thread is
            out, err = process.communicate(timeout=5.0)
            pytest.fail(f"the script hangs\n{out}\n{err}")
    assert process.returncode == 0, f"status {process.returncode}\n{out}\n{err}"
    assert not err, err
    return out


# --- servers ---------------------------------------------------------------------------------------------------------


def own_server(**settings: Any) -> Server:
    """A server for one test to stop, starve or lock, of the first kind that is installed."""
    for make in FACTORIES.values():
        try:
            return make(**settings)
        except ServerNotInstalled:
            continue
    pytest.skip("needs a server of its own, and none is installed")
