"""Structured output: a text answer as an instance of the ``response_model`` that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from ractogateway.errors import StructuredOutputError
from ractogateway.messages import FinishReason, LLMResponse
from ractogateway.tools import problems_of

__all__ = ["Misfit", "parse", "with_parsed"]

_COMPLETE = frozenset({FinishReason.STOP, FinishReason.UNKNOWN})


@dataclass(frozen=True, slots=True, repr=False)
class Misfit:
    """A complete answer that does not fit.

    Attributes:
        response: The answer.
        model: The name of the model that it should fit.
        count: How many problems were found.
        problems: What they are, for the one who wrote the answer.
    """

    response: LLMResponse
    model: str
    count: int
    problems: str

    def error(self) -> StructuredOutputError:
        """The error for this. Its message tells nothing of the answer, which is in its ``response``."""
        message = f"the answer does not fit {self.model} (problems found: {self.count})"
        return StructuredOutputError(message, response=self.response)


def parse(response: LLMResponse, response_model: type[BaseModel] | None) -> LLMResponse | Misfit:
    """``response`` with its text validated into ``parsed``, or why that cannot be.

    A refusal, an answer cut at the token limit and a call for tools are no structured output and no misfit either:
    ``parsed`` stays None and ``finish_reason`` says why.
    """
    if response_model is None or response.finish_reason not in _COMPLETE or response.tool_calls:
        return response
    try:
        parsed = response_model.model_validate_json(response.content or "")
    except ValidationError as error:
        return Misfit(response, response_model.__name__, error.error_count(), problems_of(error))
    except ValueError as error:  # what a validator of the user's raises elsewhere than pydantic expects it
        return Misfit(response, response_model.__name__, 1, type(error).__name__)
    return response.model_copy(update={"parsed": parsed})


def with_parsed(response: LLMResponse, response_model: type[BaseModel] | None) -> LLMResponse:
    """`parse`, where a misfit is an error.

    Raises:
        StructuredOutputError: A complete answer that does not fit.
    """
    found = parse(response, response_model)
    if isinstance(found, Misfit):
        raise found.error()
    return found
