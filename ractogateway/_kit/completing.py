"""From the provider's answers to the answer that was asked for: one that does not fit is shown to the model again.

This stands inside the cache: what is kept for a request is the answer that was found in the end, and its usage is that
of all attempts. What went wrong on the way is in no history.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ractogateway._kit.asking import Asking
from ractogateway._kit.nesting import nested
from ractogateway._kit.preparing import Request
from ractogateway._kit.replay import final_chunk, interim_chunk
from ractogateway._kit.structured import Misfit, parse
from ractogateway.messages import LLMResponse, StreamChunk, Usage

__all__ = ["complete", "complete_stream"]


async def complete(asking: Asking, request: Request) -> LLMResponse:
    """Ask until there is an answer to hand out.

    Raises:
        StructuredOutputError: A complete answer does not fit ``response_model``, and no more corrections are wanted.
    """
    attempts = _Attempts(asking, request)
    while True:
        found = attempts.judge(await asking.ask(attempts.request))
        if not isinstance(found, Misfit):
            return found
        attempts.correct(found)


async def complete_stream(asking: Asking, request: Request) -> AsyncGenerator[StreamChunk, None]:
    """The same as a stream. The last chunk carries the answer, and one that is not final each that did not fit."""
    attempts = _Attempts(asking, request)
    while True:
        found: LLMResponse | Misfit | None = None
        async with nested(asking.side, asking.stream(attempts.request)) as chunks:
            async for chunk in chunks:
                if chunk.response is None:
                    yield chunk
                else:
                    found = attempts.judge(chunk.response)
        if found is None:
            raise RuntimeError("a stream ended without its last chunk")
        if not isinstance(found, Misfit):
            yield final_chunk(found)
            return
        attempts.correct(found)
        yield interim_chunk(found.response)


class _Attempts:
    """What was tried so far. ``request`` is what to ask next."""

    def __init__(self, asking: Asking, request: Request) -> None:
        self.request = request
        self._asking = asking
        self._left = request.config.correction_retries
        self._spent: Usage | None = None  # by all attempts before

    def judge(self, answer: LLMResponse) -> LLMResponse | Misfit:
        """The answer with its parsed value and what all attempts cost, or what is wrong with it."""
        if self._spent is not None:
            answer = answer.model_copy(update={"usage": self._spent + answer.usage})
        self._spent = answer.usage
        return parse(answer, self.request.config.response_model)

    def correct(self, misfit: Misfit) -> None:
        """Ask again next time, or give up.

        Raises:
            StructuredOutputError: No attempt is left.
        """
        if self._left == 0:
            raise misfit.error()
        self._left -= 1
        said = misfit.response.messages if misfit.response.content else []  # nothing is not sent back
        told = {"role": "user", "content": _CORRECTION.format(problems=misfit.problems)}
        self.request = self._asking.followed(self.request, [*said, told])


_CORRECTION = (
    "Your answer does not fit the JSON schema that was asked for: {problems}. "
    "Answer again, with JSON that fits it and nothing else."
)
