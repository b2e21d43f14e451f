"""What the chat memory tells besides messages: nothing of them is shown, and a face counts with its twin."""

from __future__ import annotations

import asyncio

import pytest

from ractogateway.errors import InvalidTypeError, RactoGatewayError
from ractogateway.redis import ChatMemoryConfig, Encryption, RedisChatMemory

SECRET = "4111 1111"


@pytest.fixture
def memory(any_server):
    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_tokens=1))
    memory.append("c", "user", SECRET, user_id=SECRET)
    return memory


def test_no_repr_shows_a_message_or_a_user(memory):
    told = [memory, memory.get_page("c"), memory.get_changes("c", 0), memory.stats, memory.get_messages("c")]
    told.append(memory.erase_user(SECRET))
    assert SECRET not in repr(told)


def test_no_error_shows_one(memory):
    for call in (
        lambda: memory.append("c", "user", "x", user_id=SECRET + "!"),
        lambda: memory.import_("c", SECRET),
        lambda: memory.fork(SECRET, "d"),
        lambda: memory.migrate("c", source_key=SECRET.encode()),
        lambda: memory.extend("c", [{"role": "user", "content": SECRET}], expected_revision=7),
    ):
        with pytest.raises(RactoGatewayError) as caught:
            call()
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value)


def test_no_log_shows_one(any_server, caplog):
    def hook(_conversation_id, messages):
        raise RuntimeError(messages[0]["content"])

    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=1, max_tokens=1, on_evict=hook))
    for _ in range(2):
        memory.append(SECRET, "user", SECRET)
    with any_server.client() as client:
        for key in client.scan_iter(match="*:messages"):
            client.rpush(key, SECRET)
    memory.get_history(SECRET)
    assert len(caplog.records) == 3, "a failed hook, a turn above its bound, an entry that is none"
    assert SECRET not in caplog.text
    assert memory.stats.hook_failures == memory.stats.skipped == 1


def test_a_face_counts_with_its_twin(memory):
    before = memory.stats
    asyncio.run(memory.aio.append("d", "user", "word " * 10))
    assert memory.stats.oversized == before.oversized + 1
    assert asyncio.run(memory.aio.stats()) == memory.stats


def test_a_key_is_not_shown():
    encryption = Encryption({"k1": bytes(32)}, current="k1")
    assert "k1" not in repr(RedisChatMemory(encryption=encryption))


@pytest.mark.parametrize("bad", [{}, 5, b"k"])
def test_wrong_encryptions(bad):
    with pytest.raises(InvalidTypeError, match="encryption"):
        RedisChatMemory(encryption=bad)
