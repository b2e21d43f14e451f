"""Anthropic in front of this library's tools.

::

    from ractogateway import anthropic_developer_kit as claude

    kit = claude.AnthropicDeveloperKit(model="claude-sonnet-5")
    print(kit.chat(claude.ChatConfig(user_message="Why is the sky blue?")).content)

Importing this package does not import ``anthropic``; the first request that has to reach the provider does.
"""

from __future__ import annotations

from ractogateway.anthropic_developer_kit.kit import AnthropicDeveloperKit
from ractogateway.files import RactoFile
from ractogateway.messages import (
    ChatConfig,
    FinishReason,
    LLMResponse,
    Message,
    MessageRole,
    StreamChunk,
    ToolCall,
    ToolCallResult,
    Usage,
)
from ractogateway.prompts import RactoPrompt
from ractogateway.tools import ToolRegistry

Chat = AnthropicDeveloperKit
"""The short name of `AnthropicDeveloperKit`."""

__all__ = [
    "AnthropicDeveloperKit",
    "Chat",
    "ChatConfig",
    "FinishReason",
    "LLMResponse",
    "Message",
    "MessageRole",
    "RactoFile",
    "RactoPrompt",
    "StreamChunk",
    "ToolCall",
    "ToolCallResult",
    "ToolRegistry",
    "Usage",
]
