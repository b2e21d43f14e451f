"""Google, as a kit sees a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ractogateway._kit.address import host_and_port, resolve_url
from ractogateway._kit.arguments import check_extra
from ractogateway._schemas import Schema
from ractogateway.errors import RactoGatewayError
from ractogateway.google_developer_kit import sdk, wire
from ractogateway.google_developer_kit.failures import translate
from ractogateway.google_developer_kit.streaming import StreamCollector
from ractogateway.messages import ChatConfig, LLMResponse

if TYPE_CHECKING:
    from google import genai

__all__ = ["GoogleProvider", "resolve"]

DEFAULT_URL = "https://generativelanguage.googleapis.com"


def resolve(base_url: object) -> str:
    """The address for ``base_url``; None means ``GOOGLE_GEMINI_BASE_URL``, then Google. Raises like `resolve_url`."""
    return resolve_url(base_url, variable="GOOGLE_GEMINI_BASE_URL", default=DEFAULT_URL)


@dataclass(frozen=True, slots=True, repr=False)
class GoogleProvider:
    """Implements `ractogateway._kit.provider.Provider`."""

    url: str

    @property
    def name(self) -> str:
        return "google"

    @property
    def address_key(self) -> str | None:
        return None if self.url == DEFAULT_URL else self.url

    @property
    def silent(self) -> frozenset[str]:
        return frozenset()

    def check(self, config: ChatConfig) -> None:
        check_extra(config.extra, reserved=wire.RESERVED)
        wire.check_fields(config.extra)

    def variant(self, config: ChatConfig, model: str) -> None:
        """Equal configs are sent alike."""

    def arguments(
        self,
        config: ChatConfig,
        *,
        model: str,
        system_prompt: str,
        schema: Schema | None,
        stream: bool,  # noqa: ARG002 - two methods, with the same arguments
    ) -> dict[str, Any]:
        wanted = None if schema is None else sdk.json_schema(schema)
        return wire.call_arguments(config, model=model, system_prompt=system_prompt, schema=wanted)

    def send(self, client: genai.Client, arguments: dict[str, Any]) -> Any:
        return client.models.generate_content(**arguments)

    async def asend(self, client: sdk.AsyncClient, arguments: dict[str, Any]) -> Any:
        return await client.models.generate_content(**arguments)

    def open(self, client: genai.Client, arguments: dict[str, Any]) -> Any:
        return client.models.generate_content_stream(**arguments)

    async def aopen(self, client: sdk.AsyncClient, arguments: dict[str, Any]) -> Any:
        return sdk.AsyncStream(await client.models.generate_content_stream(**arguments))

    def read(self, answer: Any) -> LLMResponse:
        return wire.read_response(answer)

    def collector(self) -> StreamCollector:
        return StreamCollector()

    def translate(self, error: Exception) -> RactoGatewayError | None:
        return translate(error, host_and_port(self.url))
