"""Exact cache, token-budget rate limiter and chat memory in Redis, for LLM services that run on more than one machine.

Importing this package needs no extra and loads nothing heavy: its parts are loaded when they are first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ractogateway import (
        anthropic_developer_kit,
        cache,
        errors,
        files,
        google_developer_kit,
        messages,
        openai_developer_kit,
        prompts,
        redis,
        tools,
    )
    from ractogateway.errors import RactoGatewayError
    from ractogateway.files import RactoFile
    from ractogateway.messages import CallReport, ChatConfig, LLMResponse, Message
    from ractogateway.prompts import RactoPrompt
    from ractogateway.tools import ToolRegistry

__all__ = [
    "CallReport",
    "ChatConfig",
    "LLMResponse",
    "Message",
    "RactoFile",
    "RactoGatewayError",
    "RactoPrompt",
    "ToolRegistry",
    "anthropic_developer_kit",
    "cache",
    "errors",
    "files",
    "google_developer_kit",
    "messages",
    "openai_developer_kit",
    "prompts",
    "redis",
    "tools",
]

__version__ = "0.1.0"

_HOME_OF = {
    "CallReport": "messages",
    "ChatConfig": "messages",
    "LLMResponse": "messages",
    "Message": "messages",
    "RactoFile": "files",
    "RactoGatewayError": "errors",
    "RactoPrompt": "prompts",
    "ToolRegistry": "tools",
}
_PACKAGES = frozenset(__all__) - frozenset(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"ractogateway.{_HOME_OF[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"ractogateway.{name}")
    raise AttributeError(f"module 'ractogateway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
