"""Answers as the exact cache keeps them: `LLMResponse` <-> JSON <-> envelope."""

from __future__ import annotations

from pydantic import ValidationError

from ractogateway._checks import type_name
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import LLMResponse
from ractogateway.redis.envelope import BadEnvelope, Envelopes, Flaw

_decode = LLMResponse.__pydantic_validator__.validate_json
"""`LLMResponse.model_validate_json` without its further arguments, which take a fifth of its time."""


class SealedAnswers:
    """Turns answers into what Redis keeps, and back."""

    def __init__(self, envelopes: Envelopes) -> None:
        self._envelopes = envelopes

    def seal(self, response: LLMResponse, fingerprint: bytes) -> bytes:
        """What is stored for the request of this fingerprint. ``raw`` is left out.

        Raises:
            InvalidTypeError: Not an answer, or it holds something that JSON cannot hold.
        """
        if not isinstance(response, LLMResponse):
            raise InvalidTypeError(f"response must be an LLMResponse, not {type_name(response)}")
        payload = _readable(response)
        if payload is None:  # outside of any handler: the errors quote the answer
            raise InvalidTypeError("response holds something that JSON cannot hold")
        return self._envelopes.seal(payload, fingerprint)

    def open(self, value: bytes, fingerprint: bytes) -> LLMResponse:
        """The stored answer, marked as a hit.

        Raises:
            BadEnvelope: It is none for this request, or cannot be read here.
        """
        payload = self._envelopes.unseal(value, fingerprint)
        try:
            response: LLMResponse | None = _decode(payload)
        except ValidationError:
            response = None
        # Outside the handler: pydantic's error quotes the answer.
        if response is None or not response.cached:
            raise BadEnvelope(Flaw.UNREADABLE)
        return response


def _readable(response: LLMResponse) -> bytes | None:
    """An answer as JSON; None where it cannot be written, or could not be read back."""
    try:
        payload = response.to_stored_json().encode()
        _decode(payload)  # fields that were replaced by hand, nesting without end
    except (AttributeError, TypeError, ValueError, RecursionError):  # pydantic's two errors are ValueErrors
        return None
    return payload
