"""Stand-ins for the APIs of other providers: real sockets, their real protocols, the answers of the demo's stand-in.

Each reads a request in its provider's shape into one of Chat Completions, which is what the answers are drawn from, and
writes what it says in its provider's shape. The models that ask for trouble are those of `StandInEndpoint`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from ractogateway._demo.answers import Answer, answer, count_tokens, embedding, prompt_text
from ractogateway._demo.endpoint import StandInEndpoint, _made_to_fail
from ractogateway._demo.http11 import Chunks, Request, send

_TROUBLE = ("cut", "cut-clean", "error-event", "garbage")


class WireEndpoint(StandInEndpoint):
    """What the stand-ins for other providers share."""

    request_id_header = "request-id"
    unauthorised = 401
    """The status for a wrong key."""

    def misses_something(self, model: str, body: dict[str, Any]) -> bool:
        """Whether calls come back without their results, or those of the turn under way without what was signed beside
        them, which the real APIs refuse."""
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._started.result()}"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        chat, streamed = self.read(request)
        objection = (401, "authentication_error", {}) if self.key(request) != self.api_key else None
        if objection is None and chat is None:
            objection = 404, "not_found_error", {}
        if objection is None and "messages" in (chat or {}) and self.misses_something(chat["model"], request.body):
            objection = 400, "invalid_request_error", {}
        if objection is None:
            await asyncio.sleep(self._thinking_seconds(chat["model"]))
            objection = _made_to_fail(chat["model"])
        if objection is not None:
            status, code, headers = objection
            status = self.unauthorised if code == "authentication_error" else status
            error = self.error(status, code, f"No for {request.body!r} with key {self.key(request)!r}")
            await send(writer, status, error, headers={**self._ids_of(), **headers})
            return True
        if "input" in chat:
            await send(writer, 200, self.vectors(chat), headers=self._ids_of())
            return True
        said = answer(chat)
        return await (self._events(chat, said, writer) if streamed else self._whole(chat, said, writer))

    async def _whole(self, chat: dict[str, Any], said: Answer, writer: asyncio.StreamWriter) -> bool:
        model = chat["model"]
        content = b"{these are not the tokens" if model == "garbage" else self.whole(chat, said)
        await send(writer, 200, content, headers=self._ids_of(), missing_bytes=20 * (model == "cut"))
        return model != "cut"

    async def _events(self, chat: dict[str, Any], said: Answer, writer: asyncio.StreamWriter) -> bool:
        chunks, model = Chunks(writer), chat["model"]
        try:
            await chunks.start(self._ids_of())
            events = self.events(chat, said)
            half = events[: len(events) // 2] if model in _TROUBLE else events
            for name, data in half:
                await chunks.event(data, name=name)
            while model == "endless":
                await chunks.event(events[len(events) // 2][1], name=events[len(events) // 2][0])
                await asyncio.sleep(0.002)
            if model == "error-event":
                error = self.error(503, "overloaded_error", "No more of this")
                await chunks.event(error, name=half[-1][0] and "error")
            elif model == "garbage":
                await chunks.event("{these are not the tokens", name=half[-1][0])
            if model == "cut":
                return False
            await chunks.end()
        except ConnectionError:
            self.hangups += 1
            raise
        return True

    def _ids_of(self) -> dict[str, str]:
        return {self.request_id_header: f"req-{self.requests}"}

    def cost(self, chat: dict[str, Any]) -> int:
        return count_tokens(prompt_text(chat))


def _behind_the_question(
    messages: list[dict[str, Any]], name: str, is_result: Callable[[dict[str, Any]], bool]
) -> list[list[dict[str, Any]]]:
    """The parts of each message behind the last one in which the user says something."""
    questions = [
        index
        for index, each in enumerate(messages)
        if each["role"] == "user" and not all(is_result(part) for part in each[name])
    ]
    return [each[name] for each in messages[max(questions, default=-1) + 1 :]]


def words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


# --- Anthropic -------------------------------------------------------------------------------------------------------

_ANTHROPIC_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
SIGNATURE = "c2lnbmVk"
"""What a provider signs its model's thoughts with."""
CACHED = 3
"""Tokens of each prompt that come from the provider's own cache."""


class AnthropicEndpoint(WireEndpoint):
    """``POST /v1/messages``, whole or as server-sent events."""

    def key(self, request: Request) -> str:
        return request.headers.get("x-api-key") or request.bearer  # the SDK has used both

    def error(self, status: int, code: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": code, "message": message}, "request_id": "req-x"}

    def misses_something(self, model: str, body: dict[str, Any]) -> bool:
        blocks = [block for message in body["messages"] for block in message["content"]]
        ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(ids) != len(set(ids)) or ids != [
            each["tool_use_id"] for each in blocks if each["type"] == "tool_result"
        ]:
            return True
        if model != "think-tools":
            return False
        behind = _behind_the_question(body["messages"], "content", lambda block: block["type"] == "tool_result")
        calling = [turn for turn in behind if any(block["type"] == "tool_use" for block in turn)]
        return any((turn[0]["type"], turn[0].get("signature")) != ("thinking", SIGNATURE) for turn in calling)

    def read(self, request: Request) -> tuple[dict[str, Any] | None, bool]:
        body = request.body or {}
        if (request.method, request.path) != ("POST", "/v1/messages") or "anthropic-version" not in request.headers:
            return None, False
        messages = [{"role": "system", "content": body["system"]}] if "system" in body else []
        for message in body["messages"]:
            results = any(block["type"] == "tool_result" for block in message["content"])
            messages.append({"role": "tool" if results else message["role"], "content": message["content"]})
        chat = {"model": body["model"], "messages": messages, "max_tokens": body["max_tokens"]}
        chat["temperature"] = body.get("temperature")
        if body.get("tools"):
            chat["tools"] = [
                {"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}}
                for tool in body["tools"]
            ]
        if body.get("output_config"):
            wanted = body["output_config"]["format"]
            chat["response_format"] = {"type": wanted["type"], "json_schema": {"schema": wanted["schema"]}}
        return chat, bool(body.get("stream"))

    def _blocks(self, said: Answer) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if said.thinking:
            blocks.append({"type": "thinking", "thinking": said.thinking, "signature": SIGNATURE})
        if said.text or said.refusal:
            blocks.append({"type": "text", "text": said.text or said.refusal})
        for index, (name, arguments) in enumerate(said.tool_calls):
            blocks.append({"type": "tool_use", "id": f"call_{index}", "name": name, "input": json.loads(arguments)})
        return blocks

    def _usage(self, chat: dict[str, Any], said: Answer) -> dict[str, Any]:
        return {
            "input_tokens": self.cost(chat) - CACHED,
            "cache_read_input_tokens": CACHED,
            "output_tokens": said.tokens,
            "output_tokens_details": {"thinking_tokens": count_tokens(said.thinking)},
        }

    def whole(self, chat: dict[str, Any], said: Answer) -> dict[str, Any]:
        reason = "refusal" if said.refusal else _ANTHROPIC_REASONS[said.finish_reason]
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": chat["model"], "stop_sequence": None}
        return {**head, "content": self._blocks(said), "stop_reason": reason, "usage": self._usage(chat, said)}

    def events(self, chat: dict[str, Any], said: Answer) -> list[tuple[str, dict[str, Any]]]:
        whole = self.whole(chat, said)
        early = {**whole["usage"], "output_tokens": 1, "output_tokens_details": None}
        start = {**whole, "content": [], "stop_reason": None, "usage": early}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, block in enumerate(whole["content"]):
            events += self._block_events(index, block)
        late = {name: whole["usage"][name] for name in ("output_tokens", "output_tokens_details")}
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        events += [{"type": "message_delta", "delta": delta, "usage": late}, {"type": "message_stop"}]
        return [(event["type"], event) for event in events]

    def _block_events(self, index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
        kind = block["type"]
        if kind == "thinking":
            opening = {**block, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": word} for word in words(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        elif kind == "tool_use":
            opening, written = {**block, "input": {}}, json.dumps(block["input"])
            pieces = [written[start : start + 5] for start in range(0, len(written), 5)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        else:
            opening = {**block, kind: ""}
            deltas = [{"type": f"{kind}_delta", kind: word} for word in words(block[kind])]
        return [
            {"type": "content_block_start", "index": index, "content_block": opening},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]


# --- Google ----------------------------------------------------------------------------------------------------------

_GOOGLE_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_GOOGLE_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
_GOOGLE_PATH = re.compile(
    r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|batchEmbedContents|embedContent)"
)


class GoogleEndpoint(WireEndpoint):
    """``:generateContent``, ``:streamGenerateContent`` and ``:batchEmbedContents`` of models."""

    request_id_header = "x-request-id"
    unauthorised = 400

    def key(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key", "")

    def misses_something(self, model: str, body: dict[str, Any]) -> bool:
        if model != "think-tools":
            return False
        results = {"functionResponse", "function_response"}
        behind = _behind_the_question(body["contents"], "parts", lambda part: bool(results & set(part)))
        calls = [[part for part in turn if {"functionCall", "function_call"} & set(part)] for turn in behind]
        spelt = ("thoughtSignature", "thought_signature")
        return any(turn and SIGNATURE not in map(turn[0].get, spelt) for turn in calls)

    def error(self, status: int, code: str, message: str) -> dict[str, Any]:
        details = []
        if code == "authentication_error":  # a wrong key is a bad request here
            details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
        name = _GOOGLE_CODES.get(status, "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": message, "status": name, "details": details}}

    def read(self, request: Request) -> tuple[dict[str, Any] | None, bool]:
        path, body = _GOOGLE_PATH.fullmatch(request.path), request.body or {}
        if path is None:
            return None, False
        if "mbed" in path[2]:
            requests = body.get("requests") or [body]
            dimensions = requests[0].get("outputDimensionality") or 3072
            texts = [each["content"]["parts"][0]["text"] for each in requests]
            return {"model": path[1], "input": texts, "dimensions": dimensions}, False
        settings = body.get("generationConfig", {})
        chat = {"model": path[1], "messages": [], "max_tokens": settings.get("maxOutputTokens")}
        chat["temperature"] = settings.get("temperature")
        system = (
            [{"role": "system", "parts": body["systemInstruction"]["parts"]}] if "systemInstruction" in body else []
        )
        for content in [*system, *body["contents"]]:
            answered = any("functionResponse" in part for part in content["parts"])
            role = {"model": "assistant"}.get(content["role"], "tool" if answered else content["role"])
            chat["messages"].append({"role": role, "content": content["parts"]})
        if body.get("tools"):
            # Versions of the SDK differ in how they spell this one; the API takes both.
            chat["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": one["name"],
                        "parameters": one.get("parametersJsonSchema") or one["parameters_json_schema"],
                    },
                }
                for tool in body["tools"]
                for one in tool.get("functionDeclarations", [])
            ]
        if settings.get("responseMimeType") == "application/json":
            chat["response_format"] = {
                "type": "json_schema",
                "json_schema": {"schema": settings["responseJsonSchema"]},
            }
        return chat, path[2] == "streamGenerateContent"

    def vectors(self, chat: dict[str, Any]) -> dict[str, Any]:
        return {"embeddings": [{"values": embedding(text, chat["dimensions"])} for text in chat["input"]]}

    def _of(self, chat: dict[str, Any], parts: list[dict[str, Any]], **candidate: Any) -> dict[str, Any]:
        content = {"role": "model", "parts": parts}
        return {"candidates": [{"index": 0, "content": content, **candidate}], "modelVersion": chat["model"]}

    def _pieces(self, said: Answer) -> list[dict[str, Any]]:
        thoughts = [{"text": word, "thought": True} for word in words(said.thinking)]
        texts = [{"text": word} for word in words(said.text or said.refusal)]
        calls = [
            {"functionCall": {"id": f"call_{index}", "name": name, "args": json.loads(arguments)}}
            for index, (name, arguments) in enumerate(said.tool_calls)
        ]
        if calls and said.thinking:  # the first of several calls alone is signed
            calls[0] = {**calls[0], "thoughtSignature": SIGNATURE}
        return [*thoughts, *texts, *calls]

    def _ending(self, chat: dict[str, Any], said: Answer) -> tuple[str, dict[str, Any]]:
        thoughts = count_tokens(said.thinking)
        prompt = self.cost(chat)
        usage = {
            "promptTokenCount": prompt,
            "cachedContentTokenCount": CACHED,
            "candidatesTokenCount": said.tokens - thoughts,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": prompt + said.tokens,
        }
        return "SAFETY" if said.refusal else _GOOGLE_REASONS[said.finish_reason], usage

    def whole(self, chat: dict[str, Any], said: Answer) -> dict[str, Any]:
        reason, usage = self._ending(chat, said)
        return {**self._of(chat, self._pieces(said), finishReason=reason), "usageMetadata": usage}

    def events(self, chat: dict[str, Any], said: Answer) -> list[tuple[None, dict[str, Any]]]:
        reason, usage = self._ending(chat, said)
        pieces = [self._of(chat, [piece]) for piece in self._pieces(said)]
        return [(None, each) for each in [*pieces, {**self._of(chat, [], finishReason=reason), "usageMetadata": usage}]]
