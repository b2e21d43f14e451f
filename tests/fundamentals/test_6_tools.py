"""Tools, files and structured output of a kit, one idea at a time. Read from top to bottom.

The model is a stand-in on this machine which speaks OpenAI's protocol. It calls each tool that the question names.
"""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.errors import InvalidValueError, StructuredOutputError

tools = gpt.ToolRegistry()


@tools.tool
def get_weather(city: str, days: int = 1) -> dict:
    """The weather of a city in the next days."""
    return {"city": city, "weather": ["rain"] * days}


QUESTION = "What does get_weather say?"


@pytest.fixture
def make_kit():
    kits = []
    with StandInEndpoint(api_key="a key") as model:

        def make(name="gpt-4o"):
            kits.append(gpt.OpenAIDeveloperKit(model=name, base_url=model.base_url, api_key="a key"))
            return kits[-1]

        yield make
        for kit in kits:
            kit.close()


def test_a_model_is_told_the_name_the_docstring_and_the_types(make_kit):
    function = tools.definitions[0]["function"]
    assert (function["name"], function["description"]) == ("get_weather", "The weather of a city in the next days.")
    assert function["parameters"]["properties"]["city"] == {"type": "string"}
    assert function["parameters"]["required"] == ["city"]


def test_what_it_asks_for_may_be_run_by_hand(make_kit):
    kit, config = make_kit(), gpt.ChatConfig(user_message=QUESTION, tools=tools)
    asked = kit.chat(config)
    assert asked.finish_reason is gpt.FinishReason.TOOL_CALLS
    results = [tools.call(call) for call in asked.tool_calls]
    answer = kit.chat(config.model_copy(update={"following": [*asked.messages, *results]}))
    assert answer.finish_reason is gpt.FinishReason.STOP


def test_or_by_the_kit(make_kit):
    answer = make_kit().chat(gpt.ChatConfig(user_message=QUESTION, tools=tools, tool_rounds=3))
    assert answer.finish_reason is gpt.FinishReason.STOP
    assert [message["role"] for message in answer.following] == ["assistant", "tool"]


def test_an_answer_may_have_to_fit_a_class(make_kit):
    class Place(BaseModel):
        city: str

    config = gpt.ChatConfig(user_message="Where is the Louvre?", response_model=Place)
    assert isinstance(make_kit().chat(config).parsed, Place)
    with pytest.raises(StructuredOutputError):
        make_kit("misfit-once").chat(config)
    assert make_kit("misfit-once").chat(config.model_copy(update={"correction_retries": 1})).parsed


def test_files_go_along_with_a_question(make_kit, tmp_path):
    (tmp_path / "notes").write_text("The Louvre is in Paris.")
    file = gpt.RactoFile.from_path(tmp_path / "notes")
    assert file.media_type == "text/plain"
    assert make_kit().chat(gpt.ChatConfig(user_message="What does it say?", attachments=[file])).content
    with pytest.raises(InvalidValueError, match="max_bytes"):
        gpt.RactoFile.from_path(tmp_path / "notes", max_bytes=10)
