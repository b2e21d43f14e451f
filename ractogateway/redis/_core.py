"""What the three async cores have in common: a port, and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

from ractogateway._refusing import AsyncOnly, OfOneProcess
from ractogateway.redis.transport import Port, open_async_port


class Core(OfOneProcess, AsyncOnly, ABC):
    """An object over one port. The blocking faces replace `_open_port`, and with it the kind of caller."""

    _open_port: ClassVar[Callable[..., Port]] = staticmethod(open_async_port)
    _port: Port

    async def aclose(self) -> None:
        """Close the connection, unless another object shares it. The object stays usable; closing is never needed."""
        await self._port.aclose()

    @abstractmethod
    def _share_state_of(self, other: Any) -> None:
        """Become the twin of ``other``: two ports, one object to its user."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
