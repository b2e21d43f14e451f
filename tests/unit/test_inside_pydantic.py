"""Configurations as parts of other people's pydantic models: pydantic's own errors, at the field, without the value."""

from __future__ import annotations

import inspect
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from secrecy import SECRET_PROMPT, SECRET_USER

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import ChatConfig
from ractogateway.prompts import RactoPrompt
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions


class Settings(BaseModel):
    limits: RateLimitConfig = RateLimitConfig()
    memory: ChatMemoryConfig | None = None
    request: ChatConfig | None = None


@pytest.mark.parametrize(
    ("given", "place", "kind"),
    [
        ({"limits": {"max_tokens_per_minute": "5000"}}, ("limits", "max_tokens_per_minute"), "int_type"),
        ({"limits": {"max_tokens_per_minute": 0}}, ("limits", "max_tokens_per_minute"), "greater_than_equal"),
        ({"limits": {"key_prefix": 5}}, ("limits", "key_prefix"), "invalid_type"),
        ({"limits": {"key_prefix": ""}}, ("limits", "key_prefix"), "value_error"),
        ({"limits": {"max_token": 5}}, ("limits", "max_token"), "extra_forbidden"),
        ({"limits": 5}, ("limits",), "model_type"),
        ({"memory": {"ttl_seconds": "1800"}}, ("memory", "ttl_seconds"), "invalid_type"),
        ({"memory": {"ttl_seconds": 0}}, ("memory", "ttl_seconds"), "value_error"),
        ({"request": {"user_message": 5}}, ("request", "user_message"), "string_type"),
        ({"request": {"user_message": "x", "user_id": 5}}, ("request", "user_id"), "invalid_type"),
        ({"request": {}}, ("request", "user_message"), "missing"),
    ],
)
def test_a_wrong_field_of_settings_is_pydantics_error_at_that_field(given, place, kind):
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given)
    (line,) = caught.value.errors()
    assert (line["loc"], line["type"]) == (place, kind)


@pytest.mark.parametrize(
    "given",
    [
        {"user_message": SECRET_PROMPT, "max_tokens": 0},
        {"user_message": [SECRET_PROMPT]},
        {"history": SECRET_PROMPT, "prompt": SECRET_PROMPT},
        {"user_message": SECRET_PROMPT, "history": [{"role": SECRET_PROMPT, "content": SECRET_PROMPT}]},
        {"user_message": SECRET_PROMPT, "history": [{"content": SECRET_PROMPT}]},
        {"user_message": SECRET_PROMPT, SECRET_PROMPT: 1},
        {"user_message": "x", "extra": {(5, SECRET_PROMPT): 1}},
        {"user_message": "x", "user_id": [SECRET_USER]},
        {"user_message": "x", "prompt": {"role": "", "aim": SECRET_PROMPT}},
        SECRET_PROMPT,
    ],
)
def test_no_error_shows_what_was_given_wherever_it_was_given(given):
    for validate, value in (
        (ChatConfig.model_validate, given),
        (Settings.model_validate, {"request": given}),
        (TypeAdapter(list[ChatConfig]).validate_python, [given]),
    ):
        with pytest.raises(ValidationError) as caught:
            validate(value)
        error = caught.value
        shown = f"{error} {error!r} {error.errors()} {error.json()} {error.__cause__!r} {error.__context__!r}"
        assert "secret-" not in shown


@pytest.mark.parametrize("text", ['{"user_message": "%s', '{"user_message": "%s", "max_tokens": 0}', '"%s"'])
@pytest.mark.parametrize("form", [str, str.encode])
def test_nor_does_one_of_a_text_that_is_no_json(text, form):
    with pytest.raises(ValidationError) as caught:
        ChatConfig.model_validate_json(form(text % SECRET_PROMPT), strict=False)
    error = caught.value
    assert error.errors()
    shown = f"{error} {error!r} {error.errors()} {error.json()} {error.__cause__!r} {error.__context__!r}"
    assert SECRET_PROMPT not in shown


class A(BaseModel):
    kind: Literal["a"]


class B(BaseModel):
    kind: Literal["b"]


class Choosing(ChatConfig):
    part: Annotated[A | B, Field(discriminator="kind")]


def test_nor_does_one_of_a_union_that_is_chosen_by_a_tag():
    wrong = {"user_message": "x", "part": {"kind": SECRET_PROMPT}}
    with pytest.raises(InvalidValueError, match="found using 'kind' does not match any of the expected tags: 'a', 'b'"):
        Choosing(**wrong)
    with pytest.raises(ValidationError) as caught:
        Choosing.model_validate(wrong)
    (line,) = caught.value.errors()
    assert (line["type"], line["loc"]) == ("union_tag_invalid", ("part",))
    assert SECRET_PROMPT not in f"{caught.value} {caught.value!r} {line} {caught.value.json()}"
    assert Choosing(user_message="x", part={"kind": "a"}).part == A(kind="a")


def test_a_union_goes_on_with_its_next_member():
    either = TypeAdapter(RateLimitConfig | dict[str, str] | int)
    assert either.validate_python(5) == 5
    assert either.validate_python({"max_tokens_per_minute": "x"}) == {"max_tokens_per_minute": "x"}
    assert either.validate_python({"max_tokens_per_minute": 7}) == RateLimitConfig(max_tokens_per_minute=7)


def test_what_is_right_comes_through_every_way():
    config = RateLimitConfig(max_tokens_per_minute=5)
    assert RateLimitConfig.model_validate({"max_tokens_per_minute": 5}) == config
    assert RateLimitConfig.model_validate_json('{"max_tokens_per_minute": 5}') == config
    assert Settings(limits=config).limits is config
    assert Settings.model_validate_json(Settings(limits=config).model_dump_json()).limits == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.model_copy(update={"max_tokens_per_minute": 6}) == RateLimitConfig(max_tokens_per_minute=6)
    assert "max_tokens_per_minute" in inspect.signature(RateLimitConfig).parameters


def test_subclasses_keep_both_promises():
    class Tier(RateLimitConfig):
        name: str = Field(min_length=1)

        def __init__(self, name: str, **fields: object) -> None:
            super().__init__(name=name, **fields)

    assert Tier("gold", max_tokens_per_minute=5).name == "gold"
    with pytest.raises(InvalidValueError, match=r"^Tier\.name: "):
        Tier("")
    with pytest.raises(ValidationError):
        TypeAdapter(Tier).validate_python({"name": ""})


@pytest.mark.parametrize("model", [RateLimitConfig, ChatMemoryConfig, RedisOptions, ChatConfig, RactoPrompt])
def test_a_positional_argument_is_refused_in_the_name_of_the_class_that_was_called(model):
    with pytest.raises(InvalidTypeError, match=rf"^{model.__name__} takes its fields by name: {model.__name__}\(\w+=…"):
        model(SECRET_PROMPT)


def test_a_web_framework_answers_a_wrong_body_with_422_and_where_it_is_wrong():
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()

    @app.post("/chat")
    def chat(config: ChatConfig) -> int:
        return config.max_tokens

    client = TestClient(app)
    assert client.post("/chat", json={"user_message": "x", "max_tokens": 7}).json() == 7
    answer = client.post("/chat", json={"user_message": SECRET_PROMPT, "max_tokens": "7"})
    assert answer.status_code == 422
    assert [line["loc"] for line in answer.json()["detail"]] == [["body", "max_tokens"]]
    assert SECRET_PROMPT not in answer.text
