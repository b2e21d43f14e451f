"""Stand-ins for the APIs of other providers: real sockets, their real protocols, the answers of the demo's stand-in.

Each reads a request in its provider's shape into one of Chat Completions, which is what the answers are drawn from, and
writes what it says in its provider's shape. The models that ask for trouble are those of `StandInEndpoint`.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from ractogateway._demo.answers import Answer, answer, count_tokens, prompt_text
from ractogateway._demo.endpoint import StandInEndpoint, _made_to_fail
from ractogateway._demo.http11 import Chunks, Request, send

_TROUBLE = ("cut", "cut-clean", "error-event", "garbage")


class WireEndpoint(StandInEndpoint):
    """What the stand-ins for other providers share."""

    request_id_header = "request-id"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._started.result()}"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        chat, streamed = self.read(request)
        objection = (401, "authentication_error", {}) if self.key(request) != self.api_key else None
        if objection is None and chat is None:
            objection = 404, "not_found_error", {}
        if objection is None:
            await asyncio.sleep(self._thinking_seconds(chat["model"]))
            objection = _made_to_fail(chat["model"])
        if objection is not None:
            status, code, headers = objection
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


def words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


# --- Anthropic -------------------------------------------------------------------------------------------------------

_ANTHROPIC_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
CACHED = 3
"""Tokens of each prompt that come from the provider's own cache."""


class AnthropicEndpoint(WireEndpoint):
    """``POST /v1/messages``, whole or as server-sent events."""

    def key(self, request: Request) -> str:
        return request.headers.get("x-api-key") or request.bearer  # the SDK has used both

    def error(self, status: int, code: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": code, "message": message}, "request_id": "req-x"}

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
            blocks.append({"type": "thinking", "thinking": said.thinking, "signature": "s"})
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
        if kind == "tool_use":
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
