"""Each check of the demo finds what it is there to find: the records of a real run, falsified one at a time."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import fields, replace

import pytest

from ractogateway._demo import checks
from ractogateway._demo.checks import Evidence, check_all
from ractogateway._demo.command import conclude
from ractogateway._demo.records import Asked, Charge

Falsify = Callable[[Evidence], Evidence]
BY_CHECK: dict[str, list[Falsify]] = {}


def falsifies(check: str) -> Callable[[Falsify], Falsify]:
    def register(falsify: Falsify) -> Falsify:
        BY_CHECK.setdefault(check, []).append(falsify)
        return falsify

    return register


def copy_of(evidence: Evidence) -> Evidence:
    """One that can be falsified: its lists are its own, the records in them are frozen."""
    log = evidence.log
    return replace(evidence, log=replace(log, **{part.name: copy(getattr(log, part.name)) for part in fields(log)}))


def verdict_of(check: str, evidence: Evidence) -> checks.Verdict:
    return getattr(checks, check)(evidence)


def index_of(charges: list[Charge], allowed: bool) -> int:
    return next(index for index, charge in enumerate(charges) if charge.allowed is allowed)


def hit_index(asked: list[Asked]) -> int:
    return next(index for index, one in enumerate(asked) if one.cached)


@falsifies("check_nothing_failed")
def an_error(evidence):
    evidence.log.failures = Counter({"StoreTimeout": 1})
    evidence.log.answered -= 1
    return evidence


@falsifies("check_nothing_failed")
def a_request_that_got_lost(evidence):
    evidence.log.answered -= 1
    return evidence


@falsifies("check_budget")
def one_charge_too_many(evidence):
    one = evidence.log.charges[index_of(evidence.log.charges, allowed=True)]
    evidence.log.charges.append(replace(one, tokens=evidence.terms.budget))
    return evidence


@falsifies("check_books")
def a_charge_the_limiter_forgot(evidence):
    charges, terms = evidence.log.charges, evidence.terms
    index = index_of(charges, allowed=True)
    charges[index] = replace(charges[index], remaining=terms.budget)
    return evidence


@falsifies("check_books")
def a_charge_made_twice(evidence):
    budgets = list(evidence.server.budgets)
    mine = next(i for i, told in enumerate(budgets) if told.remaining > 1)
    budgets[mine] = replace(budgets[mine], remaining=-1)
    return replace(evidence, server=replace(evidence.server, budgets=budgets))


@falsifies("check_books")
def a_refusal_that_was_charged(evidence):
    charges = evidence.log.charges
    refused = index_of(charges, allowed=False)
    charges[refused] = replace(charges[refused], remaining=charges[refused].remaining - charges[refused].tokens)
    return evidence


@falsifies("check_refusals")
def a_refusal_without_a_cause(evidence):
    charges = evidence.log.charges
    first = index_of(charges, allowed=True)  # this user had spent nothing yet
    charges[first] = replace(charges[first], allowed=False, retry_after_seconds=0.5)
    return evidence


@falsifies("check_refusals")
def a_retry_after_beyond_the_window(evidence):
    charges = evidence.log.charges
    refused = index_of(charges, allowed=False)
    charges[refused] = replace(charges[refused], retry_after_seconds=evidence.terms.window_seconds * 2)
    return evidence


@falsifies("check_refusals")
def a_retry_after_that_was_too_short(evidence):
    """The same user is refused the same tokens again when the time is over, having spent none."""
    charges = evidence.log.charges
    last = [charge for charge in charges if charge.allowed is False][-1]
    told = replace(last, retry_after_seconds=0.001)
    again = replace(last, sent=last.received + 0.002, received=last.received + 0.003)
    charges[charges.index(last)] = told
    charges[:] = [charge for charge in charges if charge.user != last.user or charge.received < last.sent]
    charges += [told, again]
    return evidence


@falsifies("check_answers")
def the_answer_to_another_request(evidence):
    asked = evidence.log.asked
    index = hit_index(asked)
    other = next(one for one in asked if one.key != asked[index].key)
    asked[index] = replace(asked[index], content=other.content)
    return evidence


@falsifies("check_answers")
def the_answer_to_another_history(evidence):
    asked = evidence.log.asked
    index = next(index for index, one in enumerate(asked) if one.config.history)
    asked[index] = replace(asked[index], config=asked[index].config.model_copy(update={"history": []}))
    return evidence


@falsifies("check_answers")
def a_wrong_answer_at_full_speed(evidence):
    evidence.log.repeats[-1] = replace(evidence.log.repeats[-1], content="Something else.")
    return evidence


@falsifies("check_paid_once")
def a_miss_where_there_was_an_answer(evidence):
    evidence.log.repeats[-1] = replace(evidence.log.repeats[-1], cached=False)
    return evidence


@falsifies("check_bill")
def a_call_that_nobody_saw(evidence):
    return replace(evidence, bill=replace(evidence.bill, calls=evidence.bill.calls + 1))


@falsifies("check_bill")
def tokens_that_nobody_saw(evidence):
    return replace(evidence, bill=replace(evidence.bill, tokens=evidence.bill.tokens + 1))


@falsifies("check_bill")
def a_hit_that_was_billed(evidence):
    index = hit_index(evidence.log.asked)
    evidence.log.asked[index] = replace(evidence.log.asked[index], billed_tokens=5)
    return evidence


@falsifies("check_bill")
def savings_that_were_never_paid(evidence):
    index = hit_index(evidence.log.asked)
    evidence.log.asked[index] = replace(evidence.log.asked[index], saved_tokens=1)
    return evidence


def with_conversation(evidence, change):
    name, messages = next((name, kept) for name, kept in evidence.server.conversations.items() if len(kept) > 2)
    conversations = {**evidence.server.conversations, name: change(list(messages))}
    return replace(evidence, server=replace(evidence.server, conversations=conversations))


@falsifies("check_conversations")
def a_lost_message(evidence):
    return with_conversation(evidence, lambda messages: messages[:-1])


@falsifies("check_conversations")
def a_message_twice(evidence):
    return with_conversation(evidence, lambda messages: [*messages, messages[-1]])


@falsifies("check_conversations")
def turns_out_of_order(evidence):
    return with_conversation(evidence, lambda messages: messages[2:] + messages[:2])


@falsifies("check_conversations")
def half_a_turn_at_the_start(evidence):
    return with_conversation(evidence, lambda messages: messages[1:])


@falsifies("check_conversations")
def somebody_elses_conversation(evidence):
    all_of_them = list(evidence.server.conversations.values())
    return with_conversation(evidence, lambda own: next(other for other in all_of_them if other != own))


@falsifies("check_conversations")
def a_history_that_was_read_too_short(evidence):
    reads = evidence.log.reads
    index = next(index for index, read in enumerate(reads) if read.messages)
    reads[index] = replace(reads[index], messages=[])
    return evidence


def test_the_run_has_something_to_check_in_every_respect(small_run):
    verdicts = check_all(small_run.evidence)
    assert [verdict for verdict in verdicts if not verdict.kept] == []
    log = small_run.evidence.log
    assert any(len(turns) > small_run.evidence.terms.max_turns for turns in log.turns.values())
    out = io.StringIO()
    assert conclude(small_run.evidence, small_run.workload, "a model", out) == 0
    assert out.getvalue().count("  kept    ") == len(verdicts) == len(BY_CHECK)


@pytest.mark.parametrize(
    ("check", "falsify"),
    [(check, falsify) for check, all_of_it in BY_CHECK.items() for falsify in all_of_it],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_broken_promise_is_found(small_run, check, falsify):
    falsified = falsify(copy_of(small_run.evidence))
    verdict = verdict_of(check, falsified)
    assert not verdict.kept
    out = io.StringIO()
    assert conclude(falsified, small_run.workload, "a model", out) == 1
    assert f"  BROKEN  {verdict.promise} (" in out.getvalue()


def test_a_model_that_fails_is_a_broken_promise(failing_run):
    out = io.StringIO()
    assert conclude(failing_run.evidence, failing_run.workload, "a model", out) == 1
    assert "  failed                  5 x ProviderUnavailable\n" in out.getvalue()
    assert "  BROKEN  Every request was answered or refused (5 times in 5 requests)" in out.getvalue()


def test_without_the_models_own_counts_a_hit_must_be_what_the_model_had_said(small_run):
    evidence = replace(copy_of(small_run.evidence), bill=None)
    assert all(verdict.kept for verdict in check_all(evidence))
    index = hit_index(evidence.log.asked)
    evidence.log.asked[index] = replace(evidence.log.asked[index], content="Something else.")
    assert not checks.check_answers(evidence).kept


def test_what_was_not_seen_is_not_promised(small_run):
    evidence = copy_of(small_run.evidence)
    evidence.log.charges = [charge for charge in evidence.log.charges if charge.allowed]
    out = io.StringIO()
    assert conclude(evidence, small_run.workload, "a model", out) == 0
    assert "A refusal had a cause" not in out.getvalue()
    assert "Not checked, because there were none in this run: refusals" in out.getvalue()


def test_a_fault_without_a_case_is_a_fault(small_run):
    """The model was called, and nobody knows by whom."""
    evidence = copy_of(small_run.evidence)
    evidence.log.asked, evidence.log.repeats = [], []
    assert checks.check_bill(evidence).cases == 0
    out = io.StringIO()
    assert conclude(evidence, small_run.workload, "a model", out) == 1
    assert "  BROKEN  A miss was one call of the model" in out.getvalue()


def test_a_conversation_whose_write_failed_is_not_judged(small_run):
    evidence = a_lost_message(copy_of(small_run.evidence))
    (damaged,) = (
        name
        for name, messages in evidence.server.conversations.items()
        if messages != small_run.evidence.server.conversations[name]
    )
    evidence.log.unclear.add(damaged)
    assert checks.check_conversations(evidence).kept
