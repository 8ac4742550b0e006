"""What cores say to each other beside Raft, over the same authenticated connections. Pure.

Each message is msgpack ``[kind, ...]``. The peer holds the cluster key, but may be broken: what does not fit the
schema is refused as a whole. It may also be of another release, next to this one during an upgrade: a kind that is
unknown is ignored; a field is only ever added at the end, where an older reader ignores it and a newer one takes a
default for one that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from sos.catalog.model import NodeId
from sos.core.handover import DiskReport
from sos.core.newcomers import Newcomer
from sos.levels import FIRST
from sos.limits import COMMAND_BYTES_MAX
from sos.packing import PackingError, pack, unpack
from sos.raft.members import NODE_ID, Member
from sos.raft.messages import MEMBERS_MAX

_REQUEST_ID_BYTES: Final = 16
_ADDRESS_CHARS_MAX: Final = 300


class AppKind(IntEnum):
    """First field of every message."""

    PROPOSALS = 1
    ANSWERS = 2
    REPORT = 3
    TABLE = 4
    POINT_QUESTION = 5
    POINT = 6
    HOLD_LOG = 7
    SCRUB_REQUEST = 20
    SCRUB_STATE = 21
    JOIN = 8
    MEMBERS = 9
    MEMBER_REQUEST = 10
    MEMBER_ANSWER = 11
    DISK = 16  # beside the report: a node that does not know it refuses it alone


class AppRefused(ValueError):
    """The message does not fit its schema."""


class UnknownKind(AppRefused):
    """The message is of a release that knows more kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What every core tells its peers twice a second."""

    applied_index: int
    digests: tuple[tuple[int, bytes], ...]  # (index, digest) of the last common points
    is_disk_low: bool
    has_gateway: bool
    version: str
    free_bytes: int
    # Rises whenever a copy may have gone without a word to the catalog: the leader then compares again.
    doubt: int
    level: int = FIRST  # what its build applies (``sos.levels``)


def encode_proposals(rows: Sequence[tuple[bytes, int, bytes]]) -> bytes:
    return pack([int(AppKind.PROPOSALS), rows])


def encode_answers(rows: Sequence[tuple[bytes, int, bytes]]) -> bytes:
    return pack([int(AppKind.ANSWERS), rows])


def encode_report(report: NodeReport) -> bytes:
    return pack(
        [
            int(AppKind.REPORT),
            report.applied_index,
            [list(row) for row in report.digests],
            report.is_disk_low,
            report.has_gateway,
            report.version,
            report.free_bytes,
            report.doubt,
            *_told_level(report.level),
        ]
    )


def encode_disk(disk: DiskReport) -> bytes:
    """How a node's disk does, twice a second."""
    sync_us = -1 if disk.sync_s is None else round(disk.sync_s * 1e6)
    return pack([int(AppKind.DISK), sync_us, disk.is_full])


def check_disk(fields: Sequence[Any]) -> DiskReport:
    """Raises: AppRefused."""
    fields = known_fields(fields, (int, bool), "a word on a disk")
    return DiskReport(sync_s=None if fields[0] < 0 else fields[0] / 1e6, is_full=fields[1])


def encode_table(table: dict[str, Any]) -> bytes:
    """The leader's status table: plain values, shown as they are."""
    return pack([int(AppKind.TABLE), table])


def encode_point_question(index: int) -> bytes:
    """Asks a core for the two log entries at the boundary of a copy of its catalog."""
    return pack([int(AppKind.POINT_QUESTION), index])


def encode_point_answer(point: bytes) -> bytes:
    """``point`` as ``snapshots.encode_point`` made it; empty: the log no longer has it."""
    return pack([int(AppKind.POINT), point])


def encode_hold_log(fetch: int) -> bytes:
    """Asks a core to keep its log behind a copy of its catalog that is being fetched; renewed while it is.

    ``fetch``: a number of the fetch; 0: nothing is fetched any more.
    """
    return pack([int(AppKind.HOLD_LOG), fetch])


def encode_join(newcomer: Newcomer) -> bytes:
    """What a node that the member list does not hold says of itself, twice a second."""
    return pack(
        [
            int(AppKind.JOIN),
            newcomer.address,
            newcomer.blob_address,
            newcomer.s3_address,
            newcomer.asks,
            newcomer.version,
            *_told_level(newcomer.level),
        ]
    )


def encode_members(members: Sequence[Member]) -> bytes:
    """A member's answer to that: where the members are, for a node whose catalog is older than they are."""
    rows = [[m.node, m.address, m.blob_address, m.s3_address, m.leaving] for m in members]
    return pack([int(AppKind.MEMBERS), rows])


def encode_scrub_request(request: str) -> bytes:
    """Asks a core to have all its replicas read now."""
    return pack([int(AppKind.SCRUB_REQUEST), request])


def encode_scrub_state(state: dict[str, Any]) -> bytes:
    """How this node's scrub goes: plain values, shown as they are."""
    return pack([int(AppKind.SCRUB_STATE), state])


def decode_app(payload: bytes) -> tuple[AppKind, list[Any]]:
    """The kind and the fields after it, at least one. Raises: AppRefused; UnknownKind, which is no fault."""
    try:
        fields = unpack(payload)
    except PackingError as error:
        raise AppRefused(str(error)) from error
    if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not int:
        raise AppRefused("a message is a list that starts with its kind")
    try:
        kind = AppKind(fields[0])
    except ValueError as error:
        raise UnknownKind(f"unknown kind {fields[0]}") from error
    return kind, fields[1:]


def known_fields(fields: Sequence[Any], kinds: Sequence[type], what: str) -> Sequence[Any]:
    """The fields that this release knows, each of its type; what a later one added is cut off. Raises: AppRefused."""
    known = fields[: len(kinds)]
    if [type(field) for field in known] != [*kinds]:
        raise AppRefused(f"{what} has {len(kinds)} fields")
    return known


def _told_level(level: int) -> Sequence[int]:
    """The first level is left out: the first release refuses a message that is longer than it knows."""
    return () if level == FIRST else (level,)


def _level(fields: Sequence[Any], at: int) -> int:
    """The feature level in a field that the first release did not have. Raises: AppRefused."""
    level = fields[at] if len(fields) > at else FIRST
    if type(level) is not int or level < FIRST:
        raise AppRefused("a level is a number")
    return level


def check_rows(rows: object, *, middle_max: int) -> list[tuple[bytes, int, bytes]]:
    """Rows of (request id, small number, bytes) as PROPOSALS and ANSWERS carry them. Raises: AppRefused."""
    if type(rows) is not list:
        raise AppRefused("rows are a list")
    checked = []
    for row in rows:
        if type(row) is not list or len(row) != 3:
            raise AppRefused("a row has three fields")
        request_id, number, data = row
        if type(request_id) is not bytes or len(request_id) != _REQUEST_ID_BYTES:
            raise AppRefused("a request id has 16 bytes")
        if type(number) is not int or not 0 <= number <= middle_max:
            raise AppRefused("a number is out of range")
        if type(data) is not bytes or len(data) > COMMAND_BYTES_MAX:
            raise AppRefused("bytes are too long")
        checked.append((request_id, number, data))
    return checked


def check_report(fields: Sequence[Any]) -> NodeReport:
    """Raises: AppRefused."""
    kinds = (int, list, bool, bool, str, int, int)
    known = known_fields(fields, kinds, "a report")
    applied, digests, disk_low, has_gateway, version, free, doubt = known
    if not all(
        type(row) is list and len(row) == 2 and type(row[0]) is int and type(row[1]) is bytes
        for row in digests
    ):
        raise AppRefused("digests are pairs")
    return NodeReport(
        applied_index=applied,
        digests=tuple((row[0], row[1]) for row in digests),
        is_disk_low=disk_low,
        has_gateway=has_gateway,
        version=version,
        free_bytes=free,
        doubt=doubt,
        level=_level(fields, len(kinds)),
    )


def check_join(peer: NodeId, fields: Sequence[Any]) -> Newcomer:
    """Raises: AppRefused."""
    kinds = (str, str, str, bool, str)
    known = known_fields(fields, kinds, "an announcement")
    address, blob_address, s3_address, asks, version = known
    if max(map(len, (address, blob_address, s3_address, version))) > _ADDRESS_CHARS_MAX:
        raise AppRefused("an address is too long")
    return Newcomer(
        node=peer,
        address=address,
        blob_address=blob_address,
        s3_address=s3_address,
        asks=asks,
        version=version,
        level=_level(fields, len(kinds)),
    )


def check_members(fields: Sequence[Any]) -> tuple[Member, ...]:
    """Members in order of node id. Raises: AppRefused."""
    if not fields or type(fields[0]) is not list or len(fields[0]) > MEMBERS_MAX:
        raise AppRefused("not a list of members")
    members = []
    for row in fields[0]:
        if type(row) is not list:
            raise AppRefused("not a member")
        known = known_fields(row, (str, str, str, str, bool), "a member")
        node, address, blob_address, s3_address, leaving = known
        if NODE_ID.fullmatch(node) is None:
            raise AppRefused("not a node id")
        members.append(
            Member(
                node=node,
                address=address,
                blob_address=blob_address,
                s3_address=s3_address,
                leaving=leaving,
            )
        )
    return tuple(sorted(members, key=lambda member: member.node))
