"""The chat service behind FastAPI: ``uvicorn fastapi_app:app --workers 4``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from chat_service import ChatService, Question, Turn, refusal_of
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ractogateway.errors import RactoGatewayError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with ChatService.opened() as app.state.chat:
        yield


app = FastAPI(lifespan=lifespan)


def _chat(request: Request) -> ChatService:
    chat: ChatService = request.app.state.chat
    return chat


Chat = Annotated[ChatService, Depends(_chat)]
User = Annotated[str, Header(alias="X-User-Id", min_length=1)]  # whoever your authentication says it is


class EventStream(StreamingResponse):
    """Server-sent events of a turn. However the response ends (the reader may hang up), all is let go of before it
    does, and not when the garbage collector comes.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn, self._events = turn, turn.events()
        super().__init__(self._events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turn, aclosing(self._events):
            await super().__call__(scope, receive, send)


@app.post("/conversations/{conversation}")
async def ask(conversation: str, question: Question, user: User, chat: Chat) -> dict[str, object]:
    async with await chat.begin(user, conversation, question.text) as turn:
        answer = await turn.answer()
    return {"answer": answer.content, "cached": answer.cached}


@app.post("/conversations/{conversation}/stream")
async def ask_for_stream(conversation: str, question: Question, user: User, chat: Chat) -> EventStream:
    return EventStream(await chat.begin(user, conversation, question.text))  # a refusal is still a status here


@app.delete("/conversations/{conversation}", status_code=204)
async def forget(conversation: str, user: User, chat: Chat) -> None:
    await chat.forget(user, conversation)


@app.exception_handler(RactoGatewayError)
async def refuse(_request: Request, error: RactoGatewayError) -> JSONResponse:
    refusal = refusal_of(error)
    return JSONResponse({"detail": refusal.detail}, refusal.status, refusal.headers)
