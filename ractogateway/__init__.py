"""Exact cache, token-budget rate limiter and chat memory in Redis, for LLM services that run on more than one machine.

Importing this package needs no extra and loads nothing heavy: its parts are loaded when they are first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ractogateway._lazy import lazily

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
        redis,  # noqa: F401 - see below
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
    "tools",
]  # but not `redis`, which needs an extra: `import *` works without, and hides no library of that name

__version__ = "0.1.0"

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CallReport": "messages",
        "ChatConfig": "messages",
        "LLMResponse": "messages",
        "Message": "messages",
        "RactoFile": "files",
        "RactoGatewayError": "errors",
        "RactoPrompt": "prompts",
        "ToolRegistry": "tools",
        "anthropic_developer_kit": "",
        "cache": "",
        "errors": "",
        "files": "",
        "google_developer_kit": "",
        "messages": "",
        "openai_developer_kit": "",
        "prompts": "",
        "redis": "",
        "tools": "",
    },
)
