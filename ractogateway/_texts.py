r"""Texts that can be sent.

A Python string may hold lone surrogates, halves of a pair that UTF-8 has no bytes for: JSON can spell them
(``"\ud800"``), so a model may write them, and a tool may return them.
"""

from __future__ import annotations

__all__ = ["well_formed"]


def well_formed(text: str) -> str:
    """``text`` with each lone surrogate as U+FFFD, and halves that stand together as the character they spell.

    The same as JavaScript's ``String.prototype.toWellFormed``; a text that can be sent is returned as it is.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
