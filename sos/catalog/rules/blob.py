"""Rules of blobs: naming, counting references, holders, the sweep floor. Pure."""

from __future__ import annotations

from dataclasses import replace

from sos.catalog.keys import first_index_of
from sos.catalog.model import (
    BlobBody,
    BlobId,
    BlobRecord,
    Body,
    Done,
    InlineBody,
    Member,
    Position,
    RaiseSweepFloor,
    Rejection,
    ReportHolders,
)
from sos.catalog.rules.view import (
    AddBlob,
    AddInline,
    AddOwed,
    CatalogView,
    Decision,
    ForgetBlob,
    RemoveInline,
    RemoveOwed,
    ReplaceBlob,
    SetInlineCount,
    SetReportSequence,
    SetSweepFloor,
    Write,
)


def write_quorum(members: tuple[Member, ...]) -> int:
    """How many staying members must hold a blob: a majority of all, or all that stay where those are fewer.

    A leaving member is still counted in the majority until it is removed, but holds nothing that lasts
    (protocols.md 3.6).
    """
    staying = sum(not member.leaving for member in members)
    return min(len(members) // 2 + 1, staying)


def decide_naming(view: CatalogView, body: BlobBody) -> Rejection | list[Write]:
    """Whether a command may name a blob that is not in the catalog yet, and the rows that makes (protocols.md, 4)."""
    if view.blob(body.blob) is not None or view.was_forgotten(body.blob):
        return Rejection.BLOB_ALREADY_NAMED
    if first_index_of(body.blob) < view.sweep_floor():
        return Rejection.BLOB_BELOW_FLOOR
    members = view.members()
    held = set(body.holders)
    counted = sum(member.node in held for member in members if not member.leaving)
    if counted < max(1, write_quorum(members)):
        return Rejection.HOLDERS_TOO_FEW
    missing = [member.node for member in members if member.node not in held]
    record = BlobRecord(
        blob=body.blob,
        size_bytes=body.size_bytes,
        crc64=body.crc64,
        reference_count=1,
        inline=False,
        holders=tuple(sorted(held)),
    )
    writes: list[Write] = [AddBlob(record)]
    writes.extend(AddOwed(node, body.blob, body.size_bytes) for node in missing)
    return writes


def decide_body(view: CatalogView, body: Body | None) -> Rejection | list[Write]:
    """Whether a command may bring ``body``, and the rows that makes."""
    if body is None:
        return []
    if isinstance(body, InlineBody):
        if view.blob(body.blob) is not None:
            return Rejection.BLOB_ALREADY_NAMED
        return [AddInline(body.blob, body.data)]
    return decide_naming(view, body)


def size_of(body: Body | None) -> int:
    """In bytes."""
    if isinstance(body, InlineBody):
        return len(body.data)
    return 0 if body is None else body.size_bytes


class References:
    """Adds and releases references of one command to blobs that exist, and makes the writes of the sum.

    One command may release the same blob many times (DeleteObjects), or take and release it (a copy onto a key
    that shares its blob): the rows change once, by the difference.
    """

    __slots__ = ("_deltas", "_view")

    def __init__(self, view: CatalogView) -> None:
        self._view = view
        self._deltas: dict[BlobId, int] = {}

    def take(self, blob: BlobId | None) -> None:
        """One more reference; None is an empty object."""
        if blob is not None:
            self._deltas[blob] = self._deltas.get(blob, 0) + 1

    def release(self, blob: BlobId | None) -> None:
        """One reference less; None is an empty object."""
        if blob is not None:
            self._deltas[blob] = self._deltas.get(blob, 0) - 1

    def writes(self) -> list[Write]:
        """The writes, in the order in which blobs were first touched."""
        writes: list[Write] = []
        for blob, delta in self._deltas.items():
            if delta:
                self._write(writes, blob, delta)
        return writes

    def _write(self, writes: list[Write], blob: BlobId, delta: int) -> None:
        record = self._view.blob(blob)
        assert record is not None, "an object names a blob that is not in the catalog"
        count = record.reference_count + delta
        assert count >= 0, "a blob has fewer references than objects"
        if record.inline:
            writes.append(SetInlineCount(blob, count) if count else RemoveInline(blob))
        elif count:
            writes.append(ReplaceBlob(replace(record, reference_count=count)))
        else:
            writes.append(ForgetBlob(record))
            writes.extend(
                RemoveOwed(member.node, blob)
                for member in self._view.members()
                if member.node not in record.holders
            )


def decide_report_holders(
    view: CatalogView, command: ReportHolders, position: Position
) -> Decision:
    """A node reports its own copies; a report not newer than the last one changes nothing (protocols.md, 4.1).

    A blob in both lists is lost: owing a copy that exists costs a comparison, counting one that does not, data.
    """
    node = command.node
    if command.sequence <= view.report_sequence(node):
        return Decision(Done(existed=False))
    is_member = any(member.node == node for member in view.members())
    writes: list[Write] = [SetReportSequence(node, command.sequence)]
    holds = dict.fromkeys(command.gained, True)
    holds.update(dict.fromkeys(command.lost, False))
    for blob, has_copy in holds.items():
        record = view.blob(blob)
        if record is None or record.inline or (node in record.holders) == has_copy:
            continue
        if has_copy:
            holders = tuple(sorted((*record.holders, node)))
            writes.append(ReplaceBlob(replace(record, holders=holders)))
            writes.append(RemoveOwed(node, blob))
        else:
            holders = tuple(holder for holder in record.holders if holder != node)
            writes.append(ReplaceBlob(replace(record, holders=holders)))
            if is_member:
                writes.append(AddOwed(node, blob, record.size_bytes))
    return Decision(Done(), writes)


def decide_raise_sweep_floor(
    view: CatalogView, command: RaiseSweepFloor, position: Position
) -> Decision:
    """The floor only rises, and never above the log: a floor of the future would refuse every upload."""
    floor = min(command.floor_index, position.index)
    if floor <= view.sweep_floor():
        return Decision(Done(existed=False))
    return Decision(Done(), [SetSweepFloor(floor)])
