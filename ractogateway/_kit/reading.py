"""Reading what providers answer: leniently, since fields are missing, added and filled with odd types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ractogateway._kit.mending import mended_json
from ractogateway._texts import well_formed
from ractogateway.messages import ToolCall

__all__ = ["count", "make_tool_call", "text_of"]

_MAX_DEPTH = 64
"""Copies and identities of requests go down by recursion; what a model wrote must not be able to end that."""


def make_tool_call(
    call_id: object, name: object, written: object, index: int, fields: dict[str, Any] | None = None
) -> ToolCall:
    """A tool call from its parts. Arguments that are no JSON object, or are nested very deeply, stay as text, with
    ``arguments`` empty.

    ``fields`` is what else the provider wants back with it.
    """
    text = written if isinstance(written, str) else json.dumps(written) if isinstance(written, dict) else ""
    text = well_formed(text)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    # An escape may spell half of a pair.
    if isinstance(parsed, dict) and "\\u" in text and (mended := mended_json(parsed)) is not parsed:
        parsed, text = mended, json.dumps(mended, ensure_ascii=False)
    return ToolCall(
        # Some servers give calls no id; a result must name the call it answers all the same.
        id=well_formed(text_of(call_id) or f"call_{index}"),
        name=well_formed(text_of(name) or ""),
        arguments=parsed if isinstance(parsed, dict) and _is_shallow(parsed) else {},
        arguments_json=text,
        provider_fields=fields,
    )


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return True
    return False


def count(holder: Any, name: str) -> int:
    """A token count of a provider's usage object; 0 where it says nothing."""
    # A mapping: what the installed SDK has not heard of yet.
    value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def text_of(value: object) -> str | None:
    """A text that says something, or None."""
    return value if isinstance(value, str) and value else None
