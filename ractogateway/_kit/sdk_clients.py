"""How clients of the SDKs ``openai`` and ``anthropic`` are made, which are built alike. Names neither of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ractogateway._checks import check_id
from ractogateway._extras import import_extra
from ractogateway._kit.failures import construction_errors
from ractogateway.errors import InvalidValueError, ProviderAuthenticationError

__all__ = ["AsyncSdkStream", "SdkSettings", "check_api_key", "find_api_key"]

_CONNECT_SECONDS = 5.0
"""As these SDKs' own default: no provider takes longer to accept a connection that it is going to accept."""

_KEY_FORM = "printable ASCII without whitespace around it"


def check_api_key(value: object) -> str:
    """Refuse a key that no HTTP header can carry as it is; a line break at its end is the usual case."""
    key = check_id("api_key", value)
    if not _fits_a_header(key):
        raise InvalidValueError(f"api_key must be {_KEY_FORM}")
    return key


def find_api_key(api_key: str | None, *variables: str, hint: str = "") -> str:
    """The key that was given, or the environment's.

    Raises:
        ProviderAuthenticationError: There is none, or that of the environment cannot be one.
    """
    if api_key:
        return api_key
    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None:
        raise ProviderAuthenticationError(f"no API key: pass api_key=, or set {' or '.join(variables)}{hint}")
    key = os.environ[variable]
    if not _fits_a_header(key):
        raise ProviderAuthenticationError(f"{variable} must be {_KEY_FORM}")
    return key


def _fits_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and key == key.strip()


@dataclass(frozen=True, slots=True, repr=False)
class SdkSettings:
    """How a kit's clients are made. Knows the key, hence no repr. Each kit says below which SDK it means.

    Attributes:
        package: The SDK, which is also the name of the extra that brings it.
        kit: Who needs it, for the error where it is missing.
        blocking, asynchronous: Its classes of clients.
        key_variable: The environment's variable with the key.
        key_hint: What else to say where there is no key.
    """

    package: ClassVar[str]
    kit: ClassVar[str]
    blocking: ClassVar[str]
    asynchronous: ClassVar[str]
    key_variable: ClassVar[str]
    key_hint: ClassVar[str] = ""

    url: str
    api_key: str | None
    timeout_seconds: float
    max_retries: int

    @classmethod
    def sdk(cls) -> Any:
        """The SDK, imported on first use: a cached answer needs neither the SDK nor a key."""
        return import_extra(cls.package, extra=cls.package, needed_for=cls.kit)

    @staticmethod
    def warmed(client: Any) -> Any:
        """The client, with the parts touched that will be needed.

        These SDKs import each of their parts when it is first touched (0.4 s measured): here, where a thread does it
        for async callers, rather than later in their event loop.
        """
        return client

    def make_blocking(self) -> Any:
        """A blocking client.

        Raises:
            MissingExtraError: The SDK is not installed.
            ProviderAuthenticationError: There is no key, or that of the environment cannot be one.
            ProviderConnectionError: The SDK cannot work with the environment's proxies or certificates.
        """
        sdk = self.sdk()
        with construction_errors(self.package):
            client: Any = self.warmed(getattr(sdk, self.blocking)(**self._arguments(sdk)))
        return client

    def make_async(self) -> Any:
        """An async client, for the loop in which it is used first; raises like `make_blocking`."""
        sdk = self.sdk()
        # Given explicitly because the SDK's own subclass closes itself, when it is collected, in whichever loop happens
        # to run then; `Clients` closes it in the loop it belongs to.
        with construction_errors(self.package):
            arguments = self._arguments(sdk)  # first, since what fails after the next line leaves a client behind
            http_client = sdk.DefaultAsyncHttpxClient()
            client: Any = self.warmed(getattr(sdk, self.asynchronous)(**arguments, http_client=http_client))
        return client

    def _arguments(self, sdk: Any) -> dict[str, Any]:
        api_key = find_api_key(self.api_key, self.key_variable, hint=self.key_hint)
        timeout = sdk.Timeout(self.timeout_seconds, connect=min(_CONNECT_SECONDS, self.timeout_seconds))
        return {"api_key": api_key, "base_url": self.url, "timeout": timeout, "max_retries": self.max_retries}


class AsyncSdkStream:
    """An async stream of these SDKs with the usual name for its closing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._stream)

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.close()
