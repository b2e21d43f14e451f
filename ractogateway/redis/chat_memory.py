"""A bounded conversation history that all replicas share: the async core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from ractogateway._checks import (
    check_count,
    check_id,
    check_position,
    check_revision,
    check_role,
    check_text,
    type_name,
)
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import Message
from ractogateway.redis._core import Core
from ractogateway.redis._memory import index, outbox, reading, transfer, writing
from ractogateway.redis._memory.codec import as_objects
from ractogateway.redis._memory.store import CLIENTS_OWN_SECONDS, Store
from ractogateway.redis._memory.values import ConversationChanges, ConversationPage, Erasure, MemoryStats
from ractogateway.redis.config import ChatMemoryConfig, RedisOptions
from ractogateway.redis.encryption import Encryption
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.transport import AsyncClient, TimeLimits

__all__ = ["AsyncRedisChatMemory"]

_LIMITS = TimeLimits(connected=5.0, connecting=5.0)


class AsyncRedisChatMemory(Core):
    """Conversations in Redis, bounded in whole turns.

    A turn starts at a user message that carries no tool result; what comes before the first such message is one turn.
    When a conversation has more than ``max_turns`` turns or ``max_tokens`` tokens, the oldest leave as a whole, so
    that a tool result is never separated from its call (which it has to follow before the next such user message, as
    providers demand). System and developer messages are pinned: they come first, in their order, and are never dropped.
    One turn larger than any bound is kept.

    An acknowledged message is there once and in order: every write carries an id that the server remembers, so a write
    that is sent again after a lost reply is not applied again. Every write makes one **revision**, the next integer;
    ``expected_revision=`` makes a write conditional on nothing having been written since.

    An outage raises `StoreUnavailable`; it is never an empty history. An entry that cannot be read (corrupt, of a later
    release, of another key) is left out and counted in `stats`.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; None reads ``RACTOGATEWAY_REDIS_URL``, then
            takes ``redis://localhost:6379/0``.
        client: a ``redis.asyncio`` client to use instead, as it is. It is never closed.
        config: bounds, time to live and hooks.
        encryption: keys under which messages are kept; what is there in plain text stays readable.
        namespace: separates tenants under one prefix: the same id in two namespaces is two conversations.
        options: time limits and the like, with ``url`` only. A call takes at most 5 s.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        client: AsyncClient | None = None,
        config: ChatMemoryConfig | None = None,
        *,
        encryption: Encryption | None = None,
        namespace: str = "",
        options: RedisOptions | None = None,
    ) -> None:
        if config is None:
            config = ChatMemoryConfig()
        elif not isinstance(config, ChatMemoryConfig):
            raise InvalidTypeError(f"config must be a ChatMemoryConfig, not {type_name(config)}")
        if encryption is not None and not isinstance(encryption, Encryption):
            raise InvalidTypeError(f"encryption must be an Encryption or None, not {type_name(encryption)}")
        self._config = config
        check_text("namespace", namespace)
        self._port = self._open_port(url, client, options, _LIMITS)
        own_limit = (options.timeout_seconds if options else None) or _LIMITS.connecting
        timeout_seconds = own_limit if client is None else CLIENTS_OWN_SECONDS
        self._store = Store(self._port, config, encryption, namespace, timeout_seconds)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def append(
        self,
        conversation_id: str,
        role: str,
        content: str | list[dict[str, Any]],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Append one message, trim, and start the time to live anew, in one call.

        Args:
            conversation_id: any non-empty string.
            role: system, developer, user, assistant, model, tool or function.
            content: text, or a list of content parts. A message that has other fields in their place, such as
                ``tool_calls`` and no content, goes through `extend`.
            user_id: whom the conversation belongs to from now on; None leaves that as it is. See `conversations`.
            request_id: names this write; the same id again within an hour (or twice the time limit of a call) writes
                nothing, whatever the messages. So two writes that one HTTP request makes need two ids.

        Returns:
            The conversation's revision after this write; for a replay, the one that the write had made.

        Raises:
            ForeignConversation: it belongs to another user; nothing was written.
            InvalidValueError: it would hold more than 64 system and developer messages; nothing was written.
        """
        if content is None:
            raise InvalidTypeError("content must be a str or a list of content parts; without one, see extend")
        message = {"role": check_role(role), "content": content}
        return await self.extend(conversation_id, [message], user_id=user_id, request_id=request_id)

    async def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none, in one call; a whole turn belongs in one.

        Args:
            conversation_id: any non-empty string.
            messages: at least one, each in its provider's shape (OpenAI, Anthropic, Gemini) or a `Message`.
            user_id: as in `append`.
            request_id: as in `append`.
            expected_revision: write only if this is still the conversation's revision (0: never written to).

        Returns:
            The new revision.

        Raises:
            RevisionConflict: the conversation has moved on; nothing was written.
            ForeignConversation, InvalidValueError: as in `append`.
        """
        place = self._store.place(conversation_id)
        writing.check_messages(messages)
        guard = self._store.guard(request_id, check_revision("expected_revision", expected_revision))
        user_tag = self._store.user_tag(user_id)
        return await writing.write_messages(self._store, place, messages, guard, user_tag=user_tag)

    async def check_messages(self, messages: Sequence[Mapping[str, Any] | Message]) -> None:
        """Raise what `extend` would raise for these messages themselves; nothing is sent, and ``redact`` not called.

        Raises:
            InvalidTypeError: one is no message.
            InvalidValueError: one cannot be kept, or is longer than ``max_message_bytes``; or there is none, or more
                than 64 are of system and developers.
        """
        writing.check_messages(messages)
        writing.check_pinned(self._store.codec.check(messages))

    async def replace(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Put these messages in the place of all that are there, pinned ones included, in one step; the new revision.

        The bounds hold for them, too. What is replaced is not given to ``on_evict``; what is trimmed of the new is.
        There may be none at all.
        """
        place = self._store.place(conversation_id)
        writing.check_messages(messages, may_be_empty=True)
        guard = self._store.guard(request_id, check_revision("expected_revision", expected_revision))
        user_tag = self._store.user_tag(user_id)
        return await writing.write_messages(self._store, place, messages, guard, mode="replace", user_tag=user_tag)

    async def pop(self, conversation_id: str, *, expected_revision: int | None = None) -> dict[str, Any] | None:
        """Take the newest message off and return it; None where there is none.

        What stands behind it and is corrupt goes with it. This takes one message, not a turn: popping a tool's
        result leaves its call for the next ``pop`` or for another result. It has no ``request_id``: where a given
        client gives up (`OutcomeUnknown`), read what is there before trying again.

        Raises:
            RevisionConflict: the conversation is not at ``expected_revision``; nothing was taken.
            StoreRefused: the newest message is encrypted by a key that is not here, or of a later release; nothing was
                taken (``code`` is ``UNREADABLE``).
        """
        place = self._store.place(conversation_id)
        return await writing.pop(self._store, place, check_revision("expected_revision", expected_revision))

    async def clear(self, conversation_id: str, *, expected_revision: int | None = None) -> None:
        """Delete the messages.

        The revision advances and is remembered for a day at least, so that a slow replica whose write expects an older
        one cannot bring the conversation back. Messages that wait for ``on_evict`` wait on; `erase` takes them, too.
        """
        place = self._store.place(conversation_id)
        guard = self._store.guard(expected_revision=check_revision("expected_revision", expected_revision))
        await writing.clear(self._store, place, guard)

    async def deliver_evicted(self, conversation_id: str) -> int:
        """Give to ``on_evict`` what a process that died (or a hook that raised) has left; how many messages it took.

        Every write does this by itself. Messages wait for seven days, or the time to live if that is longer.
        """
        return await outbox.deliver(self._store, self._store.place(conversation_id))

    # --- reading -----------------------------------------------------------------------------------------------------

    async def get_history(self, conversation_id: str, *, last: int | None = None) -> list[dict[str, Any]]:
        """The messages, oldest first, pinned ones before all others, each as it was given.

        A plain message is exactly ``{"role": …, "content": …}``. An unknown conversation is an empty list.

        Args:
            conversation_id: any non-empty string.
            last: only so many of the messages that are not pinned, and those before them in the same turn; the server
                reads no others.
        """
        place = self._store.place(conversation_id)
        return await reading.history(self._store, place, None if last is None else check_count("last", last))

    async def get_messages(self, conversation_id: str, *, last: int | None = None) -> list[Message]:
        """`get_history` as `Message` objects. One that is none (its role is of a later release, say) is left out and
        counted.
        """
        history = await self.get_history(conversation_id, last=last)
        messages = as_objects(history)
        self._store.counters.skipped(len(history) - len(messages))
        return messages

    async def get_page(self, conversation_id: str, *, limit: int = 50, before: int | None = None) -> ConversationPage:
        """A page of the conversation from the end towards the beginning, in whole turns, and the pinned messages.

        Args:
            conversation_id: any non-empty string.
            limit: messages on the page, widened to whole turns.
            before: `ConversationPage.before` of the page after it; None for the newest page.
        """
        place = self._store.place(conversation_id)
        return await reading.page(self._store, place, check_count("limit", limit), check_position("before", before))

    async def get_changes(self, conversation_id: str, since_revision: int) -> ConversationChanges:
        """What happened after a revision: a few bytes where nothing did, and only what was appended where that tells
        all (for the last few dozen revisions).

        ``get_changes(conversation_id, 0)`` is the whole history and its revision, read at one moment: what a writer
        needs who wants to append to nothing but what it has seen (``expected_revision=``).

        A revision means something for as long as the conversation's state lives: a day after its last write, or the
        time to live if that is longer.
        """
        place = self._store.place(conversation_id)
        since = check_revision("since_revision", since_revision)
        if since is None:
            raise InvalidTypeError("since_revision must be an int, not NoneType")
        return await reading.changes(self._store, place, since)

    async def count(self, conversation_id: str) -> int:
        """The number of messages kept, those that cannot be read included."""
        return await self._port.run(calls.count_messages(self._store.place(conversation_id).keys))

    async def stats(self) -> MemoryStats:
        """What this object has skipped, kept above its bound, and not delivered so far."""
        return self._store.counters.stats()

    # --- whole conversations -----------------------------------------------------------------------------------------

    async def fork(self, source: str, target: str, *, request_id: str | None = None) -> int:
        """Copy a conversation into one that holds no messages; the target's revision.

        The copy belongs to the same user as the source, so that `erase_user` finds both.

        Raises:
            InvalidValueError: the source holds no messages, or the target does; or the source was cleared, erased,
                replaced or given to a user meanwhile, and the copy was erased again.
        """
        return await transfer.fork(
            self._store, self._store.place(source, "source"), self._store.place(target, "target"), request_id
        )

    async def export(self, conversation_id: str) -> str:
        """The messages as JSON Lines, one message a line in its provider's shape, pinned ones first; in plain text."""
        return await transfer.export(self._store, self._store.place(conversation_id))

    async def import_(
        self,
        conversation_id: str,
        lines: str | bytes | Iterable[str],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Fill a conversation that holds no messages from JSON Lines, all or nothing; its revision.

        Raises:
            InvalidValueError: a line is no message (its number is told), or the conversation holds messages.
        """
        place = self._store.place(conversation_id)
        return await transfer.import_lines(self._store, place, lines, self._store.user_tag(user_id), request_id)

    async def migrate(self, conversation_id: str, *, source_key: str | None = None, user_id: str | None = None) -> int:
        """Bring a conversation over from the older layout, a list of plain JSON objects; the number of messages.

        The list is deleted, all of it, once it has been brought over, which trims it to this memory's bounds like any
        write; if it held something that is no message, it stays (and so does one whose results lack their calls). Doing
        this twice, or from two replicas at once, does it once. 0 where there is no such list.

        Args:
            conversation_id: any non-empty string.
            source_key: the key of the list; None for the older layout's own, ``<key_prefix>:<conversation_id>``. (That
                layout read one prefix's conversation under another: be sure that the list is the one you mean.)
            user_id: as in `append`.

        Raises:
            InvalidValueError: the conversation holds messages in this layout already.
        """
        place = self._store.place(conversation_id)
        if source_key is not None:
            check_id("source_key", source_key)
        return await transfer.migrate(self._store, place, source_key, self._store.user_tag(user_id))

    async def conversations(self, user_id: str) -> list[str]:
        """The ids of a user's conversations that hold messages: those written, forked or imported with ``user_id=``."""
        return await index.conversations(self._store, self._required_tag(user_id))

    async def erase(self, conversation_id: str) -> Erasure:
        """Erase a conversation: its messages, those that wait for ``on_evict``, and whom it belonged to.

        As after `clear`, a tombstone stays; it holds numbers only. What the report counts: see `Erasure`.
        """
        return await index.erase(self._store, self._store.place(conversation_id))

    async def erase_user(self, user_id: str) -> Erasure:
        """Erase all conversations of a user: those of which any write named this ``user_id``, and their forks.

        A conversation that was only ever written without ``user_id=`` is nobody's, and stays: pass it on every write.
        A write that is under way is erased with them, or begins a conversation anew and is in the index again. If this
        fails half-way, do it again: what was not erased is still in the index.
        """
        return await index.erase_user(self._store, self._required_tag(user_id))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config={self._config!r})"

    def _share_state_of(self, other: Self) -> None:
        """Counts are those of both."""
        self._store.share_counters(other._store)

    def _required_tag(self, user_id: str) -> bytes:
        if user_id is None:
            raise InvalidTypeError("user_id must be a non-empty str, not NoneType")
        return self._store.user_tag(user_id)
