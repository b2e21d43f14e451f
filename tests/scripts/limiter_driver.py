"""The limiter's scripts, called as directly as redis-py allows, on several servers at once, by a clock of the test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from limiter_model import Decision
from redis import Redis
from redis.exceptions import NoScriptError

from ractogateway.redis.scripts.loading import load

START_US = 1_700_000_000_000_000
"""When the tests' clocks start. The servers' own clocks only make keys expire, later than any test runs."""
CAP = 120
OPERATION_TTL_MS = 600_000

_numbers = count()


class ScriptUser:
    """One user of the limiter, with keys that no other test has. All servers must answer alike."""

    def __init__(self, *clients: Redis, cap: int = CAP, tag: str = "ractogateway:test") -> None:
        self.clients, self.cap = clients, cap
        self.tag = f"{tag}:{{{next(_numbers)}}}"
        self.log = f"{self.tag}:log"
        self._operations = count()

    def consume(self, now_us: int | str, limit: int, window_ms: int, cost: int, operation: object = None) -> Decision:
        """Charge; without ``operation`` under a name of its own. ``now_us`` may be '' for the server's clock."""
        name = f"own-{next(self._operations)}" if operation is None else operation
        return _decision(self.ask("consume", *self.consume_call(now_us, limit, window_ms, cost, name)))

    def consume_call(
        self, now_us: int | str, limit: int, window_ms: int, cost: int, operation: object
    ) -> tuple[list[str], list[Any]]:
        arguments = [limit, window_ms, cost, OPERATION_TTL_MS, self.cap, now_us]
        return [self.log, self.operation(operation)], arguments

    def peek(self, now_us: int | str, limit: int, window_ms: int, cost: int = 0) -> Decision:
        return _decision(self.ask("peek", [self.log], [limit, window_ms, cost, now_us]))

    def operation(self, operation: object) -> str:
        return f"{self.tag}:{operation}"

    def entries(self) -> float:
        """Of the longest log."""
        return max(max(0, client.strlen(self.log) - 36) / 14 for client in self.clients)

    def stored(self, operation: object = None) -> list[object]:
        """The keys' contents and the times at which they expire: equal if and only if nothing was written."""
        keys = [self.log] if operation is None else [self.log, self.operation(operation)]
        replies: list[object] = []
        for client in self.clients:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.dump(key)
                pipeline.execute_command("PEXPIRETIME", key)
            replies += pipeline.execute()
        return replies

    def ask(self, script: str, keys: list[str], arguments: list[Any]) -> list[int]:
        replies = [evaluate(client, script, keys, arguments) for client in self.clients]
        assert all(reply == replies[0] for reply in replies), f"the servers differ: {replies}"
        return replies[0]


def evaluate(client: Redis, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
    """Run a script by its digest; a peek read-only, which fails at the first write, where the server can."""
    command = "EVALSHA_RO" if script.startswith("peek") and type(client) is Redis else "EVALSHA"
    call = (command, load(f"limiter/{script}").sha1, len(keys), *keys, *arguments)
    try:
        return client.execute_command(*call)
    except NoScriptError:
        client.script_load(load(f"limiter/{script}").source)
        return client.execute_command(*call)


def run_all(client: Redis, calls: list[tuple[list[str], list[Any]]]) -> list[Decision]:
    """Many consumes, in pipelines."""
    sha = client.script_load(load("limiter/consume").source)
    replies: list[Any] = []
    for start in range(0, len(calls), 500):
        pipeline = client.pipeline(transaction=False)
        for keys, arguments in calls[start : start + 500]:
            pipeline.execute_command("EVALSHA", sha, len(keys), *keys, *arguments)
        replies += pipeline.execute()
    return [_decision(reply) for reply in replies]


def _decision(reply: list[int]) -> Decision:
    return Decision(reply[0] == 1, *reply[1:])
