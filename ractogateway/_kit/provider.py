"""What a kit has to know of its provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Protocol

from ractogateway._schemas import Schema
from ractogateway.errors import RactoGatewayError
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk

__all__ = ["AsyncEvents", "Collector", "Events", "Provider"]


class Events(Protocol):
    """The events of a stream, in the SDK's own shape. Closing hangs up."""

    def __next__(self) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> None: ...


class AsyncEvents(Protocol):
    """The same for async code."""

    def __anext__(self) -> Awaitable[Any]: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...
    def aclose(self) -> Awaitable[None]: ...


class Collector(Protocol):
    """Puts the events of one stream together."""

    def add(self, event: Any, /) -> StreamChunk | None:
        """What a caller sees of an event; None when it brings nothing new."""
        ...

    def so_far(self) -> LLMResponse:
        """What has arrived, with the usage that was told by now: a stream may be cut or left at any event."""
        ...

    def finish(self) -> LLMResponse:
        """The whole answer.

        Raises:
            ProviderConnectionError: The stream stopped before the provider said why the model did.
        """
        ...


class Provider(Protocol):
    """One provider at one address. Knows neither connections nor requests: it keeps nothing between calls.

    Attributes:
        name: Who answers, as a cache knows it; None for OpenAI, see `identify`.
        address_key: Where, as a cache knows it; None for the provider's default address.
        silent: Keys of ``extra`` that are documented as without influence on an answer.
    """

    @property
    def name(self) -> str | None: ...
    @property
    def address_key(self) -> str | None: ...
    @property
    def silent(self) -> frozenset[str]: ...

    def check(self, config: ChatConfig) -> None:
        """Refuse what cannot be sent, before anybody is asked."""
        ...

    def variant(self, config: ChatConfig, model: str) -> str | None:
        """What tells requests apart whose configs have equal fields, but which are sent differently; else None."""
        ...

    def arguments(
        self, config: ChatConfig, *, model: str, system_prompt: str, schema: Schema | None, stream: bool
    ) -> dict[str, Any]:
        """Keyword arguments of the SDK's call. ``schema`` is that of the config's ``response_model``."""
        ...

    def send(self, client: Any, arguments: dict[str, Any]) -> Any:
        """Ask for a whole answer; the SDK's object."""
        ...

    def asend(self, client: Any, arguments: dict[str, Any]) -> Awaitable[Any]:
        """`send` for async code."""
        ...

    def open(self, client: Any, arguments: dict[str, Any]) -> Events:
        """Ask for a stream. The request is made here, or when the first event is read."""
        ...

    def aopen(self, client: Any, arguments: dict[str, Any]) -> Awaitable[AsyncEvents]:
        """`open` for async code."""
        ...

    def read(self, answer: Any) -> LLMResponse:
        """The SDK's object as our answer."""
        ...

    def collector(self) -> Collector:
        """A new one, for one stream."""
        ...

    def translate(self, error: Exception) -> RactoGatewayError | None:
        """Our error for one of the SDK's; None for what is not the provider's doing."""
        ...
