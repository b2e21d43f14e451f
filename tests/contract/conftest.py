"""One suite, every face: the tests of this folder are written against blocking methods, and run over each way to use a
tool, on each server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faces import FACES, Maker
from servers import Server


@pytest.fixture(params=FACES)
def make(request: pytest.FixtureRequest, server: Server) -> Iterator[Maker]:
    """``make("cache", ttl_seconds=1)``: a tool of the face under test over the server under test."""
    with ExitStack() as stack:
        yield Maker(request.param, server, stack)


@pytest.fixture(params=FACES)
def make_on_one(request: pytest.FixtureRequest, any_server: Server) -> Iterator[Maker]:
    """`make` on one server only: for what is the core's doing, where the scripts have tests of their own on each."""
    with ExitStack() as stack:
        yield Maker(request.param, any_server, stack)
