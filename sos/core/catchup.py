"""The leader's care for every member's blobs: which one to compare, what it owes, whether it is in sync.

Decides only; a resync itself is a job of the leader's gateway 0. The full comparison is the truth, the owed
list only saves time: a member is compared in full after each (re)connection, whenever it may have lost copies
without a word to the catalog (its *doubt* rises, or its gateway is away), and once an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sos.catalog.model import NodeId
from sos.clock import Clock
from sos.telemetry import log

_OWED_S: Final = 1.0  # late answers of a write arrive within this, and need no resync
_IN_SYNC_OWED_S: Final = 5.0  # design, section 5
_RETRY_S: Final = 1.0
_RETRY_S_MAX: Final = (
    30.0  # of blobs that nobody can give now: asked for again at once when members come or go
)
_COMPARE_AGAIN_S: Final = 3600.0  # finds files that went while nobody read them
_SHOWN: Final = ("blobs_done", "blobs_total", "bytes_done", "bytes_total")
_JOBS_MAX: Final = 2  # members resynced at a time: the foreground keeps most of the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """What the leader knows of one member now; ``owed`` is None when the catalog has no row for it."""

    node: NodeId
    is_connected: bool
    has_gateway: bool
    is_caught_up: bool  # near enough to begin with its blobs
    is_up_to_date: bool
    doubt: int  # other than at the last comparison: that one no longer counts
    blobs_owed: int
    bytes_owed: int
    is_listed: bool = (
        True  # else a learner: it owes nothing yet, and misses what is named meanwhile
    )


@dataclass(slots=True)
class _Care:
    """One member or learner, while it stays connected and this node leads."""

    compared_at: float | None = None
    compared_doubt: int = 0
    compared_listed: bool = True
    owed_since: float | None = None
    job_id: int | None = None
    failures: int = 0  # in a row
    retry_at: float = 0.0
    started: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)


StartJob = Callable[[str, dict[str, Any], Callable[[bool, dict[str, Any]], None]], int | None]
CancelJob = Callable[[int], None]


class CatchUp:
    """Driven twice a second while this node leads; forgets everything when it does not."""

    def __init__(self, *, clock: Clock, start_job: StartJob, cancel_job: CancelJob) -> None:
        self._clock = clock
        self._start_job = start_job
        self._cancel_job = cancel_job
        self._care: dict[NodeId, _Care] = {}

    def reset(self) -> None:
        """This node leads no longer: another leader compares for itself."""
        for node in list(self._care):
            self._forget(node)

    def _forget(self, node: NodeId) -> None:
        """What is still asked for on behalf of a member that left, or of a leader that was, ends."""
        job_id = self._care.pop(node).job_id
        if job_id is not None:
            self._cancel_job(job_id)

    def update(self, members: Sequence[MemberView]) -> None:
        """Start the jobs that are due."""
        now = self._clock.monotonic()
        connected = {member.node for member in members if member.is_connected}
        gone = self._care.keys() - connected
        if gone or connected - self._care.keys():  # other holders can be asked, or fewer
            for care in self._care.values():
                care.retry_at, care.failures = min(care.retry_at, now + _RETRY_S), 0
        for node in gone:
            self._forget(node)
        for member in members:
            if not member.is_connected:
                continue
            care = self._care.setdefault(member.node, _Care())
            if care.compared_at is not None and not _still_counts(care, member):
                care.compared_at = None
                care.retry_at, care.failures = min(care.retry_at, now + _RETRY_S), 0
            if member.blobs_owed == 0:
                care.owed_since = None
            elif care.owed_since is None:
                care.owed_since = now
            if self._is_due(member, care, now):
                self._start(member, care, now)

    def _is_due(self, member: MemberView, care: _Care, now: float) -> bool:
        if care.job_id is not None or now < care.retry_at:
            return False
        if not member.is_caught_up or not member.has_gateway:
            return False
        running = sum(other.job_id is not None for other in self._care.values())
        owes = care.owed_since is not None and now - care.owed_since >= _OWED_S
        return running < _JOBS_MAX and (owes or _needs_comparison(care, now))

    def _start(self, member: MemberView, care: _Care, now: float) -> None:
        is_full = _needs_comparison(care, now)
        doubt, is_listed = member.doubt, member.is_listed

        def ended(is_done: bool, values: dict[str, Any]) -> None:
            care.job_id = None
            care.progress = {}
            # Blobs that nobody can give stand in the owed list: comparing again would tell nothing new.
            if is_full and is_done:
                care.compared_at, care.compared_doubt = self._clock.monotonic(), doubt
                care.compared_listed = is_listed
            failed = values.get("failed", 0) if is_done else 0
            if is_done and not failed:
                log.info("core.resync.done", member=member.node, full=is_full, **values)
                care.failures = 0
                care.retry_at = 0.0 if is_full else self._clock.monotonic() + _OWED_S
                return
            pause_s = min(_RETRY_S * 2.0**care.failures, _RETRY_S_MAX)
            care.failures += 1
            care.retry_at = self._clock.monotonic() + pause_s
            why = values.get("error", f"no holder could give {failed} blobs")
            log.warning("core.resync.failed", member=member.node, why=why)

        care.started = now
        care.job_id = self._start_job("resync", {"node": member.node, "full": is_full}, ended)
        if care.job_id is None:
            care.retry_at = now + _RETRY_S
        else:
            log.info("core.resync.started", member=member.node, full=is_full)

    def progress(self, job_id: int, values: dict[str, Any]) -> None:
        """A running job said how far it is."""
        for care in self._care.values():
            if care.job_id == job_id:
                care.progress = values

    # --- status -----------------------------------------------------------------------------------
    def is_compared(self, member: MemberView) -> bool:
        """Whether its owed list says all that is missing."""
        care = self._care.get(member.node)
        return care is not None and care.compared_at is not None and _still_counts(care, member)

    def is_in_sync(self, member: MemberView) -> bool:
        """Applied up to date, compared in full since it connected, and nothing owed for more than 5 s."""
        if not self.is_compared(member) or not member.is_up_to_date:
            return False
        owed_since = self._care[member.node].owed_since
        return owed_since is None or self._clock.monotonic() - owed_since <= _IN_SYNC_OWED_S

    def resync(self, node: NodeId) -> dict[str, Any] | None:
        """How far the running resync of ``node`` is, in blobs and bytes, and its pace; None when none runs."""
        care = self._care.get(node)
        if care is None or care.job_id is None or "bytes_done" not in care.progress:
            return None
        elapsed = self._clock.monotonic() - care.started
        shown = {name: care.progress.get(name) for name in _SHOWN}
        return {**shown, "bytes_s": round(care.progress["bytes_done"] / max(elapsed, 0.001))}

    def eta_s(self, node: NodeId) -> float | None:
        """Seconds that the running resync still takes at its pace so far; None when none runs or none is known."""
        care = self._care.get(node)
        if care is None or care.job_id is None:
            return None
        done, total = care.progress.get("bytes_done"), care.progress.get("bytes_total")
        elapsed = self._clock.monotonic() - care.started
        if not isinstance(done, int) or not isinstance(total, int) or done <= 0 or elapsed <= 0:
            return None
        return round((total - done) / (done / elapsed), 1)


def _still_counts(care: _Care, member: MemberView) -> bool:
    """Whether nothing happened since the last comparison that could have cost copies in silence."""
    is_same = member.is_listed == care.compared_listed
    return is_same and member.has_gateway and member.doubt == care.compared_doubt


def _needs_comparison(care: _Care, now: float) -> bool:
    return care.compared_at is None or now - care.compared_at >= _COMPARE_AGAIN_S
