"""Real traffic, as rows that a replay can use: when a request came, how large it was, which conversation it belongs to.

Two traces of production chat services, each used for what it knows:

* Azure (``AzureLLMInferenceTrace_conv.csv``) has arrival times and token counts;
* Mooncake (``conversation_trace.jsonl``) has the ids of each prompt's blocks of 512 tokens. An id stands for its block
  and all blocks before it, so a prompt that holds the last whole block of an earlier prompt continues it.

The n-th row takes time and sizes from Azure's n-th request and its conversation from Mooncake's. Neither trace holds a
word of what was said. Sources and licences: ``ATTRIBUTION.txt`` beside this module.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from itertools import islice
from pathlib import Path

__all__ = ["Row", "condense", "find_traces", "read_rows", "read_sample", "sample_text"]

AZURE, MOONCAKE = "azure_llm_conversations_2023.csv", "mooncake_conversations.jsonl"
SAMPLE = "sample_traffic.jsonl"
SAMPLE_ROWS = 1_500

_TRACES = Path("shared", "data")
_WHOSE = "the public traces of Azure and Mooncake"
_MICROSECONDS = 26
"""Characters of a timestamp up to its microseconds; Azure's have a digit more, which Python does not read."""
_FIELDS = ["at_seconds", "prompt_tokens", "answer_tokens", "conversation", "opening"]


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the traces.

    Attributes:
        at_seconds: when it came, counted from the first one.
        prompt_tokens: the size of what was asked.
        answer_tokens: the size of what was answered.
        conversation: the number of its conversation, from 0 in order of appearance.
        opening: the first conversation that opened with the same prompt as this one; most are their own.
    """

    at_seconds: float
    prompt_tokens: int
    answer_tokens: int
    conversation: int
    opening: int


def read_rows(limit: int, start: Path) -> tuple[list[Row], str]:
    """The first ``limit`` rows, or all there are, and where they are from.

    The traces themselves are taken where ``shared/data`` stands in ``start`` or beside one of the folders above it,
    else the sample that comes with this package.
    """
    folder = find_traces(start)
    if folder is None:
        return read_sample()[:limit], f"a sample of {_WHOSE}, which comes with this package"
    return condense(folder, limit), f"{_WHOSE}, found in {folder}"


def find_traces(start: Path) -> Path | None:
    """The nearest folder ``shared/data`` with both traces, from ``start`` upward."""
    for parent in [start, *start.parents]:
        folder = parent / _TRACES
        with suppress(PermissionError):  # somebody else's folder is not ours to look into
            if (folder / AZURE).is_file() and (folder / MOONCAKE).is_file():
                return folder
    return None


def condense(folder: Path, limit: int) -> list[Row]:
    """The first ``limit`` rows of the traces in ``folder``."""
    with (folder / AZURE).open(newline="") as azure, (folder / MOONCAKE).open() as mooncake:
        pairs = zip(_sizes(azure), _conversations(mooncake), strict=False)
        return [Row(*sizes, *conversation) for sizes, conversation in islice(pairs, limit)]


def _sizes(lines: Iterable[str]) -> Iterator[tuple[float, int, int]]:
    """Seconds since the first request, prompt tokens, answer tokens."""
    first: datetime | None = None
    for row in csv.DictReader(lines):
        at = datetime.fromisoformat(row["TIMESTAMP"][:_MICROSECONDS])
        first = first or at
        seconds = round((at - first).total_seconds(), 2)
        yield seconds, max(1, int(row["ContextTokens"])), max(1, int(row["GeneratedTokens"]))


def _conversations(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The number of each prompt's conversation, and of the first conversation that opened with the same prompt."""
    continues: dict[int, int] = {}  # the last whole block of a prompt -> its conversation
    openings: dict[tuple[int, ...], int] = {}
    opened_as: list[int] = []  # the opening of each conversation
    for line in lines:
        prompt = json.loads(line)
        blocks: list[int] = prompt["hash_ids"]
        whole = (*blocks, prompt["input_length"])
        known = next((continues[block] for block in reversed(blocks) if block in continues), None)
        if known is None or whole in openings:
            conversation = len(opened_as)
            opened_as.append(openings.setdefault(whole, conversation))
        else:
            conversation = known
        # The first block is the service's own system prompt, which all share, and the last is not whole.
        if len(blocks) > 2:  # noqa: PLR2004 - the first and the last
            continues[blocks[-2]] = conversation
        yield conversation, opened_as[conversation]


def read_sample() -> list[Row]:
    """The rows that come with this package."""
    text = resources.files("ractogateway._demo").joinpath(SAMPLE).read_text(encoding="utf-8")
    _about, *lines = text.splitlines()
    return [Row(*json.loads(line)) for line in lines]


def sample_text(rows: Iterable[Row]) -> str:
    """The sample's file: a line that says what it is and whose, then a list for each row."""
    about = {
        "about": "The first requests of two production chat services, condensed. See ATTRIBUTION.txt.",
        "times and sizes": "Azure Public Dataset, AzureLLMInferenceTrace_conv.csv (CC-BY-4.0)",
        "conversations": "kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl (Apache-2.0)",
        "fields": _FIELDS,
    }
    lists = ([row.at_seconds, row.prompt_tokens, row.answer_tokens, row.conversation, row.opening] for row in rows)
    return "\n".join(json.dumps(line, separators=(",", ":")) for line in [about, *lists]) + "\n"


if __name__ == "__main__":  # `python -m ractogateway._demo.traffic` in a checkout makes the sample anew
    traces = find_traces(Path.cwd())
    if traces is None:
        raise SystemExit("there is no shared/data with the traces here or above")
    Path(__file__).with_name(SAMPLE).write_text(sample_text(condense(traces, SAMPLE_ROWS)), encoding="utf-8")
