"""Fixtures for tests that every kit has to pass: those of the folder above are for one provider only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit_tools import Tools
from kit_wires import WIRES, Wire
from secrecy import SECRET_PASSWORD

from ractogateway._demo.endpoint import StandInEndpoint


@pytest.fixture(scope="module", params=WIRES)
def wire(request) -> Wire:
    return WIRES[request.param]


@pytest.fixture(scope="module")
def _server(wire) -> Iterator[StandInEndpoint]:
    with wire.endpoint(api_key=SECRET_PASSWORD) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(_server, eventually) -> StandInEndpoint:
    eventually(lambda: _server.open_connections == 0)
    _server.requests = _server.hangups = 0
    _server.seen.clear()
    return _server


@pytest.fixture
def make(wire, endpoint) -> Iterator[Callable[..., Any]]:
    kits = []

    def make_kit(model: str = "stand-in", **options: Any) -> Any:
        defaults = {"api_key": endpoint.api_key, "base_url": endpoint.base_url, "max_retries": 0}
        kits.append(wire.kit(model, **{**defaults, **options}))
        return kits[-1]

    yield make_kit
    for kit in kits:
        kit.close()


@pytest.fixture
def tools(any_server) -> Tools:
    """Makes the three tools, over one server."""
    return Tools(any_server.url)
