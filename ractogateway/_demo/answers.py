"""What the stand-in model says: pure functions of a request, so the same request always gets the same answer.

Words are drawn from a list by a digest of everything in the request that would shape a real answer. Tokens are counted
by a rule that is easy to check by hand: four bytes of UTF-8 are one token, and a started one counts. A prompt costs the
texts of its messages.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import shake_256
from typing import Any

__all__ = ["Answer", "answer", "count_tokens", "embedding", "prompt_text", "tokens_of"]

BYTES_PER_TOKEN = 4
_SHORTEST, _SPREAD = 12, 64
_NOT_SHAPING = frozenset({"metadata", "stream", "stream_options", "user"})
_WORDS = (  # noqa: SIM905 - one word a line would hide the code
    "a about after all also and any are as at be because been but by can clear cool could day different each early "
    "end even every far few find first for from give go good great hand has have heat high how if in into it its just "
    "keep kind know large late leave less light like line long look made make many more most move much near need new "
    "no not now number of old on one only open or other our out over own part place plain point quite rain right same "
    "say see set show side slow small so some still such take than that the then there these they thing this time to "
    "turn under until up use very warm water way we well what when where which while why wide will with work year"
).split()


@dataclass(slots=True)
class Answer:
    """One answer, not yet in any wire format. ``tool_calls`` are pairs of a name and the arguments' JSON text."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        """What the whole answer costs."""
        calls = "".join(name + arguments for name, arguments in self.tool_calls)
        return count_tokens(self.thinking + self.text + self.refusal + calls)


def answer(body: Mapping[str, Any]) -> Answer:
    """The answer to the body of a chat completion request.

    A response schema gets an object that fits it; the names of offered tools in the last user message, or a
    ``tool_choice`` that asks for one, get a call of each; everything else gets a sentence. The models ``refuse``,
    ``think``, ``misfit`` (an object that does not fit the schema), ``misfit-once`` (only the first one does not),
    ``bad-arguments``, ``unknown-tool`` and ``keep-calling`` (tools, also when it was told their results) do what their
    names say; ``twice`` calls tools for two rounds, ``think-tools`` thinks and says so before it does, and
    ``cut-calls`` has no room for all that it wanted to call.
    """
    digest = _digest(body)
    model = body.get("model")
    if model == "refuse":
        return Answer(refusal="I cannot help with that.")
    thinks = model == "think" or (model == "think-tools" and body.get("tools"))
    thinking = f"The question has {len(_last_user_text(body))} characters." if thinks else ""
    tools = _tools_asked_for(body)
    if tools:
        calls = [_call(tool, digest, str(model)) for tool in tools]
        reason = "length" if model == "cut-calls" else "tool_calls"
        text = "I shall look." if model == "think-tools" else ""
        return Answer(text=text, thinking=thinking, tool_calls=calls, finish_reason=reason)
    return _cut(Answer(text=_text(body, digest), thinking=thinking), body)


def count_tokens(text: str) -> int:
    """Tokens of a text by the rule of this module."""
    return tokens_of(len(text.encode("utf-8", "surrogatepass")))


def tokens_of(size: int) -> int:
    """Tokens of a text of ``size`` bytes."""
    return math.ceil(size / BYTES_PER_TOKEN)


def prompt_text(body: Mapping[str, Any]) -> str:
    """All text of the messages, which is what a prompt costs."""
    return "".join(_text_of(message) for message in body.get("messages", []))


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1, the same for the same text."""
    raw = struct.unpack(f"<{dimensions}h", shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions))
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [value / norm for value in raw]


def _digest(body: Mapping[str, Any]) -> bytes:
    shaping = {name: value for name, value in body.items() if name not in _NOT_SHAPING}
    return shake_256(json.dumps(shaping, sort_keys=True).encode()).digest(_SHORTEST + _SPREAD + 1)


def _text(body: Mapping[str, Any], digest: bytes) -> str:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        fitting = _fitting(wanted["json_schema"].get("schema") or {}, digest)
        answered = any(message.get("role") == "assistant" for message in body.get("messages", []))
        misfit = body.get("model") == "misfit" or (body.get("model") == "misfit-once" and not answered)
        return json.dumps({"unexpected": True} if misfit else fitting)
    if wanted.get("type") == "json_object":
        return json.dumps({"answer": _sentence(digest)})
    return _sentence(digest)


def _sentence(digest: bytes) -> str:
    words = [_WORDS[byte % len(_WORDS)] for byte in digest[1 : 1 + _SHORTEST + digest[0] % _SPREAD]]
    return " ".join(words).capitalize() + "."


def _cut(whole: Answer, body: Mapping[str, Any]) -> Answer:
    """``whole``, thinking included, within the request's token limit. Its text is ASCII: characters are bytes."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and whole.tokens > limit:
        whole.thinking = whole.thinking[: limit * BYTES_PER_TOKEN]
        whole.text = whole.text[: limit * BYTES_PER_TOKEN - len(whole.thinking)]
        whole.finish_reason = "length"
    return whole


def _call(tool: Mapping[str, Any], digest: bytes, model: str) -> tuple[str, str]:
    arguments = json.dumps(_fitting(tool.get("parameters") or {}, digest))
    name = "no_such_tool" if model == "unknown-tool" else tool["name"]
    return name, arguments[:-1] if model == "bad-arguments" else arguments


def _tools_asked_for(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    rounds = {"keep-calling": math.inf, "twice": 2}.get(str(body.get("model")), 1)
    if not functions or choice == "none" or _rounds(body, "tool") >= rounds:
        return []
    if choice == "required":
        return functions[:1]
    named = choice["function"]["name"] if isinstance(choice, dict) else ""
    asked = _last_user_text(body)
    return [function for function in functions if function["name"] == named or function["name"] in asked]


def _rounds(body: Mapping[str, Any], role: str) -> int:
    """How many groups of messages of this role there are behind the last message of the user."""
    roles = [message.get("role") for message in body.get("messages", [])]
    behind = roles[len(roles) - roles[::-1].index("user") :] if "user" in roles else roles
    return sum(one == role != before for before, one in zip([None, *behind], behind, strict=False))


def _last_user_text(body: Mapping[str, Any]) -> str:
    users = (message for message in reversed(body.get("messages", [])) if message.get("role") == "user")
    return _text_of(next(users, {}))


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _fitting(schema: Mapping[str, Any], digest: bytes) -> Any:
    """A value that fits the parts of JSON Schema which strict structured output allows."""
    return next(_values(schema, schema, digest))


def _values(schema: Mapping[str, Any], root: Mapping[str, Any], digest: bytes) -> Iterator[Any]:
    if "$ref" in schema:
        target: Any = root
        for key in schema["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        yield from _values(target, root, digest)
    if "const" in schema:
        yield schema["const"]
    if "enum" in schema:
        yield schema["enum"][digest[0] % len(schema["enum"])]
    for variant in schema.get("anyOf") or schema.get("allOf") or []:
        yield from _values(variant, root, digest)
    yield _of_type(schema, root, digest)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], digest: bytes) -> Any:
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: next(_values(part, root, digest[1:])) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        count = schema.get("minItems", 1)
        return [next(_values(schema.get("items", {}), root, digest[1:])) for _ in range(count)]
    lowest = schema.get("minimum", 0)
    return {
        "string": _WORDS[digest[0] % len(_WORDS)].ljust(schema.get("minLength", 0), "."),
        "integer": min(lowest + digest[0], schema.get("maximum", math.inf)),
        "number": min(lowest + digest[0] / 8, schema.get("maximum", math.inf)),
        "boolean": digest[0] % 2 == 0,
    }.get(kind)
