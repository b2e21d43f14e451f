"""`take_slice.lua`: whenever within its time a slice is spent, no window holds more than its limit."""

from __future__ import annotations

import contextlib
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


gaps = st.integers(0, 3000) | st.integers(0, 500_000) | st.integers(2_990_000, 4_010_000)
steps = st.lists(
    st.tuples(gaps, st.sampled_from(["take", "consume"]), st.integers(1, 40), st.integers(0, 40), st.randoms()),
    max_size=40,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(steps=steps, hold_ms=st.sampled_from([10, 250, 1000]), cap=st.sampled_from([5, 120]))
def test_no_window_is_over_whenever_the_tokens_are_spent(clients: list[Redis], steps: list, hold_ms: int, cap: int):
    user, now, spent = SliceUser(*clients, cap=cap), START_US, []
    for number, (gap_us, action, tokens, more, chance) in enumerate(steps):
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
            times = [now, now + hold_ms * MS, now + chance.randrange(hold_ms * MS + 1)]
            spent += [(chance.choice(times), 1) for _ in range(granted)]
            assert user.take(now, tokens, tokens + more, hold_ms, number)[0] == granted, (
                "asked again, not charged again"
            )
        elif tokens <= LIMIT:
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
