"""What Redis and redis-py report, in the words of our error tree.

The server's own text is not passed on: it may quote arguments (``ERR unknown command … with args beginning with``), and
arguments may be prompts. Its first word, the error code, is.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

from redis import exceptions as redis_errors

from ractogateway.errors import (
    AuthenticationFailed,
    CertificateRejected,
    NotSent,
    OutcomeUnknown,
    PermissionDenied,
    StoreError,
    StoreNotReady,
    StoreRefused,
    StoreTimeout,
    WrongKeyType,
)


class ErrorReply(Exception):
    """An error reply as the server wrote it, code first."""


RETRY_LATER = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY"})
"""Codes of a server that did not execute the command and may do so in a moment."""

WRITES_REFUSED = frozenset({"OOM", "MISCONF", "NOREPLICAS"})
"""Codes of a server that says so at once, and reads on."""

_MOST_CAUSES = 16
_NUMBER = re.compile(r"\[Errno (\d+)\]")

_NOT_READY = RETRY_LATER | WRITES_REFUSED | {"BUSY", "UNKILLABLE"}
_REJECTED = "Redis rejected the user name or password"
_AUTHENTICATION = {
    "NOAUTH": "Redis wants a password, and none was given",
    "WRONGPASS": _REJECTED,
    "INVALIDPWD": _REJECTED,
}

_FORBIDDEN_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""How the ACL refuses what a script calls; the second is Redis 7.0's."""

_PASSWORD_WANTED = ("Authentication required", "HELLO must be called with the client already authenticated")
"""NOAUTH, without its code."""

_NO_DATABASE = ("DB index is out of range", "invalid DB index", "SELECT is not allowed in cluster mode")

_ENDED_AT_ONCE = ("Connection closed", "Error while reading")
"""How redis-py words that the other side took the connection and hung up."""

_NONE_LEFT = ("No connection available", "Too many connections")
"""How its pools say so; releases before 6 have no class for it."""

# redis-py strips the code from the text of the errors that it has classes for, so for these the class is the code.
_CODE_OF_CLASS: tuple[tuple[str, str], ...] = (
    ("NoScriptError", "NOSCRIPT"),
    ("NoPermissionError", "NOPERM"),
    ("AuthenticationWrongNumberOfArgsError", "WRONGPASS"),
    ("AuthenticationError", "WRONGPASS"),
    ("ReadOnlyError", "READONLY"),
    ("BusyLoadingError", "LOADING"),
    ("OutOfMemoryError", "OOM"),
    ("MasterDownError", "MASTERDOWN"),  # redis-py derives it from the next one
    ("ClusterDownError", "CLUSTERDOWN"),
    ("TryAgainError", "TRYAGAIN"),
    ("ClusterCrossSlotError", "CROSSSLOT"),
    ("MovedError", "MOVED"),  # derived from AskError, so it comes first
    ("AskError", "ASK"),
)


def server_error_code(error: Exception) -> str:
    """The first word of the server's error, e.g. ``NOSCRIPT``; ``ERR`` where there is none."""
    text = _text_of(error)
    if text.removeprefix("NOAUTH ").startswith(_PASSWORD_WANTED):
        return "NOAUTH"
    names = {kind.__name__ for kind in type(error).__mro__}
    for name, code in _CODE_OF_CLASS:
        if name in names:
            return code
    if text.startswith(_FORBIDDEN_IN_SCRIPT):
        return "NOPERM"
    if text.startswith(_NO_DATABASE):
        return "ERR"
    word = text.split(" ", 1)[0].rstrip(":")
    return word if word.isalpha() and word.isupper() else "ERR"


def _text_of(error: Exception) -> str:
    return str(error).removeprefix("ERR ")


def server_error(error: Exception) -> StoreError:
    """An error reply of the server."""
    code = server_error_code(error)
    if code in _NOT_READY:
        return StoreNotReady(f"Redis cannot serve now ({code})", code=code)
    if code in _AUTHENTICATION:
        return AuthenticationFailed(_AUTHENTICATION[code], code=code)
    if code == "NOPERM":
        return PermissionDenied("the ACL of Redis forbids this user a command or key that is needed", code=code)
    if code == "WRONGTYPE":
        text = "a key under this prefix holds a value of another type: does something else write there?"
        return WrongKeyType(text, code=code)
    return StoreRefused(_why_refused(code, error), code=code)


def _why_refused(code: str, error: Exception) -> str:
    if _text_of(error).startswith(_NO_DATABASE):
        return "Redis has no database of this number: its index is out of range (a cluster has database 0 alone)"
    if code in ("MOVED", "ASK"):
        return "this server is a node of a cluster: connect to it with redis+cluster:// or a RedisCluster"
    return f"Redis refused a command ({code})"


def is_server_error(error: Exception) -> bool:
    """Whether the server answered (with an error), as opposed to the connection failing."""
    # redis-py derives AuthenticationError and BusyLoadingError from its ConnectionError.
    return isinstance(
        error, (redis_errors.ResponseError, redis_errors.AuthenticationError, redis_errors.BusyLoadingError)
    )


def place_of(connection: object) -> str | None:
    """Where a connection of redis-py leads, as errors may show it."""
    path = getattr(connection, "path", None)
    if path is not None:
        return f"the socket {path}"
    host = getattr(connection, "host", None)
    shown = f"[{host}]" if ":" in str(host) else host
    return None if host is None else f"{shown}:{getattr(connection, 'port', None)}"


def connect_error(error: Exception, place: str | None = None) -> StoreError:
    """A connection that could not be made, to ``place``."""
    at = f" at {place}" if place else ""
    if is_server_error(error):
        return server_error(error)
    if _has_certificate_error(error):
        return CertificateRejected("the TLS certificate of Redis could not be verified")
    if isinstance(error, (redis_errors.TimeoutError, TimeoutError)):
        return NotSent(f"connecting to Redis{at} took too long")
    if isinstance(error, redis_errors.InvalidResponse):
        return NotSent(f"what answers{at or ' there'} does not speak the protocol of Redis")
    if isinstance(error, redis_errors.ConnectionError) and str(error).startswith(_ENDED_AT_ONCE):
        return NotSent(f"the other side{at} hung up instead of answering: it may want TLS (rediss://)")
    return NotSent(f"could not connect to Redis{at} ({_what_the_system_says(error)})")


def _what_the_system_says(error: BaseException) -> str:
    """In its own fixed words: those of redis-py and asyncio repeat addresses."""
    kind = type(error).__name__
    for _ in range(_MOST_CAUSES):
        if isinstance(error, socket.gaierror):
            return "no name server answered" if error.errno == socket.EAI_AGAIN else "the name of the host is not known"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or type(error).__name__}"
        if isinstance(error, OSError):
            told = _NUMBER.search(str(error))  # asyncio's, of several addresses, has none of its own
            number = error.errno or (int(told[1]) if told else 0)
            return os.strerror(number).lower() if number in errno.errorcode else type(error).__name__
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error = below
    return kind


def lost_connection(error: BaseException) -> OutcomeUnknown:
    """A connection that broke after a command was sent on it."""
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("Redis stopped answering; the connection was given up")
    return OutcomeUnknown(f"the connection to Redis was lost ({type(error).__name__})")


def client_error(error: Exception) -> StoreError:
    """A failure inside a client that was given to us: whether the command was sent is not ours to know."""
    if is_server_error(error):
        return server_error(error)
    if _has_certificate_error(error):
        return CertificateRejected("the TLS certificate of Redis could not be verified")
    if isinstance(error, redis_errors.TimeoutError):
        return StoreTimeout("Redis did not answer within the client's own timeout", may_have_applied=True)
    if isinstance(error, (redis_errors.ConnectionError, OSError)):
        return _client_lost(error)
    if isinstance(error, (AttributeError, LookupError)):
        return OutcomeUnknown(f"the Redis client failed inside itself ({type(error).__name__})")
    return StoreRefused(f"the Redis client refused a command ({type(error).__name__})")


def _has_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _client_lost(error: Exception) -> StoreError:
    if type(error).__name__ == "MaxConnectionsError" or str(error).startswith(_NONE_LEFT):
        return NotSent("all connections to Redis that the client may have are busy")
    return OutcomeUnknown(f"the client lost its connection to Redis ({type(error).__name__})")
