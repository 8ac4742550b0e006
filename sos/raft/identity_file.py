"""The identity file: what it says, and its bytes. One line of JSON, one line with its CRC; a person may read it. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import NodeId
from sos.disk import FileIdentity
from sos.levels import check_version
from sos.raft.small_files import decode_document, encode_document

_VERSION: Final = 1
_VERSION_LATER: Final = 2  # with what a release before it must not overlook


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What a node was before it came back as a wiped member: ``incarnation``, "" if nobody can tell.

    ``was_formed``: a member of a cluster, which it may only join again: were it to form one, all damaged members
    together would begin anew with nothing. ``quarantine``: the name under which the old parts are put aside.
    """

    incarnation: str
    was_formed: bool
    quarantine: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Nothing promised to anybody under this incarnation yet."""

    returned: Returned | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Agreed to form this cluster in this round (protocols.md 2). ``record``: the formation record, encoded."""

    round_number: int
    cluster_id: bytes
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Formed:
    """A member, for good. ``record`` stays: the catalog's first state is made from it."""

    cluster_id: bytes
    record: bytes


Formation = Empty | Prepared | Formed


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the identity file says. ``boot``: raised by each start. ``epoch``: raised by ``sos recover``.

    ``recovered``: the list of survivors that ``sos recover`` made, as a log entry's payload; else empty.
    """

    name: str
    incarnation: str
    boot: int
    epoch: int
    formation: Formation
    recovered: bytes = b""

    @property
    def node(self) -> NodeId:
        return NodeId(f"{self.name}@{self.incarnation}")


def encode_identity(identity: Identity, own: FileIdentity) -> bytes:
    document: dict[str, str | int] = {
        "version": _VERSION,
        "name": identity.name,
        "incarnation": identity.incarnation,
        "boot": identity.boot,
        "epoch": identity.epoch,
        "inode": own.inode,
        "birth_ns": own.birth_ns,
        "state": "empty",
    }
    formation = identity.formation
    if identity.recovered:
        document["version"] = _VERSION_LATER
        document["recovered"] = base64.b64encode(identity.recovered).decode()
    if isinstance(formation, Empty):
        returned = formation.returned
        if returned is not None:
            document["version"] = _VERSION_LATER
            document["returned"] = returned.incarnation
            document["returned_formed"] = int(returned.was_formed)
            document["quarantine"] = returned.quarantine
            document["why"] = returned.why
    else:
        document["state"] = "formed"
        document["cluster_id"] = formation.cluster_id.hex()
        document["record"] = base64.b64encode(formation.record).decode()
    if isinstance(formation, Prepared):
        document["state"] = "prepared"
        document["round"] = formation.round_number
    return encode_document(document)


def parse_identity(data: bytes) -> tuple[Identity, FileIdentity] | None:
    """The identity and where its file was made; None if the bytes fail their checks. Raises: MadeByNewer.

    Its version stands for the whole directory: marks, notes and hints that have none of their own change with it.
    """
    document = decode_document(data)
    if document is None:
        return None
    check_version("the data directory", document["version"], _VERSION_LATER)
    formation: Formation = Empty()
    if document["state"] == "empty" and "returned" in document:
        formation = Empty(
            returned=Returned(
                incarnation=document["returned"],
                was_formed=bool(document["returned_formed"]),
                quarantine=document["quarantine"],
                why=document["why"],
            )
        )
    if document["state"] != "empty":
        cluster_id = bytes.fromhex(document["cluster_id"])
        record = base64.b64decode(document["record"])
        formation = Formed(cluster_id=cluster_id, record=record)
        if document["state"] == "prepared":
            formation = Prepared(
                round_number=document["round"], cluster_id=cluster_id, record=record
            )
    identity = Identity(
        name=document["name"],
        incarnation=document["incarnation"],
        boot=document["boot"],
        epoch=document["epoch"],
        formation=formation,
        recovered=base64.b64decode(document.get("recovered", "")),
    )
    return identity, FileIdentity(inode=document["inode"], birth_ns=document["birth_ns"])
