"""What every face of the chat memory promises about whose a conversation is, and about erasing."""

from __future__ import annotations

import pytest
from secrecy import SECRET_USER

from ractogateway.errors import ForeignConversation, InvalidTypeError, InvalidValueError, RevisionConflict
from ractogateway.redis import ChatMemoryConfig, Erasure

AWKWARD_IDS = [SECRET_USER, "{", "}", "{}", "*", "a:b", "\ud800", "日本", "x" * 5_000, " ", "\x00", "a\nb"]


@pytest.fixture
def make(make_on_one):
    return make_on_one


def test_a_user_has_the_conversations_that_were_written_for_them(make):
    memory = make("memory", config=ChatMemoryConfig(ttl_seconds=60))
    memory.append("a", "user", "hi", user_id=SECRET_USER)
    memory.extend("b", [{"role": "user", "content": "hi"}], user_id=SECRET_USER)
    memory.append("b", "assistant", "ho")  # nobody has to say so twice
    memory.append("c", "user", "hi", user_id="v")
    memory.append("d", "user", "hi")
    assert memory.conversations(SECRET_USER) == ["a", "b"]
    assert memory.conversations("v") == ["c"]
    assert memory.conversations("w") == []


def test_a_conversation_begins_for_a_user_or_not_at_all(make):
    """A write that expects revision 0 asks nobody whether the index knows."""
    memory = make("memory", config=ChatMemoryConfig(ttl_seconds=60))
    message = [{"role": "user", "content": "hi"}]
    assert memory.extend("c", message, user_id=SECRET_USER, request_id="r", expected_revision=0) == 1
    assert memory.extend("c", message, user_id=SECRET_USER, request_id="r", expected_revision=0) == 1
    for user in (SECRET_USER, "v"):
        with pytest.raises((RevisionConflict, ForeignConversation)):
            memory.extend("c", message, user_id=user, expected_revision=0)
    assert (memory.count("c"), memory.conversations(SECRET_USER), memory.conversations("v")) == (1, ["c"], [])
    assert memory.erase_user("v") == Erasure(0, 0, 0)
    assert memory.erase_user(SECRET_USER) == Erasure(1, 1, 0)
    with pytest.raises(RevisionConflict):  # it was begun, whatever became of it
        memory.extend("c", message, user_id=SECRET_USER, expected_revision=0)


def test_every_way_to_write_takes_a_user(make):
    memory = make("memory")
    memory.replace("a", [{"role": "user", "content": "hi"}], user_id=SECRET_USER)
    memory.fork("a", "b")
    memory.import_("c", memory.export("a"), user_id=SECRET_USER)
    assert memory.conversations(SECRET_USER) == ["a", "b", "c"]


def test_users_and_conversations_of_any_name(make):
    memory = make("memory")
    for number, name in enumerate(AWKWARD_IDS):
        memory.append(f"{number}", "user", "hi", user_id=name)
        memory.append(name, "user", "hi", user_id="everything")
    assert memory.conversations("everything") == AWKWARD_IDS
    for number, name in enumerate(AWKWARD_IDS):
        assert memory.conversations(name) == [f"{number}"]


def test_users_of_tenants_and_prefixes_share_nothing(make):
    make("memory", namespace="acme").append("c", "user", "hi", user_id=SECRET_USER)
    make("memory", config=ChatMemoryConfig(key_prefix="app")).append("c", "user", "hi", user_id=SECRET_USER)
    assert make("memory").conversations(SECRET_USER) == []
    assert make("memory").erase_user(SECRET_USER) == Erasure(0, 0, 0)
    assert make("memory", namespace="acme").count("c") == 1


def test_nobody_else_writes_to_a_conversation(make):
    memory = make("memory")
    memory.append("c", "user", "hi", user_id=SECRET_USER)
    with pytest.raises(ForeignConversation, match="another user"):
        memory.append("c", "user", "me too", user_id="v")
    with pytest.raises(InvalidValueError, match="another user"):
        memory.replace("c", [], user_id="v")
    assert memory.count("c") == 1
    assert memory.conversations("v") == []


def test_a_cleared_conversation_is_not_shown_and_stays_its_users(make):
    memory = make("memory")
    memory.append("c", "user", "hi", user_id=SECRET_USER)
    memory.clear("c")
    assert memory.conversations(SECRET_USER) == []
    with pytest.raises(InvalidValueError, match="another user"):
        memory.append("c", "user", "hi", user_id="v")
    memory.append("c", "user", "hi")
    assert memory.conversations(SECRET_USER) == ["c"]


def test_a_request_id_works_for_a_user_too(make):
    memory = make("memory")
    first = memory.append("c", "user", "hi", user_id=SECRET_USER, request_id="r")
    assert memory.append("c", "user", "hi", user_id=SECRET_USER, request_id="r") == first == 1
    assert memory.count("c") == 1


def test_erasing_a_conversation_tells_what_went(make):
    memory = make("memory")
    memory.extend("c", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], user_id=SECRET_USER)
    assert memory.erase("c") == Erasure(conversations=1, messages=2, evicted=0)
    assert memory.get_history("c") == []
    assert memory.conversations(SECRET_USER) == []
    assert memory.erase("c") == Erasure(0, 0, 0)
    memory.append("c", "user", "hi", user_id="v")  # it is nobody's now
    assert memory.conversations("v") == ["c"]


def test_erasing_a_user_takes_every_copy_and_nobody_elses(make, any_server):
    memory = make("memory", config=ChatMemoryConfig(max_turns=1, on_evict=failing_hook))
    for conversation in ("a", "b"):
        for number in range(3):
            memory.append(conversation, "user", f"secret {number}", user_id=SECRET_USER)
    memory.fork("a", "copy")
    memory.append("other", "user", "hi", user_id="v")
    memory.append("nobody's", "user", "hi")
    assert memory.erase_user(SECRET_USER) == Erasure(conversations=3, messages=3, evicted=4)
    assert memory.conversations(SECRET_USER) == []
    assert (memory.count("other"), memory.count("nobody's")) == (1, 1)
    if "fake" not in make.face:
        with any_server.client() as client:
            assert not any(b"secret" in client.dump(key) for key in client.scan_iter())


def failing_hook(_conversation_id, _messages):
    raise RuntimeError


@pytest.mark.parametrize("bad", [None, 5, b"u", ""])
def test_users_that_are_none(make, bad):
    memory = make("memory")
    for call in (memory.conversations, memory.erase_user):
        with pytest.raises((InvalidTypeError, InvalidValueError), match="user_id"):
            call(bad)
    if bad is not None:
        with pytest.raises((InvalidTypeError, InvalidValueError), match="user_id"):
            memory.append("c", "user", "hi", user_id=bad)
        with pytest.raises((InvalidTypeError, InvalidValueError), match="user_id"):
            memory.import_("c", '{"role":"user"}', user_id=bad)
    for call in (memory.erase, memory.export, memory.pop, memory.migrate, memory.deliver_evicted):
        with pytest.raises((InvalidTypeError, InvalidValueError), match="conversation_id"):
            call(bad)
