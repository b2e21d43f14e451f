"""What every face of the chat memory promises about reading: windows, pages, changes, and entries that are no good."""

from __future__ import annotations

import pytest

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message
from ractogateway.redis import ChatMemoryConfig

PLENTY = ChatMemoryConfig(max_turns=1_000)
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def make(make_on_one):
    return make_on_one


def turn(number: int) -> list[dict]:
    return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]


def turns(first: int, last: int) -> list[dict]:
    return [message for number in range(first, last) for message in turn(number)]


@pytest.fixture
def memory(make):
    memory = make("memory", config=PLENTY)
    memory.append("c", "system", "Be kind.")
    memory.extend("c", turns(0, 10))
    return memory


@pytest.mark.parametrize(("last", "first"), [(1, 9), (2, 9), (3, 8), (19, 0), (20, 0), (21, 0), (10**9, 0)])
def test_the_last_messages_are_widened_to_whole_turns(memory, last, first):
    assert memory.get_history("c", last=last) == [SYSTEM, *turns(first, 10)]


def test_messages_as_objects(memory):
    assert memory.get_messages("c", last=2) == [Message(**SYSTEM), *(Message(**message) for message in turn(9))]
    assert len(memory.get_messages("c")) == 21


def test_pages_lead_from_the_end_to_the_beginning(memory):
    newest = memory.get_page("c", limit=5)
    assert (newest.messages, newest.pinned) == (turns(7, 10), [SYSTEM])
    assert (newest.count, newest.revision) == (21, 2)
    memory.extend("c", turn(10))  # what comes meanwhile does not shift what is older
    middle = memory.get_page("c", limit=6, before=newest.before)
    oldest = memory.get_page("c", limit=100, before=middle.before)
    assert (middle.messages, oldest.messages) == (turns(4, 7), turns(0, 4))
    assert oldest.before is None


def test_a_page_survives_what_was_trimmed(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=4))
    memory.extend("c", turns(0, 4))
    before = memory.get_page("c", limit=2).before
    memory.extend("c", turns(4, 6))
    assert memory.get_page("c", limit=10, before=before).messages == turns(2, 3)
    memory.clear("c")
    memory.extend("c", turns(6, 9))
    assert memory.get_page("c", limit=10, before=before).messages == []


def test_a_page_survives_what_was_replaced(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=20))
    memory.extend("c", turns(0, 4))
    before = memory.get_page("c", limit=2).before
    memory.replace("c", turns(4, 10))
    assert memory.get_page("c", limit=10, before=before).messages == [], "what is older is gone; this is newer"


def test_a_conversation_nobody_had_has_an_empty_page(make):
    page = make("memory").get_page("never")
    assert (page.messages, page.pinned, page.before, page.revision, page.count) == ([], [], None, 0, 0)
    assert make("memory").get_history("never", last=3) == []


def test_nothing_changed(memory):
    changes = memory.get_changes("c", 2)
    assert not changes
    assert (changes.revision, changes.messages, changes.dropped, changes.anew) == (2, [], 0, False)
    assert not memory.get_changes("never", 0)


def test_what_was_appended_since(memory):
    memory.append("c", "user", "q10")
    revision = memory.append("c", "assistant", "a10")
    changes = memory.get_changes("c", 2)
    assert changes
    assert (changes.messages, changes.dropped, changes.anew, changes.revision) == (turn(10), 0, False, revision)


def test_what_was_trimmed_since(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=3))
    memory.append("c", "system", "Be kind.")
    seen = memory.extend("c", turns(0, 3))
    memory.extend("c", turn(3))
    changes = memory.get_changes("c", seen)
    assert (changes.messages, changes.dropped, changes.kept, changes.anew) == (turn(3), 2, 4, False)
    for number in range(4, 9):  # more than the whole conversation
        memory.extend("c", turn(number))
    changes = memory.get_changes("c", seen)
    assert (changes.messages, changes.dropped, changes.kept, changes.anew) == (turns(6, 9), 6, 0, False)


def test_what_cannot_be_told_in_parts_is_told_anew(memory):
    for change in (
        lambda: memory.append("c", "developer", "Be brief."),
        lambda: memory.pop("c"),
        lambda: memory.replace("c", turn(1)),
        lambda: memory.clear("c"),
    ):
        seen = memory.get_page("c").revision
        change()
        changes = memory.get_changes("c", seen)
        assert changes.anew
        assert changes.messages == memory.get_history("c")
    assert memory.get_changes("c", 1_000).anew, "a revision that is yet to come was another life's"


@pytest.mark.parametrize("pinned", [True, False])
def test_since_the_beginning_is_the_whole_history_with_its_revision(make, pinned):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    assert (memory.get_changes("c", 0).messages, memory.get_changes("c", 0).revision) == ([], 0)
    if pinned:
        memory.append("c", "system", "Be kind.")
    for number in range(40):
        revision = memory.extend("c", turn(number))
        changes = memory.get_changes("c", 0)
        assert (changes.messages, changes.revision, changes.dropped) == (memory.get_history("c"), revision, 0)
    memory.pop("c")
    assert memory.get_changes("c", 0).messages == memory.get_history("c")


def test_revisions_long_ago_are_told_anew(memory):
    for number in range(300):
        memory.append("c", "user", str(number))
    assert memory.get_changes("c", 2).anew
    assert len(memory.get_changes("c", 292).messages) == 10


@pytest.fixture
def spoil(make, any_server):
    """Overwrites an entry, from the end."""
    if "fake" in make.face:
        pytest.skip("the server of a fake is its client's own")

    def spoil(index: int, entry: bytes) -> None:
        with any_server.client() as client:
            (key,) = client.keys("*:messages")
            client.lset(key, index, entry)

    return spoil


@pytest.mark.parametrize("bad", [b"", b"junk", b"1M{", b"9M17|later", b"3M5|sealed", b"1M[]", b"\xff\xfe"], ids=repr)
def test_what_cannot_be_read_is_skipped_counted_and_backfilled(memory, spoil, bad):
    spoil(-1, bad)
    assert memory.get_history("c", last=1) == [SYSTEM, turn(9)[0]]
    assert memory.get_history("c", last=2) == [SYSTEM, *turn(8), turn(9)[0]], "an older one stands in"
    assert memory.stats.skipped == 2
    assert memory.get_history("c") == [SYSTEM, *turns(0, 9), turn(9)[0]]
    assert memory.get_page("c", limit=2).messages == [*turn(8), turn(9)[0]]
    assert memory.count("c") == 21


def test_a_conversation_of_which_nothing_can_be_read_is_read_to_its_end(memory, spoil):
    for index in range(1, 21):
        spoil(-index, b"junk")
    assert memory.get_history("c", last=2) == [SYSTEM]
    assert memory.stats.skipped == 20


def test_a_role_of_a_later_release_is_in_the_history_and_no_message_object(memory, spoil):
    spoil(-1, b'1M{"role":"critic","content":"hm"}')
    assert memory.get_history("c", last=1)[-1] == {"role": "critic", "content": "hm"}
    assert [message.role for message in memory.get_messages("c", last=1)] == ["system", "user"]
    assert memory.stats.skipped == 1


def test_older_messages_stand_in_for_tool_use_that_is_left_out_too(make, spoil):
    memory = make("memory")
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    memory.extend("c", [*turns(0, 5), turn(5)[0], call, result, result, result, turn(5)[1]])
    spoil(-2, b"9M17|later")
    assert memory.get_history("c", last=6) == turns(3, 6)
    assert memory.get_page("c", limit=6).messages == turns(3, 6)


@pytest.mark.parametrize(
    "odd",
    [
        b'1M{"role":"assistant","content":5}',
        b'1M{"role":"assistant","content":"x","\\ud800":1}',
        b'1M{"role":"critic"}',
    ],
    ids=repr,
)
def test_one_odd_entry_costs_itself_and_the_tool_use_of_its_turn(make, spoil, odd):
    memory = make("memory")
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    memory.extend("c", [*turn(0), turn(1)[0], turn(1)[1], result, *turn(2)])
    spoil(-4, odd)
    assert len(memory.get_history("c")) == 7
    assert memory.get_messages("c") == [Message(**each) for each in [*turn(0), turn(1)[0], *turn(2)]]
    assert memory.stats.skipped == 2


@pytest.mark.parametrize("spoilt", [-3, -2])
def test_neither_call_nor_result_comes_without_the_other(make, spoil, spoilt):
    memory = make("memory")
    question, call, result, answer = (
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    )
    memory.extend("c", [*turn(0), question, call, result, answer])
    spoil(spoilt, b"junk")
    assert memory.get_history("c") == [*turn(0), question, answer]
    assert memory.stats.skipped == 2


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "3"])
def test_numbers_that_make_no_sense(make, bad):
    memory = make("memory")
    for call in (
        lambda: memory.get_history("c", last=bad),
        lambda: memory.get_messages("c", last=bad),
        lambda: memory.get_page("c", limit=bad),
    ):
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            call()
    if bad != 0 or bad is True:
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            memory.get_changes("c", bad)
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            memory.get_page("c", before=bad)
    with pytest.raises(InvalidTypeError):
        memory.get_changes("c", None)


def applied(copy: list[dict], changes) -> list[dict]:
    """What the docstring of `ConversationChanges` says."""
    if changes.anew:
        return changes.messages
    pinned = [message for message in copy if message["role"] == "system"]
    body = copy[len(pinned) :]
    if changes.dropped:
        body = body[len(body) - changes.kept :]
    return pinned + body + changes.messages


@pytest.mark.parametrize("spoilt", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("torn", [True, False])
def test_a_copy_stays_right_when_something_cannot_be_read(make, spoil, spoilt, torn):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    conversation = [SYSTEM, *turn(0), turn(1)[0], call, result, turn(1)[1], *turns(2, 5), turn(5)[0], call, result]
    copy, seen = [], 0
    for number, message in enumerate(conversation):
        memory.extend("c", [message])
        if number == spoilt:
            spoil(-1, b"9M17|later" if message["role"] != "user" else b"9U17|later")
        if not torn and message["role"] == "user":
            continue
        changes = memory.get_changes("c", seen)
        copy, seen = applied(copy, changes), changes.revision
        assert copy == memory.get_history("c")


def test_what_was_appended_is_still_told_alone_where_all_can_be_read(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=2))
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    seen = memory.extend("c", [*turn(0), turn(1)[0], call])
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    seen = memory.extend("c", [result])
    changes = memory.get_changes("c", seen - 1)
    assert (changes.messages, changes.anew) == ([result], False)
    memory.extend("c", turn(2))
    changes = memory.get_changes("c", seen)
    assert (changes.messages, changes.dropped, changes.kept, changes.anew) == (turn(2), 2, 3, False)
