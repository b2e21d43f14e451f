"""Optional dependencies: imported on first use, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from ractogateway.errors import MissingExtraError


def missing_extra(extra: str, needed_for: str) -> MissingExtraError:
    """The error for a dependency that is not there."""
    return MissingExtraError(f"{needed_for} needs an optional dependency: pip install 'ractogateway[{extra}]'")


def import_extra(module: str, *, extra: str, needed_for: str) -> ModuleType:
    """Import ``module``, or raise `MissingExtraError` naming the extra that brings it.

    An import error from inside an installed dependency is not ours to reword: it propagates.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == module.split(".", maxsplit=1)[0]:
            raise missing_extra(extra, needed_for) from error
        raise
