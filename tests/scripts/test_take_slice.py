"""`take_slice.lua`: whenever within its time a slice is spent, no window holds more than its limit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiter_driver import START_US, ScriptUser
from limiter_model import worst_window
from redis import Redis
from redis.exceptions import ResponseError
from servers import Server, Servers

MS = 1000
LIMIT, WINDOW_MS = 100, 3000


@pytest.fixture(scope="module")
def clients(servers: Servers) -> Iterator[list[Redis]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(server.client()) for server in servers.values()]


class SliceUser(ScriptUser):
    def take(self, now_us: int, least: int, most: int, hold_ms: int, operation: object) -> tuple[int, ...]:
        arguments = [LIMIT, WINDOW_MS, least, most, hold_ms, 60_000, self.cap, now_us]
        return tuple(self.ask("take_slice", [self.log, self.operation(operation)], arguments))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, list[tuple[int, str, int, int, str]]]:
    """How long slices are held, and calls: the gap before it in µs, least and most tokens, when they are spent."""
    hold_ms = draw(st.sampled_from([10, 250, 1000]))
    # What a slice may be spent in begins and ends a window after another one's: there is where it could go wrong.
    edges = st.integers(WINDOW_MS * MS - 1001, (WINDOW_MS + hold_ms) * MS + 1001)
    gaps = st.integers(0, 3000) | st.integers(0, 500_000) | edges
    call = st.tuples(
        gaps,
        st.sampled_from(["take", "take", "consume"]),
        st.integers(1, 60),
        st.integers(0, 60),
        st.sampled_from(["at once", "late", "late", "here and there"]),
    )
    return hold_ms, draw(st.lists(call, max_size=30))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(schedule=schedules(), cap=st.sampled_from([5, 120]))
def test_no_window_is_over_whenever_the_tokens_are_spent(clients: list[Redis], schedule: tuple, cap: int):
    (hold_ms, calls), chance = schedule, random.Random(cap)
    user, now, spent = SliceUser(*clients, cap=cap), START_US, []
    for number, (gap_us, action, tokens, more, when) in enumerate(calls):
        now += gap_us
        if action == "consume":
            if user.consume(now, LIMIT, WINDOW_MS, tokens).admitted:
                spent.append((now, tokens))
            continue
        room = user.peek(now, LIMIT, WINDOW_MS).remaining
        granted, admitted, remaining, retry_ms, _ = user.take(now, tokens, tokens + more, hold_ms, number)
        assert granted == (min(tokens + more, room) if tokens <= room else 0)
        assert admitted == (granted > 0)
        assert remaining == room - granted
        if granted:
            latest = {"at once": 0, "late": hold_ms * MS}
            spent += [(now + latest.get(when, chance.randrange(hold_ms * MS + 1)), 1) for _ in range(granted)]
            assert user.take(now, tokens, tokens + more, hold_ms, number)[0] == granted, (
                "asked again, not charged again"
            )
        else:
            assert user.peek(now + retry_ms * MS, LIMIT, WINDOW_MS, tokens).admitted
            assert not user.peek(now + (retry_ms - 1) * MS, LIMIT, WINDOW_MS, tokens).admitted
    assert worst_window(spent, WINDOW_MS) <= LIMIT


def test_a_slice_is_held_beyond_its_time(server: Server):
    with server.client() as client:
        user = SliceUser(client)
        assert user.take(START_US, 10, 60, 500, "a") == (60, 1, 40, 0, 3501)
        assert user.peek(START_US + 3500 * MS, LIMIT, WINDOW_MS).remaining == 40
        assert user.peek(START_US + 3501 * MS, LIMIT, WINDOW_MS).remaining == 100
        assert user.take(START_US + MS, 41, 60, 500, "b") == (0, 0, 40, 3500, 3500)
        assert user.take(START_US + MS, 10, 60, 500, "c")[0] == 40
        client.set(user.operation("d"), b"\x02", px=60_000)
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            user.take(START_US, 1, 1, 500, "d")
