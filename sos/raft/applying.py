"""From committed to applied: bounded batches, gathered for a moment, with the proposers' answers behind them."""

from __future__ import annotations

from collections.abc import Callable

from sos.clock import Clock
from sos.errors import EXIT_BUG, FatalStop
from sos.raft.api import Entry, EntryKind, Log, LogEntry, RaftSettings, StateMachine
from sos.raft.engine import COMMAND, NO_OP, SosRaft
from sos.raft.membership import Membership
from sos.raft.proposals import PROPOSED_KINDS, Proposals


class Applying:
    """Brings committed entries to the state machine, each exactly once."""

    def __init__(
        self,
        *,
        core: SosRaft,
        log: Log,
        machine: StateMachine,
        membership: Membership,
        proposals: Proposals,
        clock: Clock,
        settings: RaftSettings,
        wake: Callable[[], None],
    ) -> None:
        self._core = core
        self._log = log
        self._machine = machine
        self._membership = membership
        self._proposals = proposals
        self._clock = clock
        self._settings = settings
        self._wake = wake
        self._gather_until_s: float | None = None  # committed entries wait for more
        self._wanted_index = 0  # somebody waits until this is applied

    def want(self, index: int) -> None:
        """Somebody waits for ``index``: it is not gathered with later ones."""
        self._wanted_index = max(self._wanted_index, index)

    def turn(self) -> bool:
        """Apply a bounded number of entries in one transaction, then answer their proposers.

        Returns: whether the followers should hear of the commit index now.
        """
        core = self._core
        commit_index, applied = core.commit_index(), core.applied_index()
        if commit_index <= applied or self._gathers(commit_index, applied):
            return False
        self._log.sync()  # nothing is applied or answered before the own copy is durable
        settings = self._settings
        count = min(commit_index - applied, settings.apply_entries_max)
        entries = self._log.read_entries(applied + 1, count, settings.apply_bytes_max)
        results = self._machine.apply([_log_entry(entry) for entry in entries])
        if len(results) != len(entries):
            raise FatalStop("the state machine lost count of its entries", exit_code=EXIT_BUG)
        last = entries[-1][1]
        core.set_applied(last)
        self._membership.applied(last)
        self._proposals.answer(entries, results)
        if last < commit_index:
            self._wake()
        # with nothing on its way, no append would tell the followers before the next heartbeat
        return core.is_leader() and self._log.last_index == commit_index

    def _gathers(self, commit_index: int, applied: int) -> bool:
        """Whether to leave committed entries for a moment, so that more share a transaction and its sync.

        A leader, for whose clients apply is the answer, goes on once half of what is under way is committed; a
        follower when somebody asks (``want``). Both do after ``apply_gather_s``.
        """
        settings, now = self._settings, self._clock.monotonic()
        if self._gather_until_s is None:
            self._gather_until_s = now + settings.apply_gather_s
        ready = commit_index - applied
        is_enough = applied < self._wanted_index
        if self._core.is_leader():
            is_enough |= ready >= self._log.last_index - commit_index
        if is_enough or now >= self._gather_until_s or ready >= settings.apply_entries_max:
            self._gather_until_s = None
            return False
        return True


def _log_entry(entry: Entry) -> LogEntry:
    command, index, term = entry
    if command == NO_OP:
        return LogEntry(index=index, term=term, kind=EntryKind.NOOP, payload=b"")
    kind = PROPOSED_KINDS.get(command[1]) if command[:1] == COMMAND and len(command) > 1 else None
    if kind is None:
        raise FatalStop(f"entry {index} is of an unknown kind", exit_code=EXIT_BUG)
    return LogEntry(index=index, term=term, kind=kind, payload=command[1:])
