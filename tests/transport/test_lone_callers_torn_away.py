"""A lone blocking caller that is interrupted while it reads its own replies: by exceptions at every moment, by signal
handlers that call, that take their time, that fork. Nobody's reply is lost but its own."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from probing import (
    AT_ONCE_SECONDS,
    alone,
    blocking_port,
    echo,
    finish_script,
    get,
    outcome,
    put,
    reading,
    run,
    run_script,
    start_script,
)
from proxy import Proxy
from servers import wait_until


def test_interrupts_at_every_moment_of_reading(any_server):
    """As in `test_interrupts`, of a caller that reads for itself; some time after each, the others are served."""
    source = """
    import threading, time

    warnings.filterwarnings("ignore", message=".*never awaited")
    cache = new_cache(timeout_seconds=5.0)
    fill(cache)
    failures, places = [], set()

    def use(numbers):
        try:
            ask(cache, numbers)
        except BaseException as error:
            failures.append(error)

    moment = 0
    while True:
        moment += 1
        alone(cache, moment % 50)
        torn = InterruptAt(moment)
        try:
            with torn:
                ask(cache, [moment % 50])
        except KeyboardInterrupt:
            places.add(torn.place)
            others = [threading.Thread(target=use, args=([n, n + 10],)) for n in range(2)]
            if moment % 2:  # first the others, or first the very thread
                use(range(40, 42))
            for thread in others:
                thread.start()
            for thread in others:
                thread.join()
            assert not failures, f"moment {moment}, in {torn.place}: {failures}"
        else:
            break
    print(len(places & {f"DirectMultiplexer.{name}" for name in ("read", "_read_replies", "_put_away")}))
    """
    assert run_script(source, any_server.url, timeout_seconds=60.0) == "3\n"


def test_a_signal_handler_that_calls(any_server):
    """It comes while its own thread waits at the socket: its call is served, and so is the one below it."""
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 10.0)
        run(port, put(b"key", b"value"))
        heard: list[object] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(run(port, get(b"key"))))
        try:
            for _ in range(3):
                alone(port)
                proxy.faults(delay_seconds=0.2)
                main = threading.main_thread().ident

                def press(main=main) -> None:
                    wait_until(lambda: reading(port))
                    proxy.faults()
                    signal.pthread_kill(main, signal.SIGUSR1)

                sender = threading.Thread(target=press)
                sender.start()
                ended = outcome(lambda: run(port, echo(b"below")))
                sender.join()
                assert ended.result == b"below"
                assert ended.seconds < AT_ONCE_SECONDS
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert heard == [b"value"] * 3


def test_a_signal_handler_that_takes_its_time(any_server):
    """The caller below it was reading; whoever comes meanwhile does not wait for the end of the handler."""
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 20.0, stall_seconds=60.0)
        alone(port)
        served = threading.Event()
        others: list[object] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: others.append(served.wait(20)))
        try:
            proxy.faults(delay_seconds=0.2)

            def press() -> None:
                wait_until(lambda: reading(port))
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                others.append(run(port, echo(b"other")))
                served.set()

            sender = threading.Thread(target=press)
            sender.start()
            assert run(port, echo(b"below")) == b"below"
            sender.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert others == [b"other", True]


@pytest.mark.parametrize("lone", [True, False])
def test_a_call_at_every_moment_of_a_call(any_server, lone):
    """By a signal handler or finalizer, in the very thread: wherever that was, nobody waits for it."""
    port = blocking_port(any_server.url, 10.0, stall_seconds=60.0)
    run(port, put(b"key", b"value"))
    moment, heard = 0, [b"value"]

    def interrupt(frame, event: str, _argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and "ractogateway" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                heard.append(run(port, get(b"key")))

    with ThreadPoolExecutor(1) as another:
        while heard:
            assert heard == [b"value"]
            heard.clear()
            moment += 1
            left = moment
            if lone:
                alone(port)
            sys.setprofile(interrupt)
            try:
                ended = outcome(lambda: run(port, echo(b"below")))
            finally:
                sys.setprofile(None)
            beside = another.submit(outcome, lambda: run(port, echo(b"beside"))).result()
            assert (ended.result, beside.result) == (b"below", b"beside")
            assert max(ended.seconds, beside.seconds) < AT_ONCE_SECONDS
    assert moment > 30


def test_a_signal_handler_that_forks(any_server):
    """Its thread waits at the socket: the reply is for the parent alone, though the child is there first, and the child
    has connections of its own."""
    source = """
    import signal, time
    from ractogateway.redis.transport import direct_multiplexer

    direct_multiplexer._LOOK_SECONDS = 30.0  # so that the child waits at the socket until the reply comes
    parent = os.getpid()

    def fork(*_):
        pid = os.fork()
        if pid:
            time.sleep(0.5)  # whatever comes, the child sees it first
            children.append(pid)

    children = []
    signal.signal(signal.SIGALRM, fork)
    cache = new_cache(timeout_seconds=2.0, stall_seconds=60.0)
    fill(cache, 1)
    alone(cache)
    print("alone", flush=True)
    sys.stdin.readline()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        ask(cache, [0])
    except Exception:
        if os.getpid() == parent:
            raise
    ask(new_cache(timeout_seconds=10.0), [0])
    if os.getpid() != parent:
        os._exit(0)
    assert os.waitpid(children[0], 0)[1] == 0
    print("done")
    """
    with Proxy(any_server.url) as proxy:
        process = start_script(source, proxy.url)
        assert process.stdout.readline() == "alone\n", process.communicate(timeout=5.0)
        proxy.faults(delay_seconds=0.2)
        assert finish_script(process, "\n") == "done\n"


def test_a_fork_beside_a_reader(any_server):
    """By another thread: the reader stays in the parent, and gets its reply."""
    with Proxy(any_server.url) as proxy:
        source = """
    import threading, time

    cache = new_cache()
    fill(cache)
    over, failures = threading.Event(), []

    def lone():
        try:
            while not over.is_set():
                ask(cache)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=lone)
    thread.start()
    for _ in range(10):
        time.sleep(0.01)
        pid = os.fork()
        if not pid:
            alone(cache)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    over.set()
    thread.join(10)
    assert not thread.is_alive() and not failures, failures
    ask(cache)
    print("done")
    """
        assert run_script(source, proxy.url, timeout_seconds=60.0) == "done\n"
