"""What cores say to each other beside Raft, over the same authenticated connections. Pure.

Each message is msgpack ``[kind, ...]``. The peer holds the cluster key, but may be of another version or
broken: whatever does not fit the schema is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from sos.limits import COMMAND_BYTES_MAX
from sos.packing import PackingError, pack, unpack

_REQUEST_ID_BYTES: Final = 16


class AppKind(IntEnum):
    """First field of every message."""

    PROPOSALS = 1
    ANSWERS = 2
    REPORT = 3
    TABLE = 4
    POINT_QUESTION = 5
    POINT = 6
    HOLD_LOG = 7


class AppRefused(ValueError):
    """The message does not fit its schema."""


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
        ]
    )


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


def decode_app(payload: bytes) -> tuple[AppKind, list[Any]]:
    """The kind and the checked fields after it. Raises: AppRefused."""
    try:
        fields = unpack(payload)
    except PackingError as error:
        raise AppRefused(str(error)) from error
    if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not int:
        raise AppRefused("a message is a list that starts with its kind")
    try:
        kind = AppKind(fields[0])
    except ValueError as error:
        raise AppRefused(f"unknown kind {fields[0]}") from error
    return kind, fields[1:]


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
    if [type(field) for field in fields] != [int, list, bool, bool, str, int, int]:
        raise AppRefused("a report has seven fields")
    applied, digests, disk_low, has_gateway, version, free, doubt = fields
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
    )
