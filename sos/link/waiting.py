"""What waits in a gateway for its core: operations by request id, and barrier rounds.

Knows no sockets. The rules are design.md 5 and protocols.md 5: once one attempt was unknown, only a
stored result or the deadline ends an operation; a barrier counts only if its round began after the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from sos import __version__
from sos.clock import Clock
from sos.errors import NoMajority, NotYet, OutcomeUnknown, QueueFull, Unavailable
from sos.limits import ENTRY_BYTES_TARGET, PROPOSALS_QUEUED_MAX, READ_BARRIER_S_MAX
from sos.link.protocol import Answer, Barrier

_LEADERLESS_S_MAX: Final = (
    READ_BARRIER_S_MAX  # without a leader this long: 503 (design, section 12)
)


class _Operation:
    """One proposal and what is known of its attempts."""

    __slots__ = (
        "command",
        "deadline",
        "first_index",
        "future",
        "is_flying",
        "leaderless_deadline",
        "request_id",
        "was_unknown",
    )

    def __init__(
        self,
        request_id: bytes,
        first_index: int,
        command: bytes,
        future: asyncio.Future[bytes],
        now: float,
        deadline_s: float,
    ) -> None:
        self.request_id = request_id
        self.first_index = first_index
        self.command = command
        self.future = future
        self.deadline = now + deadline_s
        self.leaderless_deadline = now + min(deadline_s, _LEADERLESS_S_MAX)
        self.is_flying = False  # sent on the present connection, not answered yet
        self.was_unknown = False


class Operations:
    """Operations of one gateway session, each under one request id until it is answered."""

    def __init__(self, *, clock: Clock, session: bytes) -> None:
        assert len(session) == 8
        self._clock = clock
        self._session = session
        self._count = 0
        self._waiting: dict[bytes, _Operation] = {}
        self._outbox: list[_Operation] = []

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= PROPOSALS_QUEUED_MAX

    def add(
        self, command: bytes, first_index: int, deadline_s: float, schedule: Callable[[], None]
    ) -> asyncio.Future[bytes]:
        """The stored result, to be awaited, which raises: Unavailable, OutcomeUnknown.

        A caller that is cancelled meanwhile leaves its operation in flight: it may take effect.
        """
        self._count += 1
        request_id = self._session + self._count.to_bytes(8, "big")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        operation = _Operation(
            request_id, first_index, command, future, self._clock.monotonic(), deadline_s
        )
        self._waiting[request_id] = operation
        self._outbox.append(operation)
        schedule()
        return future

    def take_batches(self) -> list[list[tuple[bytes, int, bytes]]]:
        """All that is to be sent, as (request id, first index, command); afterwards it counts as in flight.

        A batch ends once it holds ``ENTRY_BYTES_TARGET`` bytes, so that it fits into one frame.
        """
        if not self._outbox:
            return []
        outbox, self._outbox = self._outbox, []
        batches: list[list[tuple[bytes, int, bytes]]] = []
        rows: list[tuple[bytes, int, bytes]] = []
        size = 0
        for operation in outbox:
            if operation.future.done():  # expired or cancelled before it was sent (again)
                self._waiting.pop(operation.request_id, None)
                continue
            operation.is_flying = True
            rows.append((operation.request_id, operation.first_index, operation.command))
            size += len(operation.command)
            if size >= ENTRY_BYTES_TARGET:
                batches.append(rows)
                rows, size = [], 0
        if rows:
            batches.append(rows)
        return batches

    def answer(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Take the core's answers (request id, answer, payload); True when some are to be sent again."""
        is_retry_due = False
        for request_id, answer, payload in rows:
            operation = self._waiting.get(request_id)
            if operation is None:
                continue
            operation.is_flying = False
            if answer == Answer.RESULT:
                self._end(operation, payload)
            elif operation.future.done():
                del self._waiting[request_id]
            elif answer == Answer.QUEUE_FULL and not operation.was_unknown:
                self._end(operation, QueueFull("too many operations wait for the leader"))
            elif answer == Answer.NOT_YET and not operation.was_unknown:
                self._end(operation, NotYet(f"this needs every node at version {__version__}"))
            else:
                operation.was_unknown |= answer == Answer.UNKNOWN
                self._outbox.append(operation)
                is_retry_due = True
        return is_retry_due

    def connection_lost(self) -> None:
        """Whatever was in flight is unknown from now on, and goes out again first."""
        flying = [operation for operation in self._waiting.values() if operation.is_flying]
        for operation in flying:
            operation.is_flying = False
            operation.was_unknown = True
        self._outbox[:0] = flying

    def expire(self) -> None:
        """End what is over its deadline; a never-sent operation already when no leader shows up."""
        now = self._clock.monotonic()
        for operation in list(self._waiting.values()):
            is_definite = not operation.was_unknown and not operation.is_flying
            if operation.future.cancelled():
                if not operation.is_flying:
                    self._end(operation, None)
            elif is_definite and now >= operation.leaderless_deadline:
                self._end(operation, NoMajority("no leader took the operation in time"))
            elif now >= operation.deadline:
                self._end(operation, OutcomeUnknown("no answer within the commit deadline"))

    def end_all(self) -> None:
        """The link closes: nothing will be answered any more."""
        for operation in list(self._waiting.values()):
            is_unknown = operation.was_unknown or operation.is_flying
            error = OutcomeUnknown("closing") if is_unknown else Unavailable("closing")
            self._end(operation, error)
        self._outbox.clear()

    def _end(self, operation: _Operation, outcome: bytes | Exception | None) -> None:
        self._waiting.pop(operation.request_id, None)
        if operation.future.done():
            return
        if isinstance(outcome, Exception):
            operation.future.set_exception(outcome)
        else:
            assert outcome is not None
            operation.future.set_result(outcome)


class Rounds:
    """Barrier waiters of one gateway: one round in flight, later callers share the next one."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._next: list[tuple[float, asyncio.Future[Barrier]]] = []
        self._flying: list[tuple[float, asyncio.Future[Barrier]]] = []
        self._number = 0
        self._is_flying = False

    @property
    def has_waiters(self) -> bool:
        return bool(self._next)

    def join(self, deadline_s: float, schedule: Callable[[], None]) -> asyncio.Future[Barrier]:
        """The answer of the next round to begin, to be awaited, which raises Unavailable at the deadline."""
        future: asyncio.Future[Barrier] = asyncio.get_running_loop().create_future()
        self._next.append((self._clock.monotonic() + deadline_s, future))
        if not self._is_flying:
            schedule()
        return future

    def begin(self) -> int | None:
        """The number of a round to send now, or None when none is due."""
        if self._is_flying or not self._next:
            return None
        self._flying, self._next = self._next, []
        self._is_flying = True
        self._number += 1
        return self._number

    def passed(self, number: int, barrier: Barrier) -> None:
        """The round ``number`` succeeded: release its waiters."""
        if number != self._number or not self._is_flying:
            return
        self._is_flying = False
        flying, self._flying = self._flying, []
        for _, future in flying:
            if not future.done():
                future.set_result(barrier)

    def failed(self, number: int) -> None:
        """The round failed: its waiters join the next one until their deadlines."""
        if number == self._number and self._is_flying:
            self.connection_lost()

    def connection_lost(self) -> None:
        """No answer will come: the waiters join the next round."""
        self._is_flying = False
        self._next[:0] = self._flying
        self._flying = []

    def expire(self) -> None:
        """End waiters that are over their deadline."""
        now = self._clock.monotonic()
        for waiters in (self._flying, self._next):
            if waiters and waiters[0][0] <= now:
                for deadline, future in waiters:
                    if deadline <= now and not future.done():
                        future.set_exception(NoMajority("no read barrier within its deadline"))
        self._flying = [waiter for waiter in self._flying if not waiter[1].done()]
        self._next = [waiter for waiter in self._next if not waiter[1].done()]

    def end_all(self) -> None:
        """The link closes."""
        for _, future in self._flying + self._next:
            if not future.done():
                future.set_exception(Unavailable("closing"))
        self._flying, self._next = [], []
