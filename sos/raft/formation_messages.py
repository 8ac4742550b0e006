"""What nodes say to each other while at least one of the two is not formed: msgpack, checked before use. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sos.packing import PackingError, pack, unpack
from sos.raft.api import NodeId
from sos.raft.formation_rules import Phase, Promise, Stand
from sos.raft.members import NODE_ID
from sos.raft.messages import MEMBERS_MAX, MessageRefused

_REPORT: Final = 1
_PREPARE: Final = 2
_FORMED: Final = 3
_TEXT_CHARS_MAX: Final = 400
_RECORD_BYTES_MAX: Final = 256 * 1024
_ROUND_MAX: Final = 2**32
_EPOCH_MAX: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a node stands and what it brings; sent when a connection opens and at every change.

    ``seeds``: NAME=HOST:PORT in order. ``root_keys``: a digest of the root keys given to it, if any.
    """

    stand: Stand
    seeds: tuple[str, ...]
    blob_address: str
    s3_address: str
    root_keys: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """The proposer asks for a promise. ``record``: the encoded formation record."""

    round_number: int
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FormedNotice:
    """A formed node tells one that is not how the cluster was formed, and its epoch."""

    record: bytes
    epoch: int


FormationMessage = Report | Prepare | FormedNotice


def encode(message: FormationMessage) -> bytes:
    """The bytes of ``message``."""
    match message:
        case Report():
            stand, promise = message.stand, message.stand.promise
            return pack(
                [
                    _REPORT,
                    stand.node,
                    stand.phase.value,
                    None
                    if promise is None
                    else [promise.round_number, promise.cluster_id, list(promise.nodes)],
                    list(message.seeds),
                    message.blob_address,
                    message.s3_address,
                    message.root_keys,
                ]
            )
        case Prepare():
            return pack([_PREPARE, message.round_number, message.record])
        case FormedNotice():
            return pack([_FORMED, message.record, message.epoch])


def decode(payload: bytes) -> FormationMessage:
    """The message in ``payload``. Raises: MessageRefused if any part of it differs from its schema."""
    try:
        fields = unpack(payload)
        match fields:
            case [kind, *rest] if kind == _REPORT and len(rest) == 7:
                return _report(rest)
            case [kind, int(number), bytes(record)] if kind == _PREPARE:
                return Prepare(round_number=_number(number), record=_record(record))
            case [kind, bytes(record), int(epoch)] if kind == _FORMED:
                return FormedNotice(record=_record(record), epoch=_epoch(epoch))
    except (PackingError, ValueError) as error:
        raise MessageRefused(f"not a message of the formation: {error}") from error
    raise MessageRefused("not a message of the formation")


def _report(fields: list[Any]) -> Report:
    node, phase, promise, seeds, blob_address, s3_address, root_keys = fields
    if root_keys is not None and not (isinstance(root_keys, bytes) and len(root_keys) == 32):
        raise ValueError("digest of root keys")
    return Report(
        stand=_stand(_node(node), Phase(phase), promise),
        seeds=tuple(_text(seed) for seed in _list(seeds)),
        blob_address=_text(blob_address),
        s3_address=_text(s3_address),
        root_keys=root_keys,
    )


def _stand(node: NodeId, phase: Phase, promise: object) -> Stand:
    if (promise is None) != (phase is Phase.EMPTY):
        raise ValueError("a promise belongs to a phase")
    if promise is None:
        return Stand(node=node, phase=phase)
    round_number, cluster_id, nodes = _list(promise)
    if not isinstance(cluster_id, bytes) or len(cluster_id) != 16:
        raise ValueError("cluster id")
    return Stand(
        node=node,
        phase=phase,
        promise=Promise(
            round_number=_number(round_number),
            cluster_id=cluster_id,
            nodes=tuple(_node(one) for one in _list(nodes)),
        ),
    )


def _list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > MEMBERS_MAX:
        raise ValueError("list")
    return value


def _node(value: object) -> NodeId:
    if not isinstance(value, str) or not NODE_ID.fullmatch(value):
        raise ValueError("node id")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_CHARS_MAX:
        raise ValueError("text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _ROUND_MAX:
        raise ValueError("round")
    return value


def _epoch(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _EPOCH_MAX:
        raise ValueError("epoch")
    return value


def _record(value: bytes) -> bytes:
    if len(value) > _RECORD_BYTES_MAX:
        raise ValueError("record")
    return value
