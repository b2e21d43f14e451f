"""Everything this library raises, in one tree.

::

    RactoGatewayError
    ├── InvalidValueError  (also ValueError)     an argument has the right type and a wrong value
    │   └── ForeignConversation                  the conversation belongs to another user
    ├── InvalidTypeError   (also TypeError)      an argument has the wrong type
    ├── MissingExtraError  (also ImportError)    an optional dependency is not installed
    ├── UnsupportedEventLoopError                the running event loop is not asyncio's
    ├── BlockingCallInLoopError                  a blocking call inside a running loop, where that is forbidden
    ├── UnsupportedByProvider  (also NotImplementedError)  the kit's provider has no such service
    ├── ToolError                                raised by a tool: its text is for the model to read
    ├── ToolTimeout        (also TimeoutError)   a tool did not end within its registry's time limit
    ├── RateLimitExceeded                        a reservation was refused; carries the decision
    ├── RevisionConflict                         a conversation has moved on; carries both revisions
    ├── TurnNotRemembered                        a kit's answer is there, its conversation does not hold it
    ├── StoreError                               Redis, or the way to it
    │   ├── StoreUnavailable                     an outage: the same call may succeed later
    │   │   ├── StoreTimeout   (also TimeoutError)
    │   │   ├── NotSent        (also ConnectionError)   the command never left
    │   │   │   └── BreakerOpen                  many calls failed; for a moment no more are tried
    │   │   ├── OutcomeUnknown (also ConnectionError)   the command left, no reply came
    │   │   └── StoreNotReady                    LOADING, READONLY, OOM, MISCONF, CLUSTERDOWN …
    │   └── StoreRefused                         the server understood and said no: trying again is futile
    │       ├── AuthenticationFailed             wrong user or password
    │       ├── PermissionDenied                 the ACL forbids the command or the key
    │       ├── CertificateRejected              the TLS peer could not be verified
    │       └── WrongKeyType                     something else lives under our key
    └── ProviderError                            the model's provider
        ├── ProviderConnectionError              no answer: refused, reset, cut in the middle
        │   └── ProviderTimeout  (also TimeoutError)
        ├── ProviderAuthenticationError          401, 403, or no API key at all
        ├── ProviderRateLimited                  429; see ``retry_after_seconds``
        ├── ProviderRequestRejected              any other 4xx: the request itself is at fault
        ├── ProviderUnavailable                  5xx
        └── StructuredOutputError                the answer does not fit ``response_model``

No message in this tree carries a prompt, an answer, a user's id or a password.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ractogateway.messages import LLMResponse
    from ractogateway.redis.config import RateLimitDecision

__all__ = [
    "AuthenticationFailed",
    "BlockingCallInLoopError",
    "BlockingCallWarning",
    "BreakerOpen",
    "CertificateRejected",
    "ForeignConversation",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingExtraError",
    "NotSent",
    "OutcomeUnknown",
    "PermissionDenied",
    "ProviderAuthenticationError",
    "ProviderConnectionError",
    "ProviderDetails",
    "ProviderError",
    "ProviderRateLimited",
    "ProviderRequestRejected",
    "ProviderTimeout",
    "ProviderUnavailable",
    "RactoGatewayError",
    "RateLimitExceeded",
    "RevisionConflict",
    "StoreError",
    "StoreNotReady",
    "StoreRefused",
    "StoreTimeout",
    "StoreUnavailable",
    "StructuredOutputError",
    "ToolError",
    "ToolTimeout",
    "TurnNotRemembered",
    "UnsupportedByProvider",
    "UnsupportedEventLoopError",
    "WrongKeyType",
]


class RactoGatewayError(Exception):
    """Base of every error that this library raises."""

    def __reduce__(self) -> tuple[object, ...]:
        # The default replays __init__ with the message, which the subclasses with arguments of their own do not take:
        # their errors would be lost on the way back from a worker process.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[RactoGatewayError], args: tuple[object, ...], state: dict[str, object]) -> RactoGatewayError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidValueError(RactoGatewayError, ValueError):
    """An argument has the right type and a value that cannot work. Nothing was written."""


class ForeignConversation(InvalidValueError):
    """A write to a conversation named a user, and it belongs to another one. Nothing was written."""


class InvalidTypeError(RactoGatewayError, TypeError):
    """An argument has the wrong type. Nothing was written."""


class MissingExtraError(RactoGatewayError, ImportError):
    """An optional dependency is needed and not installed; the message names the ``pip install`` that helps."""


class UnsupportedEventLoopError(RactoGatewayError):
    """An async core was awaited outside asyncio (trio: redis.asyncio does not run there)."""


class UnsupportedByProvider(RactoGatewayError, NotImplementedError):
    """The provider of this kit has no such service: trying again is futile."""


class ToolError(RactoGatewayError):
    """For a tool to raise: the model is told its text, where of any other error it learns the class alone."""


class ToolTimeout(RactoGatewayError, TimeoutError):
    """A tool did not end within the ``tool_timeout_seconds`` of its registry, which cancelled it or left it behind."""


class BlockingCallInLoopError(RactoGatewayError):
    """A blocking method was called inside a running event loop and ``RACTOGATEWAY_BLOCKING_IN_LOOP=raise``."""


class BlockingCallWarning(RuntimeWarning):
    """A blocking method was called inside a running event loop: it works, and it stops that loop meanwhile."""


class RateLimitExceeded(RactoGatewayError):
    """A budget refused. ``decision`` says which limit, and when a retry can pass.

    ``tokens`` is what was asked for, None where whoever raised it did not say.
    """

    def __init__(self, decision: RateLimitDecision, *, tokens: int | None = None) -> None:
        super().__init__(f"rate limit exceeded{_why(decision, tokens)}")
        self.decision = decision
        self.tokens = tokens


def _why(decision: RateLimitDecision, tokens: int | None) -> str:
    # Of a limiter of somebody else's a decision may say less than ours.
    limit, retry_after = getattr(decision, "violated", None), getattr(decision, "retry_after_seconds", None)
    if retry_after is None:
        return f" ({limit})" if limit else ""
    if math.isfinite(retry_after):
        return f"{f' ({limit})' if limit else ''}; retry after {retry_after:.3f} s"
    cost = "the cost" if tokens is None else f"a cost of {tokens:,} tokens"
    allowance = getattr(decision, "limit", None) if limit == "tokens_per_window" else None  # others are not known here
    size = "" if allowance is None else f" ({allowance:,})"
    spell = " while Redis is away" if getattr(decision, "degraded", False) else ""  # a process may have a share only
    return f": {cost} is above {limit or 'the limit'}{size}, so no retry can help{spell}"


class RevisionConflict(RactoGatewayError):
    """A write expected a revision of the conversation that is no longer the current one."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"the conversation is at revision {actual}, the write expected {expected}")
        self.expected = expected
        self.actual = actual


class TurnNotRemembered(RactoGatewayError):
    """A kit was answered, and could not append the turn to its conversation; ``__cause__`` says why.

    A `RevisionConflict`: the conversation was cleared, replaced or otherwise rewritten meanwhile, and holds nothing of
    this turn. A `StoreUnavailable`: nobody knows, if its ``may_have_applied`` says so; ``memory.extend(conversation_id,
    error.turn, request_id=error.request_id)`` within the hour writes the turn, and never a second time. (Name the
    user, too, if the request did: ``user_id=``. Of a conversation that belongs to somebody else, that raises
    `ForeignConversation`: write once more without.)

    ``response`` is the answer, which was paid for; ``turn`` the messages that were to be appended.
    """

    def __init__(self, message: str, *, response: LLMResponse, turn: list[dict[str, Any]], request_id: str) -> None:
        super().__init__(message)
        self.response = response
        self.turn = turn
        self.request_id = request_id


class StoreError(RactoGatewayError):
    """Redis, or the way to it, failed."""


class StoreUnavailable(StoreError):
    """An outage: the same call may succeed later.

    ``may_have_applied`` is True when the server may have executed the command although no reply was seen.
    """

    may_have_applied: bool = False


class StoreTimeout(StoreUnavailable, TimeoutError):
    """The call's total time (``RedisOptions.timeout_seconds``, retries included) ran out."""

    def __init__(self, message: str, *, may_have_applied: bool) -> None:
        super().__init__(message)
        self.may_have_applied = may_have_applied


class NotSent(StoreUnavailable, ConnectionError):
    """The command never left this process: sending it again is safe."""


class BreakerOpen(NotSent):
    """Many calls in a row failed a moment ago, so this one was not tried (`RedisOptions.breaker_seconds`)."""


class OutcomeUnknown(StoreUnavailable, ConnectionError):
    """The command left and no reply came: only an idempotent command may be sent again."""

    may_have_applied = True


class StoreNotReady(StoreUnavailable):
    """The server answered that it cannot serve now. ``code`` is its first word, e.g. ``LOADING``."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class StoreRefused(StoreError):
    """The server understood the command and refused it: trying again is futile. ``code`` is its first word."""

    def __init__(self, message: str, *, code: str = "ERR") -> None:
        super().__init__(message)
        self.code = code


class AuthenticationFailed(StoreRefused):
    """Wrong user or password, or none where one is needed."""


class PermissionDenied(StoreRefused):
    """The ACL user may not run this command or touch this key."""


class CertificateRejected(StoreRefused):
    """The TLS certificate of the server could not be verified."""


class WrongKeyType(StoreRefused):
    """A key of ours holds a value of another type: something else writes under this prefix."""


@dataclass(frozen=True, slots=True, repr=False)
class ProviderDetails:
    """What a provider said about an error, for whoever looks for its cause. Not for logs: it may quote the request.

    Attributes:
        message: its words.
        type: its class of error, such as ``invalid_request_error`` or ``INVALID_ARGUMENT``.
        code: its own code.
        param: the parameter of the request that it is about.
        body: the body of the answer, or of its error, as JSON or as text.
    """

    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    body: object = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, which may quote the request>"


class ProviderError(RactoGatewayError):
    """The model's provider failed or refused.

    ``status`` is the HTTP status (None when there was no response), ``request_id`` the provider's own id of the
    request, ``retry_after_seconds`` what the provider asked for (None when it did not), ``details`` what it said (None
    when it said nothing); only that may quote the request, and no text or repr of the error shows it.

    ``may_have_billed`` is False where the provider answered with an error, or was never reached: such a call costs
    nothing. Where the answer got lost, nobody knows.
    """

    may_have_billed: bool = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
        details: ProviderDetails | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.details = details


class ProviderConnectionError(ProviderError):
    """No complete answer arrived: the connection was refused, reset, or cut in the middle of a stream."""

    may_have_billed = True


class ProviderTimeout(ProviderConnectionError, TimeoutError):
    """The provider did not answer in time."""


class ProviderAuthenticationError(ProviderError):
    """The provider rejected the credentials, or no API key was configured."""


class ProviderRateLimited(ProviderError):
    """The provider's own rate limit refused (429)."""


class ProviderRequestRejected(ProviderError):
    """The provider found the request itself at fault (a 4xx other than 401, 403 and 429)."""


class ProviderUnavailable(ProviderError):
    """The provider failed (5xx)."""


class StructuredOutputError(ProviderError):
    """The answer does not fit the ``response_model``. ``response`` is the answer as it came."""

    def __init__(self, message: str, *, response: object = None) -> None:
        super().__init__(message)
        self.response = response
