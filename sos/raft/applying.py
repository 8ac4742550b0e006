"""From committed to applied: bounded batches, answered at once, in transactions that gather for a moment.

An entry that is committed in the log has its result as soon as the state machine worked it out, so proposers do
not wait for the state machine's own commit. Reads do: ``applied_index`` rises with that commit.
"""

from __future__ import annotations

from collections.abc import Callable

from sos.clock import Clock
from sos.errors import EXIT_BUG, FatalStop
from sos.levels import UNKNOWN, check_level
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
        # In the state machine's open transaction, unless that is applied already.
        self._held_index = 0
        # When what is not applied yet is committed at the latest.
        self._commit_at_s: float | None = None
        self._wanted_index = 0  # somebody waits until this is applied

    def want(self, index: int) -> None:
        """Somebody waits for ``index``: it is not gathered with later ones."""
        self._wanted_index = max(self._wanted_index, index)

    def turn(self) -> bool:
        """Apply a bounded number of entries, answer their proposers, and commit if that is due.

        Returns: whether the followers should hear of the commit index now.
        """
        core = self._core
        commit_index, applied = core.commit_index(), core.applied_index()
        if commit_index <= applied:
            return False
        held, leads = max(self._held_index, applied), core.is_leader()
        is_due = self._is_due(commit_index - applied, applied)
        # of a follower nobody waits for results
        is_news = commit_index > held and (leads or is_due)
        if is_news:
            held = self._held_index = self._apply_from(held + 1, commit_index)
            is_due = is_due or applied < self._wanted_index
            if held < commit_index:
                self._wake()
        if is_due:
            self._commit_at_s = None
            self._machine.commit()
            core.set_applied(held)
            self._membership.applied(held)
        # with nothing on its way, no append would tell the followers before the next heartbeat
        return is_news and leads and self._log.last_index == commit_index

    def _apply_from(self, first: int, commit_index: int) -> int:
        """Apply entries from ``first`` on in the open transaction; the index of the last."""
        self._log.sync()  # nothing is applied or answered before the own copy is durable
        settings = self._settings
        count = min(commit_index + 1 - first, settings.apply_entries_max)
        entries = self._log.read_entries(first, count, settings.apply_bytes_max)
        log_entries = [_log_entry(entry) for entry in entries]
        results = self._machine.apply(log_entries, hold=True)
        for entry in log_entries:
            if entry.kind is EntryKind.MEMBERS:  # who acts on a list finds it in the catalog
                self.want(entry.index)
        if len(results) != len(entries):
            raise FatalStop("the state machine lost count of its entries", exit_code=EXIT_BUG)
        self._proposals.answer(entries, results)
        return entries[-1][1]

    def _is_due(self, count: int, applied: int) -> bool:
        """Whether the ``count`` entries after ``applied`` are to be committed now.

        Somebody waits for one of them, they are enough, or the first of them waited for ``apply_gather_s``.
        """
        settings, now = self._settings, self._clock.monotonic()
        if self._commit_at_s is None:
            self._commit_at_s = now + settings.apply_gather_s
        return (
            applied < self._wanted_index
            or count >= settings.apply_entries_max
            or now >= self._commit_at_s
        )


def _log_entry(entry: Entry) -> LogEntry:
    command, index, term = entry
    if command == NO_OP:
        return LogEntry(index=index, term=term, kind=EntryKind.NOOP, payload=b"")
    kind = PROPOSED_KINDS.get(command[1]) if command[:1] == COMMAND and len(command) > 1 else None
    if kind is None and command[:1] == COMMAND:
        check_level(f"log entry {index}", UNKNOWN)
    if kind is None:
        raise FatalStop(f"entry {index} is of an unknown kind", exit_code=EXIT_BUG)
    return LogEntry(index=index, term=term, kind=kind, payload=command[1:])
