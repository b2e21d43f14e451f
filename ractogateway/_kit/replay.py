"""A stored answer as the stream it once could have been."""

from __future__ import annotations

from collections.abc import Iterator

from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["final_chunk", "interim_chunk", "replay"]

_MIN_PIECE = 24
_MAX_PIECES = 64
"""Every chunk carries the whole text so far, so many small pieces of a long text would cost the square of its
length."""


def replay(response: LLMResponse) -> Iterator[StreamChunk]:
    """The thinking, then the text, in pieces that join to exactly the stored strings; then the final chunk."""
    for piece in _pieces(response.thinking or ""):
        yield StreamChunk(thinking_delta=piece)
    shown = ""
    for piece in _pieces(response.content or ""):
        shown += piece
        yield StreamChunk(delta=piece, text=shown)
    yield final_chunk(response)


def final_chunk(response: LLMResponse) -> StreamChunk:
    """The last chunk of any stream: no new text, and the whole answer with its tool calls."""
    return StreamChunk(
        text=response.content or "", is_final=True, finish_reason=response.finish_reason, response=response
    )


def interim_chunk(response: LLMResponse) -> StreamChunk:
    """What ends an answer after which the model is asked again."""
    return StreamChunk(text=response.content or "", finish_reason=response.finish_reason, response=response)


def _pieces(text: str) -> Iterator[str]:
    size = max(_MIN_PIECE, -(-len(text) // _MAX_PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]
