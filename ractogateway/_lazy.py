"""Packages whose names are loaded when they are first used, so that a program pays for what it uses only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, home_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` (PEP 562) of ``package``.

    ``home_of`` says in which module below ``ractogateway`` each public name lives; ``""`` for a name that is itself a
    module of ``package``. What was loaded once is an ordinary attribute from then on.
    """

    def load(name: str) -> Any:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not home:
            return importlib.import_module(f"{package}.{name}")  # which makes it an attribute
        value = getattr(importlib.import_module(f"ractogateway.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *home_of})
