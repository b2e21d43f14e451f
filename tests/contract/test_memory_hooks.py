"""What every face of the chat memory promises about redaction, evicted messages and encryption."""

from __future__ import annotations

import os

import pytest

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message
from ractogateway.redis import ChatMemoryConfig, Encryption, RedisChatMemory

OLD, NEW = os.urandom(32), os.urandom(32)


@pytest.fixture
def make(make_on_one):
    return make_on_one


def turn(number: int) -> list[dict]:
    return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]


# Redaction


def test_messages_are_redacted_before_they_are_written(make):
    def redact(message):
        message["content"][0]["text"] = "***"
        return message

    given = {"role": "user", "content": [{"type": "text", "text": "4111 1111"}]}
    memory = make("memory", config=ChatMemoryConfig(redact=redact))
    memory.extend("c", [given])
    memory.replace("d", [given])
    memory.import_("e", '{"role":"user","content":[{"type":"text","text":"4111 1111"}]}')
    for conversation in "cde":
        assert memory.get_history(conversation) == [{"role": "user", "content": [{"type": "text", "text": "***"}]}]
    assert given["content"][0]["text"] == "4111 1111", "the caller's own message is as it was"


def test_what_redact_raises_reaches_the_caller_and_nothing_is_written(make):
    def redact(message):
        raise LookupError("cannot")

    memory = make("memory", config=ChatMemoryConfig(redact=redact))
    with pytest.raises(LookupError, match="cannot"):
        memory.append("c", "user", "hi")
    assert memory.count("c") == 0


def test_redact_may_return_a_message_object(make):
    memory = make("memory", config=ChatMemoryConfig(redact=lambda each: Message(role=each["role"], content="***")))
    memory.append("c", "user", "4111 1111")
    assert memory.get_history("c") == [{"role": "user", "content": "***"}]


@pytest.mark.parametrize("bad", [None, "text", {"role": "nobody"}, {"content": "x"}, {"role": "user", "content": 5}])
def test_what_redact_returns_is_checked(make, bad):
    memory = make("memory", config=ChatMemoryConfig(redact=lambda _message: bad))
    with pytest.raises((InvalidTypeError, InvalidValueError)):
        memory.append("c", "user", "hi")
    assert memory.count("c") == 0


# Evicted messages


def test_the_hook_gets_exactly_what_was_trimmed(make):
    evicted = []
    config = ChatMemoryConfig(max_turns=2, on_evict=lambda *told: evicted.append(told))
    memory = make("memory", config=config)
    memory.append("c", "system", "s")
    for number in range(4):
        memory.extend("c", turn(number))
    assert evicted == [("c", turn(0)), ("c", turn(1))]
    memory.append("c", "user", "q4", request_id="r")
    memory.append("c", "user", "q4", request_id="r")
    assert evicted[2:] == [("c", turn(2))]
    assert memory.deliver_evicted("c") == 0


def test_replaced_popped_and_cleared_messages_are_not_evicted(make):
    evicted = []
    memory = make("memory", config=ChatMemoryConfig(max_turns=2, on_evict=lambda *told: evicted.append(told)))
    memory.extend("c", turn(0))
    memory.replace("c", turn(1))
    memory.pop("c")
    memory.clear("c")
    assert evicted == []
    memory.replace("c", turn(1) + turn(2) + turn(3))
    assert evicted == [("c", turn(1))]


def test_a_hook_that_fails_fails_no_write_and_gets_the_messages_again(make):
    evicted, fails = [], [True]

    def hook(conversation_id, messages):
        if fails[0]:
            raise RuntimeError
        evicted.append((conversation_id, messages))

    memory = make("memory", config=ChatMemoryConfig(max_turns=1, on_evict=hook))
    for number in range(3):
        assert memory.extend("c", turn(number)) == number + 1
    assert memory.stats.hook_failures == 2
    fails[0] = False
    memory.extend("c", turn(3))
    assert [message for _, messages in evicted for message in messages] == turn(0) + turn(1) + turn(2)
    assert memory.deliver_evicted("c") == 0


def test_what_somebody_left_can_be_delivered_without_a_write(make):
    evicted = []
    fails = make("memory", config=ChatMemoryConfig(max_turns=1, on_evict=lambda *_: 1 / 0))
    for number in range(3):
        fails.extend("c", turn(number))
    memory = make("memory", config=ChatMemoryConfig(max_turns=1, on_evict=lambda *told: evicted.append(told)))
    assert memory.deliver_evicted("c") == 4
    assert [message for _, messages in evicted for message in messages] == turn(0) + turn(1)


def test_a_hook_may_write_to_the_conversation(make):
    if "blocking" not in make.face:
        pytest.skip("the hook of this test blocks")

    def summarise(conversation_id, messages):
        memory.append(conversation_id, "system", f"{len(messages)} messages before")

    memory = make("memory", config=ChatMemoryConfig(max_turns=1, on_evict=summarise))
    memory.extend("c", turn(0))
    memory.extend("c", turn(1))
    assert memory.get_history("c") == [{"role": "system", "content": "2 messages before"}, *turn(1)]


@pytest.mark.parametrize("name", ["redact", "on_evict", "count_tokens"])
def test_hooks_that_are_none(name):
    with pytest.raises(InvalidTypeError, match=name):
        ChatMemoryConfig(**{name: "hook"})


@pytest.mark.parametrize("name", ["redact", "on_evict", "count_tokens"])
def test_a_blocking_face_takes_no_coroutine_function(name):
    async def hook(*_):
        raise NotImplementedError

    with pytest.raises(InvalidTypeError, match=name):
        RedisChatMemory(config=ChatMemoryConfig(**{name: hook}))


def test_what_this_process_cannot_read_waits_for_one_that_can(make):
    told, told_late = [], []
    secret = Encryption({"k1": OLD}, current="k1")

    def config(into):
        return ChatMemoryConfig(max_turns=1, on_evict=lambda _id, messages: into.extend(messages))

    make("memory", encryption=secret).extend("c", turn(0) + turn(1)[:1])
    late = make("memory", encryption=Encryption({"k2": NEW}, current="k2"), config=config(told_late))
    late.extend("c", turn(1)[1:])
    for number in (2, 3, 4):
        late.extend("c", turn(number))
    assert told_late == turn(2) + turn(3), "what it can read does not wait"
    assert late.stats.skipped
    both = make("memory", encryption=Encryption({"k1": OLD, "k2": NEW}, current="k2"), config=config(told))
    assert both.deliver_evicted("c") == 4
    assert told == turn(0) + turn(1)
    assert both.deliver_evicted("c") == late.deliver_evicted("c") == 0


# Encryption


def test_nothing_is_legible_at_rest(make, any_server):
    memory = make("memory", encryption=Encryption({"k1": OLD}, current="k1"), config=ChatMemoryConfig(max_turns=1))
    memory.append("c", "system", "secret")
    for _ in range(2):
        memory.extend("c", [{"role": "user", "content": "secret", "name": "secret"}])
    assert [message["content"] for message in memory.get_history("c")] == ["secret", "secret"]
    if "fake" not in make.face:
        with any_server.client() as client:
            assert not any(b"secret" in client.dump(key) for key in client.scan_iter())


def test_keys_are_rotated(make):
    make("memory", encryption=Encryption({"k1": OLD}, current="k1")).extend("c", turn(0))
    both = make("memory", encryption=Encryption({"k1": OLD, "k2": NEW}, current="k2"))
    both.extend("c", turn(1))
    assert both.get_history("c") == turn(0) + turn(1)
    late = make("memory", encryption=Encryption({"k2": NEW}, current="k2"))
    assert late.get_history("c") == turn(1)
    assert late.stats.skipped == 2


def test_plain_text_stays_readable_and_nothing_sealed_opens_without_its_key(make):
    make("memory").extend("c", turn(0))
    sealing = make("memory", encryption=Encryption({"k1": OLD}, current="k1"))
    sealing.extend("c", turn(1))
    assert sealing.get_history("c") == turn(0) + turn(1)
    assert make("memory").get_history("c") == turn(0)


def test_encrypted_conversations_are_trimmed_evicted_forked_popped_and_exported(make):
    evicted = []
    config = ChatMemoryConfig(max_turns=2, on_evict=lambda _id, messages: evicted.extend(messages))
    memory = make("memory", encryption=Encryption({"k1": OLD}, current="k1"), config=config)
    for number in range(3):
        memory.extend("c", turn(number))
    assert evicted == turn(0)
    memory.fork("c", "d")
    assert memory.get_history("d") == turn(1) + turn(2)
    assert memory.pop("d") == turn(2)[1]
    memory.import_("e", memory.export("c"))
    assert memory.get_history("e", last=1) == turn(2)
    assert memory.stats.skipped == 0


def test_an_entry_of_another_conversation_does_not_open(make, any_server):
    if "fake" in make.face:
        pytest.skip("the server of a fake is its client's own")
    memory = make("memory", encryption=Encryption({"k1": OLD}, current="k1"))
    memory.append("c", "user", "mine")
    with any_server.client() as client:
        (key,) = client.keys("*:messages")
        foreign = client.lindex(key, 0)
        memory.append("d", "user", "yours")
        (other,) = set(client.keys("*:messages")) - {key}
        client.lset(other, 0, foreign)
        client.rpush(other, foreign.replace(b"3U", b"3P", 1))
    assert memory.get_history("d") == []
    assert memory.stats.skipped == 2


def test_an_encryption_of_a_wrong_type(make):
    with pytest.raises(InvalidTypeError, match="encryption"):
        make("memory", encryption=b"key")
