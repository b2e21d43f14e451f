"""From rows of the traces to requests with users, words and a time on the demo's own, faster clock.

What the traces do not tell is made up here, and the demo says so: who asks, what is asked, and which topics are
popular.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ractogateway._demo.traffic import Row

__all__ = ["POPULAR_SHARE", "Request", "Workload", "make_workload"]

USERS = 24
POPULAR_SHARE = 0.4
"""The part of the conversations that are about a popular topic. Their words are the same for every user."""

_POPULAR = (  # noqa: SIM905 - one word a line would hide the code
    "tea bread chess rain sleep bees maps salt bridges glass paper tides soap clocks honey kites owls silk rust snow"
).split()
_PADDING = "so it was said before and more of it may help you to see what is meant here by all of this "
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request of one user.

    Attributes:
        at_seconds: when it is sent, counted from the start of the replay.
        user: who asks.
        conversation: the conversation that the question belongs to.
        question: the words.
        answer_tokens: how long an answer the user expects.
    """

    at_seconds: float
    user: str
    conversation: str
    question: str
    answer_tokens: int


@dataclass(frozen=True, slots=True, repr=False)
class Workload:
    """Requests by conversation, in order.

    Attributes:
        conversations: each one's requests, in order.
        span_seconds: how long the traffic took in reality.
        speed: how many times faster it is replayed.
    """

    conversations: Sequence[Sequence[Request]]
    span_seconds: float
    speed: float

    @property
    def replay_seconds(self) -> float:
        """How long the replay is to take."""
        return self.span_seconds / self.speed

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return sum(map(len, self.conversations))

    @property
    def users(self) -> int:
        """How many users there are."""
        return len({requests[0].user for requests in self.conversations})


def make_workload(rows: Sequence[Row], *, speed: float, seed: int, longest_question_tokens: int) -> Workload:
    """Requests for ``rows``, ``speed`` times as fast as they came.

    Questions have the size that the trace says, up to ``longest_question_tokens``. The same topic at the same turn is
    the same question, with the size that it had first.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    topics = _Topics(chance)
    # A few users ask a lot, most ask little, as everywhere.
    shares = list(accumulate(1 / (rank + 6) for rank in range(USERS)))
    users: dict[int, str] = {}
    questions: dict[tuple[str, int], str] = {}
    conversations: dict[int, list[Request]] = {}
    for row in rows:
        so_far = conversations.setdefault(row.conversation, [])
        user = users.get(row.conversation)
        if user is None:
            user = users[row.conversation] = f"user-{chance.choices(range(USERS), cum_weights=shares)[0] + 1:02}"
        topic, turn = topics.of(row.opening), len(so_far)
        size = min(row.prompt_tokens, longest_question_tokens)
        question = questions.setdefault((topic, turn), _question(topic, turn, size))
        name = f"conversation-{row.conversation}"
        so_far.append(Request(row.at_seconds / speed, user, name, question, row.answer_tokens))
    return Workload(list(conversations.values()), rows[-1].at_seconds - rows[0].at_seconds, speed)


class _Topics:
    """What each conversation is about, by the number of its opening."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._known: dict[int, str] = {}
        self._popularity = list(accumulate(1 / (rank + 1) for rank in range(len(_POPULAR))))

    def of(self, opening: int) -> str:
        topic = self._known.get(opening)
        if topic is None:
            popular = self._chance.random() < POPULAR_SHARE
            drawn = self._chance.choices(_POPULAR, cum_weights=self._popularity)[0]
            topic = self._known[opening] = drawn if popular else f"the number {opening}"
        return topic


def _question(topic: str, turn: int, tokens: int) -> str:
    asked = f"What should one know about {topic}? " if turn == 0 else f"And point {turn} about {topic}, in detail? "
    missing = max(0, tokens * _CHARACTERS_PER_TOKEN - len(asked))
    return asked + (_PADDING * (missing // len(_PADDING) + 1))[:missing]
