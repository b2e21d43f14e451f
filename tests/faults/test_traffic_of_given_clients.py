"""All tools over clients that were given, through one fault after the other. How long a call may take is the client's
own matter; what is promised of what is acknowledged holds as it does by URL."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
from faces import Maker
from injection import FAULTS, scene_of
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import ServerNotInstalled
from traffic import TOOLS, Traffic

SOON = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
FACES = {"async client": TOOLS, "blocking client": ("blocking",) * len(TOOLS)}
"""With the columns of the matrix that their books are for."""


class Given(Maker):
    """Over clients that give up soon, and do not repeat themselves."""

    def __call__(self, tool: str, **settings: Any) -> Any:
        del settings["options"]
        return super().__call__(tool, **settings)

    def _async_client(self, tool, settings):
        def make() -> redis.asyncio.Redis:
            return redis.asyncio.Redis.from_url(self._url, retry=redis.asyncio.retry.Retry(NoBackoff(), 0), **SOON)

        return self._over_async_client(tool, settings, make)

    def _blocking_client(self, tool, settings):
        make = lambda: redis.Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **SOON)  # noqa: E731
        return self._over_client(tool, settings, make)


def faults() -> list:
    """Those that need no credentials provider, which is a matter of URLs."""
    return [
        pytest.param(fault.name, marks=pytest.mark.cell(fault.row, *TOOLS, "blocking"), id=fault.name)
        for fault in FAULTS.values()
        if fault.needs != "user"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", faults())
def test_what_is_acknowledged_is_so(name: str, tmp_path: Path, figures):
    fault = FAULTS[name]
    with ExitStack() as stack:
        try:
            scene = stack.enter_context(scene_of(fault, fault.kinds[0], tmp_path))
        except ServerNotInstalled as reason:
            pytest.skip(str(reason))
        traffic = Traffic(scene.url, stack, forgets=fault.forgets, faces=tuple(FACES), maker=Given)
        traffic.live_through(lambda: fault.raging(scene), seconds=0.6, stops=fault.stops)
        traffic.settle_accounts()
    for face, columns in FACES.items():
        for tool, column in zip(TOOLS, columns, strict=True):
            counted = traffic.books[tool, face].figures(0.0)
            figures(column, **{name: counted[name] for name in ("calls", "failed", "wrong", "lost", "double")})
    for of, book in traffic.books.items():
        assert (book.wrong, book.lost, book.double) == ([], [], []), of
        assert fault.stops != "all" or book.failed, f"there was no outage of {of}"
