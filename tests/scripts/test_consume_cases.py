"""`consume.lua` and `peek.lua`, one rule a test."""

from __future__ import annotations

import time
from collections.abc import Iterator

import fakeredis
import pytest
from limiter_driver import CAP, OPERATION_TTL_MS, START_US, ScriptUser
from limiter_model import Decision
from redis.exceptions import OutOfMemoryError, ResponseError
from servers import Server, Servers, valkey9, wait_until

BUDGET = (100, 60_000)
HOUR_US = 3_600_000_000
MS = 1000


@pytest.fixture
def user(server: Server) -> Iterator[ScriptUser]:
    with server.client() as client:
        yield ScriptUser(client)


@pytest.fixture(params=["valkey9", "redis8", "redis7", "fakeredis"])
def anywhere(request: pytest.FixtureRequest, servers: Servers) -> Iterator[ScriptUser]:
    """A user on a server or in fakeredis, whose Lua is another one."""
    if request.param == "fakeredis":
        yield ScriptUser(fakeredis.FakeRedis())
        return
    if request.param not in servers:
        pytest.skip(f"{request.param} is not at hand: see the header of the report")
    with servers[request.param].client() as client:
        yield ScriptUser(client)


def test_tokens_are_charged_until_the_budget_is_spent(anywhere: ScriptUser):
    assert anywhere.peek(START_US, *BUDGET, 100) == Decision(True, 100, 0, 0)
    assert anywhere.consume(START_US, *BUDGET, 60) == Decision(True, 40, 0, 60_000)
    assert anywhere.consume(START_US + 5 * MS, *BUDGET, 41) == Decision(False, 40, 59_995, 59_995)
    assert anywhere.consume(START_US + 10 * MS, *BUDGET, 40) == Decision(True, 0, 0, 60_000)
    assert anywhere.consume(START_US + 10 * MS, *BUDGET, 1) == Decision(False, 0, 59_990, 60_000)
    assert anywhere.peek(START_US + 59_999 * MS + 999, *BUDGET).remaining == 0
    assert anywhere.peek(START_US + 60_000 * MS, *BUDGET).remaining == 60
    assert anywhere.peek(START_US + 60_010 * MS, *BUDGET) == Decision(True, 100, 0, 0)


def test_a_cost_above_the_limit_never_passes(anywhere: ScriptUser):
    assert anywhere.consume(START_US, *BUDGET, 101) == Decision(False, 100, -1, 0)
    assert anywhere.consume(START_US, *BUDGET, 2**53 - 1).retry_after_ms == -1


def test_a_repetition_is_admitted_again_and_charges_nothing(anywhere: ScriptUser):
    assert anywhere.consume(START_US, *BUDGET, 60, "a") == Decision(True, 40, 0, 60_000)
    assert anywhere.consume(START_US + MS, *BUDGET, 60, "a") == Decision(True, 40, 0, 59_999)
    assert anywhere.consume(START_US + MS, *BUDGET, 40, "b").remaining == 0
    assert anywhere.consume(START_US + MS, *BUDGET, 60, "a") == Decision(True, 0, 0, 60_000)
    assert anywhere.consume(START_US + 2 * HOUR_US, *BUDGET, 60, "a") == Decision(True, 100, 0, 0)


def test_a_refused_operation_may_be_tried_again_under_its_name(anywhere: ScriptUser):
    anywhere.consume(START_US, *BUDGET, 100)
    refused = anywhere.consume(START_US, *BUDGET, 100, "late")
    assert not refused.admitted
    assert anywhere.consume(START_US + refused.retry_after_ms * MS, *BUDGET, 100, "late") == Decision(
        True, 0, 0, 60_000
    )


def test_an_operation_that_was_cancelled_may_be_tried_again_under_its_name(anywhere: ScriptUser):
    (client,) = anywhere.clients
    client.set(anywhere.operation("a"), b"\x01x1", px=60_000)  # as settle.lua leaves it
    assert not anywhere.consume(START_US, *BUDGET, 101, "a").admitted
    for _ in range(2):
        assert anywhere.consume(START_US, *BUDGET, 60, "a") == Decision(True, 40, 0, 60_000)


def test_by_the_servers_own_clock(anywhere: ScriptUser):
    before = time.monotonic()
    assert anywhere.consume("", 100, 150, 100) == Decision(True, 0, 0, 151)
    refused = anywhere.consume("", 100, 150, 1)
    assert not refused.admitted
    assert 0 < refused.retry_after_ms <= 151
    wait_until(lambda: anywhere.peek("", 100, 150, 1).admitted, what="the end of the window")
    assert time.monotonic() - before >= 0.150


def test_a_lowered_limit_counts_what_was_charged_before(user: ScriptUser):
    user.consume(START_US, *BUDGET, 30)
    user.consume(START_US + 5 * MS, *BUDGET, 30)
    assert user.peek(START_US + 5 * MS, 40, 60_000) == Decision(False, 0, 59_995, 60_000)
    assert user.consume(START_US + 5 * MS, 40, 60_000, 10) == Decision(False, 0, 59_995, 60_000)
    assert user.consume(START_US + 5 * MS, 70, 60_000, 10) == Decision(True, 0, 0, 60_000)


def test_a_clock_that_was_hours_ahead_blocks_for_one_window(user: ScriptUser):
    user.consume(START_US + HOUR_US, *BUDGET, 100)
    first = user.consume(START_US, *BUDGET, 1, "first")
    assert first == Decision(False, 0, 60_000, 60_000)
    healed = user.stored("second")
    assert user.consume(START_US + 1000 * MS, *BUDGET, 1, "second") == Decision(False, 0, 59_000, 59_000)
    assert user.stored("second") == healed
    (client,) = user.clients
    assert client.pttl(user.log) <= 2 * 60_000 + 3001
    assert user.consume(START_US + 60_000 * MS, *BUDGET, 100).admitted


def test_a_small_step_back_needs_no_repair(user: ScriptUser):
    user.consume(START_US + 2000 * MS, *BUDGET, 99)
    before = user.stored("refused")
    assert user.consume(START_US, *BUDGET, 2, "refused") == Decision(False, 1, 62_000, 62_000)
    assert user.stored("refused") == before
    assert user.consume(START_US, *BUDGET, 1) == Decision(True, 0, 0, 62_000)
    assert user.entries() == 1


def test_an_idle_user_leaves_nothing_behind(user: ScriptUser):
    user.consume("", *BUDGET, 1, "first")
    for _ in range(CAP):
        user.consume("", *BUDGET, 1)
    (client,) = user.clients
    assert 60_000 < client.pttl(user.log) <= 2 * 60_000 + 3001
    assert OPERATION_TTL_MS - 10_000 < client.pttl(user.operation("first")) <= OPERATION_TTL_MS


def test_the_key_outlives_the_longest_window_in_use(user: ScriptUser):
    (client,) = user.clients
    for window_ms in (1000, 500_000, 1000, 2000):
        user.consume(START_US, 100, window_ms, 1)
    assert client.pttl(user.log) > 500_000 - 5000


def test_past_the_integers_the_oldest_tokens_are_forgotten(user: ScriptUser):
    # Ten seconds hold ten times 2^53 - 1 tokens of a caller whose window is one second.
    most = 2**53 - 1
    user.consume(START_US, most, 10_000, 1)
    for second in range(10):
        assert user.consume(START_US + (1 + second) * 1_000_000, most, 1000, most).remaining == 0
    assert user.peek(START_US + 10_000_000, most, 10_000, 1) == Decision(False, 0, 10_000, 10_000)
    assert user.peek(START_US + 11_000_000, most, 1000, most).admitted


GOOD = b"\x01" + bytes(35) + (START_US // 1000).to_bytes(7) + (50).to_bytes(7)


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"\x02" + GOOD[1:],
        GOOD[:36],
        GOOD[:-1],
        GOOD + b"\x00",
        b"60",
        GOOD[:-7] + (2**53).to_bytes(7),
        GOOD[:29] + (51).to_bytes(7) + GOOD[36:],
    ],
    ids=["empty", "next version", "no entry", "cut", "too long", "a counter", "above 2^53 - 1", "negative use"],
)
def test_a_log_that_is_not_ours_is_an_error_before_any_write(user: ScriptUser, log: bytes):
    (client,) = user.clients
    client.set(user.log, log, px=60_000)
    before = user.stored("a")
    for _ in range(2):
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            user.consume(START_US, *BUDGET, 1, "a")
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            user.peek(START_US, *BUDGET)
    assert user.stored("a") == before


def test_the_good_log_of_the_test_above_is_good(user: ScriptUser):
    (client,) = user.clients
    client.set(user.log, GOOD, px=60_000)
    assert user.consume(START_US, *BUDGET, 1) == Decision(True, 49, 0, 60_000)


@pytest.mark.parametrize("spent", [False, True])
def test_a_record_that_is_not_ours_is_an_error_before_any_write(user: ScriptUser, spent: bool):
    (client,) = user.clients
    user.consume(START_US, *BUDGET, 100 if spent else 1)
    client.set(user.operation("a"), b"\x02", px=60_000)
    before = user.stored("a")
    with pytest.raises(ResponseError, match=r"^RGBADLOG "):
        user.consume(START_US, *BUDGET, 1, "a")
    assert user.stored("a") == before


def test_keys_of_another_type_are_an_error_before_any_write(user: ScriptUser):
    (client,) = user.clients
    client.rpush(user.operation("a"), "x")
    client.expire(user.operation("a"), 60)
    before = user.stored("a")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        user.consume(START_US, *BUDGET, 1, "a")
    assert user.stored("a") == before

    client.rpush(user.log, "x")
    client.expire(user.log, 60)
    before = user.stored("b")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        user.consume(START_US, *BUDGET, 1, "b")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        user.peek(START_US, *BUDGET)
    assert user.stored("b") == before


def test_no_memory_is_an_error_before_any_write():
    with valkey9() as server, server.client() as client:
        user = ScriptUser(client)
        user.consume(START_US, *BUDGET, 1)
        client.config_set("maxmemory", 1)
        before = user.stored("a")
        with pytest.raises(OutOfMemoryError):
            user.consume(START_US, *BUDGET, 1, "a")
        assert user.peek(START_US, *BUDGET).remaining == 99
        assert not user.consume(START_US, *BUDGET, 100, "a").admitted
        assert user.stored("a") == before
