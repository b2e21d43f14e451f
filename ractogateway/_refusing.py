"""What objects refuse that Python would refuse for them in words that help nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ractogateway.errors import InvalidTypeError

__all__ = ["AsyncOnly", "OfOneProcess"]


class OfOneProcess:
    """Has locks and connections: it can neither be copied nor be sent to another process."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        # Asked by pickle and copy alike; a subclass that knows how to make itself anew may say so here.
        name = type(self).__name__
        raise InvalidTypeError(
            f"{name} objects cannot be pickled or copied, since they have locks and connections: "
            "make one in each process (after a fork they work as they are)"
        )


class AsyncOnly:
    """Says of a ``with`` that it should be an ``async with``."""

    __slots__ = ()

    if not TYPE_CHECKING:  # to type checkers it is no context manager, which they say earlier and better

        def __enter__(self) -> NoReturn:
            raise InvalidTypeError(
                f"{type(self).__name__} is for async code: use `async with`; "
                "blocking code takes the tool without Async in its name"
            )

        def __exit__(self, *_: object) -> None:
            """Never called; a block needs both."""
