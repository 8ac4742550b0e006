"""What cores say to each other: one msgpack array per frame, checked against its schema before use. Pure.

A frame is ``[kind, fields...]``; an application frame is the byte 0xC1 (never valid msgpack) and raw bytes,
so that large payloads are not packed twice. Kinds and positions are never reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sos.errors import SosError
from sos.levels import check_version
from sos.limits import ENTRY_BYTES_MAX, FRAME_BYTES_MAX
from sos.packing import PackingError, pack, unpack
from sos.raft.members import NODE_ID, Member, MemberList

APP_BYTE: Final = b"\xc1"
MEMBERS_BYTE: Final = b"\x02"
MEMBERS_TAG: Final = 1
MEMBERS_VERSION: Final = 1
MEMBERS_VERSION_EPOCH: Final = 2
MEMBERS_MAX: Final = 64
ADDRESS_CHARS_MAX: Final = 300
COMMAND_BYTES_MAX: Final = ENTRY_BYTES_MAX + 1  # the core's own type byte comes first
NUMBER_MAX: Final = 2**63


class MessageRefused(SosError):
    """A frame that no correct peer sends: its connection must be closed, nothing of it was used."""


@dataclass(frozen=True, slots=True)
class Append:
    """Entries that follow (prev_index, prev_term); none: a heartbeat. One term per command."""

    term: int
    commit_index: int
    prev_index: int
    prev_term: int
    terms: Sequence[int]
    commands: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class AppendReply:
    """All entries below ``next_index`` are durable (success), or where to go on (reset)."""

    term: int
    next_index: int
    reset: bool
    success: bool


@dataclass(frozen=True, slots=True)
class NeedSnapshot:
    """A heartbeat of a leader whose log starts at ``first_index``, above what the peer needs next."""

    term: int
    first_index: int


@dataclass(frozen=True, slots=True)
class RequestVote:
    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class Vote:
    term: int


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in ``term``? Binds nobody (Raft dissertation 9.6)."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteOk:
    term: int


@dataclass(frozen=True, slots=True)
class NewerTerm:
    """Your term is old: this is mine."""

    term: int


@dataclass(frozen=True, slots=True)
class ReadAsk:
    """Leader to all: is your term still mine? (Raft dissertation 6.4)"""

    seq: int
    term: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    seq: int
    term: int
    is_current: bool


@dataclass(frozen=True, slots=True)
class BarrierAsk:
    """Any node to its leader: which index must I have applied before I may read? ``term`` is the asker's own."""

    seq: int
    term: int


@dataclass(frozen=True, slots=True)
class BarrierAnswer:
    """``index`` 0: no answer; ask again."""

    seq: int
    term: int
    index: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """The leader of ``term`` asks the receiver, whose log is complete, to campaign now."""

    term: int


@dataclass(frozen=True, slots=True)
class App:
    """Bytes of the core; opaque here."""

    payload: bytes


Message: TypeAlias = (
    Append
    | AppendReply
    | NeedSnapshot
    | RequestVote
    | Vote
    | PreVote
    | PreVoteOk
    | NewerTerm
    | ReadAsk
    | ReadAnswer
    | BarrierAsk
    | BarrierAnswer
    | Transfer
    | App
)
Send: TypeAlias = Callable[[str, Message], None]  # to a peer; lost if there is no connection

_APPEND: Final = 1
# kind -> (class, number of integer fields, number of boolean fields after them)
_PLAIN: Final[dict[int, tuple[Callable[..., Message], int, int]]] = {
    2: (AppendReply, 2, 2),
    3: (NeedSnapshot, 2, 0),
    4: (RequestVote, 3, 0),
    5: (Vote, 1, 0),
    6: (PreVote, 3, 0),
    7: (PreVoteOk, 1, 0),
    8: (NewerTerm, 1, 0),
    9: (ReadAsk, 2, 0),
    10: (ReadAnswer, 2, 1),
    11: (BarrierAsk, 2, 0),
    12: (BarrierAnswer, 3, 0),
    13: (Transfer, 1, 0),
}
_KIND: Final[dict[object, tuple[int, tuple[str, ...]]]] = {
    cls: (kind, tuple(cls.__slots__))  # type: ignore[attr-defined]
    for kind, (cls, _, _) in _PLAIN.items()
}


def encode(message: Message) -> bytes:
    """The frame of ``message``."""
    if type(message) is Append:
        return encode_append(
            message.term,
            message.commit_index,
            message.prev_index,
            message.prev_term,
            message.terms,
            message.commands,
        )
    if type(message) is App:
        return APP_BYTE + message.payload
    kind, names = _KIND[type(message)]
    return pack([kind, *[getattr(message, name) for name in names]])


def encode_append(
    term: int,
    commit_index: int,
    prev_index: int,
    prev_term: int,
    terms: Sequence[int],
    commands: Sequence[bytes],
) -> bytes:
    """The frame of an ``Append``. Terms that are all equal, the usual case, travel as one number."""
    packed: object = list(terms)
    if terms and terms[0] == terms[-1]:  # terms never fall along a log
        packed = terms[0]
    return pack([_APPEND, term, commit_index, prev_index, prev_term, packed, list(commands)])


def decode(frame: bytes) -> Message:
    """The message in ``frame``.

    Raises: MessageRefused, if any part of it differs from its schema.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise MessageRefused("frame too long")
    if frame[:1] == APP_BYTE:
        return App(frame[1:])
    fields = _unpack(frame)
    if not fields or type(fields[0]) is not int:
        raise MessageRefused("frame without a kind")
    if fields[0] == _APPEND:
        return _decode_append(fields)
    plain = _PLAIN.get(fields[0])
    if plain is None:
        raise MessageRefused(f"unknown kind {fields[0]}")
    cls, numbers, flags = plain
    if len(fields) != 1 + numbers + flags:
        raise MessageRefused("wrong number of fields")
    _check_numbers(fields[1 : 1 + numbers])
    if any(type(flag) is not bool for flag in fields[1 + numbers :]):
        raise MessageRefused("not a flag")
    return cls(*fields[1:])


def _decode_append(fields: list[Any]) -> Append:
    if len(fields) != 7:
        raise MessageRefused("wrong number of fields")
    _, term, commit_index, prev_index, prev_term, terms, commands = fields
    _check_numbers((term, commit_index, prev_index, prev_term))
    if type(commands) is not list:
        raise MessageRefused("commands are not a list")
    for command in commands:
        if type(command) is not bytes or not 0 < len(command) <= COMMAND_BYTES_MAX:
            raise MessageRefused("not a command")
    if type(terms) is int:
        if not prev_term <= terms <= term:
            raise MessageRefused("terms fall along the log")
        return Append(term, commit_index, prev_index, prev_term, [terms] * len(commands), commands)
    if type(terms) is not list or len(terms) != len(commands):
        raise MessageRefused("terms do not match commands")
    last = prev_term
    for entry_term in terms:
        if type(entry_term) is not int or not last <= entry_term <= term:
            raise MessageRefused("terms fall along the log")
        last = entry_term
    return Append(term, commit_index, prev_index, prev_term, terms, commands)


def _check_numbers(values: Sequence[object]) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < NUMBER_MAX:
            raise MessageRefused("not a number")


def _unpack(frame: bytes) -> list[Any]:
    try:
        value = unpack(frame)
    except PackingError as error:
        raise MessageRefused("not msgpack") from error
    if type(value) is not list:
        raise MessageRefused("not an array")
    return value


def encode_members(members: MemberList) -> bytes:
    """The payload of a list entry: 0x02, then ``[tag, 1, [[node, name, address, blob, s3, leaving]...]]``.

    Once the cluster was recovered: ``[tag, 2, epoch, [...]]``; until then what the release before it reads. The
    catalog reads the same bytes when the entry is applied (``catalog/codec.py``).
    """
    rows = [
        [m.node, m.name, m.address, m.blob_address, m.s3_address, m.leaving]
        for m in members.members
    ]
    if members.epoch:
        return MEMBERS_BYTE + pack([MEMBERS_TAG, MEMBERS_VERSION_EPOCH, members.epoch, rows])
    return MEMBERS_BYTE + pack([MEMBERS_TAG, MEMBERS_VERSION, rows])


def decode_members(payload: bytes) -> MemberList:
    """The list in a list entry's payload.

    Raises: MessageRefused; MadeByNewer: whoever leads runs a release that this node cannot follow.
    """
    if payload[:1] != MEMBERS_BYTE:
        raise MessageRefused("not a member list")
    fields = _unpack(payload[1:])
    match fields:
        case [tag, version, rows] if (tag, version) == (MEMBERS_TAG, MEMBERS_VERSION):
            epoch = 0
        case [tag, version, epoch, rows] if (tag, version) == (MEMBERS_TAG, MEMBERS_VERSION_EPOCH):
            _check_numbers((epoch,))
        case _:
            if len(fields) > 1 and fields[0] == MEMBERS_TAG:
                check_version("the member list", fields[1], MEMBERS_VERSION_EPOCH)
            raise MessageRefused("unknown form of member list")
    if type(rows) is not list or len(rows) > MEMBERS_MAX:
        raise MessageRefused("not a list of members")
    members = tuple(_decode_member(row) for row in rows)
    names = [member.node for member in members]
    if names != sorted(names) or len({member.name for member in members}) != len(members):
        raise MessageRefused("members out of order or doubled")
    return MemberList(members=members, epoch=epoch)


def _decode_member(row: object) -> Member:
    if type(row) is not list or len(row) != 6 or type(row[5]) is not bool:
        raise MessageRefused("not a member")
    if any(type(text) is not str or len(text) > ADDRESS_CHARS_MAX for text in row[:5]):
        raise MessageRefused("not a member")
    node, name, address, blob_address, s3_address, leaving = row
    if not NODE_ID.fullmatch(node) or name != node.partition("@")[0]:
        raise MessageRefused("not a member")
    return Member(
        node=node,
        address=address,
        blob_address=blob_address,
        s3_address=s3_address,
        leaving=leaving,
    )
