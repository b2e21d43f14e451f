"""The chat service behind aiohttp: ``python aiohttp_app.py 8080``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from aiohttp import web
from aiohttp.typedefs import Handler
from chat_service import ChatService, Question, Turn, refusal_of
from pydantic import ValidationError

from ractogateway.errors import RactoGatewayError

CHAT = web.AppKey("chat", ChatService)


async def open_chat(app: web.Application) -> AsyncIterator[None]:
    async with ChatService.opened() as app[CHAT]:
        yield


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RactoGatewayError as error:
        refusal = refusal_of(error)
        return web.json_response({"detail": refusal.detail}, status=refusal.status, headers=refusal.headers)


async def begin(request: web.Request) -> Turn:
    try:
        question = Question.model_validate_json(await request.read())
    except ValidationError:
        raise web.HTTPUnprocessableEntity from None
    return await request.app[CHAT].begin(user_of(request), request.match_info["conversation"], question.text)


def user_of(request: web.Request) -> str:
    """Whoever your authentication says it is."""
    user = request.headers.get("X-User-Id")
    if not user:
        raise web.HTTPUnauthorized
    return user


async def ask(request: web.Request) -> web.Response:
    async with await begin(request) as turn:
        answer = await turn.answer()
    return web.json_response({"answer": answer.content, "cached": answer.cached})


async def ask_for_stream(request: web.Request) -> web.StreamResponse:
    async with await begin(request) as turn:  # a refusal is still a status here
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the reader has hung up; by now all is let go of
            async with aclosing(turn.events()) as events:
                async for event in events:
                    await response.write(event)
            await response.write_eof()
    return response


async def forget(request: web.Request) -> web.Response:
    await request.app[CHAT].forget(user_of(request), request.match_info["conversation"])
    return web.Response(status=204)


def make_app() -> web.Application:
    app = web.Application(middlewares=[refusals])
    app.cleanup_ctx.append(open_chat)
    app.add_routes(
        [
            web.post("/conversations/{conversation}", ask),
            web.post("/conversations/{conversation}/stream", ask_for_stream),
            web.delete("/conversations/{conversation}", forget),
        ]
    )
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]))
