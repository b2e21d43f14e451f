"""The cache of one process against a dictionary that is searched by hand, under a clock that moves when told to."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ractogateway.cache import CacheStats, ExactMatchCache
from ractogateway.messages import LLMResponse

REST = ("You are helpful.", "gpt-4o", 0.0, 4096)
MAX_SIZE = 3
TTL_SECONDS = 5.0


class AgainstADictionary(RuleBasedStateMachine):
    users = st.sampled_from("abcdef")
    ttls = st.sampled_from([None, 1.0, 2.5, 10.0])

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.cache = ExactMatchCache(max_size=MAX_SIZE, ttl_seconds=TTL_SECONDS, clock=lambda: self.now)
        self.dictionary: OrderedDict[str, tuple[str, float]] = OrderedDict()  # least recently used first
        self.writes = 0
        self.hits = 0
        self.misses = 0

    def live(self) -> list[str]:
        return [user for user, (_, end) in self.dictionary.items() if end > self.now]

    @rule(user=users, ttl=ttls)
    def put(self, user, ttl):
        self.writes += 1
        self.cache.put(user, *REST, LLMResponse(content=str(self.writes)), ttl_seconds=ttl)
        self.dictionary.pop(user, None)
        if len(self.live()) == MAX_SIZE:
            del self.dictionary[self.live()[0]]
        self.dictionary[user] = (str(self.writes), self.now + (ttl or TTL_SECONDS))

    @rule(user=users)
    def get(self, user):
        hit = self.cache.get(user, *REST)
        if user in self.live():
            self.hits += 1
            self.dictionary.move_to_end(user)
            assert hit is not None
            assert hit.content == self.dictionary[user][0]
        else:
            self.misses += 1
            assert hit is None

    @rule(user=users)
    def invalidate(self, user):
        assert self.cache.invalidate(user, *REST) is (user in self.live())
        self.dictionary.pop(user, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, 20.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.writes % 5 == 4)
    @rule()
    def clear(self):
        self.cache.clear()
        self.dictionary.clear()

    @rule()
    def count(self):
        assert len(self.cache) == len(self.live())
        assert self.cache.stats == CacheStats(hits=self.hits, misses=self.misses, size=len(self.live()))

    @invariant()
    def is_bounded(self):
        assert len(self.cache._entries) <= MAX_SIZE


AgainstADictionary.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestAgainstADictionary = AgainstADictionary.TestCase
