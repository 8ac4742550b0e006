"""Frames of the link: ``u32 length + msgpack [kind, ...]``; many operations travel in one frame.

Pure. Both ends are ours, of one version: a frame that does not parse closes the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from sos.catalog.model import BlobId, NodeId
from sos.limits import COMMAND_BYTES_MAX, LINK_FRAME_BYTES_MAX
from sos.packing import PackingError, pack, unpack

_LENGTH: Final = struct.Struct(">I")
REQUEST_ID_BYTES: Final = 16
VERSION: Final = 1
_NO_NODE: Final = NodeId("")


class ProtocolError(ValueError):
    """The peer of a link sent something that is not a frame of this version."""


class Kind(IntEnum):
    """First field of every frame. Below 32: gateway to core."""

    HELLO = 1
    PROPOSE = 2
    BARRIER = 3
    HOLDERS = 4
    JOB_PROGRESS = 5
    JOB_DONE = 6
    DAMAGE = 7
    METRICS = 8
    TAKES_JOBS = 9
    SERVING = 10  # this gateway answers S3 requests from the catalog now
    STATE = 32
    RESULTS = 33
    BARRIER_PASSED = 34
    BARRIER_FAILED = 35
    JOB = 36
    METRICS_REQUEST = 37
    HOLDERS_ANSWER = 38


class Answer(IntEnum):
    """What became of one attempt to propose."""

    RESULT = 0  # the payload is the stored result
    NO_LEADER = 1  # certainly not applied; the gateway may try again at once
    QUEUE_FULL = 2  # certainly not applied; the client is told to slow down
    UNKNOWN = 3  # perhaps applied: only the same request id may be sent again
    NOT_YET = 4  # certainly not applied: not every member runs a release that knows the command


def answer_of(number: int) -> Answer:
    """The answer of a peer, which may be of a later release and know more of them."""
    try:
        return Answer(number)
    except ValueError:
        return Answer.UNKNOWN


# --- values ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """A view of ``generation`` with applied index >= ``index``, or of a newer generation, is current."""

    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """One member of the list in force, as this core sees it now."""

    node: NodeId
    name: str
    address: str
    blob_address: str
    s3_address: str
    is_reachable: bool
    is_voter: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a core tells its gateways on every change."""

    node: NodeId = _NO_NODE
    cluster_id: bytes = b""
    is_formed: bool = False
    generation: int = 0
    applied_index: int = 0
    leader: NodeId | None = None
    is_leader: bool = False
    members: tuple[MemberState, ...] = ()
    write_quorum: int = 1
    is_disk_low: bool = False
    others: tuple[
        MemberState, ...
    ] = ()  # no members, but blobs may be fetched from or brought to them
    is_removed: bool = False  # the node was removed from the cluster, and ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work that the core asks of gateway 0: it moves no bytes of blobs itself."""

    job_id: int
    kind: str  # "resync", "fetch_snapshot", "upkeep", "cancel"
    arguments: dict[str, Any] = field(default_factory=dict)  # plain values


# --- frames ---------------------------------------------------------------------------------------
def encode_frame(kind: Kind, *fields: object) -> bytes:
    """One whole frame. Raises: ProtocolError when it exceeds the cap."""
    body = pack([int(kind), *fields])
    if len(body) > LINK_FRAME_BYTES_MAX:
        raise ProtocolError(f"frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def decode_body(body: bytes | memoryview) -> list[Any]:
    """The fields of one frame, kind first. Raises: ProtocolError."""
    try:
        fields = unpack(body)
    except PackingError as error:
        raise ProtocolError(str(error)) from error
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise ProtocolError("a frame is a list that starts with its kind")
    return fields


class FrameBuffer:
    """Cuts a byte stream into frames without copying those that arrive whole."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The frames that ``data`` completes, in order. Raises: ProtocolError."""
        kept = self._kept
        if kept:
            kept += data
            if len(kept) < 4 or len(kept) < 4 + _checked_length(kept, 0):
                return []
            data = bytes(kept)
            kept.clear()
        frames = []
        position, end = 0, len(data)
        view = memoryview(data)
        while end - position >= 4:
            length = _checked_length(data, position)
            if end - position - 4 < length:
                break
            frames.append(decode_body(view[position + 4 : position + 4 + length]))
            position += 4 + length
        if position < end:
            kept += view[position:]
        return frames


def _checked_length(data: bytes | bytearray, position: int) -> int:
    length: int = _LENGTH.unpack_from(data, position)[0]
    if length > LINK_FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame announces {length} bytes")
    return length


def check_operations(rows: object) -> list[tuple[bytes, int, bytes]]:
    """The operations of a PROPOSE frame as (request id, first index, command). Raises: ProtocolError."""
    if type(rows) is not list:
        raise ProtocolError("operations are a list")
    operations = []
    for row in rows:
        if type(row) is not list or len(row) != 3:
            raise ProtocolError("an operation has three fields")
        request_id, first_index, command = row
        if type(request_id) is not bytes or len(request_id) != REQUEST_ID_BYTES:
            raise ProtocolError("a request id has 16 bytes")
        if type(first_index) is not int or first_index < 0:
            raise ProtocolError("first_index is a log index")
        if type(command) is not bytes or not 0 < len(command) <= COMMAND_BYTES_MAX:
            raise ProtocolError("a command has 1 byte to 2 MiB")
        operations.append((request_id, first_index, command))
    return operations


def check_blob_ids(rows: object) -> tuple[BlobId, ...]:
    """The blob ids of a HOLDERS frame. Raises: ProtocolError."""
    if type(rows) is not list or not all(type(row) is bytes and len(row) == 16 for row in rows):
        raise ProtocolError("blob ids have 16 bytes")
    return tuple(BlobId(row) for row in rows)


def encode_state(state: NodeState) -> bytes:
    """A STATE frame."""
    return encode_frame(
        Kind.STATE,
        state.node,
        state.cluster_id,
        state.is_formed,
        state.generation,
        state.applied_index,
        state.leader,
        state.is_leader,
        [_member_fields(member) for member in state.members],
        state.write_quorum,
        state.is_disk_low,
        [_member_fields(member) for member in state.others],
        state.is_removed,
    )


def decode_state(fields: Sequence[Any]) -> NodeState:
    """The state in the fields after the kind. Raises: ProtocolError."""
    try:
        node, cluster, formed, generation, applied, leader, leads, *rest = fields
        members, quorum, low, others, removed = rest
        return NodeState(
            node=NodeId(node),
            cluster_id=cluster,
            is_formed=formed,
            generation=generation,
            applied_index=applied,
            leader=None if leader is None else NodeId(leader),
            is_leader=leads,
            members=tuple(_member_from(row) for row in members),
            write_quorum=quorum,
            is_disk_low=low,
            others=tuple(_member_from(row) for row in others),
            is_removed=removed,
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError("a state frame has twelve fields") from error


def _member_fields(member: MemberState) -> list[object]:
    return [
        member.node,
        member.name,
        member.address,
        member.blob_address,
        member.s3_address,
        member.is_reachable,
        member.is_voter,
    ]


def _member_from(row: Sequence[Any]) -> MemberState:
    node, name, address, blob_address, s3_address, reachable, voter = row
    return MemberState(
        node=NodeId(node),
        name=name,
        address=address,
        blob_address=blob_address,
        s3_address=s3_address,
        is_reachable=reachable,
        is_voter=voter,
    )
