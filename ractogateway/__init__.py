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
        google_developer_kit,
        messages,
        openai_developer_kit,
        prompts,
        redis,
    )
    from ractogateway.errors import RactoGatewayError
    from ractogateway.messages import ChatConfig, LLMResponse, Message
    from ractogateway.prompts import RactoPrompt

__all__ = [
    "ChatConfig",
    "LLMResponse",
    "Message",
    "RactoGatewayError",
    "RactoPrompt",
    "anthropic_developer_kit",
    "cache",
    "errors",
    "google_developer_kit",
    "messages",
    "openai_developer_kit",
    "prompts",
    "redis",
]

__version__ = "0.1.0"

__getattr__, __dir__ = lazily(
    __name__,
    {
        "ChatConfig": "messages",
        "LLMResponse": "messages",
        "Message": "messages",
        "RactoGatewayError": "errors",
        "RactoPrompt": "prompts",
        "anthropic_developer_kit": "",
        "cache": "",
        "errors": "",
        "google_developer_kit": "",
        "messages": "",
        "openai_developer_kit": "",
        "prompts": "",
        "redis": "",
    },
)
