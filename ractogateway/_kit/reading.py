"""Reading what providers answer: leniently, since fields are missing, added and filled with odd types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ractogateway.messages import ToolCall

__all__ = ["count", "make_tool_call", "text_of"]


def make_tool_call(
    call_id: object, name: object, written: object, index: int, fields: dict[str, Any] | None = None
) -> ToolCall:
    """A tool call from its parts. Arguments that are no JSON object stay as text, with ``arguments`` empty.

    ``fields`` is what else the provider wants back with it.
    """
    text = written if isinstance(written, str) else json.dumps(written) if isinstance(written, dict) else ""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    return ToolCall(
        # Some servers give calls no id; a result must name the call it answers all the same.
        id=text_of(call_id) or f"call_{index}",
        name=text_of(name) or "",
        arguments=parsed if isinstance(parsed, dict) else {},
        arguments_json=text,
        provider_fields=fields,
    )


def count(holder: Any, name: str) -> int:
    """A token count of a provider's usage object; 0 where it says nothing."""
    # A mapping: what the installed SDK has not heard of yet.
    value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def text_of(value: object) -> str | None:
    """A text that says something, or None."""
    return value if isinstance(value, str) and value else None
