"""From a ``.lua`` file to a script.

A line ``--#include name.lua`` stands for that file's text: several scripts read the same structures, and Redis runs
each script alone.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from ractogateway.redis.transport import Script

_INCLUDE = re.compile(r"^--#include (\S+)$", re.MULTILINE)


@cache
def load(name: str) -> Script:
    """The script in ``<name>.lua``."""
    return Script.of(name, _expanded(f"{name}.lua").encode())


def _expanded(file: str) -> str:
    text = resources.files(__name__.rpartition(".")[0]).joinpath(file).read_text("utf-8")
    return _INCLUDE.sub(lambda include: _expanded(include.group(1)), text)
