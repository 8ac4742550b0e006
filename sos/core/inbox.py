"""What other cores say beside Raft, handed to whom it concerns."""

from __future__ import annotations

from typing import Any, Final

from sos.catalog.model import NodeId
from sos.core import messages
from sos.core.change_requests import ChangeRequests
from sos.core.contacts import Contacts
from sos.core.gossip import Peers
from sos.core.log_holds import LogHolds
from sos.core.messages import AppKind, AppRefused, UnknownKind
from sos.core.proposer import Proposer, RemoteOrigin
from sos.core.scrubs import Scrubs
from sos.core.snapshots import SnapshotFetch, encode_point
from sos.packing import PackingError
from sos.raft.node import RaftNode
from sos.telemetry import log

_ANSWER_MAX: Final = 255  # a later release may know more answers than this one


class Inbox:
    """The one place that knows every kind of message."""

    def __init__(
        self,
        *,
        raft: RaftNode,
        proposer: Proposer,
        peers: Peers,
        snapshots: SnapshotFetch,
        scrubs: Scrubs,
        contacts: Contacts,
        change_requests: ChangeRequests,
        log_holds: LogHolds,
    ) -> None:
        self._raft = raft
        self._proposer = proposer
        self._peers = peers
        self._snapshots = snapshots
        self._scrubs = scrubs
        self._contacts = contacts
        self._change_requests = change_requests
        self._log_holds = log_holds
        self._origins: dict[NodeId, RemoteOrigin] = {}

    def take(self, peer: str, payload: bytes) -> None:
        """One message of a connected peer; what does not fit its schema is refused as a whole."""
        try:
            kind, fields = messages.decode_app(payload)
            self._take(NodeId(peer), kind, fields)
        except UnknownKind as error:
            log.debug("core.message.unknown", peer=peer, why=str(error))
        except (AppRefused, PackingError) as error:
            log.warning("core.message.refused", peer=peer, why=str(error))

    def _take(self, peer: NodeId, kind: AppKind, fields: list[Any]) -> None:
        if kind is AppKind.PROPOSALS:
            self._proposer.enqueue(
                messages.check_rows(fields[0], middle_max=1 << 62), self._origin(peer)
            )
        elif kind is AppKind.ANSWERS:
            rows = messages.check_rows(fields[0], middle_max=_ANSWER_MAX)
            self._proposer.take_answers(peer, rows)
        elif kind is AppKind.REPORT:
            report = messages.check_report(fields)
            self._peers.take_report(peer, report, commit_index=self._raft.commit_index)
        elif kind is AppKind.DISK:
            self._peers.take_disk(peer, messages.check_disk(fields))
        elif kind is AppKind.TABLE:
            if type(fields[0]) is dict:
                self._peers.take_table(peer, fields[0])
        elif kind is AppKind.POINT_QUESTION:
            index = fields[0]
            point = self._raft.snapshot_point(index) if type(index) is int and index > 1 else None
            data = b"" if point is None else encode_point(point)
            self._raft.send_app(peer, messages.encode_point_answer(data))
        elif kind is AppKind.POINT and type(fields[0]) is bytes:
            self._snapshots.take_point(fields[0])
        elif kind is AppKind.SCRUB_REQUEST and type(fields[0]) is str:
            self._scrubs.take_request(fields[0])
        elif kind is AppKind.SCRUB_STATE and type(fields[0]) is dict:
            self._scrubs.take_state(peer, fields[0])
        elif kind is AppKind.JOIN:
            self._contacts.take_join(messages.check_join(peer, fields))
        elif kind is AppKind.MEMBERS:
            self._contacts.take_members(messages.check_members(fields))
        elif kind in (AppKind.MEMBER_REQUEST, AppKind.MEMBER_ANSWER):
            self._change_requests.take(peer, kind, fields)
        elif kind is AppKind.HOLD_LOG and type(fields[0]) is int:
            self._log_holds.asked(peer, fetch=fields[0])

    def _origin(self, peer: NodeId) -> RemoteOrigin:
        origin = self._origins.get(peer)
        if origin is None:
            origin = self._origins[peer] = RemoteOrigin(self._raft, peer)
        return origin
