"""From traces to rows, and from rows to requests."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from ractogateway._demo.traffic import (
    AZURE,
    MOONCAKE,
    SAMPLE,
    SAMPLE_ROWS,
    Row,
    condense,
    find_traces,
    read_rows,
    read_sample,
    sample_text,
)
from ractogateway._demo.workload import make_workload

MAX_SAMPLE_BYTES = 60_000
PACKAGE = resources.files("ractogateway._demo")

AZURE_ROWS = ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"] + [
    f"2023-11-16 18:16:{second:02}.0000000,{second},0" for second in range(10, 20)
]
MOONCAKE_ROWS = [
    (700, [0, 1]),  # conversation 0: too short to be continued
    (1600, [0, 2, 3, 4]),  # 1
    (900, [0, 5]),  # 2
    (2100, [0, 2, 3, 6, 7]),  # 1 goes on: it holds the whole blocks 2 and 3
    (1600, [0, 2, 3, 4]),  # 3: the very opening of 1 again
    (3000, [0, 2, 3, 6, 8, 9]),  # 1 goes on after its second turn
    (1100, [0, 2, 10]),  # 4: shares a block with 1, but does not hold all of it
    (700, [0, 1]),  # 5: the opening of 0 again
    (1200, [0, 2, 10, 11]),  # 4 goes on
]


def traces(folder: Path) -> Path:
    data = folder / "shared" / "data"
    data.mkdir(parents=True)
    (data / AZURE).write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *AZURE_ROWS]) + "\n")
    lines = [{"timestamp": 0, "input_length": size, "output_length": 1, "hash_ids": ids} for size, ids in MOONCAKE_ROWS]
    (data / MOONCAKE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def test_traces_become_rows(tmp_path):
    rows = condense(traces(tmp_path), 100)
    assert rows[0] == Row(0.0, 374, 44, 0, 0)
    assert rows[1] == Row(4.31, 396, 109, 1, 1)
    assert [row.conversation for row in rows] == [0, 1, 2, 1, 3, 1, 4, 5, 4]
    assert [row.opening for row in rows] == [0, 1, 2, 1, 1, 1, 4, 0, 4]
    assert rows[2] == Row(23.32, 10, 1, 2, 2), "an answer of no tokens counts as one"
    assert condense(tmp_path / "shared" / "data", 3) == rows[:3]


def test_traces_are_found_upward(tmp_path):
    data = traces(tmp_path)
    checkout = tmp_path / "checkout" / "deep"
    checkout.mkdir(parents=True)
    assert find_traces(checkout) == find_traces(tmp_path) == data
    rows, source = read_rows(2, checkout)
    assert rows == condense(data, 2)
    assert source == f"the public traces of Azure and Mooncake, found in {data}"


def test_without_traces_the_sample_serves(tmp_path):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / AZURE).touch()  # one alone is none
    assert find_traces(tmp_path) is None
    rows, source = read_rows(7, tmp_path)
    assert rows == read_sample()[:7]
    assert "sample" in source


def test_the_sample_is_small_sorted_and_attributed():
    text = PACKAGE.joinpath(SAMPLE).read_text(encoding="utf-8")
    assert len(text.encode()) <= MAX_SAMPLE_BYTES
    rows = read_sample()
    assert len(rows) == SAMPLE_ROWS
    assert sample_text(rows) == text
    assert [row.at_seconds for row in rows] == sorted(row.at_seconds for row in rows)
    attribution = PACKAGE.joinpath("ATTRIBUTION.txt").read_text(encoding="utf-8")
    for said in ("AzureLLMInferenceTrace_conv.csv", "CC-BY-4.0", "kvcache-ai/Mooncake", "Apache"):
        assert said in text
        assert said in attribution


def test_the_sample_is_what_the_traces_say():
    folder = find_traces(Path(__file__).resolve().parent)
    if folder is None:
        pytest.skip("needs shared/data with the traces beside the checkout")
    assert condense(folder, SAMPLE_ROWS) == read_sample()


# --- requests --------------------------------------------------------------------------------------------------------


def workload(seed: int = 0, speed: float = 10.0, longest: int = 2_000):
    return make_workload(read_sample()[:400], speed=speed, seed=seed, longest_question_tokens=longest)


def test_every_row_is_one_request_in_its_conversation():
    made = workload()
    assert made.requests == 400
    assert made.users == 24
    rows = read_sample()[:400]
    for name, requests in zip(dict.fromkeys(row.conversation for row in rows), made.conversations, strict=True):
        own = [row for row in rows if row.conversation == name]
        assert [request.at_seconds * 10 for request in requests] == pytest.approx([row.at_seconds for row in own])
        assert [request.answer_tokens for request in requests] == [row.answer_tokens for row in own]
        assert len({request.user for request in requests}) == 1
        assert {request.conversation for request in requests} == {f"conversation-{name}"}


def test_questions_have_the_size_of_the_traces():
    first = workload().conversations[0][0]
    assert len(first.question) == 4 * 374
    assert max(len(request.question) for requests in workload(longest=0).conversations for request in requests) < 80


def test_a_popular_question_is_the_same_for_several_users():
    made = workload()
    openings: dict[str, set[str]] = {}
    for requests in made.conversations:
        openings.setdefault(requests[0].question, set()).add(requests[0].user)
    assert max(len(users) for users in openings.values()) > 5
    assert sum(len(users) == 1 for users in openings.values()) > len(made.conversations) / 3


def test_conversations_that_opened_alike_in_the_traces_open_alike_here():
    rows = [Row(0.0, 100, 1, 0, 0), Row(1.0, 200, 1, 1, 1), Row(2.0, 300, 1, 2, 1)]
    for seed in range(20):
        first, second, third = (
            requests[0].question
            for requests in make_workload(rows, speed=1.0, seed=seed, longest_question_tokens=999).conversations
        )
        assert second == third
    assert first != second


def test_the_seed_alone_decides():
    def spoken(seed: int) -> list[tuple[str, str]]:
        return [(request.user, request.question) for requests in workload(seed).conversations for request in requests]

    assert spoken(1) == spoken(1)
    assert spoken(1) != spoken(2)
