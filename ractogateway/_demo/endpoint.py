"""A small, honest stand-in for OpenAI's HTTP API, for the demo and the tests: real sockets, the real protocol, no
model.

It answers ``POST /v1/chat/completions`` (whole, or as server-sent events) and ``POST /v1/embeddings``. What it says is
made up (see `answers`), and it says so: its models are owned by nobody and its answers are words drawn by a digest.
Some model names ask for trouble instead:

===================  ==================================================================================================
``error-<status>``   that status, with an error body that quotes the request and the key, as real ones do; 429 asks
                     to wait 2 s (``error-429-ms``: 1.5 s in milliseconds, ``error-429-date``: until a date)
``slow-<ms>``        an answer after that many milliseconds
``cut``              the connection breaks in the middle of the answer
``cut-clean``        a stream that ends in the middle of the answer, properly as far as HTTP can tell
``error-event``      an error in the middle of a stream, after its status 200
``endless``          a stream that goes on until the client hangs up
``garbage``          an answer that is not JSON
===================  ==================================================================================================
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from concurrent.futures import Future
from email.utils import formatdate
from itertools import count, cycle
from types import TracebackType
from typing import Any, Self

from ractogateway._demo.answers import answer, count_tokens, prompt_text, tokens_of
from ractogateway._demo.http11 import Chunks, Request, read_request, send
from ractogateway._demo.shapes import completion, deltas, embeddings, envelope, usage

__all__ = ["StandInEndpoint"]

_CHAT, _EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
_ENDLESS_PAUSE_SECONDS = 0.002
_DATE_SECONDS = 30
_CUT_BYTES = 20
_KEPT_REQUESTS = 64
_BACKLOG = 1024  # clients that all connect at once are the point of the demo
_ERROR_MODEL = re.compile(r"error-([45]\d\d)(-ms|-date)?")
_SLOW_MODEL = re.compile(r"slow-(\d+)")
_CUT_SHORT: dict[str, object] = {
    "cut": None,
    "cut-clean": None,
    "error-event": {"error": {"message": "No more of this", "type": "server_error", "code": "made_to_fail"}},
    "garbage": "{these are not the tokens",
}
"""Models whose streams end halfway, and the event they end with."""

_Objection = tuple[int, str, dict[str, str]]
"""A status, an error code, further headers."""


class StandInEndpoint:
    """The server, in a thread of its own on 127.0.0.1; a context manager.

    ``requests`` counts requests received, ``tokens_billed`` prompt and completion tokens of what was sent, ``hangups``
    streams whose client went away, ``connections`` accepted connections, ``open_connections`` those that are open now;
    ``seen`` keeps the last requests.

    Args:
        api_key: The one key that is accepted.
        latency_seconds: Time to think before each answer.
        chunk_seconds: Pause between the pieces of a stream.
    """

    def __init__(self, *, api_key: str = "stand-in", latency_seconds: float = 0.0, chunk_seconds: float = 0.0) -> None:
        self.api_key = api_key
        self.latency_seconds = latency_seconds
        self.chunk_seconds = chunk_seconds
        self.requests = 0
        self.tokens_billed = 0
        self.hangups = 0
        self.connections = 0
        self.open_connections = 0
        self.seen: deque[Request] = deque(maxlen=_KEPT_REQUESTS)
        self._ids = count(1)
        self._started: Future[int] = Future()  # the port, or why there is none
        self._thread = threading.Thread(target=self._run, name="stand-in endpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """What to give a client as its base URL."""
        return f"http://127.0.0.1:{self._started.result()}/v1"

    def close(self) -> None:
        """Drop all connections and end the thread. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=_BACKLOG)
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()  # asyncio.run cancels what still serves

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while (request := await read_request(reader)) is not None:
                self.requests += 1
                self.seen.append(request)
                if not await self._respond(request, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the server ends: either way nobody listens any more
        finally:
            self.open_connections -= 1
            writer.close()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False to break the connection off."""
        body = request.body or {}
        objection = self._objection(request)
        if objection is None:
            await asyncio.sleep(self._thinking_seconds(body["model"]))
            objection = _made_to_fail(body["model"])
        if objection is not None:
            status, code, headers = objection
            message = f"No for {prompt_text(body)!r} with key {request.bearer!r}"
            error = {"message": message, "type": "stand_in_error", "param": None, "code": code}
            await send(writer, status, {"error": error}, headers={**self._request_id(), **headers})
            return True
        if request.path == _EMBEDDINGS:
            return await self._embed(body, writer)
        return await (self._stream(body, writer) if body.get("stream") else self._complete(body, writer))

    def _objection(self, request: Request) -> _Objection | None:
        if request.bearer != self.api_key:
            return 401, "invalid_api_key", {}
        if request.method != "POST" or request.path not in (_CHAT, _EMBEDDINGS):
            return 404, "not_found", {}
        body = request.body or {}
        needed = "input" if request.path == _EMBEDDINGS else "messages"
        return None if isinstance(body.get("model"), str) and body.get(needed) else (400, "invalid_request_error", {})

    def _thinking_seconds(self, model: str) -> float:
        slow = _SLOW_MODEL.fullmatch(model)
        return int(slow[1]) / 1000 if slow else self.latency_seconds

    async def _complete(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        whole = completion(body, answer(body), next(self._ids))
        self.tokens_billed += whole["usage"]["total_tokens"]
        broken = body["model"] == "cut"
        content = b"{these are not the tokens" if body["model"] == "garbage" else whole
        await send(writer, 200, content, headers=self._request_id(), missing_bytes=_CUT_BYTES * broken)
        return not broken

    async def _embed(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        whole = embeddings(body)
        self.tokens_billed += whole["usage"]["total_tokens"]
        await send(writer, 200, whole, headers=self._request_id())
        return True

    async def _stream(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        chunks = Chunks(writer)
        try:
            await chunks.start(self._request_id())
            await self._stream_events(body, chunks)
            if body["model"] == "cut":
                return False
            await chunks.end()
        except ConnectionError:
            self.hangups += 1
            raise
        return True

    async def _stream_events(self, body: dict[str, Any], chunks: Chunks) -> None:
        """Send the events of one answer, or those up to its trouble, and bill each as it goes."""
        said = answer(body)
        sent_bytes = 0
        self.tokens_billed += count_tokens(prompt_text(body))
        model = body["model"]
        start = envelope(body, "chat.completion.chunk", next(self._ids))
        pieces = deltas(said)
        halfway = len(pieces) // 2
        for delta, words in cycle(pieces) if model == "endless" else pieces[: halfway if model in _CUT_SHORT else None]:
            await chunks.event({**start, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            before, sent_bytes = sent_bytes, sent_bytes + len(words)
            self.tokens_billed += tokens_of(sent_bytes) - tokens_of(before)
            await asyncio.sleep(_ENDLESS_PAUSE_SECONDS if model == "endless" else self.chunk_seconds)
        if model in _CUT_SHORT:
            last_words = _CUT_SHORT[model]
            if last_words is not None:
                await chunks.event(last_words)
            return
        await chunks.event({**start, "choices": [{"index": 0, "delta": {}, "finish_reason": said.finish_reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            cost = usage(body, said.tokens, count_tokens(said.thinking))
            await chunks.event({**start, "choices": [], "usage": cost})
        await chunks.event("[DONE]")

    def _request_id(self) -> dict[str, str]:
        return {"x-request-id": f"req-{self.requests}"}


def _made_to_fail(model: str) -> _Objection | None:
    trouble = _ERROR_MODEL.fullmatch(model)
    if trouble is None:
        return None
    wait = {
        None: ("retry-after", "2"),
        "-ms": ("retry-after-ms", "1500"),
        "-date": ("retry-after", formatdate(time.time() + _DATE_SECONDS, usegmt=True)),
    }[trouble[2]]
    return int(trouble[1]), "made_to_fail", dict([wait]) if trouble[1] == "429" else {}
