"""Which limits an operation must fit into, and under which keys they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from ractogateway._checks import check_id, milliseconds, type_name
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis.config import RateLimitConfig, RateLimitParent
from ractogateway.redis.keys import LimiterKeys

TOKENS_PER_WINDOW = "tokens_per_window"
REQUESTS_PER_MINUTE = "requests_per_minute"
TOKENS_PER_DAY = "tokens_per_day"
CONCURRENT = "concurrent"

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Limit:
    """So much in any window.

    Attributes:
        name: how a decision names it.
        key_of: where its log is.
        most: tokens or requests in any window.
        per_request: it counts operations, not tokens.
    """

    name: str
    key_of: Callable[[LimiterKeys], bytes]
    most: int
    window_ms: int
    per_request: bool = False

    def cost(self, tokens: int) -> int:
        """What an operation of so many tokens costs here."""
        return 1 if self.per_request else tokens


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one configuration: windows, that of the tokens first, and slots (None for any number)."""

    windows: tuple[Limit, ...]
    slots: int | None

    @classmethod
    def of(cls, config: RateLimitConfig) -> Limits:
        """What a configuration says."""
        windows = [
            Limit(
                TOKENS_PER_WINDOW,
                attrgetter("tokens"),
                config.max_tokens_per_minute,
                milliseconds(config.window_seconds),
            )
        ]
        if config.max_requests_per_minute is not None:
            most = config.max_requests_per_minute
            windows.append(Limit(REQUESTS_PER_MINUTE, attrgetter("requests"), most, _MINUTE_MS, per_request=True))
        if config.max_tokens_per_day is not None:
            windows.append(Limit(TOKENS_PER_DAY, attrgetter("tokens_of_day"), config.max_tokens_per_day, _DAY_MS))
        return cls(tuple(windows), config.max_concurrent)


@dataclass(frozen=True, slots=True)
class Scope:
    """One owner of limits, the user or a parent; ``place`` is how a decision names a parent."""

    keys: LimiterKeys
    limits: Limits
    place: str = ""


def name_of(scope: Scope, limit: Limit) -> str:
    """How a decision names a limit."""
    return scope.place + limit.name


def scopes_of(user: Scope, parents: object, key_prefix: str) -> list[Scope]:
    """The user and its parents; one that is only named has the same limits as the user, and the same prefix.

    Raises:
        InvalidTypeError, InvalidValueError: not a sequence of ids and `RateLimitParent`, or one of them twice.
    """
    if isinstance(parents, (str, bytes)) or not isinstance(parents, Sequence):
        raise InvalidTypeError(f"parents must be a sequence of ids or RateLimitParent, not {type(parents).__name__}")
    scopes, seen = [user], {user.keys}
    for number, parent in enumerate(parents):
        name, prefix, limits = parent, key_prefix, user.limits
        if isinstance(parent, RateLimitParent):
            name, config = parent.id, parent.config
            if not isinstance(config, RateLimitConfig):
                raise InvalidTypeError(f"a parent's config must be a RateLimitConfig, not {type_name(config)}")
            prefix, limits = config.key_prefix, Limits.of(config)
        keys = LimiterKeys.of(prefix, check_id(f"parents[{number}]", name))
        if keys in seen:
            raise InvalidValueError(f"parents[{number}] is the user itself or another parent again")
        seen.add(keys)
        scopes.append(Scope(keys, limits, f"parents[{number}]."))
    return scopes


def together(scopes: Sequence[Scope], *, clustered: bool) -> list[list[Scope]]:
    """The scopes, grouped so that one script may touch a whole group: all of them, or in a cluster those of a slot."""
    if not clustered:
        return [list(scopes)]
    slots: dict[bytes, list[Scope]] = {}
    for scope in scopes:
        slots.setdefault(scope.keys.slot, []).append(scope)
    return list(slots.values())
