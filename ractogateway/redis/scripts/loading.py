"""From a ``.lua`` file to a script.

A line ``--#include name.lua`` stands for the text of that file beside it: several scripts read the same structures, and
Redis runs each script alone.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from ractogateway.redis.transport import Script

_INCLUDE = re.compile(r"^--#include (\S+)$", re.MULTILINE)


@cache
def load(name: str, *, reads_only: bool = False) -> Script:
    """The script in ``<tool>/<script>.lua``, by that name without its ending."""
    tool, _, script = name.partition("/")
    folder = resources.files(__name__.rpartition(".")[0]).joinpath(tool)
    return Script.of(name, _expanded(folder, f"{script}.lua").encode(), reads_only=reads_only)


def _expanded(folder: Traversable, file: str) -> str:
    text = folder.joinpath(file).read_text("utf-8")
    return _INCLUDE.sub(lambda include: _expanded(folder, include.group(1)), text)
