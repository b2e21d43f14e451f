"""Answers without halves of surrogate pairs, whole and in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ractogateway._kit.mending import Mending, mended, mended_json
from ractogateway._kit.reading import make_tool_call
from ractogateway._texts import well_formed
from ractogateway.messages import LLMResponse, StreamChunk
from ractogateway.tools import result_message

HIGH, LOW, LOST, FACE = "\ud83d", "\ude00", "\ufffd", "\U0001f600"
TEXT = st.text(st.sampled_from(["a", "\xe9", "\u65e5", FACE, HIGH, LOW, "\udfff"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("a", "a"),
        (f"a{FACE}", f"a{FACE}"),
        (HIGH + LOW, FACE),
        (f"a{HIGH}", f"a{LOST}"),
        (LOW + HIGH, LOST + LOST),
        (f"{HIGH}b{LOW}", f"{LOST}b{LOST}"),
    ],
)
def test_what_cannot_be_sent_is_replaced(text, whole):
    assert well_formed(text) == whole
    whole.encode()


@given(TEXT)
def test_what_can_be_sent_is_left_as_it_is(text):
    whole = well_formed(text)
    assert well_formed(whole) is whole
    assert len(whole.encode("utf-16")) == len(text.encode("utf-16", "surrogatepass"))


@given(st.lists(st.tuples(st.booleans(), TEXT), max_size=8))
@example([(False, HIGH), (True, "a"), (False, LOW)])
@example([(True, HIGH), (False, HIGH), (False, "")])
def test_pieces_join_to_the_whole_wherever_they_were_cut(pieces):
    mending, said, thought, text = Mending(), "", "", ""
    for is_thought, piece in pieces:
        text += "" if is_thought else piece
        came = StreamChunk(delta="" if is_thought else piece, thinking_delta=piece if is_thought else "", text=text)
        chunk = mending.mend(came)
        if chunk is not None:
            said, thought = said + chunk.delta, thought + chunk.thinking_delta
            assert chunk.text == said
    answer = mended(LLMResponse(content=text, thinking="".join(piece for is_thought, piece in pieces if is_thought)))
    rest = mending.rest(answer)
    if rest is not None:
        said, thought = said + rest.delta, thought + rest.thinking_delta
        assert rest.text == said
    assert (said, thought) == (answer.content, answer.thinking)


def test_an_answer_that_is_well_formed_is_the_same_object():
    answer = LLMResponse(content=f"a{FACE}", thinking="\xe9", provider_fields={"thinking_blocks": [{"thinking": FACE}]})
    assert mended(answer) is answer
    broken = answer.model_copy(update={"provider_fields": {"thinking_blocks": [{"thinking": HIGH}]}})
    assert mended(broken).provider_fields == {"thinking_blocks": [{"thinking": LOST}]}
    assert (mended(broken).content, mended(broken).thinking) == (answer.content, answer.thinking)


def test_calls_of_tools_and_their_results():
    call = make_tool_call(f"id{HIGH}", "name", '{"a": "\\ud83d", "b": "\\ud83d\\ude00"}', 0)
    assert (call.id, call.arguments) == (f"id{LOST}", {"a": LOST, "b": FACE})
    assert call.arguments_json == f'{{"a": "{LOST}", "b": "{FACE}"}}'
    written = '{"b": "\\ud83d\\ude00"}'
    assert make_tool_call("id", "name", written, 0).arguments_json == written  # nothing is wrong with it
    assert make_tool_call("id", "name", {"a": HIGH}, 0).arguments == {"a": LOST}
    assert result_message(call, f"r{HIGH}")["content"] == f"r{LOST}"
    odd = {"a": {1, 2}}
    assert mended_json(odd) is odd
