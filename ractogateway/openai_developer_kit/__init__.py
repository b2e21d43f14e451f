"""OpenAI, and every server that speaks its Chat Completions protocol, in front of this library's tools.

::

    from ractogateway import openai_developer_kit as gpt

    kit = gpt.OpenAIDeveloperKit(model="gpt-4o")
    print(kit.chat(gpt.ChatConfig(user_message="Why is the sky blue?")).content)

Importing this package does not import ``openai``; the first request that has to reach a provider does.
"""

from __future__ import annotations

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
from ractogateway.openai_developer_kit.kit import OpenAIDeveloperKit
from ractogateway.prompts import RactoPrompt
from ractogateway.tools import ToolRegistry

Chat = OpenAIDeveloperKit
"""The short name of `OpenAIDeveloperKit`."""

__all__ = [
    "Chat",
    "ChatConfig",
    "FinishReason",
    "LLMResponse",
    "Message",
    "MessageRole",
    "OpenAIDeveloperKit",
    "RactoFile",
    "RactoPrompt",
    "StreamChunk",
    "ToolCall",
    "ToolCallResult",
    "ToolRegistry",
    "Usage",
]
