"""From operations of gateways to log entries and back: groups them, forwards them, answers each once.

On the leader operations that wait together share an entry, several entries are in flight. On any other
node they go to the leader as one message, and its answers come back by request id. Whatever may have
reached the log is *unknown* until its stored result is here (design, section 5).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sos.catalog.codec import command_level, decode_result, encode_command, encode_entry
from sos.catalog.model import Command, NodeId, Operation, Rejection, RequestId, Result
from sos.clock import Clock
from sos.core.messages import encode_answers, encode_proposals
from sos.errors import OutcomeUnknown
from sos.levels import FIRST
from sos.limits import COMMIT_S_MAX, ENTRY_BYTES_TARGET, PROPOSALS_QUEUED_MAX
from sos.link.protocol import Answer, answer_of
from sos.link.waiting import Operations
from sos.raft.api import Applied, ProposeOutcome, Refused, RefusedReason

# Entries on their way at a time. One is slow (32 operations in one entry: 3,700/s, in 32: 7,008/s);
# many small ones cost more CPU than the grouping saves.
_ENTRIES_IN_FLIGHT_MAX: Final = 8
_RETRY_S: Final = 0.025

Row = tuple[bytes, int, bytes]  # request id, first index, command


class Origin(Protocol):
    """Who waits for the answer of an operation."""

    def answer(self, request_id: bytes, answer: Answer, payload: bytes = b"") -> None: ...


class Consensus(Protocol):
    """What the proposer needs of Raft."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> str | None: ...

    def propose(self, payload: bytes, done: Callable[[ProposeOutcome], None]) -> None: ...

    def send_app(self, peer: str, payload: bytes) -> bool: ...


class Proposer:
    """Operations on their way through this core."""

    def __init__(
        self, raft: Consensus, *, clock: Clock, lowest_level: Callable[[], int] = lambda: FIRST
    ) -> None:
        """``lowest_level``: what every member applies (``sos.levels``); asked for when that is in question."""
        self._raft = raft
        self._clock = clock
        self._lowest_level = lowest_level
        self.level = FIRST  # the highest that went into the log from here
        self._queue: deque[tuple[Row, Origin]] = deque()
        self._in_flight = 0
        self._is_pump_due = False
        self._forwarded: dict[bytes, tuple[str, Origin, float]] = {}  # leader, origin, deadline
        self._loop = asyncio.get_running_loop()
        self.operations_count = 0
        self.entries_count = 0
        self.on_committed: Callable[[float], None] = _ignore  # seconds that an entry took

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def submit(self, rows: Sequence[Row], origin: Origin) -> None:
        """Take operations of ``origin``; each is answered some time, at once when that is certain."""
        if self._raft.is_leader:
            self.enqueue(rows, origin)
        else:
            self._forward(rows, origin)

    def enqueue(self, rows: Sequence[Row], origin: Origin) -> None:
        """Queue operations on the leader."""
        room = PROPOSALS_QUEUED_MAX - len(self._queue)
        if not self._raft.is_leader:
            for row in rows:
                origin.answer(row[0], Answer.NO_LEADER)
            return
        for row in rows[:room]:
            if self._may_propose(row[2]):
                self._queue.append((row, origin))
            else:
                origin.answer(row[0], Answer.NOT_YET)
        for row in rows[room:]:
            origin.answer(row[0], Answer.QUEUE_FULL)
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self.pump)

    def _may_propose(self, command: bytes) -> bool:
        """Whether every member can apply it; nothing else may enter the log, where no node can step over it."""
        level = command_level(command)
        if level > FIRST and level > self._lowest_level():
            return False
        self.level = max(self.level, level)
        return True

    def pump(self) -> None:
        """Propose what waits, as long as entries may go."""
        self._is_pump_due = False
        while self._queue and self._in_flight < _ENTRIES_IN_FLIGHT_MAX:
            batch: list[tuple[Row, Origin]] = []
            operations: list[Operation] = []
            size = 0
            while self._queue and size < ENTRY_BYTES_TARGET:
                waiting = self._queue.popleft()
                request_id, first_index, command = waiting[0]
                batch.append(waiting)
                operations.append(
                    Operation(
                        request_id=RequestId(request_id), first_index=first_index, command=command
                    )
                )
                size += len(command)
            self._in_flight += 1
            self.entries_count += 1
            self.operations_count += len(batch)
            self._raft.propose(encode_entry(operations), _Done(self, batch))

    def entry_done(self, batch: list[tuple[Row, Origin]], outcome: ProposeOutcome) -> None:
        """Called by Raft, in its tick: answer every operation of one entry."""
        self._in_flight -= 1
        if isinstance(outcome, Applied):
            results = outcome.result
            assert isinstance(results, list)
            assert len(results) == len(batch)
            for (row, origin), result in zip(batch, results, strict=True):
                origin.answer(row[0], Answer.RESULT, result)
        else:
            answer = _answer_of(outcome)
            for row, origin in batch:
                origin.answer(row[0], answer)
        if self._queue and not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self.pump)

    # --- to the leader and back -------------------------------------------------------------------
    def _forward(self, rows: Sequence[Row], origin: Origin) -> None:
        leader = self._raft.leader
        if leader is None:
            for row in rows:
                origin.answer(row[0], Answer.NO_LEADER)
            return
        if len(self._forwarded) + len(rows) > PROPOSALS_QUEUED_MAX:
            for row in rows:
                origin.answer(row[0], Answer.QUEUE_FULL)
            return
        deadline = self._clock.monotonic() + COMMIT_S_MAX
        for row in rows:
            self._forwarded[row[0]] = (leader, origin, deadline)
        if not self._raft.send_app(leader, encode_proposals(rows)):
            for row in rows:
                del self._forwarded[row[0]]
                origin.answer(row[0], Answer.NO_LEADER)

    def take_answers(self, peer: str, rows: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Answers of ``peer`` to forwarded operations; one of an earlier leader is as good."""
        for request_id, answer, payload in rows:
            waiting = self._forwarded.pop(request_id, None)
            if waiting is not None:
                waiting[1].answer(request_id, answer_of(answer), payload)

    def give_up(self, is_lost: Callable[[str], bool]) -> None:
        """Answer *unknown* for what went to a leader that is no longer one, or not connected."""
        if not self._forwarded:
            return
        for request_id, (leader, origin, _) in list(self._forwarded.items()):
            if is_lost(leader):
                del self._forwarded[request_id]
                origin.answer(request_id, Answer.UNKNOWN)

    def expire(self) -> None:
        """Answer *unknown* for what was forwarded and not answered in time."""
        now = self._clock.monotonic()
        for request_id, (_, origin, deadline) in list(self._forwarded.items()):
            if deadline > now:
                break  # in order of deadline
            del self._forwarded[request_id]
            origin.answer(request_id, Answer.UNKNOWN)

    def refuse_waiting(self) -> None:
        """No longer leader: what never became an entry was certainly not applied."""
        queue, self._queue = self._queue, deque()
        for row, origin in queue:
            origin.answer(row[0], Answer.NO_LEADER)


class _Done:
    """One entry's callback: cheaper than a closure over the loop variables."""

    __slots__ = ("_batch", "_proposed", "_proposer")

    def __init__(self, proposer: Proposer, batch: list[tuple[Row, Origin]]) -> None:
        self._proposer = proposer
        self._batch = batch
        self._proposed = time.perf_counter()

    def __call__(self, outcome: ProposeOutcome) -> None:
        if isinstance(outcome, Applied):
            self._proposer.on_committed(time.perf_counter() - self._proposed)
        self._proposer.entry_done(self._batch, outcome)


def _ignore(seconds: float) -> None:
    """Nobody counts."""


def _answer_of(outcome: ProposeOutcome) -> Answer:
    """House style, section 6: the commit results."""
    if isinstance(outcome, Refused):
        is_full = outcome.reason is RefusedReason.QUEUE_FULL
        return Answer.QUEUE_FULL if is_full else Answer.NO_LEADER
    return Answer.UNKNOWN


class RemoteOrigin:
    """A peer that forwarded operations; answers of one loop turn leave in one message."""

    def __init__(self, raft: Consensus, peer: NodeId) -> None:
        self._raft = raft
        self._peer = peer
        self._answers: list[tuple[bytes, int, bytes]] = []
        self._loop = asyncio.get_running_loop()

    def answer(self, request_id: bytes, answer: Answer, payload: bytes = b"") -> None:
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append((request_id, int(answer), payload))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        for start in range(0, len(answers), 1000):
            # A lost message is an unknown outcome over there, and the same request id comes again.
            self._raft.send_app(self._peer, encode_answers(answers[start : start + 1000]))


class OwnProposals:
    """Commands of the core itself (holder reports, sweep floor, access keys), resent like a gateway's."""

    def __init__(
        self, proposer: Proposer, *, clock: Clock, session: bytes, applied: Callable[[], int]
    ) -> None:
        self._proposer = proposer
        self._operations = Operations(clock=clock, session=session)
        self._applied = applied
        self._loop = asyncio.get_running_loop()

    async def propose(self, command: Command, *, deadline_s: float = COMMIT_S_MAX) -> Result:
        """The stored result. Raises: Unavailable, OutcomeUnknown."""
        payload = await self._operations.add(
            encode_command(command), self._applied(), deadline_s, self._flush
        )
        result = decode_result(payload)
        if result is Rejection.TOO_OLD_TO_REMEMBER:
            raise OutcomeUnknown("the catalog no longer remembers this command")
        return result

    def answer(self, request_id: bytes, answer: Answer, payload: bytes = b"") -> None:
        """Called by the proposer."""
        if self._operations.answer([(request_id, answer, payload)]):
            self._loop.call_later(_RETRY_S, self._flush)

    def expire(self) -> None:
        self._operations.expire()

    def _flush(self) -> None:
        for rows in self._operations.take_batches():
            self._proposer.submit(rows, self)
