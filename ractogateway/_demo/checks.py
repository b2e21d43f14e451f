"""Every promise that the demo prints, checked after the run.

A check takes what the client wrote down, what another client found on the server and what the model counted, and works
out for itself what must be true of them. None asks the library whether it did well. A check with nothing to look at
says so (``cases`` is 0), and its promise is not printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from ractogateway._demo import budget
from ractogateway._demo.answers import answer
from ractogateway._demo.records import Asked, HistoryRead, Log, ModelBill, ServerState, Terms

__all__ = ["Evidence", "Verdict", "check_all"]


@dataclass(frozen=True, slots=True, repr=False)
class Evidence:
    """All that is known of a run; ``bill`` is None where the model does not tell what it counted."""

    terms: Terms
    log: Log
    server: ServerState
    bill: ModelBill | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise, on how many cases it was checked (``cases`` of ``what``), and in how many it did not hold."""

    promise: str
    what: str
    cases: int
    broken: int

    @property
    def tried(self) -> bool:
        """Whether this run says anything about it."""
        return self.cases > 0 or self.broken > 0

    @property
    def kept(self) -> bool:
        """Whether it held in every case, of which there was one at least."""
        return self.cases > 0 and self.broken == 0


def check_all(evidence: Evidence) -> list[Verdict]:
    """The verdict on each promise."""
    return [check(evidence) for check in _CHECKS]


def check_nothing_failed(evidence: Evidence) -> Verdict:
    """Every request came to its end, and none of them by an error."""
    log = evidence.log
    lost = max(0, log.requests - log.settled)
    return Verdict("Every request was answered or refused", "requests", log.requests, log.failures.total() + lost)


def check_budget(evidence: Evidence) -> Verdict:
    """No window holds more admitted tokens than the budget."""
    terms, charges = evidence.terms, [charge for charge in evidence.log.charges if charge.allowed]
    broken = sum(budget.overspent(user, terms) for user in budget.by_user(charges))
    promise = f"No user spent more than {terms.budget:,} tokens in any {terms.window_seconds:.2f} s"
    return Verdict(promise, "charges", len(charges), broken)


def check_books(evidence: Evidence) -> Verdict:
    """What the limiter says remains, each time and at the end, is what our own books say."""
    charges = [*evidence.log.charges, *evidence.server.budgets]
    told = [charge for charge in charges if charge.allowed is not None]
    broken = sum(budget.misstated(user, evidence.terms) for user in budget.by_user(charges))
    return Verdict("Every charge was counted once, a refusal not at all", "statements", len(told), broken)


def check_refusals(evidence: Evidence) -> Verdict:
    """A refused charge did not fit, and whoever came back as told, having spent nothing meanwhile, got in."""
    refusals = [charge for charge in evidence.log.charges if charge.allowed is False]
    broken = sum(budget.unjustly_refused(user, evidence.terms) for user in budget.by_user(evidence.log.charges))
    return Verdict("A refusal had a cause and named the right time to come back", "refusals", len(refusals), broken)


def check_answers(evidence: Evidence) -> Verdict:
    """Every answer is the one to that very request."""
    asked = evidence.log.all_asked
    if evidence.bill is None:  # a real model: what it says itself is right by definition
        genuine, asked = _provider_answers(evidence.log), [hit for hit in asked if hit.cached]
    else:
        genuine = _stand_in_answers(evidence)
    broken = sum(one.content not in genuine.get(one.key, ()) for one in asked)
    return Verdict("No answer was served to another request than its own", "answers", len(asked), broken)


def check_paid_once(evidence: Evidence) -> Verdict:
    """A request that was answered before is answered out of the cache."""
    asked = evidence.log.all_asked
    answered_at: dict[tuple[str, ...], float] = {}
    for one in asked:
        if one.complete:
            answered_at[one.key] = min(one.ended, answered_at.get(one.key, inf))
    again = [one for one in asked if answered_at.get(one.key, inf) < one.started]
    broken = sum(not one.cached for one in again)
    return Verdict("What had been answered was not paid for again", "repeated requests", len(again), broken)


def check_bill(evidence: Evidence) -> Verdict:
    """A hit was billed nothing and tells what the answer had cost; the model's own counts are ours."""
    asked, bill = evidence.log.all_asked, evidence.bill
    misses, hits = [one for one in asked if not one.cached], [one for one in asked if one.cached]
    paid = {(miss.key, miss.billed_tokens) for miss in misses}
    broken = sum(hit.billed_tokens != 0 or (hit.key, hit.saved_tokens) not in paid for hit in hits)
    if bill is None:
        return Verdict("A cached answer cost nothing", "cached answers", len(hits), broken)
    if not evidence.log.failures:  # a call that failed is on the model's bill and not on ours
        broken += abs(bill.calls - len(misses))
        broken += bill.tokens != sum(miss.billed_tokens for miss in misses)
    return Verdict("A miss was one call of the model; a hit was none and cost nothing", "requests", len(asked), broken)


def check_conversations(evidence: Evidence) -> Verdict:
    """Every history, as read during the run and as it is now, is the last acknowledged turns, whole and in order."""
    log = evidence.log
    at_the_end = [
        HistoryRead(name, len(turns), evidence.server.conversations.get(name, ())) for name, turns in log.turns.items()
    ]
    reads = [read for read in [*log.reads, *at_the_end] if read.conversation not in log.unclear]
    broken = 0
    for read in reads:
        kept = log.turns.get(read.conversation, [])[: read.turns][-evidence.terms.max_turns :]
        broken += list(read.messages) != [message for turn in kept for message in turn]
    return Verdict("Every conversation is complete, in order, in whole turns", "histories", len(reads), broken)


_CHECKS: Sequence[Callable[[Evidence], Verdict]] = (
    check_nothing_failed,
    check_budget,
    check_books,
    check_refusals,
    check_answers,
    check_paid_once,
    check_bill,
    check_conversations,
)


def _stand_in_answers(evidence: Evidence) -> dict[tuple[str, ...], set[str | None]]:
    """The stand-in's answers are a digest of the whole request, so they can be worked out without it."""
    terms, answers = evidence.terms, {}
    for asked in evidence.log.all_asked:
        if asked.key not in answers:
            answers[asked.key] = {answer(_body(asked, terms)).text or None}
    return answers


def _body(asked: Asked, terms: Terms) -> dict[str, object]:
    """The request as the protocol has it, spelled out here and not by the kit."""
    config = asked.config
    history = [{"role": str(message.role), "content": message.content} for message in config.past_messages]
    system, user = {"role": "system", "content": terms.system_prompt}, {"role": "user", "content": config.user_message}
    return {
        "model": terms.model,
        "messages": [system, *history, user],
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }


def _provider_answers(log: Log) -> dict[tuple[str, ...], set[str | None]]:
    """What a real model says cannot be worked out: a cached answer must be one that it gave to the same request."""
    answers: dict[tuple[str, ...], set[str | None]] = {}
    for asked in log.asked:
        if not asked.cached:
            answers.setdefault(asked.key, set()).add(asked.content)
    return answers
