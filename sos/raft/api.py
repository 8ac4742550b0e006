"""The types that the users of Raft see; whoever needs an interface declares it here (StateMachine, Links)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from sos.errors import EXIT_DAMAGE, StartRefused
from sos.limits import (
    COMMIT_S_MAX,
    ELECTION_S_MAX,
    ELECTION_S_MIN,
    HEARTBEAT_S,
    LEADER_FALLBACK_S,
    PEER_UNACKED_BYTES_MAX,
    PROPOSALS_QUEUED_MAX,
    RAFT_BATCH_BYTES,
    READ_BARRIER_S_MAX,
)
from sos.values import value

NodeId: TypeAlias = str  # "name@incarnation" (protocols.md 1)


class EntryKind(Enum):
    """What a log entry carries; the value is the first byte of its payload. A NO_OP has none."""

    NOOP = 0
    OPERATIONS = 1
    MEMBERS = 2


@value()
class LogEntry:
    """A committed entry. ``payload`` includes its kind byte; that of a NO_OP is empty."""

    index: int
    term: int
    kind: EntryKind
    payload: bytes


Entry: TypeAlias = tuple[
    bytes, int, int
]  # command, index, term: what the library reads by position


class Log(Protocol):
    """What the engine needs of the journal beyond the library's own interface."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    def term_at(self, index: int, /) -> int: ...
    def read_entries(self, first: int, count_max: int, bytes_max: int) -> list[Entry]: ...
    def add(self, command: bytes, idx: int, term: int) -> None: ...
    def sync(self) -> None: ...
    def reset_to(self, entries: list[Entry]) -> None: ...
    def hold_from(self, index: int | None) -> None: ...
    def deleteEntriesTo(self, entryTo: int) -> None: ...
    def getRaftCommitIndex(self) -> int: ...
    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...
    def getCurrentTerm(self) -> int: ...
    def close(self) -> None: ...


class StateMachine(Protocol):
    """What the log is applied to. Any exception out of it stops the process."""

    def applied(self) -> tuple[int, int]:
        """(index, term) of the last entry whose effects are in the state."""
        ...

    def apply(self, entries: Sequence[LogEntry], /, *, hold: bool = False) -> Sequence[object]:
        """Apply ``entries`` in one transaction that also stores (index, term) of the last.

        ``hold``: the transaction stays open for more, and nothing of it shows before ``commit``.
        Returns: one result per entry, also for NO_OPs. They follow from the log alone, so they are final before
        the commit: after a crash the entries are applied again, with the same results.
        """
        ...

    def commit(self) -> None:
        """End the transaction that is held, if any: ``applied`` and all reads show it from now on."""
        ...


class Links(Protocol):
    """Authenticated connections to peers; at most one per peer is live."""

    def send(self, peer: NodeId, frame: bytes, /) -> bool:
        """Queue a frame, in order, within the present connection; False: it certainly will not go."""
        ...

    def flush(self) -> None:
        """Let what is queued leave now: what follows keeps this thread busy."""
        ...


class RefusedReason(Enum):
    """Why a proposal has certainly no effect, now or later."""

    NOT_LEADER = "not_leader"
    QUEUE_FULL = "queue_full"
    DISCARDED = "discarded"  # another leader's entry took its place in the log
    MEMBERS_RULE = "members_rule"  # a member list that the rules forbid (protocols.md 3)


@value()
class Applied:
    """Durable on a majority and applied here; ``result`` is what the state machine returned."""

    index: int
    term: int
    result: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Certainly not applied, ever: safe to propose again."""

    reason: RefusedReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Perhaps applied, perhaps later: only the same request id may be proposed again."""


ProposeOutcome: TypeAlias = Applied | Refused | Unknown
ProposeDone: TypeAlias = Callable[[ProposeOutcome], None]
BarrierDone: TypeAlias = Callable[[int | None], None]


class LogDetached(StartRefused):
    """Journal and state machine do not belong together: come back as a wiped member (protocols.md 1.2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=EXIT_DAMAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Times in seconds and bounds; tests make them small."""

    election_s_min: float = ELECTION_S_MIN
    election_s_max: float = ELECTION_S_MAX
    heartbeat_s: float = HEARTBEAT_S
    leader_fallback_s: float = LEADER_FALLBACK_S
    barrier_s_max: float = READ_BARRIER_S_MAX
    commit_s_max: float = COMMIT_S_MAX
    batch_bytes: int = RAFT_BATCH_BYTES
    unacked_bytes_max: int = PEER_UNACKED_BYTES_MAX
    proposals_max: int = PROPOSALS_QUEUED_MAX
    apply_entries_max: int = 1024  # one turn of apply; more would silence the tick
    apply_bytes_max: int = RAFT_BATCH_BYTES
    apply_gather_s: float = 0.0  # so long applied entries may wait for more to share a commit
    # Free bytes below which a node takes no entries, and neither votes nor hears of a new term: whatever needs the
    # disk waits for space instead of ending the process. 0: it is never asked.
    entry_room_bytes: int = 0
    vote_room_bytes: int = 0
    uncommitted_entries_max: int = (
        2 * PROPOSALS_QUEUED_MAX
    )  # a leader without quorum must not fill the log


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer as this node sees it; ``match_index`` and ``heard_s_ago`` are known to a leader only."""

    node: NodeId
    voter: bool
    learner: bool
    connected: bool
    match_index: int | None
    heard_s_ago: float | None
