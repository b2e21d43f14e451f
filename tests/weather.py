"""Tools for a model to call, in tests of the kits."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from pydantic import Field

from ractogateway import ChatConfig, ToolRegistry

ASK = "Use get_weather, please"


class Weather:
    """Two tools and what was asked of them."""

    def __init__(self, answer: str = "rain", **options: Any) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.tools = ToolRegistry(**options)
        self.tools.register(self.get_weather)
        self.tools.register(self.get_time)

    def get_weather(self, city: Annotated[str, Field(description="A city's name")]) -> str:
        """The weather of a city."""
        self.asked.append(f"get_weather {city}")
        return self.answer

    async def get_time(self, city: str) -> dict[str, str]:
        """The time in a city."""
        self.asked.append(f"get_time {city}")
        await asyncio.sleep(0)
        return {"time": "noon"}


def config_of(weather: Weather, message: str = ASK, *, rounds: int = 3, **more: Any) -> ChatConfig:
    return ChatConfig(user_message=message, tools=weather.tools, tool_rounds=rounds, **more)


def failing(error: Exception, **options: Any) -> ToolRegistry:
    tools = ToolRegistry(**options)

    @tools.tool
    def get_weather(city: str) -> str:
        raise error

    return tools


def sent(endpoint: Any) -> list[str]:
    """What a stand-in was sent."""
    return [json.dumps(request.body, sort_keys=True) for request in endpoint.seen]
