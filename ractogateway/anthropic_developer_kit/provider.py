"""Anthropic, as a kit sees a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ractogateway._kit.address import host_and_port, resolve_url
from ractogateway._kit.arguments import check_extra
from ractogateway._kit.failures import translate
from ractogateway._kit.sdk_clients import AsyncSdkStream
from ractogateway._schemas import Schema
from ractogateway.anthropic_developer_kit import sdk, wire
from ractogateway.anthropic_developer_kit.streaming import StreamCollector
from ractogateway.errors import RactoGatewayError
from ractogateway.messages import ChatConfig, LLMResponse

if TYPE_CHECKING:
    import anthropic

__all__ = ["AnthropicProvider", "resolve"]

DEFAULT_URL = "https://api.anthropic.com"

_SILENT_AT_ANTHROPIC = frozenset(
    {
        "metadata",  # who asks: used to find abuse
        "service_tier",  # how fast and at which price the same model answers
    }
)


def resolve(base_url: object) -> str:
    """The address for ``base_url``; None means ``ANTHROPIC_BASE_URL``, then Anthropic. Raises like `resolve_url`."""
    return resolve_url(base_url, variable="ANTHROPIC_BASE_URL", default=DEFAULT_URL)


@dataclass(frozen=True, slots=True, repr=False)
class AnthropicProvider:
    """Implements `ractogateway._kit.provider.Provider`."""

    url: str

    @property
    def name(self) -> str:
        return "anthropic"

    @property
    def address_key(self) -> str | None:
        return None if self.url == DEFAULT_URL else self.url

    @property
    def silent(self) -> frozenset[str]:
        # Elsewhere there are none: other servers give these names meanings of their own.
        return _SILENT_AT_ANTHROPIC if urlsplit(self.url).hostname == urlsplit(DEFAULT_URL).hostname else frozenset()

    def check(self, config: ChatConfig) -> None:
        check_extra(config.extra, reserved=wire.RESERVED)
        wire.check_extra(config.extra)

    def variant(self, config: ChatConfig, model: str) -> str | None:
        return "temperature sent" if wire.insists_on_temperature(config, model) else None

    def arguments(
        self, config: ChatConfig, *, model: str, system_prompt: str, schema: Schema | None, stream: bool
    ) -> dict[str, Any]:
        return wire.call_arguments(
            config,
            model=model,
            system_prompt=system_prompt,
            output_format=None if schema is None else sdk.output_format(schema),
            stream=stream,
        )

    def send(self, client: anthropic.Anthropic, arguments: dict[str, Any]) -> Any:
        # The client's own timeout, said once more: without an explicit one the SDK refuses what might take long.
        return client.messages.create(**{"timeout": client.timeout, **arguments})

    async def asend(self, client: anthropic.AsyncAnthropic, arguments: dict[str, Any]) -> Any:
        return await client.messages.create(**{"timeout": client.timeout, **arguments})

    def open(self, client: anthropic.Anthropic, arguments: dict[str, Any]) -> Any:
        return client.messages.create(**arguments)

    async def aopen(self, client: anthropic.AsyncAnthropic, arguments: dict[str, Any]) -> AsyncSdkStream:
        return AsyncSdkStream(await client.messages.create(**arguments))

    def read(self, answer: Any) -> LLMResponse:
        return wire.read_message(answer)

    def collector(self) -> StreamCollector:
        return StreamCollector()

    def translate(self, error: Exception) -> RactoGatewayError | None:
        return translate(error, "anthropic", host_and_port(self.url))
