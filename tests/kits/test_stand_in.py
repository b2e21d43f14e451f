"""The stand-in keeps its word: the same answer to the same request, tokens by the stated rule, no answer without a
key."""

from __future__ import annotations

import http.client
import json

import pytest

from ractogateway._demo.answers import answer, count_tokens, embedding


def post(endpoint, body: object, *, path: str = "/v1/chat/completions", key: str | None = None) -> tuple[int, object]:
    connection = http.client.HTTPConnection(endpoint.base_url.split("/")[2])
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, raw, {"Authorization": f"Bearer {endpoint.api_key if key is None else key}"})
    response = connection.getresponse()
    answered = response.status, json.loads(response.read())
    connection.close()
    return answered


def request(text: str, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def test_the_same_request_gets_the_same_answer_and_another_one_another():
    said = answer(request("Hello"))

    assert answer(request("Hello", stream=True, user="ann")).text == said.text
    for other in (request("Hello!"), request("Hello", model="n"), request("Hello", temperature=0.5)):
        assert answer(other).text != said.text


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ééé", 2), ("\ud83d", 1)])
def test_tokens_are_four_bytes_each(text, tokens):
    assert count_tokens(text) == tokens


def test_usage_is_billed_once(endpoint):
    status, body = post(endpoint, request("a" * 40))

    assert status == 200
    assert body["usage"]["prompt_tokens"] == 10
    assert body["usage"]["completion_tokens"] == count_tokens(body["choices"][0]["message"]["content"])
    assert endpoint.tokens_billed == body["usage"]["total_tokens"]
    assert endpoint.requests == 1


@pytest.mark.parametrize(
    ("body", "options", "status"),
    [
        (request("a"), {"key": "wrong"}, 401),
        (request("a"), {"key": ""}, 401),
        (request("a"), {"path": "/v1/other"}, 404),
        ({"model": "m"}, {}, 400),
        ({"messages": [{"role": "user", "content": "a"}]}, {}, 400),
        (b"{not json", {}, 400),
        ([], {}, 400),
    ],
)
def test_bad_requests_are_refused_and_not_billed(endpoint, body, options, status):
    answered, error = post(endpoint, body, **options)

    assert answered == status
    assert error["error"]["code"]
    assert (endpoint.requests, endpoint.tokens_billed) == (1, 0)


def test_embeddings_are_unit_vectors():
    assert embedding("a", 8) == embedding("a", 8) != embedding("b", 8)
    assert sum(value * value for value in embedding("a", 256)) == pytest.approx(1.0)


def test_a_schema_gets_an_object_that_fits():
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "constant": {"const": 7},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "child": {"$ref": "#/$defs/Child"},
            "list": {"type": "array", "minItems": 2, "items": {"type": "boolean"}},
            "small": {"type": "integer", "minimum": 3, "maximum": 3},
            "half": {"type": "number"},
        },
        "$defs": {"Child": {"type": "object", "properties": {"name": {"type": "string", "minLength": 30}}}},
    }
    said = json.loads(
        answer(request("a", response_format={"type": "json_schema", "json_schema": {"schema": schema}})).text
    )

    assert said["kind"] in ("a", "b")
    assert (said["constant"], said["maybe"], said["small"]) == (7, None, 3)
    assert len(said["child"]["name"]) >= 30
    assert [type(item) for item in said["list"]] == [bool, bool]
    assert isinstance(said["half"], float)
