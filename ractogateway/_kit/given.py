"""A tool that a kit was given, ``exact_cache=`` and its like: which of its methods block, and which are awaited."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ractogateway.errors import InvalidTypeError

__all__ = ["Given", "offers"]

_FACES = "ractogateway.redis.blocking."
"""Where the library's own blocking faces are: what is awaited goes with the methods, although a base class has it."""


class Given:
    """An object that a caller passed, and its awaitable form where it has one.

    Attributes:
        argument: What the kit calls it.
        face: The object itself.
        is_async: Whether it is an async core, which blocking methods of a kit cannot use.
    """

    def __init__(self, argument: str, face: object, needed: Sequence[str], *, like: str) -> None:
        """Check the object.

        Args:
            argument: What the kit calls it.
            face: The object.
            needed: Methods that it must have. The first that is a coroutine function makes it an async core.
            like: Names of classes that have them, for the error.

        Raises:
            InvalidTypeError: It is a class, or lacks a method.
        """
        if isinstance(face, type):
            raise InvalidTypeError(f"{argument} must be an instance, not the class {face.__name__}")
        missing = [name for name in needed if not callable(getattr(face, name, None))]
        if missing:
            raise InvalidTypeError(
                f"{argument} must have {' and '.join(needed)}, as {like} do; "
                f"{type(face).__name__} has no {' and no '.join(missing)}"
            )
        self.argument = argument
        self.face: Any = face  # Any: blocking or async, and the check above saw the methods
        self.is_async = any(inspect.iscoroutinefunction(getattr(face, name)) for name in needed)
        self._needed = tuple(needed)
        self._has_core: bool | None = None

    def check_blocking(self, instead: str = "achat or astream") -> None:
        """Refuse an async core before anything is sent: a blocking call cannot await it. ``instead`` can."""
        if self.is_async:
            raise InvalidTypeError(
                f"{self.argument} is async ({type(self.face).__name__}): use {instead}, "
                "or pass its blocking face, which serves both"
            )

    @property
    def core(self) -> Any:
        """What can be awaited; None where there is nothing, and the blocking methods have to run in a thread."""
        if self.is_async:
            return self.face
        if self._has_core is None:
            # Not one that was inherited: that of the in-process cache calls it in the event loop, and a subclass may
            # have made its methods slow.
            self._has_core = offers(self.face, "aio", beside=self._needed)
        return self.face.aio if self._has_core else None


def offers(tool: object, name: str, *, beside: Sequence[str]) -> bool:
    """Whether an object has something of this name that goes with its own methods ``beside`` it.

    What a subclass inherited beside one of those that it replaced would pass it by.
    """
    if not hasattr(tool, name):
        return False
    order = type(tool).__mro__
    own = getattr(tool, "__dict__", {})

    def home(attribute: str) -> int:
        place = next((place for place, owner in enumerate(order) if attribute in vars(owner)), len(order))
        # A cached property is in the object's dict, too, once it was used: that says nothing of where it belongs.
        cached = place < len(order) and isinstance(vars(order[place])[attribute], cached_property)
        return -1 if attribute in own and not cached else place

    def is_ours(attribute: str) -> bool:
        return 0 <= (place := home(attribute)) < len(order) and order[place].__module__.startswith(_FACES)

    return home(name) <= min(map(home, beside)) or all(map(is_ours, (name, *beside)))
