"""OpenAI, and servers that speak its protocol, as a kit sees a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ractogateway._kit.address import host_and_port
from ractogateway._kit.arguments import check_extra
from ractogateway._kit.failures import translate
from ractogateway._kit.sdk_clients import AsyncSdkStream
from ractogateway._schemas import Schema
from ractogateway.errors import RactoGatewayError
from ractogateway.messages import ChatConfig, LLMResponse
from ractogateway.openai_developer_kit import sdk, wire
from ractogateway.openai_developer_kit.address import Address
from ractogateway.openai_developer_kit.streaming import StreamCollector

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIProvider"]


@dataclass(frozen=True, slots=True, repr=False)
class OpenAIProvider:
    """Implements `ractogateway._kit.provider.Provider`."""

    address: Address

    @property
    def name(self) -> None:
        """The cache's five documented fields alone stand for a request to OpenAI."""

    @property
    def address_key(self) -> str | None:
        return self.address.key

    @property
    def silent(self) -> frozenset[str]:
        return self.address.silent

    def check(self, config: ChatConfig) -> None:
        check_extra(config.extra, reserved=wire.RESERVED)

    def variant(self, config: ChatConfig, model: str) -> None:
        """Equal configs are sent alike."""

    def arguments(
        self, config: ChatConfig, *, model: str, system_prompt: str, schema: Schema | None, stream: bool
    ) -> dict[str, Any]:
        return wire.call_arguments(
            config,
            model=model,
            system_prompt=system_prompt,
            limit_name=self.address.limit_name,
            response_format=None if schema is None else sdk.response_format(schema),
            stream=stream,
            foreign_fields=not self.address.is_openai,
        )

    def send(self, client: openai.OpenAI, arguments: dict[str, Any]) -> Any:
        return client.chat.completions.create(**arguments)

    async def asend(self, client: openai.AsyncOpenAI, arguments: dict[str, Any]) -> Any:
        return await client.chat.completions.create(**arguments)

    def open(self, client: openai.OpenAI, arguments: dict[str, Any]) -> Any:
        return client.chat.completions.create(**arguments)

    async def aopen(self, client: openai.AsyncOpenAI, arguments: dict[str, Any]) -> AsyncSdkStream:
        return AsyncSdkStream(await client.chat.completions.create(**arguments))

    def read(self, answer: Any) -> LLMResponse:
        return wire.read_completion(answer)

    def collector(self) -> StreamCollector:
        return StreamCollector()

    def translate(self, error: Exception) -> RactoGatewayError | None:
        return translate(error, "openai", host_and_port(self.address.url))
