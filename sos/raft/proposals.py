"""From a proposal to its outcome: queued, appended by a leader, answered when its index is applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sos.clock import Clock
from sos.failpoints import hit
from sos.raft.api import (
    Applied,
    Entry,
    EntryKind,
    Log,
    ProposeDone,
    RaftSettings,
    Refused,
    RefusedReason,
    Unknown,
)
from sos.raft.engine import COMMAND, SosRaft
from sos.raft.membership import Membership

PROPOSED_KINDS: Final = {kind.value: kind for kind in EntryKind if kind is not EntryKind.NOOP}


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A proposal that is in the log."""

    term: int
    done: ProposeDone
    deadline_s: float


class Proposals:
    """Every proposal gets exactly one outcome, at the latest by its deadline."""

    def __init__(
        self,
        *,
        core: SosRaft,
        log: Log,
        membership: Membership,
        clock: Clock,
        settings: RaftSettings,
    ) -> None:
        self._core = core
        self._log = log
        self._membership = membership
        self._clock = clock
        self._settings = settings
        self._queue: deque[tuple[bytes, ProposeDone]] = deque()
        self._waiting: dict[int, _Waiting] = {}  # by index, in order of time
        self.held_until_s = float("-inf")  # a hand-over is under way

    @property
    def are_queued(self) -> bool:
        return bool(self._queue)

    @property
    def are_held(self) -> bool:
        return self.held_until_s > self._clock.monotonic()

    def add(self, payload: bytes, done: ProposeDone) -> bool:
        """Queue ``payload``; False if it was refused at once."""
        assert payload[0] in PROPOSED_KINDS
        hit("raft.propose.before")
        if not self._core.is_leader():
            done(Refused(reason=RefusedReason.NOT_LEADER))
            return False
        if len(self._queue) >= self._settings.proposals_max:
            done(Refused(reason=RefusedReason.QUEUE_FULL))
            return False
        self._queue.append((payload, done))
        return True

    def take(self) -> bool:
        """Append what waits to the log; True if there is something new to send."""
        core, log, queue = self._core, self._log, self._queue
        if not core.is_leader():
            self.refuse_queued()
            return False
        now = self._clock.monotonic()
        if self.held_until_s > now:
            return False
        term = core.term()
        deadline_s = now + self._settings.commit_s_max
        room = core.commit_index() + self._settings.uncommitted_entries_max - log.last_index
        is_new = False
        while queue and room > 0:
            payload, done = queue.popleft()
            index = log.last_index + 1
            if payload[0] == EntryKind.MEMBERS.value and not self._membership.append_own(
                index, payload
            ):
                done(Refused(reason=RefusedReason.MEMBERS_RULE))
                continue
            log.add(COMMAND + payload, index, term)
            replaced = self._waiting.pop(index, None)  # of an earlier term, cut since
            if replaced is not None:
                replaced.done(Unknown())
            self._waiting[index] = _Waiting(term, done, deadline_s)
            room -= 1
            is_new = True
            hit("raft.propose.after")
        return is_new

    def answer(self, entries: Sequence[Entry], results: Sequence[object]) -> None:
        """``entries`` were applied. Another term's entry at a proposal's index: it never will be."""
        waiting = self._waiting
        if not waiting:
            return
        for (_, index, term), result in zip(entries, results, strict=True):
            waiter = waiting.pop(index, None)
            if waiter is None:
                continue
            if waiter.term == term:
                waiter.done(Applied(index=index, term=term, result=result))
            else:
                waiter.done(Refused(reason=RefusedReason.DISCARDED))

    def skipped_to(self, index: int) -> None:
        """A snapshot jumped over everything up to ``index``: nobody will see what was applied there."""
        for at in [at for at in self._waiting if at <= index]:
            self._waiting.pop(at).done(Unknown())

    def sweep(self, now: float) -> None:
        """End what waits too long."""
        while self._waiting:
            index = next(iter(self._waiting))
            if self._waiting[index].deadline_s > now:
                break
            self._waiting.pop(index).done(Unknown())

    def refuse_queued(self) -> None:
        """What is not in the log has certainly no effect."""
        while self._queue:
            self._queue.popleft()[1](Refused(reason=RefusedReason.NOT_LEADER))

    def close(self) -> None:
        """Answer everybody."""
        self.refuse_queued()
        for waiting in self._waiting.values():
            waiting.done(Unknown())
        self._waiting.clear()
