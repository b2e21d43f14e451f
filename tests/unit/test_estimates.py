"""How many tokens a request is taken for: by tiktoken where it has its vocabulary, else by bytes."""

from __future__ import annotations

import asyncio

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
from kit_tools import estimate, question

from ractogateway._kit import estimating
from ractogateway._kit.estimating import Estimator, completion_limit
from ractogateway.openai_developer_kit import OpenAIDeveloperKit

TEXT = "Why is the sky blue?"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """No vocabulary on this machine, and none to be had; every test begins without knowing anything."""

    def forbidden(*_arguments):
        pytest.fail("a call must not wait for a download")

    monkeypatch.setattr(tiktoken.load, "read_file", forbidden)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    estimating._counter_for.cache_clear()
    yield
    estimating._counter_for.cache_clear()


def letters(name: str) -> tiktoken.Encoding:
    """An encoding whose tokens are single bytes."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding(name, pat_str=r".", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})


def prompt(model: str, **fields) -> int:
    return estimate(OpenAIDeveloperKit(model, api_key="k"), question(TEXT, **fields))


@pytest.mark.parametrize("model", ["gpt-4o", "somebody-elses"])
def test_without_a_vocabulary_four_bytes_are_a_token(model):
    assert prompt(model) == len(TEXT) // 4 + 4


def test_a_vocabulary_in_memory_is_used_for_its_models():
    tiktoken.registry.ENCODINGS["o200k_base"] = letters("o200k_base")
    assert prompt("gpt-4o") == len(TEXT) + 4
    assert prompt("somebody-elses") == len(TEXT) // 4 + 4


def test_a_vocabulary_in_the_cache_directory_is_loaded(monkeypatch, tmp_path):
    """The file is there under the name that tiktoken gives it; its content is tiktoken's own business."""
    loaded = []
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: loaded.append(name) or letters(name))
    url = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    monkeypatch.setattr(tiktoken.load, "read_file", lambda asked: b"" if asked == url else pytest.fail("another name"))
    tiktoken.load.read_file_cached(url)
    assert len(list(tmp_path.iterdir())) == 1
    assert prompt("gpt-4o") == len(TEXT) + 4
    assert loaded == ["o200k_base"]


def test_text_that_looks_like_a_special_token_is_counted_as_text():
    tiktoken.registry.ENCODINGS["o200k_base"] = letters("o200k_base")
    kit = OpenAIDeveloperKit("gpt-4o", api_key="k")
    assert estimate(kit, question("<|endoftext|>")) == len("<|endoftext|>") + 4


def test_long_texts_are_counted_in_pieces_and_elsewhere():
    tiktoken.registry.ENCODINGS["o200k_base"] = letters("o200k_base")
    kit = OpenAIDeveloperKit("gpt-4o", api_key="k")
    long = "a" * 200_000  # a run that tiktoken takes minutes for as a whole
    assert estimate(kit, question(long)) == len(long) + 4

    async def awaited() -> int:
        return await Estimator("gpt-4o").prompt(kit._async, kit._prepare(question(long)))

    assert asyncio.run(awaited()) == len(long) + 4


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 200),
        ({"extra": {"max_completion_tokens": 7}}, 7),
        ({"extra": {"extra_body": {"max_tokens": 7}}}, 7),
        ({"extra": {"max_tokens": None}}, 200),
        ({"extra": {"max_tokens": "seven"}}, 200),
        ({"extra": {"n": 3}}, 600),
        ({"extra": {"n": True}}, 200),
        ({"max_tokens": 2**60}, 2**53 - 1),
    ],
)
def test_the_longest_answer_is_what_is_asked_for(fields, limit):
    assert completion_limit(question(TEXT, **fields)) == limit


def test_what_cannot_be_counted_is_left_to_whoever_sends_it():
    circle: dict = {"type": "x"}
    circle["circle"] = circle
    kit = OpenAIDeveloperKit("m", api_key="k")
    request = kit._prepare(question(TEXT))
    request.config = request.config.model_copy(update={"attachments": [{"type": "tool_use", "input": circle}]})
    whole = sum(tokens + len(text) // 4 for text, tokens in estimating._parts_of(request))
    assert whole == len(TEXT) // 4 + 4
