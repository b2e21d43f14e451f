"""One file goes to each provider as that provider's own kind of content, over real HTTP."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from kit_wires import WIRES

from ractogateway import ChatConfig, RactoFile
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import ProviderError, ProviderRequestRejected

PNG = b"\x89PNG\r\n\x1a\n-a picture"
PDF = b"%PDF-1.7\n-a document"
FILES = [RactoFile(PNG, "a.png"), RactoFile(PDF, "a.pdf"), RactoFile(b"a text", "a.txt"), RactoFile(b"%PDF-nameless")]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{encoded(data)}"


def blob(media_type: str, data: bytes) -> dict[str, Any]:
    return {"inline_data": {"mime_type": media_type, "data": encoded(data)}}


def block(kind: str, media_type: str, data: bytes, **more: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": encoded(data)}, **more}


SENT = {
    "openai": [
        {"type": "text", "text": "Read these."},
        {"type": "image_url", "image_url": {"url": data_url("image/png", PNG)}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", PDF)}},
        {"type": "text", "text": "a text"},
        {"type": "file", "file": {"filename": "file.pdf", "file_data": data_url("application/pdf", b"%PDF-nameless")}},
        {"type": "text", "text": "plain"},
    ],
    "anthropic": [
        {"type": "text", "text": "Read these."},
        block("image", "image/png", PNG),
        block("document", "application/pdf", PDF, title="a.pdf"),
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "a text"},
            "title": "a.txt",
        },
        block("document", "application/pdf", b"%PDF-nameless"),
        {"type": "text", "text": "plain"},
    ],
    "google": [
        {"text": "Read these."},
        blob("image/png", PNG),
        blob("application/pdf", PDF),
        {"text": "a text"},
        blob("application/pdf", b"%PDF-nameless"),
        {"text": "plain"},
    ],
}


def said(request: Any) -> list[dict[str, Any]]:
    """The parts of the last message, in one spelling."""
    written = json.dumps(request.body)
    body = json.loads(re.sub(r'"\w+":', lambda name: re.sub("([A-Z])", r"_\1", name[0]).lower(), written))
    parts = body["contents"][-1]["parts"] if "contents" in body else body["messages"][-1]["content"]
    for part in parts:  # Google takes both alphabets of base64, and its SDK writes the other one
        if "inline_data" in part:
            part["inline_data"]["data"] = part["inline_data"]["data"].replace("-", "+").replace("_", "/")
    return parts


def test_files_in_each_providers_words(ask, wire, make, endpoint):
    (name,) = (name for name, each in WIRES.items() if each is wire)
    ask(make(), ChatConfig(user_message="Read these.", attachments=[*FILES, {"type": "text", "text": "plain"}]))
    assert said(endpoint.seen[-1]) == SENT[name]


def test_an_answer_about_a_file_is_for_that_file_alone(ask, make, endpoint):
    kit = make(exact_cache=ExactMatchCache())

    def cached(data: bytes, name: str) -> bool:
        return ask(kit, ChatConfig(user_message="What is this?", attachments=[RactoFile(data, name)])).cached

    large = PNG + bytes(1_000_000)
    assert [cached(large + b"1", "a"), cached(large + b"2", "a"), cached(large + b"1", "b")] == [False, False, True]
    assert [cached(PDF, "a"), cached(PDF, "b"), cached(PDF, "a")] == [False, False, True]
    assert endpoint.requests == 4


def test_a_file_alone_may_be_the_message(ask, make, endpoint):
    ask(make(), ChatConfig(user_message="", attachments=[FILES[0]]))
    assert len(said(endpoint.seen[-1])) == 1


def test_a_file_of_an_earlier_message_goes_into_the_history(ask, make, endpoint):
    history = [
        {"role": "user", "content": [file.to_part() for file in FILES]},
        {"role": "assistant", "content": "I see."},
    ]
    assert ask(make(), ChatConfig(user_message="And?", history=history)).content
    for data in (PNG, PDF):
        body = json.dumps(endpoint.seen[-1].body).replace("-", "+").replace("_", "/")
        assert encoded(data) in body


def test_no_error_shows_a_file(ask, make):
    config = ChatConfig(user_message="What is this?", attachments=[RactoFile(b"CANARY", "CANARY.txt")])
    with pytest.raises(ProviderRequestRejected) as e:
        ask(make("error-400"), config)
    assert isinstance(e.value, ProviderError)
    assert "CANARY" not in repr(e.value)
    assert encoded(b"CANARY") not in repr(e.value)
