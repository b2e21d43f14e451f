"""How many tokens a request may cost, before anybody has been billed.

The prompt is counted by tiktoken where that is installed, knows the model, and has its vocabulary on this machine: in
memory or in its cache directory, since a call must not wait for a download. Else a token is taken for four bytes of
UTF-8 (https://help.openai.com/en/articles/4936856), which is what `ChatMemoryConfig` does, too. Each message costs
four tokens more (https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken), an image or a document 1,500.
The completion is what the request allows it to be.

Estimates are settled to what the provider bills, so they need not be true; too low ones let more calls in at once.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from ractogateway._checks import MAX_TOKENS
from ractogateway._kit.preparing import Request
from ractogateway._kit.request import definitions, flatten_extra, following_shapes, history_shapes
from ractogateway._kit.sides import Side
from ractogateway._schemas import Schema
from ractogateway.files import RactoFile
from ractogateway.messages import ChatConfig, LLMResponse

__all__ = ["Estimator", "completion_limit"]

Count = Callable[[str], int]

_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_MEDIUM = 1_500
"""OpenAI documents up to 1,105 tokens for an image, Anthropic about 1,600, and 1,500 to 3,000 for a page of a PDF."""

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens")
_CHOICES = ("n", "candidate_count", "candidateCount")

_SLICE = 8_192
"""Characters that are counted at a time: tiktoken takes time by the square of a text without any blanks."""

_BRIEF = 65_536
"""Characters whose bytes are counted where the caller is."""

_BRIEF_ENCODED = 4_096
"""Characters that tiktoken counts where the caller is: a few tenths of a millisecond. More are counted in a thread."""

_VOCABULARIES = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
"""Where tiktoken takes its vocabularies from, and what the names in its cache directory are made of."""


class Estimator:
    """Counts tokens for one model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._count: Count | None = None

    async def prompt(self, side: Side, request: Request) -> int:
        """Tokens of a request's prompt, about."""
        texts, extra = [request.identity.system_prompt], 0
        for text, tokens in _parts_of(request):
            texts.append(text)
            extra += tokens
        return extra + await self.texts(side, texts)

    async def answer(self, side: Side, response: LLMResponse) -> int:
        """Tokens of an answer, or of as much of it as has arrived, about."""
        calls = [f"{call.name}{call.arguments_json}" for call in response.tool_calls]
        return await self.texts(side, ["".join((response.thinking or "", response.content or "", *calls))])

    async def texts(self, side: Side, texts: list[str]) -> int:
        """Tokens of some texts, about."""
        if self._count is None:
            self._count = await side.compute(partial(_counter_for, self._model))
        count, whole = self._count, "".join(texts)
        brief = _BRIEF if count is _by_bytes else _BRIEF_ENCODED
        return count(whole) if len(whole) <= brief else await side.compute(partial(count, whole))


def completion_limit(config: ChatConfig) -> int:
    """The most tokens that the answer may have. What ``extra`` says is what counts."""
    extra = flatten_extra(config.extra)
    limit = _first_count(extra, _LIMITS) or config.max_tokens
    return min(limit * (_first_count(extra, _CHOICES) or 1), MAX_TOKENS)


def _first_count(extra: Mapping[str, Any], names: Sequence[str]) -> int | None:
    values = [extra.get(name) for name in names]
    return next((value for value in values if type(value) is int and value > 0), None)


def _parts_of(request: Request) -> Iterator[tuple[str, int]]:
    """The texts of a request, and the tokens beside each."""
    config = request.config
    for message in (*history_shapes(config), *following_shapes(config)):
        yield from _content(message.get("content"))
        rest = {name: value for name, value in message.items() if name not in ("role", "content") and value}
        yield _as_json(rest) if rest else "", _TOKENS_PER_MESSAGE
    yield config.user_message, _TOKENS_PER_MESSAGE
    yield from _content(config.attachments)
    if config.tools:
        yield _as_json(definitions(config.tools)), 0
    if request.schema is not None:
        yield _text_of(request.schema), 0


def _content(content: object) -> Iterator[tuple[str, int]]:
    if isinstance(content, str):
        yield content, 0
    elif isinstance(content, (list, tuple)):
        for part in content:
            if isinstance(part, RactoFile):
                yield (part.text, 0) if part.is_text else ("", _TOKENS_PER_MEDIUM)
                continue
            text = part.get("text") if isinstance(part, dict) else None
            yield (text, 0) if isinstance(text, str) else _other(part)


def _other(part: object) -> tuple[str, int]:
    """An image or a document counts as one; the call or the result of a tool, in a provider's own shape, as text."""
    text = _as_json(part)
    is_medium = isinstance(part, dict) and not {"tool_use", "tool_result"} & {str(part.get("type"))}
    return ("", _TOKENS_PER_MEDIUM) if is_medium else (text, 0)


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # the provider's SDK will say what is wrong with it
        return ""


def _text_of(schema: Schema) -> str:
    try:
        return schema.text()
    except Exception:  # noqa: BLE001 - a model of the user's without a schema: whoever sends it will say so
        return ""


# -- tiktoken ----------------------------------------------------------------------------------------------------------


@cache
def _counter_for(model: str) -> Count:
    encoding = _encoding_for(model)
    return _by_bytes if encoding is None else partial(_by_encoding, encoding)


def _by_bytes(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def _by_encoding(encoding: Any, text: str) -> int:
    return sum(len(encoding.encode_ordinary(text[at : at + _SLICE])) for at in range(0, len(text), _SLICE))


def _encoding_for(model: str) -> Any:
    try:
        tiktoken = importlib.import_module("tiktoken")
        name = tiktoken.encoding_name_for_model(model)
        registry = importlib.import_module("tiktoken.registry")
        if name in registry.ENCODINGS or _has_vocabulary(name):
            return tiktoken.get_encoding(name)
    except Exception:  # noqa: BLE001 - not installed, an unknown model, or another version than the one that is known
        return None
    return None


def _has_vocabulary(name: str) -> bool:
    """Whether tiktoken finds it without the network."""
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if directory is None:
        directory = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    file = hashlib.sha1(_VOCABULARIES.format(name).encode(), usedforsecurity=False).hexdigest()
    return directory != "" and (Path(directory) / file).is_file()
