"""Whose the conversations are that kits write, and that an erasure of a user finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit_tools import CONVERSATION, USER, question

from ractogateway.errors import TurnNotRemembered
from ractogateway.redis import Erasure
from ractogateway.redis._memory import index

OTHER = "CANARY-other-user"
SAID = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

only_openai = pytest.mark.parametrize("wire", ["openai"], indirect=True)
"""What is decided before any provider is known."""


@pytest.fixture
def enlisted(monkeypatch) -> list[str]:
    """The conversations of which an index was told, each time."""
    told = []
    enlist = index.enlist

    async def noted(store: Any, user_tag: bytes, place: Any) -> None:
        told.append(place.id)
        await enlist(store, user_tag, place)

    monkeypatch.setattr(index, "enlist", noted)
    return told


def test_a_conversation_belongs_to_the_user_of_its_requests(ask, make, tools, enlisted):
    memory = tools.make("memory")
    kit = make(memory=memory)
    for _ in range(2):
        ask(kit, question())
    ask(kit, question(user_id=OTHER, conversation_id="another"))
    ask(kit, question(user_id=None, conversation_id="nobody's"))
    assert enlisted == [CONVERSATION, "another"]  # by first turns alone
    assert memory.conversations(USER) == [CONVERSATION]
    assert memory.erase_user(USER) == Erasure(conversations=1, messages=4, evicted=0)
    assert [len(tools.said(each)) for each in (CONVERSATION, "another", "nobody's")] == [0, 2, 2]
    assert ask(kit, question()).gateway.history_messages == 0
    assert memory.conversations(USER) == [CONVERSATION]


@only_openai
def test_tools_and_budget_around_it_change_nothing(ask, asks, make, tools):
    kit = make(**tools.all())
    memory = tools.make("memory")
    for user, conversation in ((USER, "a"), (OTHER, "b")):  # the second is a hit in the cache
        ask(kit, question(user_id=user, conversation_id=conversation))
        assert memory.conversations(user) == [conversation]
    core = make(**tools.all(is_async=True))
    asks["achat"](core, question(conversation_id="c"))
    assert memory.conversations(USER) == ["a", "c"]


@only_openai
def test_a_conversation_that_was_nobodys_becomes_its_users(ask, make, tools):
    memory = tools.make("memory")
    memory.extend(CONVERSATION, SAID)
    assert ask(make(memory=memory), question()).gateway.history_messages == 2
    assert memory.erase_user(USER) == Erasure(conversations=1, messages=4, evicted=0)


@only_openai
def test_a_conversation_stays_whose_it_is_and_keeps_every_turn(ask, make, tools):
    memory = tools.make("memory")
    memory.extend(CONVERSATION, SAID, user_id=OTHER)
    kit = make(memory=memory)
    assert [ask(kit, question()).gateway.revision for _ in range(2)] == [2, 3]
    assert (memory.conversations(USER), memory.conversations(OTHER)) == ([], [CONVERSATION])
    assert memory.erase_user(USER) == Erasure(conversations=0, messages=0, evicted=0)
    assert memory.erase_user(OTHER) == Erasure(conversations=1, messages=6, evicted=0)


@only_openai
@pytest.mark.parametrize("method", ["chat", "astream"])
def test_nothing_comes_back_after_an_erasure(asks, make, tools, method, endpoint, eventually):
    """Neither for the user whose conversation it was, nor for another one who speaks in it."""
    for user in (USER, OTHER):
        memory = tools.make("memory")
        memory.extend(f"of {user}", SAID, user_id=USER)
        erased = []

        class Late(type(memory)):
            def extend(self, *arguments: Any, **named: Any) -> int:
                if not erased:
                    erased.append(memory.erase_user(USER))
                return super().extend(*arguments, **named)

        late = tools.make("memory")
        late.__class__ = Late
        with pytest.raises(TurnNotRemembered):
            asks[method](make(memory=late), question(user_id=user, conversation_id=f"of {user}"))
        assert (tools.said(f"of {user}"), memory.conversations(user)) == ([], [])


# -- memories of others ------------------------------------------------------------------------------------------------


class Changes:
    revision, messages, anew = 0, (), False


class Without:
    """A memory that knows no users."""

    def __init__(self) -> None:
        self.users: list[Any] = []

    def get_changes(self, _conversation_id, _since_revision):
        return Changes()

    def extend(self, _conversation_id, _messages, *, request_id=None, expected_revision=None):
        assert (len(request_id), expected_revision) == (32, 0)
        self.users.append("nobody")
        return 1


class With(Without):
    def extend(self, *arguments, user_id=None, **named):
        self.users.append(user_id)
        return super().extend(*arguments, **named)


class Wrapped(With):
    def extend(self, *arguments, **named):
        return super().extend(*arguments, **named)


class Awaited(Without):
    async def get_changes(self, _conversation_id, _since_revision):
        return Changes()

    async def extend(self, _conversation_id, _messages, *, request_id=None, expected_revision=None):
        self.users.append("nobody")
        return 1


@only_openai
@pytest.mark.parametrize(
    ("kind", "told"), [(Without, ["nobody"]), (With, [USER, "nobody"]), (Wrapped, [USER, "nobody"])]
)
def test_a_memory_is_told_the_user_if_it_takes_one(ask, make, kind: Callable[[], Any], told):
    memory = kind()
    assert ask(make(memory=memory), question()).gateway.revision == 1
    assert memory.users == told


@only_openai
def test_an_async_memory_that_takes_no_user(asks, make):
    memory = Awaited()
    for method in ("achat", "astream"):
        assert asks[method](make(memory=memory), question()).gateway.revision == 1
    assert memory.users == ["nobody"] * 2


class AnyName:
    """What was put around a memory that takes no user, and passes on whatever it is given."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def get_changes(self, *arguments: Any, **named: Any) -> Any:
        return self._memory.get_changes(*arguments, **named)

    def extend(self, *arguments: Any, **named: Any) -> int:
        return self._memory.extend(*arguments, **named)


@only_openai
def test_a_memory_that_takes_any_name_and_then_does_not_is_told_none(ask, make, tools):
    class Nameless:
        def __init__(self, memory: Any) -> None:
            self.get_changes = memory.get_changes
            self._memory = memory

        def extend(self, conversation_id: str, messages: Any, *, request_id: str, expected_revision: int) -> int:
            return self._memory.extend(
                conversation_id, messages, request_id=request_id, expected_revision=expected_revision
            )

    answer = ask(make(memory=AnyName(Nameless(tools.make("memory")))), question())
    assert answer.gateway.revision == 1
    assert [message["role"] for message in tools.said()] == ["user", "assistant"]


@only_openai
def test_a_memory_that_takes_any_name_is_told_the_user(ask, make, tools):
    memory = tools.make("memory")
    ask(make(memory=AnyName(memory)), question())
    assert memory.conversations(USER) == [CONVERSATION]
