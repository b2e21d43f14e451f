"""The scripts over several limits, called as directly as redis-py allows, on several servers at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from limiter_driver import CAP, evaluate
from redis import Redis
from windows_model import Answer

RECORD_TTL_MS = 600_000

_numbers = count()


class LimitsUser:
    """One user of several limits, with keys that no other test has. All servers must answer alike.

    Costs and what was used are given by limit; ``slots`` is None where reservations are not counted.
    """

    def __init__(
        self, *clients: Redis, budgets: Sequence[tuple[int, int]], slots: int | None = None, cap: int = CAP
    ) -> None:
        self.clients, self.budgets, self.slots, self.cap = clients, budgets, slots, cap
        self._settlements = count()
        self.tag = f"ractogateway:test:{{limits {next(_numbers)}}}"
        self.logs = [f"{self.tag}:log{place}" for place in range(len(budgets))]
        self.leases = [] if slots is None else [f"{self.tag}:leases"]
        self.queue = [f"{self.tag}:queue", f"{self.tag}:queue:ends"]

    def acquire(self, now_us: int | str, costs: Sequence[int], operation: object, lease_ms: int = 60_000) -> Answer:
        arguments = [RECORD_TTL_MS, self.cap, now_us, str(operation), lease_ms, len(self.logs), *self._limits(costs)]
        if self.slots is not None:
            arguments.append(self.slots)
        return _answer(self.ask("acquire", [self.record(operation), *self.logs, *self.leases], arguments))

    def peek(self, now_us: int | str, costs: Sequence[int]) -> Answer:
        return _answer(self.ask("peek_all", [self.logs[0], *self.logs], [now_us, *self._limits(costs)]))

    def settle(
        self, now_us: int | str, charged: Sequence[int], actual: Sequence[int], operation: object, *, mark: str = ""
    ) -> bool:
        """``mark`` is 'c' or 'x' and a name; by default it is settled under a name of its own."""
        mark = mark or f"c{next(self._settlements)}"
        figures = [
            figure
            for (_, window_ms), *each in zip(self.budgets, charged, actual, strict=True)
            for figure in (window_ms, *each)
        ]
        arguments = [RECORD_TTL_MS, self.cap, now_us, str(operation), mark, len(self.logs), *figures]
        return self.ask("settle", [self.record(operation), *self.logs, *self.leases], arguments) == 1

    def renew(self, now_us: int | str, operation: object, lease_ms: int) -> bool:
        arguments = [RECORD_TTL_MS, lease_ms, str(operation), now_us]
        return self.ask("renew", [self.record(operation), *self.leases], arguments) == 1

    def wait_turn(
        self, now_us: int | str, costs: Sequence[int], name: str, *, longest_ms: int = 2000, by_request: int = 0
    ) -> tuple[int, Answer]:
        """``name`` has 16 bytes. How long to sleep, and the answer."""
        assert len(name) == 16
        arguments = [RECORD_TTL_MS, self.cap, now_us, name, longest_ms, 1000, by_request, len(self.logs)]
        keys = [self.record(name), *self.logs, *self.queue]
        sleep_ms, *answer = self.ask("wait_turn", keys, [*arguments, *self._limits(costs)])
        return sleep_ms, _answer(answer)

    def leave(self, name: str, tokens: int) -> bool:
        return self.ask("leave_queue", self.queue, [f"{name}{tokens}"]) == 1

    def reset(self) -> None:
        for client in self.clients:
            client.unlink(*self.logs, *self.leases)

    def record(self, operation: object) -> str:
        return f"{self.tag}:op:{operation}"

    def entries(self) -> float:
        """Of the longest log."""
        return max(max(0, client.strlen(log) - 36) / 14 for client in self.clients for log in self.logs)

    def stored(self, operation: object) -> list[object]:
        """The keys' contents and the times at which they expire: equal if and only if nothing was written."""
        replies: list[object] = []
        for client in self.clients:
            pipeline = client.pipeline(transaction=False)
            for key in [*self.logs, *self.leases, self.record(operation)]:
                pipeline.dump(key)
                pipeline.execute_command("PEXPIRETIME", key)
            replies += pipeline.execute()
        return replies

    def ask(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        replies = [evaluate(client, script, keys, arguments) for client in self.clients]
        assert all(reply == replies[0] for reply in replies), f"the servers differ: {replies}"
        return replies[0]

    def _limits(self, costs: Sequence[int]) -> list[int]:
        return [
            figure
            for (limit, window_ms), cost in zip(self.budgets, costs, strict=True)
            for figure in (limit, window_ms, cost)
        ]


def _answer(reply: list[int]) -> Answer:
    return Answer(*reply[:4], tuple(reply[4:]))
