"""Versioned bytes of commands, results, log entries, member lists and the formation record. Pure.

Everything is msgpack ``[tag, version, fields...]``. Tags and field positions are never reused; a reader accepts
every version ever released; a writer emits one; equal values give equal bytes. Decoders raise ``PackingError``
for anything they do not know, and nothing else: log entries and frames may come from a damaged disk or a
hostile socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sos.catalog.commands import (
    command_level,
    decode_command,
    decode_versioned,
    encode_command,
)
from sos.catalog.fields import (
    ALGORITHM_NUMBERS,
    ALGORITHMS,
    ID_BYTES,
    access_key_id,
    exact_bytes,
    flag,
    items,
    node_id,
    number,
    refuse,
    text,
    version_or_none,
)
from sos.catalog.model import (
    Checksum,
    Deleted,
    DeletedMany,
    Done,
    FormationRecord,
    Member,
    Operation,
    PartFault,
    PartRefused,
    Rejection,
    RequestId,
    Result,
    Stored,
    UploadCreated,
    UploadId,
    VersionNumber,
)
from sos.packing import pack, unpack

__all__ = [
    "MEMBERS",
    "OPERATIONS",
    "OPERATIONS_MAX",
    "command_level",
    "decode_command",
    "decode_entry",
    "decode_formation",
    "decode_member_list",
    "decode_members",
    "decode_result",
    "encode_command",
    "encode_entry",
    "encode_formation",
    "encode_members",
    "encode_result",
]

OPERATIONS: Final = 0x01  # first byte of a log entry's payload
MEMBERS: Final = 0x02
OPERATIONS_MAX: Final = 1 << 16  # per entry: an ordinal has 16 bits
_OPERATIONS_PREFIX: Final = bytes([OPERATIONS])
_MEMBERS_PREFIX: Final = bytes([MEMBERS])


# --- results --------------------------------------------------------------------------------------
def encode_result(result: Result) -> bytes:
    """The bytes of ``result`` as they are remembered under the request id and travel to the gateway."""
    if type(result) is Stored:
        checksum = result.checksum
        plain = (
            result.etag,
            result.modified_ms,
            ALGORITHM_NUMBERS[checksum.algorithm],
            checksum.digest,
            result.commit_index,
        )
        more = (result.version, result.composite, result.source_version)
        if more == _NOTHING_MORE_STORED:
            return pack((1, 1, *plain))
        return pack((1, 2, *plain, more))
    if type(result) is Done:
        return pack((2, 1, result.existed))
    if type(result) is DeletedMany:
        version = 2 if any(type(outcome) is Deleted for outcome in result.outcomes) else 1
        return pack((3, version, [_outcome_field(outcome) for outcome in result.outcomes]))
    if type(result) is Deleted:
        return pack((5, 1, result.version, result.is_marker))
    if type(result) is UploadCreated:
        return pack((6, 1, result.upload))
    if type(result) is PartRefused:
        return pack((7, 1, result.fault.value, result.number, result.size_bytes))
    assert type(result) is Rejection
    return pack((4, 1, result.value))


_NOTHING_MORE_STORED: Final = (None, False, None)


def _outcome_field(outcome: Rejection | Deleted | None) -> object:
    if outcome is None:
        return None
    if isinstance(outcome, Rejection):
        return outcome.value
    return (outcome.version, outcome.is_marker)


def _stored(fields: list[Any]) -> Stored:
    etag, modified_ms, algorithm, digest, commit_index, *more = fields
    version, composite, source_version = items(more[0]) if more else _NOTHING_MORE_STORED
    if type(digest) is not bytes:
        raise refuse("digest")
    return Stored(
        etag=text(etag),
        modified_ms=number(modified_ms),
        checksum=Checksum(algorithm=ALGORITHMS[algorithm], digest=digest),
        commit_index=number(commit_index),
        version=version_or_none(version),
        composite=flag(composite),
        source_version=version_or_none(source_version),
    )


def _deleted(fields: list[Any]) -> Deleted:
    version, is_marker = fields
    return Deleted(version=VersionNumber(number(version)), is_marker=flag(is_marker))


def _upload_created(fields: list[Any]) -> UploadCreated:
    (upload,) = fields
    return UploadCreated(upload=UploadId(exact_bytes(upload, ID_BYTES)))


def _part_refused(fields: list[Any]) -> PartRefused:
    fault, part, size_bytes = fields
    return PartRefused(
        fault=PartFault(number(fault)), number=number(part), size_bytes=number(size_bytes)
    )


def _outcome(value: object) -> Rejection | Deleted | None:
    if value is None:
        return None
    return Rejection(value) if type(value) is int else _deleted(items(value))


def _done(fields: list[Any]) -> Done:
    (existed,) = fields
    return Done(existed=flag(existed))


def _deleted_many(fields: list[Any]) -> DeletedMany:
    (outcomes,) = fields
    return DeletedMany(outcomes=tuple(_outcome(outcome) for outcome in items(outcomes)))


def _rejection(fields: list[Any]) -> Rejection:
    (value,) = fields
    return Rejection(number(value))


_RESULTS: Final[dict[tuple[int, int], Callable[[list[Any]], Result]]] = {
    (1, 1): _stored,
    (1, 2): _stored,
    (2, 1): _done,
    (3, 1): _deleted_many,
    (3, 2): _deleted_many,
    (4, 1): _rejection,
    (5, 1): _deleted,
    (6, 1): _upload_created,
    (7, 1): _part_refused,
}


def decode_result(data: bytes) -> Result:
    """The result in ``data``. Raises: PackingError."""
    return decode_versioned(_RESULTS, data, "result")


# --- log entries ----------------------------------------------------------------------------------
def encode_entry(operations: Sequence[Operation]) -> bytes:
    """The payload of a log entry with these operations, at most ``OPERATIONS_MAX``."""
    assert len(operations) <= OPERATIONS_MAX
    return _OPERATIONS_PREFIX + pack(
        [
            (operation.request_id, operation.first_index, operation.command)
            for operation in operations
        ]
    )


def decode_entry(payload: bytes) -> list[Operation]:
    """The operations of a log entry's payload. Raises: PackingError."""
    if payload[:1] != _OPERATIONS_PREFIX:
        raise refuse("operations entry")
    rows = unpack(memoryview(payload)[1:])
    if type(rows) is not list or len(rows) > OPERATIONS_MAX:
        raise refuse("operations entry")
    operations = []
    for row in rows:
        if type(row) is not list or len(row) != 3:
            raise refuse("operation")
        request_id, first_index, command = row
        if type(request_id) is not bytes or len(request_id) != ID_BYTES:
            raise refuse("request id")
        if type(command) is not bytes:
            raise refuse("command")
        operations.append(
            Operation(
                request_id=RequestId(request_id),
                first_index=number(first_index),
                command=command,
            )
        )
    return operations


# --- members and formation ------------------------------------------------------------------------
def _member_fields(member: Member) -> tuple[str, ...]:
    return (member.node, member.name, member.address, member.blob_address, member.s3_address)


def _member(value: object) -> Member:
    node, name, address, blob_address, s3_address = items(value)
    return Member(
        node=node_id(node),
        name=text(name),
        address=text(address),
        blob_address=text(blob_address),
        s3_address=text(s3_address),
    )


def _members(value: object) -> tuple[Member, ...]:
    return tuple(_member(member) for member in items(value))


def encode_members(members: Sequence[Member], *, epoch: int = 0) -> bytes:
    """The payload of a log entry that sets the whole member list; Raft reads the same bytes (raft/messages).

    Version 2 has the epoch; a cluster that was never recovered writes what the release before it reads.
    """
    rows = [(*_member_fields(member), member.leaving) for member in members]
    return _MEMBERS_PREFIX + pack((1, 2, epoch, rows) if epoch else (1, 1, rows))


def decode_members(payload: bytes) -> tuple[Member, ...]:
    """The member list of a log entry's payload. Raises: PackingError."""
    return decode_member_list(payload)[1]


def decode_member_list(payload: bytes) -> tuple[int, tuple[Member, ...]]:
    """The epoch and the members of a log entry's payload. Raises: PackingError."""
    if payload[:1] != _MEMBERS_PREFIX:
        raise refuse("members entry")
    return decode_versioned(_MEMBER_LISTS, payload[1:], "member list")


def _members_fields(fields: list[Any]) -> tuple[int, tuple[Member, ...]]:
    return _members_of_epoch([0, *fields])


def _members_of_epoch(fields: list[Any]) -> tuple[int, tuple[Member, ...]]:
    epoch, members = fields
    return number(epoch), tuple(_listed_member(member) for member in items(members))


_MEMBER_LISTS: Final[
    dict[tuple[int, int], Callable[[list[Any]], tuple[int, tuple[Member, ...]]]]
] = {
    (1, 1): _members_fields,
    (1, 2): _members_of_epoch,
}


def _listed_member(value: object) -> Member:
    *plain, leaving = items(value)
    return replace(_member(plain), leaving=flag(leaving))


def encode_formation(record: FormationRecord) -> bytes:
    """The bytes of the formation record, as nodes exchange and store them."""
    return pack(
        (
            1,
            1,
            record.cluster_id,
            [_member_fields(member) for member in record.members],
            record.root_access_key,
            record.root_secret_key,
            record.token_secret,
            record.owner_id,
            record.region,
            record.created_ms,
        )
    )


def _formation(fields: list[Any]) -> FormationRecord:
    cluster_id, members, access_key, secret_key, token_secret, owner_id, region, created_ms = fields
    return FormationRecord(
        cluster_id=exact_bytes(cluster_id, 16),
        members=_members(members),
        root_access_key=access_key_id(access_key),
        root_secret_key=text(secret_key),
        token_secret=exact_bytes(token_secret, 32),
        owner_id=text(owner_id),
        region=text(region),
        created_ms=number(created_ms),
    )


def decode_formation(data: bytes) -> FormationRecord:
    """The formation record in ``data``. Raises: PackingError."""
    return decode_versioned({(1, 1): _formation}, data, "formation record")
