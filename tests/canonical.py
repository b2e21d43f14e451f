"""What a value means, as nested tuples that Python can compare: the oracle for everything that tells requests apart.

It shares no code with the fingerprint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from decimal import Decimal
from enum import Enum
from typing import Any


def canonical(value: Any) -> Hashable:
    if isinstance(value, Enum):
        value = value.value
    kind, content = type(value).__name__, value
    if isinstance(value, dict):
        kind, content = "mapping", frozenset((key, canonical(item)) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        kind, content = "list", tuple(canonical(item) for item in value)
    elif isinstance(value, (set, frozenset)):
        kind, content = "set", frozenset(Counter(canonical(item) for item in value).items())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        kind, content = "number", value if value == value else "NaN"  # noqa: PLR0124  only NaN differs from itself
    elif isinstance(value, bytearray):
        kind, content = "bytes", bytes(value)
    elif isinstance(value, Decimal):
        content = value.as_tuple()
    return kind, content
