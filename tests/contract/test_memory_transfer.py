"""What every face of the chat memory promises about moving whole conversations."""

from __future__ import annotations

import json
import os

import pytest
from secrecy import SECRET_USER

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis import ChatMemoryConfig, Encryption

AWKWARD = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": 'line\nbreak \u2028 \x85 "quoted" \ud800 日本'},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": '{"a": 1.5}'}}]},
    {"role": "tool", "tool_call_id": "1", "content": ""},
]


@pytest.fixture
def make(make_on_one):
    return make_on_one


def turn(number: int) -> list[dict]:
    return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]


def test_a_fork_goes_its_own_way(make):
    memory = make("memory")
    memory.extend("c", [AWKWARD[0], *turn(0)])
    assert memory.fork("c", "d") == 1
    memory.extend("d", turn(1))
    assert memory.get_history("d") == [AWKWARD[0], *turn(0), *turn(1)]
    assert memory.get_history("c") == [AWKWARD[0], *turn(0)]


def test_a_fork_needs_messages_and_room(make):
    memory = make("memory")
    with pytest.raises(InvalidValueError, match="source"):
        memory.fork("never", "d")
    memory.extend("c", turn(0))
    memory.extend("d", turn(1))
    with pytest.raises(InvalidValueError, match="clear it first"):
        memory.fork("c", "d")
    assert memory.get_history("d") == turn(1)
    memory.clear("d")
    assert memory.fork("c", "d", request_id="r") == memory.fork("c", "d", request_id="r") == 3
    assert memory.get_history("d") == turn(0)
    memory.clear("c")
    assert memory.fork("c", "d", request_id="r") == 3, "sent again after the source was cleared"
    with pytest.raises(InvalidValueError, match="source"):
        memory.fork("c", "d", request_id="another")


def test_an_export_is_one_message_a_line(make):
    memory = make("memory")
    memory.extend("c", AWKWARD)
    lines = memory.export("c")
    assert [json.loads(line) for line in lines.split("\n")[:-1]] == AWKWARD
    lines.encode("utf-8")  # can be written to a file
    assert memory.export("never") == ""


def test_an_import_is_what_was_exported(make):
    memory = make("memory")
    memory.extend("c", AWKWARD)
    lines = memory.export("c")
    memory.import_("from str", lines)
    memory.import_("from bytes", lines.encode())
    memory.import_("from lines", lines.split("\n"))
    for conversation in ("from str", "from bytes", "from lines"):
        assert memory.get_history(conversation) == AWKWARD


def test_an_import_takes_a_lone_surrogate_as_it_is(make):
    memory = make("memory")
    memory.import_("c", json.dumps(AWKWARD[1], ensure_ascii=False))
    assert memory.get_history("c") == [AWKWARD[1]]


def test_a_long_import(make):
    memory = make("memory", config=ChatMemoryConfig(max_turns=10_000))
    messages = [message for number in range(9_000) for message in turn(number)]
    memory.import_("c", "\n".join(json.dumps(message) for message in messages))
    assert memory.count("c") == 18_000
    assert memory.get_history("c", last=1) == turn(8_999)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('{"role":"user","content":"x"}\nsecret', "line 2"),
        ('\n{"content":"secret"}', "line 2"),
        ('["secret"]', "line 1"),
        ('{"role":"secret"}', "role"),
        (b"\xffsecret", "UTF-8"),
        ("", "at least one"),
        ("\n \n", "at least one"),
    ],
)
def test_an_import_of_something_else_writes_nothing(make, lines, told):
    memory = make("memory")
    with pytest.raises(InvalidValueError, match=told) as caught:
        memory.import_("c", lines)
    assert "secret" not in str(caught.value)
    assert memory.count("c") == 0


@pytest.mark.parametrize("lines", [None, 5, [b"x"], [5]])
def test_an_import_of_no_lines(make, lines):
    with pytest.raises(InvalidTypeError):
        make("memory").import_("c", lines)


def test_an_import_needs_room(make):
    memory = make("memory")
    memory.extend("c", turn(0))
    with pytest.raises(InvalidValueError, match="clear it first"):
        memory.import_("c", '{"role":"user","content":"x"}')
    assert memory.get_history("c") == turn(0)


# The older layout


@pytest.fixture
def older(make, any_server):
    """Writes a list as the older layout did."""
    if "fake" in make.face:
        pytest.skip("the server of a fake is its client's own")

    def write(*items: object, key: str = "ractogateway:memory:session-abc") -> None:
        with any_server.client() as client:
            client.rpush(key, *(item if isinstance(item, bytes) else json.dumps(item) for item in items))

    return write


def test_a_conversation_of_the_older_layout_is_brought_over(make, older, any_server):
    older({"role": "user", "content": "é日本"}, *turn(0))
    memory = make("memory")
    assert memory.get_history("session-abc") == []
    assert memory.migrate("session-abc", user_id=SECRET_USER) == 3
    assert memory.get_history("session-abc") == [{"role": "user", "content": "é日本"}, *turn(0)]
    assert memory.conversations(SECRET_USER) == ["session-abc"]
    assert any_server.command("EXISTS", "ractogateway:memory:session-abc") == 0
    assert memory.migrate("session-abc") == 0
    assert memory.count("session-abc") == 3


def test_the_list_may_have_another_key(make, older):
    older(*turn(0), key="elsewhere")
    memory = make("memory")
    assert memory.migrate("session-abc") == 0
    assert memory.migrate("session-abc", source_key="elsewhere") == 2
    assert memory.get_history("session-abc") == turn(0)


def test_a_list_that_holds_something_else_stays(make, older, any_server):
    older(b"junk", *turn(0), {"role": "nobody", "content": "x"}, b"[]")
    memory = make("memory")
    assert memory.migrate("session-abc") == 2
    assert memory.get_history("session-abc") == turn(0)
    assert memory.stats.skipped == 3
    assert any_server.command("LLEN", "ractogateway:memory:session-abc") == 5
    assert memory.migrate("session-abc") == 2, "the same list is the same operation"
    assert memory.count("session-abc") == 2


def test_a_conversation_that_has_begun_is_not_mixed_with_an_older_one(make, older, any_server):
    older(*turn(0))
    memory = make("memory")
    memory.extend("session-abc", turn(1))
    with pytest.raises(InvalidValueError, match="clear it first"):
        memory.migrate("session-abc")
    assert memory.get_history("session-abc") == turn(1)
    assert any_server.command("LLEN", "ractogateway:memory:session-abc") == 2


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "rain"}


def test_a_migration_leaves_no_result_without_its_call(make, older):
    question, answer = turn(1)
    older(*turn(0), question, b"junk", RESULT, answer, question, CALL, RESULT, answer)
    memory = make("memory")
    assert memory.migrate("session-abc") == 8
    assert memory.get_history("session-abc") == [*turn(0), question, answer, question, CALL, RESULT, answer]
    assert memory.stats.skipped == 2


def test_a_fork_leaves_no_result_without_its_call(make, any_server):
    keys = {"k1": os.urandom(32), "k2": os.urandom(32)}
    both = make("memory", encryption=Encryption(keys, current="k1"))
    question, answer = turn(1)
    both.extend("c", [*turn(0), question, CALL])
    late = make("memory", encryption=Encryption({"k2": keys["k2"]}, current="k2"))
    late.extend("c", [RESULT, answer, question, CALL, RESULT, answer])
    late.fork("c", "d")
    assert late.count("d") == 5
    assert both.get_history("d") == [answer, question, CALL, RESULT, answer]
    assert late.get_history("d") == late.get_history("c")


@pytest.mark.parametrize("written_again", [True, False])
def test_a_list_that_was_written_again_is_brought_over_again_and_not_deleted_unread(make, older, written_again):
    older(*turn(0))
    memory = make("memory")
    assert memory.migrate("session-abc") == 2
    if written_again:
        memory.clear("session-abc")
    older(*turn(0))  # by a replica of the older release
    assert memory.migrate("session-abc") == 2
    assert memory.get_history("session-abc") == turn(0)


def test_a_list_that_cannot_be_brought_over_again_stays(make, older, any_server):
    older(*turn(0))
    memory = make("memory")
    memory.migrate("session-abc")
    memory.replace("session-abc", turn(1))
    older(*turn(0))
    with pytest.raises(InvalidValueError, match="clear it first"):
        memory.migrate("session-abc")
    assert any_server.command("LLEN", "ractogateway:memory:session-abc") == 2
