"""Google in front of this library's tools.

::

    from ractogateway import google_developer_kit as gemini

    kit = gemini.GoogleDeveloperKit(model="gemini-2.5-flash")
    print(kit.chat(gemini.ChatConfig(user_message="Why is the sky blue?")).content)

Importing this package does not import ``google.genai``; the first request that has to reach the provider does.
"""

from __future__ import annotations

from ractogateway.files import RactoFile
from ractogateway.google_developer_kit.kit import GoogleDeveloperKit
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

Chat = GoogleDeveloperKit
"""The short name of `GoogleDeveloperKit`."""

__all__ = [
    "Chat",
    "ChatConfig",
    "FinishReason",
    "GoogleDeveloperKit",
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
