"""Who answers: the stand-in in this process, or the real API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway._demo.records import ModelBill
from ractogateway.errors import ProviderAuthenticationError

__all__ = ["Model", "live_model", "stand_in_model"]

_LOOPBACK = "127.0.0.1"
_PROXY_EXCEPTIONS = ("no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A model that the kit can ask.

    Attributes:
        name: how requests name it.
        about: who it is, for people.
        connection: the kit's further arguments.
        endpoint: the stand-in, whose counts can be compared; None for the real API.
    """

    name: str
    about: str
    connection: dict[str, Any]
    endpoint: StandInEndpoint | None = None

    @property
    def bill(self) -> ModelBill | None:
        """What the other side counted; None where it does not say."""
        return None if self.endpoint is None else ModelBill(self.endpoint.requests, self.endpoint.tokens_billed)


@contextmanager
def stand_in_model(thinking_seconds: float) -> Iterator[Model]:
    """A stand-in on 127.0.0.1 that thinks for so long before each answer."""
    with StandInEndpoint(latency_seconds=thinking_seconds) as endpoint, _without_proxy():
        about = f"stand-in on {_LOOPBACK}, made-up answers after {thinking_seconds * 1000:.0f} ms of thinking"
        # No retries: whatever fails is to be seen.
        connection = {"base_url": endpoint.base_url, "api_key": endpoint.api_key, "max_retries": 0}
        yield Model("stand-in", about, connection, endpoint)


@contextmanager
def live_model() -> Iterator[Model]:
    """The real API, at ``OPENAI_BASE_URL`` if that is set.

    Raises:
        ProviderAuthenticationError: There is no key in the environment.
    """
    if not os.environ.get("OPENAI_API_KEY"):
        raise ProviderAuthenticationError("--live calls the real API and needs a key: set OPENAI_API_KEY")
    name = "gpt-4o-mini"
    yield Model(name, f"{name} by {'OPENAI_BASE_URL' if os.environ.get('OPENAI_BASE_URL') else 'OpenAI'}", {})


@contextmanager
def _without_proxy() -> Iterator[None]:
    """Keep a proxy of the environment out of the way to this machine: it could not reach the stand-in."""
    before = {name: os.environ.get(name) for name in _PROXY_EXCEPTIONS}
    for name, hosts in before.items():
        os.environ[name] = f"{hosts},{_LOOPBACK}" if hosts else _LOOPBACK
    try:
        yield
    finally:
        for name, hosts in before.items():
            if hosts is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = hosts
