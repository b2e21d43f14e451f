"""Ctrl-C in a blocking caller: it leaves at once, wherever it was, and everything stays usable for it and the others.

The storms run in processes of their own: what they might break, the whole process shares."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from probing import blocking_port, echo, run, run_many, run_script


def test_a_caller_that_waits(any_server):
    def press() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    port = blocking_port(any_server.url)
    run(port, echo(b"warm"))
    with any_server.frozen():
        sender = threading.Thread(target=press)
        sender.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run(port, echo(b"interrupted"))
        seconds = time.monotonic() - start
        sender.join()
    assert seconds < 1.0, "the caller did not leave at once"
    assert run(port, echo(b"mine")) == b"mine"
    assert run_many(port, echo(b"a"), echo(b"b")) == [b"a", b"b"]


@pytest.mark.cell("cancellation storm", "blocking")
def test_interrupts_at_random_moments(any_server, figures):
    """A storm of them, with other threads under way: every reply is the right one, nobody hangs."""
    source = """
        import random, signal, threading, time

        cache = new_cache()
        fill(cache)
        choose = random.Random(8)
        over = threading.Event()
        failures = []

        def other():
            try:
                while not over.is_set():
                    ask(cache)
            except BaseException as error:
                failures.append(error)

        def press(seconds):
            time.sleep(seconds)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        others = [threading.Thread(target=other) for _ in range(3)]
        for thread in others:
            thread.start()
        interrupted = 0
        for number in range(200):
            sender = threading.Thread(target=press, args=(choose.random() * 0.003,))
            try:
                sender.start()
                while sender.is_alive():
                    ask(cache)
                sender.join()
                time.sleep(0)  # a signal that is under way arrives here
            except KeyboardInterrupt:
                interrupted += 1
                sender.join()
        over.set()
        for thread in others:
            thread.join()
        assert not failures, failures
        assert interrupted > 100, interrupted
        ask(cache)
        print(interrupted)
    """
    figures(note=f"{int(run_script(source, any_server.url))} calls interrupted by a signal")


def test_interrupts_at_every_moment(any_server):
    """At the first moment of a call, then at the second, and so on; after each, everything is used by many at once.

    Python handles signals when a function written in Python begins and after one written in C has returned; these are
    the moments. Two that hurt: between taking a place in the line for replies and sending the command (everybody
    behind gets a neighbour's reply), and between noting that the loop was woken and waking it (nobody else will).
    """
    source = """
        import threading

        # A coroutine that was made and not yet driven when the interrupt came is no loss.
        warnings.filterwarnings("ignore", message=".*never awaited")
        cache = new_cache(timeout_seconds=3.0)
        fill(cache)
        ask(cache)
        failures = []

        def use(numbers):
            try:
                ask(cache, numbers)
            except BaseException as error:
                failures.append(error)

        moment = 0
        while True:
            moment += 1
            try:
                with InterruptAt(moment):
                    ask(cache, [moment % 50])
            except KeyboardInterrupt:
                others = [threading.Thread(target=use, args=([n, n + 10],)) for n in range(3)]
                for thread in others:
                    thread.start()
                use(range(40, 42))
                for thread in others:
                    thread.join()
                assert not failures, f"moment {moment}: {failures}"
            else:
                break
        assert moment > 50, moment
        print("done")
    """
    assert run_script(source, any_server.url) == "done\n"
