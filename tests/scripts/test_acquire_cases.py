"""`acquire.lua`, `settle.lua` and `renew.lua`, one rule a test."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from limiter_driver import START_US
from redis.exceptions import OutOfMemoryError, ResponseError
from servers import Server, Servers, valkey9
from windows_driver import RECORD_TTL_MS, LimitsUser
from windows_model import Answer

MS = 1000
BUDGETS = [(100, 60_000), (3, 60_000), (150, 86_400_000)]


@pytest.fixture
def user(server: Server) -> Iterator[LimitsUser]:
    with server.client() as client:
        yield LimitsUser(client, budgets=BUDGETS, slots=2)


@pytest.fixture(params=["valkey9", "redis8", "redis7", "fakeredis"])
def anywhere(request: pytest.FixtureRequest, servers: Servers) -> Iterator[LimitsUser]:
    """A user on a server or in fakeredis, whose Lua is another one."""
    if request.param == "fakeredis":
        yield LimitsUser(fakeredis.FakeRedis(), budgets=BUDGETS, slots=2)
        return
    if request.param not in servers:
        pytest.skip(f"{request.param} is not at hand: see the header of the report")
    with servers[request.param].client() as client:
        yield LimitsUser(client, budgets=BUDGETS, slots=2)


def costs(tokens: int) -> list[int]:
    return [tokens, 1, tokens]


def acquired(user: LimitsUser, at_ms: int, tokens: int, operation: object, lease_ms: int = 600_000) -> bool:
    return bool(user.acquire(START_US + at_ms * MS, costs(tokens), operation, lease_ms).admitted)


def settled(user: LimitsUser, at_ms: int, tokens: int, actual: int, operation: object) -> bool:
    return user.settle(START_US + at_ms * MS, costs(tokens), costs(actual), operation)


def rooms(user: LimitsUser, at_ms: int) -> tuple[int, ...]:
    return user.peek(START_US + at_ms * MS, [0, 0, 0]).remaining


def test_the_limit_that_refuses_longest_is_named(anywhere: LimitsUser):
    day = 86_400_000
    first = anywhere.acquire(START_US, costs(60), "a")
    assert first == Answer(1, 0, 0, day, (40, 2, 90))
    assert anywhere.acquire(START_US + MS, costs(41), "b") == Answer(0, 1, 59_999, day - 1, (40, 2, 90))
    assert anywhere.acquire(START_US + MS, costs(101), "c") == Answer(0, 1, -1, day - 1, (40, 2, 90))
    assert acquired(anywhere, 60_000, 60, "d")
    late = anywhere.acquire(START_US + 60_001 * MS, costs(40), "e")
    assert late == Answer(0, 3, day - 60_001, day - 1, (40, 2, 30))
    assert anywhere.acquire(START_US + 60_001 * MS, costs(1), "f").admitted
    assert anywhere.acquire(START_US + 60_002 * MS, costs(1), "g") == Answer(0, 4, 59_999, day - 1, (39, 1, 29))


def test_slots_are_freed_by_settling_and_by_time(anywhere: LimitsUser):
    assert acquired(anywhere, 0, 1, "a", lease_ms=500)
    assert acquired(anywhere, 1, 1, "b", lease_ms=900)
    refused = anywhere.acquire(START_US + 2 * MS, costs(1), "c")
    assert (refused.admitted, refused.refused, refused.retry_after_ms) == (0, 4, 498)
    assert settled(anywhere, 3, 1, 1, "b")
    assert acquired(anywhere, 4, 1, "c", lease_ms=10_000)
    assert not acquired(anywhere, 499, 1, "d")


def test_a_renewal_ends_a_lease_by_the_clock_that_has_stepped_back(user: LimitsUser):
    assert acquired(user, 3_600_000, 1, "a", lease_ms=1000)
    assert acquired(user, 3_600_000, 1, "b", lease_ms=1000)
    assert user.renew(START_US, "a", 1000)
    assert not acquired(user, 999, 1, "c", lease_ms=1000)
    assert acquired(user, 1000, 1, "c", lease_ms=1000)


def test_a_repetition_has_a_slot_or_is_refused(anywhere: LimitsUser):
    assert acquired(anywhere, 0, 1, "a", lease_ms=100)
    assert acquired(anywhere, 0, 1, "b", lease_ms=10_000)
    assert acquired(anywhere, 101, 1, "c", lease_ms=500)
    (client,) = anywhere.clients
    refused = anywhere.acquire(START_US + 102 * MS, costs(1), "a", 700)
    assert (refused.admitted, refused.refused, refused.retry_after_ms) == (0, 4, 499)
    assert anywhere.acquire(START_US + 601 * MS, costs(1), "a", 700).admitted == 2
    assert client.zscore(anywhere.leases[0], "a") == START_US // MS + 1301
    assert anywhere.acquire(START_US + 602 * MS, costs(1), "b", 10).admitted == 2
    assert client.zscore(anywhere.leases[0], "b") == START_US // MS + 10_000, "nobody's lease is shortened"
    assert client.zcard(anywhere.leases[0]) == 2
    assert settled(anywhere, 603, 1, 1, "a")
    assert anywhere.acquire(START_US + 604 * MS, costs(1), "a", 700).admitted == 3
    assert rooms(anywhere, 604) == (97, 0, 147)


def test_a_slot_is_renewed_until_somebody_else_has_it(user: LimitsUser):
    assert acquired(user, 0, 1, "a", lease_ms=100)
    assert acquired(user, 0, 1, "b", lease_ms=100)
    assert user.renew(START_US + 90 * MS, "a", 100)
    assert user.renew(START_US + 250 * MS, "a", 100), "its lease had ended, and nobody had needed its slot"
    assert acquired(user, 251, 1, "c", lease_ms=100)
    assert user.renew(START_US + 260 * MS, "a", 100)
    assert not user.renew(START_US + 260 * MS, "b", 100)
    (client,) = user.clients
    assert client.zcard(user.leases[0]) == 2
    assert 0 < client.pttl(user.leases[0]) <= 1100


def test_a_refund_stays_with_its_charge_when_the_clock_was_repaired(user: LimitsUser):
    user = LimitsUser(*user.clients, budgets=BUDGETS)
    assert acquired(user, 5000, 30, "ahead")
    assert acquired(user, 0, 1, "repairs the clock, which has stepped back")
    assert acquired(user, 5001, 40, "somebody else's")
    assert settled(user, 5002, 30, 0, "ahead")
    assert rooms(user, 5002)[0] == 100 - 71
    assert rooms(user, 60_000)[0] == 60, "what was charged at 5001 ms is still charged"


def test_a_refund_of_a_charge_that_was_dropped_is_not_made_after_a_small_step_back(user: LimitsUser):
    """By the clock that has stepped back it would be young enough, and the next entry is somebody else's."""
    user = LimitsUser(*user.clients, budgets=[(1000, 60_000)])

    def acquire(at_ms: int, tokens: int, name: str) -> bool:
        return bool(user.acquire(START_US + at_ms * MS, [tokens], name).admitted)

    def cancel(at_ms: int, tokens: int, name: str) -> bool:
        return user.settle(START_US + at_ms * MS, [tokens], [0], name)

    assert acquire(-1000, 1, "begins the period")
    assert acquire(0, 400, "old")
    assert acquire(30_000, 500, "somebody else's")
    assert acquire(60_100, 400, "new")
    assert cancel(60_150, 400, "new"), "the newest entry holds nothing any more, and still tells the time"
    assert cancel(59_900, 400, "old")
    assert user.peek(START_US + 60_000 * MS, [0]).remaining == (500,)
    assert acquire(60_000, 500, "fits")
    assert not acquire(60_000, 1, "does not")


def test_a_refund_stays_with_its_charge_when_the_log_was_begun_anew(user: LimitsUser):
    assert acquired(user, 0, 30, "before")
    user.reset()
    assert acquired(user, 1, 40, "somebody else's")
    assert settled(user, 2, 30, 0, "before")
    assert rooms(user, 2) == (60, 2, 110)


def test_without_a_record_nothing_is_refunded_and_an_overrun_is_charged_once(user: LimitsUser):
    assert acquired(user, 0, 30, "less")
    assert acquired(user, 0, 30, "more")
    (client,) = user.clients
    client.unlink(user.record("less"), user.record("more"))
    assert settled(user, 1, 30, 0, "less")
    assert rooms(user, 1) == (40, 1, 90)
    assert not client.exists(user.record("less")), "there was nothing to remember"
    assert settled(user, 1, 30, 35, "more")
    assert not settled(user, 1, 30, 35, "more")
    assert rooms(user, 1) == (35, 1, 85)


def test_settling_after_everything_is_gone_writes_nothing(user: LimitsUser):
    assert acquired(user, 0, 30, "a")
    (client,) = user.clients
    client.unlink(*user.logs, *user.leases, user.record("a"))
    assert settled(user, 1, 30, 10, "a")
    assert not client.exists(*user.logs, *user.leases, user.record("a"))


def test_a_charge_of_another_configuration_is_not_refunded(user: LimitsUser):
    assert acquired(user, 0, 30, "a")
    other = LimitsUser(*user.clients, budgets=[(100, 30_000), *BUDGETS[1:]], slots=2)
    other.logs, other.leases, other.tag = user.logs, user.leases, user.tag
    assert settled(other, 1, 30, 0, "a")
    assert rooms(user, 1) == (70, 2, 150), "of the window it is not known which charge it was; of the day it is"


def test_an_overrun_goes_beyond_the_limit(user: LimitsUser):
    assert acquired(user, 0, 30, "a")
    assert settled(user, 5, 30, 250, "a")
    assert rooms(user, 5) == (0, 2, 0)
    assert user.peek(START_US + 5 * MS, costs(1)) == Answer(0, 3, 86_400_000, 86_400_000, (0, 2, 0))
    assert rooms(user, 60_005) == (100, 3, 0)


def test_a_cancelled_operation_may_be_tried_again(anywhere: LimitsUser):
    assert acquired(anywhere, 0, 30, "a")
    assert anywhere.settle(START_US, costs(30), [0, 0, 0], "a", mark="x1")
    assert rooms(anywhere, 0) == (100, 3, 150)
    assert anywhere.settle(START_US, costs(30), [0, 0, 0], "a", mark="x1"), "the same cancellation, sent again"
    assert not anywhere.settle(START_US, costs(30), costs(90), "a", mark="c2")
    assert rooms(anywhere, 0) == (100, 3, 150)
    assert anywhere.acquire(START_US, costs(101), "a").admitted == 0
    assert anywhere.acquire(START_US, costs(30), "a").admitted == 1
    assert anywhere.acquire(START_US, costs(30), "a").admitted == 2
    assert settled(anywhere, 1, 30, 10, "a")
    assert rooms(anywhere, 1) == (90, 2, 140)


@pytest.mark.parametrize("arrived", [True, False])
def test_an_abandoned_operation_is_undone_whether_it_has_arrived_or_not(anywhere: LimitsUser, arrived: bool):
    if arrived:
        assert acquired(anywhere, 0, 30, "a")
    assert anywhere.settle(START_US, costs(30), [0, 0, 0], "a", mark="a")
    anywhere.acquire(START_US + MS, costs(30), "a")
    assert rooms(anywhere, 1) == (100, 3, 150)
    assert not anywhere.clients[0].exists(*anywhere.leases)
    assert anywhere.settle(START_US + MS, costs(30), [0, 0, 0], "a", mark="a"), "sent again"


def test_what_is_written_ends_by_itself(user: LimitsUser):
    (client,) = user.clients
    user.acquire("", costs(30), "a", 5000)
    user.acquire("", costs(30), "b", 2000)
    user.settle("", costs(30), costs(10), "a")
    user.settle("", costs(30), costs(40), "b")
    for key, longest in [(user.logs[0], 2 * 60_000), (user.logs[2], 2 * 86_400_000), (user.record("a"), RECORD_TTL_MS)]:
        assert 0 < client.pttl(key) <= longest + 3001
    user.acquire("", costs(1), "c", 2000)
    user.acquire("", costs(1), "d", 1)
    assert 2000 < client.pttl(user.leases[0]) <= 6000


def test_a_refund_keeps_the_time_to_live(user: LimitsUser):
    (client,) = user.clients
    acquired(user, 0, 30, "a")
    acquired(user, 1, 30, "b")
    before = client.execute_command("PEXPIRETIME", user.logs[0])
    assert settled(user, 2, 30, 0, "a")
    assert settled(user, 2, 30, 10, "b")
    assert abs(client.execute_command("PEXPIRETIME", user.logs[0]) - before) <= 1
    assert client.strlen(user.logs[0]) == 36 + 14, "an entry that holds nothing any more is gone"


@pytest.mark.parametrize("place", range(3))
def test_a_log_that_is_not_ours_is_an_error_before_any_write(user: LimitsUser, place: int):
    (client,) = user.clients
    assert acquired(user, 0, 10, "a")
    client.set(user.logs[place], "60", px=60_000)
    for operation in ("a", "b"):
        before = user.stored(operation)
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            acquired(user, 1, 10, operation)
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            settled(user, 1, 10, 0, operation)
        with pytest.raises(ResponseError, match=r"^RGBADLOG "):
            rooms(user, 1)
        assert user.stored(operation) == before


def test_keys_of_another_type_are_an_error_before_any_write(user: LimitsUser):
    (client,) = user.clients
    for key in [user.record("a"), *user.logs, *user.leases]:
        client.unlink(*user.logs, *user.leases, user.record("a"))
        client.hset(key, "x", "y")
        client.pexpire(key, 60_000)
        before = user.stored("a")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            acquired(user, 0, 10, "a")
        if key != user.record("a"):
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                settled(user, 0, 10, 20, "a")
        assert user.stored("a") == before
    client.unlink(*user.leases)


def test_no_memory_is_an_error_before_any_write():
    with valkey9() as server, server.client() as client:
        user = LimitsUser(client, budgets=BUDGETS, slots=2)
        assert acquired(user, 0, 30, "a")
        client.config_set("maxmemory", 1)
        for operation, call in [("b", acquired), ("a", settled)]:
            before = user.stored(operation)
            with pytest.raises(OutOfMemoryError):
                call(user, 1, 30, *((20,) if call is settled else ()), operation)
            assert user.stored(operation) == before
        assert rooms(user, 1) == (70, 2, 120)
