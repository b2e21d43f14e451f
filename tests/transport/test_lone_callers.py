"""A blocking caller that is alone reads its own replies, and the private thread only when callers meet: every reply is
the right one and nobody waits for ever, whoever is torn away, late, forked or cut off while it reads."""

from __future__ import annotations

import random
import select
import socket
import threading
import time

import pytest
from probing import AT_ONCE_SECONDS, alone, blocking_port, echo, incr, outcome, reading, run, run_many, wire_of
from proxy import Proxy
from servers import wait_until

from ractogateway.errors import OutcomeUnknown, StoreTimeout, StoreUnavailable
from ractogateway.redis.transport import plain_call


def test_replies_of_every_size(any_server):
    port = blocking_port(any_server.url, 20.0)
    for size in (0, 1, 1000, 128 * 1024, 5_000_000):
        value = b"%d:" % size + b"x" * size
        alone(port)
        assert run(port, echo(value)) == value
        alone(port)
        assert run_many(port, echo(b"a"), echo(value), echo(b"b")) == [b"a", value, b"b"]
        assert run(port, echo(b"next")) == b"next"
    # Enough in one batch for many readings, each with the end of one reply and the beginning of another.
    alone(port)
    tokens = [b"%d:" % n + b"y" * (n * 37 % 3000) for n in range(500)]
    assert run_many(port, *map(echo, tokens)) == tokens


def test_a_reader_that_gives_up_between_its_replies(any_server):
    """Those after it get theirs."""
    patient, hasty = blocking_port(any_server.url, 20.0), blocking_port(any_server.url, 0.1)
    slow = plain_call(b"BLPOP", (b"nothing",), (b"0.3",), lambda reply: reply, replay_safe=True)
    for _ in range(3):
        alone(patient)
        late = outcome(lambda: run_many(hasty, echo(b"first"), slow, echo(b"last")))
        assert isinstance(late.result, StoreTimeout)
        assert run_many(patient, echo(b"a"), echo(b"b")) == [b"a", b"b"]
    # Nothing takes up room that was given back.
    assert [wire_of(port)._commands_in_flight for port in (patient, hasty)] == [0, 0]


def test_a_reply_that_comes_in_pieces(any_server):
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 20.0)
        alone(port)
        proxy.faults(split_bytes=700)
        value = bytes(range(256)) * 200
        assert run_many(port, echo(b"a"), echo(value), echo(b"b")) == [b"a", value, b"b"]


def test_a_reader_that_gives_up_while_others_wait(any_server):
    with Proxy(any_server.url) as proxy:
        hasty, patient = blocking_port(proxy.url, 0.3), blocking_port(proxy.url, 20.0)
        alone(hasty)
        proxy.faults(delay_seconds=0.6)
        others: list[object] = []

        def other(number: int) -> None:
            wait_until(lambda: bool(wire_of(patient)._in_flight))
            others.append(run(patient, echo(b"%d" % number)) == b"%d" % number)

        threads = [threading.Thread(target=other, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        assert isinstance(outcome(lambda: run(hasty, echo(b"late"))).result, StoreTimeout)
        for thread in threads:
            thread.join(30)
        assert others == [True] * 5


@pytest.mark.parametrize("replay_safe", [True, False])
def test_a_connection_that_is_lost_under_a_reader(any_server, replay_safe):
    """It is told at once, or asks again over the next connection."""
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 20.0)
        alone(port)
        proxy.faults(delay_seconds=60.0)
        cutter = threading.Thread(target=lambda: (wait_until(lambda: reading(port)), proxy.faults(), proxy.cut()))
        cutter.start()
        ended = outcome(lambda: run(port, echo(b"mine") if replay_safe else incr(b"counter")))
        cutter.join()
        assert ended.seconds < AT_ONCE_SECONDS
        assert ended.result == b"mine" if replay_safe else isinstance(ended.result, OutcomeUnknown)
        assert run(port, echo(b"next")) == b"next"


def test_a_connection_that_stalls_under_a_reader(any_server):
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 20.0, stall_seconds=0.2)
        alone(port)
        proxy.faults(swallow=True)
        healer = threading.Thread(target=lambda: (wait_until(lambda: reading(port)), proxy.faults()))
        healer.start()
        ended = outcome(lambda: run(port, echo(b"mine")))
        healer.join()
        assert ended.result == b"mine"
        assert ended.seconds < AT_ONCE_SECONDS


def test_the_loop_reads_when_nobody_calls(any_server):
    """A connection that the server closes is noticed, and replaced by the next call, which is not to be sent twice."""
    port = blocking_port(any_server.url, 20.0)
    for number in range(3):
        alone(port)
        lost = wire_of(port)
        with any_server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if number:
            wait_until(lambda lost=lost: not lost.usable)
        else:
            time.sleep(0.01)  # most of the time before the loop has looked
        before = run(port, plain_call(b"GET", (b"counter",), (), lambda reply: int(reply or 0), replay_safe=True))
        assert run(port, incr(b"counter")) == before + 1


def test_a_reply_that_nobody_asked_for(any_server):
    """While callers read, nothing looks at an idle connection; such a reply is not taken for that of the next call."""
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url, 20.0)
        for _ in range(5):
            alone(port)
            wire = wire_of(port)
            proxy.inject(b"$5\r\nwrong\r\n")
            while wire.usable and not select.select([wire._socket], [], [], 0)[0]:
                pass  # it is there before the loop looks again, or it was the loop that found it
            for number in range(20):
                assert run(port, echo(b"%d" % number)) == b"%d" % number
            wait_until(lambda wire=wire: not wire.usable)


@pytest.mark.parametrize("callers", [1, 2])
def test_a_storm_of_few(any_server, callers):
    """The turn to read changes hands all the time: calm stretches, calls that are given up in the middle, pauses, and
    connections that are killed."""
    patient = blocking_port(any_server.url, 20.0)
    hasty = [blocking_port(any_server.url, seconds) for seconds in (0.00001, 0.00003, 0.0001)]
    wrong: list[object] = []
    late: list[object] = []

    def calm(token: bytes) -> None:
        tokens = [token + b"%d" % n for n in range(60)]
        wrong.extend(each for each in tokens if run(patient, echo(each)) != each)

    def caller(number: int) -> None:
        choose = random.Random(number)
        for n in range(40):
            token = b"%d:%d:" % (number, n) + b"x" * choose.choice((0, 10, 1000))
            calm(token)
            ended = outcome(lambda token=token: run(choose.choice(hasty), echo(token)))
            (late if isinstance(ended.result, StoreUnavailable) else wrong).append(ended)
            if ended.result == token:
                wrong.remove(ended)
            if number == 1 or n % 10 == 0:
                time.sleep(choose.random() * 0.03)
        with any_server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        calm(b"last")

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller hangs"
    assert not wrong
    assert late


def test_a_default_timeout_for_sockets_is_none_of_ours(any_server):
    socket.setdefaulttimeout(30.0)
    try:
        port = blocking_port(any_server.url, 60.0, max_in_flight=4095)  # a connection that nobody has made before
        alone(port)
        wait_until(lambda: wire_of(port)._turn is not None)  # the loop has looked, and reads
        assert outcome(lambda: run(port, echo(b"mine"))).seconds < AT_ONCE_SECONDS
    finally:
        socket.setdefaulttimeout(None)


def test_bursts_after_loneliness(any_server):
    """The first of a burst reads for itself, and what came behind its reply is the loop's to hand out."""
    port = blocking_port(any_server.url, 20.0)
    failures: list[object] = []

    def caller(number: int) -> None:
        for n in range(20):
            token = b"%d:%d" % (number, n)
            if run(port, echo(token)) != token:
                failures.append(token)

    for _ in range(10):
        alone(port)
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a caller hangs"
    assert not failures
