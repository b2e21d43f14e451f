"""The smaller scripts of the memory, one rule a test, on each server: outbox, index, erasure, reads, discard."""

from __future__ import annotations

import pytest
import redis
from memory_driver import DAY_MS, HOUR_MS, Conversation, plain_turns, user
from memory_model import APPLIED, CONFLICT, FOREIGN, OCCUPIED, REPLAYED, UNINDEXED
from servers import Server

from ractogateway.redis.scripts.loading import load


@pytest.fixture
def conversation(server: Server):
    with server.client() as client, Conversation(client) as conversation:
        yield conversation


@pytest.fixture
def run(conversation):
    """``run(script, kinds, *arguments)``: the keys are this conversation's, by their kind."""

    def run(script, kinds, *arguments):
        keys = [conversation.state if kind == "s" else conversation._base + kind for kind in kinds]
        return conversation.client.register_script(load(f"memory/{script}").source)(keys=keys, args=arguments)

    return run


CLAIM, SETTLE, ERASE = ["e", "delivering", "lease"], ["e", "delivering", "lease", "s"], "lsoe"


def claim(run, token, lease=60_000):
    return run("claim", CLAIM, token, lease, DAY_MS)


def settle(run, token, delivered="1", *others):
    return run("settle", SETTLE, token, delivered, *others)


def test_what_is_trimmed_waits_in_order_and_as_it_was(conversation, run):
    conversation.extend(*plain_turns(3), max_turns=1, hooked=HOUR_MS)
    assert claim(run, "A") == plain_turns(2)
    assert claim(run, "A") == plain_turns(2), "sent again after a lost reply"
    assert claim(run, "B") == []
    conversation.extend(*plain_turns(1, first=3), max_turns=1, hooked=HOUR_MS)
    assert settle(run, "A") == 1, "more has come"
    assert claim(run, "B") == plain_turns(1, first=2)
    assert settle(run, "B") == 0
    assert claim(run, "C") == []
    assert not conversation.client.hexists(conversation.state, "v")


def test_a_failed_delivery_is_taken_up_by_anybody(conversation, run):
    conversation.extend(*plain_turns(2), max_turns=1, hooked=HOUR_MS)
    claim(run, "A")
    settle(run, "A", delivered="0")
    assert claim(run, "B") == plain_turns(1)


def test_a_claim_that_ran_out_settles_nothing(conversation, run):
    conversation.extend(*plain_turns(2), max_turns=1, hooked=HOUR_MS)
    claim(run, "A")
    conversation.client.delete(conversation._base + "lease")
    claim(run, "B")
    settle(run, "B")
    conversation.extend(*plain_turns(1, first=2), max_turns=1, hooked=HOUR_MS)
    taken = claim(run, "C")
    settle(run, "A")
    conversation.client.delete(conversation._base + "lease")
    assert claim(run, "D") == taken == plain_turns(1, first=1)


def test_what_only_others_can_read_waits_on_in_front_and_is_no_reason_to_go_on(conversation, run):
    conversation.extend(*plain_turns(3), max_turns=1, hooked=HOUR_MS)
    first = claim(run, "A")
    assert settle(run, "A", "1", *first[:2]) == 0
    assert conversation.client.hexists(conversation.state, "v"), "every write tries again"
    assert HOUR_MS < conversation.client.pttl(conversation.evicted) <= DAY_MS
    assert not conversation.client.exists(conversation._base + "delivering")
    conversation.extend(*plain_turns(1, first=3), max_turns=1, hooked=HOUR_MS)
    assert claim(run, "B") == first[:2] + plain_turns(1, first=2)
    assert settle(run, "B") == 0
    assert not conversation.client.hexists(conversation.state, "v")


def test_attempts_that_fail_let_nothing_run_out(conversation, run):
    conversation.extend(*plain_turns(2), max_turns=1, hooked=HOUR_MS)
    claim(run, "A")
    delivering = conversation._base + "delivering"
    assert DAY_MS - 10_000 < conversation.client.pttl(delivering) <= DAY_MS
    settle(run, "A", delivered="0")
    conversation.client.pexpire(delivering, 1_000)
    claim(run, "B")
    assert DAY_MS - 10_000 < conversation.client.pttl(delivering) <= DAY_MS


def test_a_claim_is_prolonged_while_it_holds(conversation, run):
    conversation.extend(*plain_turns(2), max_turns=1, hooked=HOUR_MS)
    claim(run, "A", lease=1_000)
    assert run("renew", ["lease"], "A", 60_000) == 1
    assert conversation.client.pttl(conversation._base + "lease") > 50_000
    assert run("renew", ["lease"], "B", 90_000) == 0
    settle(run, "A")
    assert run("renew", ["lease"], "A", 60_000) == 0
    assert not conversation.client.exists(conversation._base + "lease")


def test_what_waits_has_a_life_and_is_reported_by_every_write(conversation):
    assert conversation.extend(*plain_turns(2), max_turns=1, hooked=DAY_MS).waiting == 1
    assert DAY_MS - 10_000 < conversation.client.pttl(conversation.evicted) <= DAY_MS
    assert conversation.extend(*plain_turns(1), operation=b"A" * 16).waiting == 1
    assert conversation.extend(*plain_turns(1), operation=b"A" * 16)[0::6] == (REPLAYED, 1)
    assert conversation.clear().waiting == 1


def test_nothing_waits_where_nobody_wants_it(conversation):
    assert conversation.extend(*plain_turns(3), max_turns=1).waiting == 0
    assert not conversation.client.exists(conversation.evicted)


# Owners


def test_a_first_write_for_a_user_asks_for_the_index_and_writes_nothing(conversation):
    before = conversation.snapshot()
    reply = conversation.say(user("q"), user=b"tag")
    assert (reply.status, reply.revision, reply.user) == (UNINDEXED, 0, b"tag")
    assert conversation.snapshot() == before
    assert conversation.say(user("q"), user=b"tag", indexed=1).status == UNINDEXED, "at another revision"
    assert conversation.say(user("q"), user=b"tag", indexed=0).status == APPLIED
    assert conversation.say(user("q"), user=b"tag").status == APPLIED
    assert conversation.say(user("q")).status == APPLIED, "whoever writes, it is the user's"
    assert conversation.say(user("q"), user=b"other") == (FOREIGN, 3, 0, 3, -1, -1, 0, b"")


def test_a_conversation_gets_an_owner_late(conversation):
    conversation.say(user("q"))
    assert conversation.say(user("q"), user=b"tag").status == UNINDEXED
    assert conversation.say(user("q"), user=b"tag", indexed=1).status == APPLIED


@pytest.mark.parametrize(("field", "value"), [("x", 1), ("x", "")])
def test_the_index_is_asked_for_anew_before_it_ends(conversation, field, value):
    conversation.say(user("q"), user=b"tag", indexed=0)
    conversation.client.hset(conversation.state, field, value)
    reply = conversation.say(user("q"))
    assert (reply.status, reply.user) == (UNINDEXED, b"tag")
    assert conversation.say(user("q"), indexed=1).status == APPLIED
    assert conversation.say(user("q")).status == APPLIED


def test_a_conversation_that_gets_no_end_has_its_index_keep_it(conversation):
    conversation.say(user("q"), user=b"tag", indexed=0, ttl=HOUR_MS)
    assert conversation.say(user("q"), ttl=None).status == UNINDEXED
    assert conversation.say(user("q"), ttl=None, indexed=1).status == APPLIED
    assert conversation.say(user("q"), ttl=None).status == APPLIED
    assert conversation.say(user("q"), ttl=HOUR_MS).status == APPLIED


def test_an_erasure_is_for_the_owner_only_and_takes_what_waits(conversation, run):
    keys = ["l", "s", "o", "e", "delivering", "lease"]
    conversation.say(user("q"), user=b"tag", indexed=0)
    conversation.extend(*plain_turns(3), max_turns=1, hooked=HOUR_MS)
    claim(run, "A")
    conversation.extend(*plain_turns(1), max_turns=1, hooked=HOUR_MS)
    assert run("erase", keys, HOUR_MS, DAY_MS, b"other", "")[:2] == [FOREIGN, 3]
    assert run("erase", keys, HOUR_MS, DAY_MS, b"tag", 2)[:2] == [CONFLICT, 3]
    # 8 messages so far, 2 of them still in the list.
    assert run("erase", keys, HOUR_MS, DAY_MS, b"tag", "")[:6] == [APPLIED, 4, 2, 0, 0, 7]
    assert run("erase", keys, HOUR_MS, DAY_MS, b"tag", "")[:2] == [REPLAYED, 4]
    left = set(conversation.client.scan_iter(match=conversation._base.replace("{", "[{]") + "*"))
    assert all(b":s" in key or b":o" in key for key in left), left
    assert conversation.client.hmget(conversation.state, "u", "x", "v") == [None] * 3


def test_fill_wants_an_empty_conversation(conversation):
    assert conversation.extend(*plain_turns(1), mode="fill").status == APPLIED
    assert conversation.extend(*plain_turns(1), mode="fill") == (OCCUPIED, 1, 0, 2, -1, -1, 0, b"")
    conversation.clear()
    assert conversation.extend(*plain_turns(2), mode="fill").status == APPLIED


# Index


def test_an_entry_that_was_enlisted_again_is_not_taken_out(conversation, run):
    def enlist(member):
        return run("enlist", ["index"], member, HOUR_MS, HOUR_MS)

    def score(member):
        return conversation.client.zscore(conversation._base + "index", member)

    enlist("a")
    first = score("a")
    enlist("a")
    assert score("a") > first
    assert run("delist", ["index"], "a", int(first), 0) == 0
    assert run("delist", ["index"], "a", int(score("a")), HOUR_MS) == 0, "too young"
    assert run("delist", ["index"], "a", int(score("a")), 0) == 1
    assert run("delist", ["index"], "a", int(first), 0) == 0


def test_the_two_oldest_are_told_when_they_are_old_enough(conversation, run):
    for member in "abcd":
        assert run("enlist", ["index"], member, HOUR_MS, HOUR_MS) == []
    assert run("enlist", ["index"], "a", HOUR_MS, 0) == [b"b", b"c"]


# Discard


def test_a_list_is_discarded_only_as_it_was_read(conversation, run):
    client, key = conversation.client, conversation._base + "old"
    client.rpush(key, "a", "b")
    for wrong in (["a"], ["a", "c"], ["b", "a"], ["a", "b", "c"]):
        assert run("discard", ["old"], *wrong) == 0
    assert run("discard", ["old"], "a", "b") == 1
    assert run("discard", ["old"], "a", "b") == 0


# Refusals


@pytest.mark.parametrize(
    ("script", "kinds", "arguments"),
    [
        ("claim", CLAIM, ["", 1, 1]),
        ("claim", CLAIM, ["A", 0, 1]),
        ("claim", CLAIM, ["A", "x", 1]),
        ("claim", CLAIM, ["A", 1, ""]),
        ("claim", CLAIM, ["A", 1, 0]),
        ("renew", ["lease"], ["A", 0]),
        ("enlist", ["index"], ["", 1, 1]),
        ("enlist", ["index"], ["a", "x", 1]),
        ("enlist", ["index"], ["a", 1, ""]),
        ("delist", ["index"], ["a", "", 0]),
        ("delist", ["index"], ["a", 1, ""]),
        ("erase", ["l", "s", "o", "e", "delivering", "lease"], [0, 1, "", ""]),
        ("erase", ["l", "s", "o", "e", "delivering", "lease"], [1, 0.5, "", ""]),
        ("erase", ["l", "s", "o", "e", "delivering", "lease"], [1, 1, "", "x"]),
        ("window", "ls", [0, ""]),
        ("window", "ls", ["x", ""]),
        ("window", "ls", [1, -1]),
        ("changes", "ls", [-1]),
        ("changes", "ls", [""]),
        ("pop", "lso", ["", "", 1, 1]),
        ("pop", "lso", ["", "x", 1, 1, "entry"]),
        ("pop", "lso", [0, "", 1, 1, "entry"]),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(conversation, run, script, kinds, arguments):
    conversation.extend(*plain_turns(3), max_turns=2, hooked=HOUR_MS)
    before = conversation.snapshot()
    with pytest.raises(redis.ResponseError, match=r"^BADARGUMENT"):
        run(script, kinds, *arguments)
    assert conversation.snapshot() == before
