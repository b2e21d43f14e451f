"""The kits side by side, each with a stand-in that speaks its provider's protocol, and requests for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel
from secrecy import SECRET_PROMPT
from wire_endpoints import CACHED, AnthropicEndpoint, GoogleEndpoint

from ractogateway import ChatConfig, RactoPrompt
from ractogateway import anthropic_developer_kit as claude
from ractogateway import google_developer_kit as gemini
from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.endpoint import StandInEndpoint

HELLO = ChatConfig(user_message=f"Why is the sky blue? {SECRET_PROMPT}")
PROMPT = RactoPrompt(role="You are a clerk.", aim="Answer letters.")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
AFTER_TOOLS = ChatConfig(
    user_message="",
    tools=[WEATHER],
    history=[
        {"role": "user", "content": "Use get_weather for Oslo and Rome"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "tool", "content": "sun", "tool_call_id": "c2"},
    ],
)


class Person(BaseModel):
    name: str
    age: int


@dataclass(frozen=True)
class Wire:
    kit: type
    endpoint: type[StandInEndpoint]
    variable: str
    url_variable: str
    cached: int = 0
    """Tokens of each prompt that the stand-in says came from the provider's own cache."""
    unauthorised: int = 401


WIRES = {
    "openai": Wire(gpt.OpenAIDeveloperKit, StandInEndpoint, "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": Wire(
        claude.AnthropicDeveloperKit, AnthropicEndpoint, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", cached=CACHED
    ),
    "google": Wire(
        gemini.GoogleDeveloperKit,
        GoogleEndpoint,
        "GEMINI_API_KEY",
        "GOOGLE_GEMINI_BASE_URL",
        cached=CACHED,
        unauthorised=400,
    ),
}
