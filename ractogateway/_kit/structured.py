"""Structured output: a text answer as an instance of the ``response_model`` that was asked for."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from ractogateway.errors import StructuredOutputError
from ractogateway.messages import FinishReason, LLMResponse

__all__ = ["with_parsed"]

_COMPLETE = frozenset({FinishReason.STOP, FinishReason.UNKNOWN})


def with_parsed(response: LLMResponse, response_model: type[BaseModel] | None) -> LLMResponse:
    """``response`` with its text validated into ``parsed``.

    A refusal, an answer cut at the token limit and a call for tools are no structured output and no error either:
    ``parsed`` stays None and ``finish_reason`` says why.

    Raises:
        StructuredOutputError: A complete answer that does not fit. It names the model and the number of problems; the
            answer itself is in its ``response``.
    """
    if response_model is None or response.finish_reason not in _COMPLETE or response.tool_calls:
        return response
    try:
        parsed = response_model.model_validate_json(response.content or "")
    except ValueError as error:  # pydantic's own error is one; so is what a validator of the user's raises elsewhere
        problems = error.error_count() if isinstance(error, ValidationError) else 1
        message = f"the answer does not fit {response_model.__name__} (problems found: {problems})"
        failure = StructuredOutputError(message, response=response)
    else:
        return response.model_copy(update={"parsed": parsed})
    # Outside the handler, so that not even __context__ keeps pydantic's error, which quotes the answer.
    raise failure
