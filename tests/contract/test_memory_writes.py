"""What every face of the chat memory promises about writing beyond appending: bounds in tokens, pop, replace."""

from __future__ import annotations

import pytest
from servers import no_key_without_ttl

from ractogateway.errors import InvalidTypeError, InvalidValueError, RevisionConflict, StoreRefused
from ractogateway.redis import ChatMemoryConfig, Encryption


@pytest.fixture
def make(make_on_one):
    return make_on_one


def turn(number: int) -> list[dict]:
    return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]


def by_words(message: dict) -> int:
    return len(message["content"].split())


WORDS = ChatMemoryConfig(max_turns=100, max_tokens=10, count_tokens=by_words)


def test_whole_turns_leave_until_the_tokens_fit(make):
    memory = make("memory", config=WORDS)
    for number in range(4):
        memory.extend("c", [{"role": "user", "content": "a b"}, {"role": "assistant", "content": f"c d {number}"}])
    assert [message["content"] for message in memory.get_history("c")] == ["a b", "c d 2", "a b", "c d 3"]
    assert memory.get_page("c").tokens == 10


def test_pinned_messages_count_in_the_bound(make):
    memory = make("memory", config=WORDS)
    memory.append("c", "system", "one two three four")
    for number in range(3):
        memory.extend("c", [{"role": "user", "content": "a b"}, {"role": "assistant", "content": f"c d {number}"}])
    assert [message["content"] for message in memory.get_history("c")] == ["one two three four", "a b", "c d 2"]
    memory.append("c", "system", "five six seven")
    assert memory.count("c") == 4, "the last turn stays"


def test_a_turn_larger_than_the_bound_is_kept_and_reported(make):
    memory = make("memory", config=WORDS)
    memory.extend("c", turn(0))
    assert memory.stats.oversized == 0
    memory.append("c", "user", "word " * 30)
    assert [by_words(message) for message in memory.get_history("c")] == [30]
    assert memory.get_page("c").tokens == 30
    assert memory.stats.oversized == 1


def test_without_a_counter_four_bytes_are_a_token(make):
    memory = make("memory", config=ChatMemoryConfig(max_tokens=250))
    for number in range(5):
        memory.append("c", "user", f"{number}" * 370)  # 370 characters, 30 more as an entry: 100 tokens
    assert memory.count("c") == 2
    assert memory.get_page("c").tokens == 200


def test_counts_and_estimates_live_together(make):
    make("memory", config=ChatMemoryConfig(max_turns=50)).extend("c", turn(0) + turn(1))
    memory = make("memory", config=ChatMemoryConfig(max_tokens=40, count_tokens=lambda _message: 10))
    estimated = memory.get_page("c").tokens
    memory.append("c", "user", "q2")
    assert memory.get_page("c").tokens <= 40
    assert memory.get_history("c")[-1]["content"] == "q2"
    assert estimated > 30


@pytest.mark.parametrize(
    ("count", "kind"), [(-1, ValueError), (10**15, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)]
)
def test_a_counter_that_does_not_count(make, count, kind):
    memory = make("memory", config=ChatMemoryConfig(count_tokens=lambda _message: count))
    with pytest.raises(kind, match="count_tokens"):
        memory.append("c", "user", "hi")
    assert memory.count("c") == 0


def test_pop_takes_the_newest_message(make):
    memory = make("memory")
    memory.append("c", "system", "s")
    revision = memory.extend("c", turn(0))
    assert memory.pop("c") == turn(0)[1]
    assert memory.pop("c", expected_revision=revision + 1) == turn(0)[0]
    assert memory.get_history("c") == [{"role": "system", "content": "s"}]
    assert memory.pop("c") == {"role": "system", "content": "s"}
    assert memory.pop("c") is None
    assert memory.pop("never") is None
    assert memory.extend("c", turn(1), expected_revision=revision + 3) == revision + 4


def test_pop_can_expect_a_revision(make):
    memory = make("memory")
    memory.extend("c", turn(0))
    with pytest.raises(RevisionConflict) as caught:
        memory.pop("c", expected_revision=0)
    assert (caught.value.expected, caught.value.actual) == (0, 1)
    assert memory.count("c") == 2


def test_turns_are_counted_rightly_after_a_pop(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    memory.extend("c", turn(0) + turn(1))
    memory.pop("c")
    memory.pop("c")
    memory.extend("c", turn(2))
    assert memory.get_history("c") == turn(0) + turn(2)


def test_replace_puts_other_messages_there(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    memory.append("c", "system", "old")
    revision = memory.extend("c", turn(0))
    summary = [{"role": "system", "content": "new"}, *turn(1), *turn(2), *turn(3)]
    assert memory.replace("c", summary, expected_revision=revision) == revision + 1
    assert memory.get_history("c") == [summary[0], *turn(2), *turn(3)]
    with pytest.raises(RevisionConflict):
        memory.replace("c", turn(4), expected_revision=revision)
    memory.replace("c", [])
    assert memory.get_history("c") == []


def test_a_replay_of_replace_changes_nothing(make):
    memory = make("memory")
    first = memory.replace("c", turn(0), request_id="r")
    memory.extend("c", turn(1))
    assert memory.replace("c", turn(0), request_id="r") == first
    assert memory.get_history("c") == turn(0) + turn(1)


def test_any_number_of_writes_later_a_request_id_is_still_known(make):
    memory = make("memory")
    first = memory.append("c", "user", "hi", request_id="r")
    for number in range(100):
        memory.append("c", "assistant", str(number))
    assert memory.append("c", "user", "hi", request_id="r") == first
    assert memory.count("c") == 101


@pytest.mark.parametrize("bad", ["text", {"role": "user", "content": "x"}, None, 5, [None], [{}]])
def test_replacing_by_what_is_no_message(make, bad):
    with pytest.raises((InvalidTypeError, InvalidValueError)):
        make("memory").replace("c", bad)


@pytest.mark.parametrize("bad", [-1, 1.0, True, "1"])
def test_expected_revisions(make, bad):
    for call in (make("memory").pop, lambda c, **named: make("memory").replace(c, turn(0), **named)):
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            call("c", expected_revision=bad)


def test_an_emptied_conversation_leaves_nothing_for_ever(make, any_server):
    memory = make("memory")
    memory.append("c", "user", "hi")
    memory.pop("c")
    memory.replace("d", turn(0))
    memory.replace("d", [])
    no_key_without_ttl(any_server.url, "ractogateway:")


@pytest.mark.parametrize("bad", [b"9M17|later", b"3M5|sealed"], ids=repr)
def test_pop_deletes_nothing_that_somebody_else_may_read(make, any_server, bad):
    if "fake" in make.face:
        pytest.skip("the server of a fake is its client's own")
    memory = make("memory")
    memory.extend("c", turn(0))
    with any_server.client() as client:
        (key,) = client.keys("*:messages")
        client.lset(key, -1, bad)
        with pytest.raises(StoreRefused, match="key that is not here") as caught:
            memory.pop("c")
        assert caught.value.code == "UNREADABLE"
        client.lset(key, -2, b"junk")
        with pytest.raises(StoreRefused):
            memory.pop("c")
        assert client.lrange(key, 0, -1) == [b"junk", bad]


def test_pop_takes_what_is_corrupt_only_with_a_message(make, any_server):
    if "fake" in make.face:
        pytest.skip("the server of a fake is its client's own")
    memory = make("memory")
    memory.extend("c", turn(0))
    with any_server.client() as client:
        (key,) = client.keys("*:messages")
        client.rpush(key, b"junk", b"1M{")
        assert memory.pop("c") == turn(0)[1]
        assert client.lrange(key, 1, -1) == []
        client.lset(key, 0, b"junk")
        assert memory.pop("c") is None
        assert client.lrange(key, 0, -1) == [b"junk"]


def test_pop_without_the_key_keeps_the_conversation(make):
    secret = Encryption({"k1": bytes(32)}, current="k1")
    writer = make("memory", encryption=secret)
    writer.extend("c", turn(0))
    with pytest.raises(StoreRefused):
        make("memory").pop("c")
    assert writer.get_history("c") == turn(0)
