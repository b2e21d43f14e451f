"""Argument checks shared by every public method: one wording, before anything is written.

A message names the argument, what was wrong and what would be right. It shows a value only where that value is a number
or the name of a type: ids and texts are private.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ractogateway.errors import InvalidTypeError, InvalidValueError

MAX_TOKENS = 2**53 - 1
"""The largest integer that Redis's Lua (a double) holds exactly."""

ROLES = frozenset({"system", "developer", "user", "assistant", "model", "tool", "function"})

_LONGEST_SHOWN_BITS = 64
_MIN_TTL_SECONDS = 0.001
_MAX_TTL_SECONDS = 100 * 365 * 86_400.0
_MAX_DURATION_SECONDS = 31 * 86_400.0


def check_text(name: str, value: object) -> str:
    """Any string, the empty one included."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def check_id(name: str, value: object) -> str:
    """Any non-empty string, whatever characters it holds."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be a non-empty str, not {type(value).__name__}")
    if not value:
        raise InvalidValueError(f"{name} must not be empty")
    return value


def check_role(value: object) -> str:
    """One of the known roles, as a plain ``str``."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"role must be a str, not {type(value).__name__}")
    if value not in ROLES:
        # Not shown: it may be an id or a text that landed in the wrong argument.
        raise InvalidValueError(f"role is not known; known roles are {', '.join(sorted(ROLES))}")
    return str(value)


def check_tokens(name: str, value: object, *, minimum: int = 1) -> int:
    """A token count: an int from ``minimum`` to 2**53 - 1, as a plain ``int``. A bool is not an int here."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value <= MAX_TOKENS:
        raise InvalidValueError(f"{name} must be from {minimum} to 2**53 - 1, not {_shown(value)}")
    return int(value)


def _shown(number: float) -> str:
    """A number for a message; one with thousands of digits would not be readable, and Python refuses to print it."""
    if isinstance(number, int) and number.bit_length() > _LONGEST_SHOWN_BITS:
        return f"an int of {number.bit_length()} bits"
    return repr(number)


def type_name(value: object) -> str:
    """What a value is, for a message: a class in the place of its instance is the usual slip."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def shown_size(value: object) -> str:
    """What a repr says in place of private content."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"<{len(value)} characters>"
    if isinstance(value, (list, tuple, Mapping)):
        return f"<{len(value)} items>"
    return f"<{type(value).__name__}>"


def check_ttl(name: str, value: object) -> float | None:
    """Seconds a value lives, at least a millisecond; None for no end."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not _MIN_TTL_SECONDS <= value <= _MAX_TTL_SECONDS:  # NaN fails both comparisons
        raise InvalidValueError(
            f"{name} must be from 0.001 seconds to 100 years, or None for no end, not {_shown(value)}"
        )
    return float(value)


def check_duration(name: str, value: object, *, least: float) -> float:
    """Seconds, from ``least`` to 31 days."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not least <= value <= _MAX_DURATION_SECONDS:  # NaN fails both comparisons
        raise InvalidValueError(f"{name} must be from {least:g} seconds to 31 days, not {_shown(value)}")
    return float(value)


def check_temperature(value: object, name: str = "temperature") -> float:
    """Any finite number: which ones make sense is the provider's business."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        temperature = float(value)
    except OverflowError:
        temperature = math.inf
    if not math.isfinite(temperature):
        raise InvalidValueError(f"{name} must be finite, not {temperature!r}")
    return temperature


def check_share(name: str, value: object) -> float:
    """A part of a whole, above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 < value <= 1:
        raise InvalidValueError(f"{name} must be above 0 and at most 1, not {_shown(value)}")
    return float(value)


def check_jitter(name: str, value: object) -> float:
    """The part of a time to live that chance may take away, from 0 to less than 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value < 1:
        raise InvalidValueError(f"{name} must be from 0 to less than 1, not {_shown(value)}")
    return float(value)


def milliseconds(seconds: float) -> int:
    """Seconds as whole milliseconds, rounded up, so that nothing ends early (and a TTL is never 0, Redis's
    "delete").
    """
    return max(1, math.ceil(round(seconds * 1000, 6)))  # 0.007 s is 7.000000000000001 ms


def check_key_prefix(value: object) -> str:
    """A non-empty string that leaves the hash tag of our keys in force.

    In a cluster, ``{…}`` chooses the slot. A prefix may bring a tag of its own (all its keys then share that slot), but
    an empty one makes Redis hash whole keys, and one user's keys would no longer live together.
    """
    prefix = check_id("key_prefix", value)
    start = prefix.find("{")
    if start >= 0 and prefix[start + 1 : start + 2] == "}":
        raise InvalidValueError("key_prefix must not open with an empty hash tag '{}'")
    return prefix


def check_revision(name: str, value: object) -> int | None:
    """A conversation's revision, 0 for one that was never written to; None for any."""
    return None if value is None else check_tokens(name, value, minimum=0)


def check_count(name: str, value: object) -> int:
    """How many of something are wanted: an int from 1 up."""
    return check_tokens(name, value)


def check_position(name: str, value: object) -> int | None:
    """A place in a conversation, as a page told it; None for the end."""
    return None if value is None else check_tokens(name, value, minimum=0)
