"""A structured prompt that compiles to a system message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ConfigDict, Field

from ractogateway._models import InputModel

__all__ = ["RactoPrompt"]


class RactoPrompt(InputModel):
    """A system prompt in five parts: Role, Aim, Constraints, Tone, Output format.

    Equal parts compile to equal text, so a prompt built twice is one prompt to a cache.

    >>> print(RactoPrompt(role="You are a careful translator.", aim="Translate to French.").compile())
    [ROLE]
    You are a careful translator.
    <BLANKLINE>
    [AIM]
    Translate to French.
    """

    model_config = ConfigDict(frozen=True)

    role: str = Field(min_length=1)
    aim: str = Field(min_length=1)
    constraints: tuple[str, ...] = ()
    tone: str | None = None
    output_format: str | None = None

    def compile(self) -> str:
        """The system prompt. A part that was not given leaves no heading behind."""
        return "\n\n".join(f"[{heading}]\n{text}" for heading, text in self._sections())

    def _sections(self) -> Iterator[tuple[str, str]]:
        yield "ROLE", self.role
        yield "AIM", self.aim
        if self.constraints:
            yield "CONSTRAINTS", "\n".join(f"- {constraint}" for constraint in self.constraints)
        if self.tone:
            yield "TONE", self.tone
        if self.output_format:
            yield "OUTPUT FORMAT", self.output_format

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # A prompt is private: a repr, which may end up in a log, says only how long it is.
        yield "characters", len(self.compile())
