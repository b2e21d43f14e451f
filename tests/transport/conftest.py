"""Callers of both kinds, for tests that are written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from probing import Callers


@pytest.fixture(params=Callers.KINDS)
def callers_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., Callers]]:
    """``callers_of(url, seconds, **options)``: callers of a raw port, awaiting ones and blocking ones in turn."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Callers(request.param, *arguments, **options))
