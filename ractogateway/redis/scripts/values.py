"""How optional arguments go to a script, and what becomes of a reply that says nothing."""

from __future__ import annotations

from typing import Any


def optional(number: int | None) -> int | bytes:
    """An optional number as the scripts take it: '' for none."""
    return b"" if number is None else number


def nothing(_reply: Any) -> None:
    """For replies that only say that it was done."""
    return
