"""JSON Schemas of pydantic classes, as text: making one takes as long as all else that is done around a call.

A class's schema is made once, and again after ``model_rebuild``. One that may say something else each time (a function
of the user's has a say in it) is made each time: what is sent to a provider, and what its answer is kept under, is the
schema as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any

from pydantic import BaseModel

__all__ = ["once_per_class", "schema_text"]

_CLASSES = 64
"""Held strongly, since a class cannot be told from itself before a rebuild otherwise; so not many of them."""

_PYDANTICS: Any = BaseModel.model_json_schema
_GENERATORS = ("json_schema_extra", "model_title_generator", "field_title_generator")


class _Same:
    """Something as a key that equals itself alone."""

    __slots__ = ("it",)

    def __init__(self, it: Any) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


def once_per_class(make: Callable[[type[BaseModel]], str]) -> Callable[[type[BaseModel]], str]:
    """``make``, which makes something of a class's schema, called once for each class. Its errors are not kept."""

    @lru_cache(_CLASSES)
    def kept(model: _Same, _core_schema: _Same) -> str:
        return make(model.it)

    @wraps(make)
    def made(model: type[BaseModel]) -> str:
        core_schema = vars(model).get("__pydantic_core_schema__")
        if not isinstance(core_schema, dict):  # not complete, or of another version of pydantic
            return make(model)
        key = _Same(model), _Same(core_schema)
        return kept(*key) if _is_settled(*key) else make(model)

    return made


@once_per_class
def schema_text(model: type[BaseModel]) -> str:
    """The JSON Schema of a class. pydantic sorts what has no order and keeps the order of the fields."""
    return json.dumps(model.model_json_schema(), ensure_ascii=False)


@lru_cache(_CLASSES)
def _is_settled(model: _Same, core_schema: _Same) -> bool:
    """Whether nobody but pydantic has a say in a schema."""
    if getattr(model.it.model_json_schema, "__func__", None) is not _PYDANTICS.__func__:
        return False
    rest, seen = [core_schema.it], set()
    while rest:
        each = rest.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            if not _is_own(each.get("metadata") or {}) or not _is_plain(each.get("cls")):
                return False
            # Anybody's value is no schema. (A field may have any name, but is no str.)
            skipped = "default" if each.get("type") == "default" else None
            rest += [value for name, value in each.items() if name != skipped]
        elif isinstance(each, (list, tuple)):
            rest += each
    return True


def _is_own(metadata: Any) -> bool:
    """Whether the functions that take part in a schema are pydantic's own."""
    if not isinstance(metadata, dict):
        return False
    named = ("pydantic_js_functions", "pydantic_js_annotation_functions")
    functions = [function for name in named for function in metadata.get(name) or ()]
    return not callable(metadata.get("pydantic_js_extra")) and all(map(_is_of_pydantic, functions))


def _is_of_pydantic(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).split(".", 1)[0] == "pydantic"


def _is_plain(kind: Any) -> bool:
    """Whether the configuration of a class generates nothing."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return not isinstance(config, dict) or not any(callable(config.get(name)) for name in _GENERATORS)
