"""Brings the first members together until all agree on one cluster (protocols.md 2; rules in ``formation_rules``).

    Founder(name=..., seeds=(Seed, ...), blob_address=..., s3_address=..., region=...,
            root_access_key=str | None, root_secret_key=str | None)
    record = await form(transport=<NodeTransport, started>, directory=<DataDirectory>, founder=...,
                        codec=sos.catalog.codec, clock=..., ids=..., dial={name: "HOST:PORT"},
                        on_waiting=lambda lines: ...)

``form`` returns at once in a formed directory and for a single seed. An empty node that meets a formed one takes
that cluster as its own: it lost its disk or is new, and no list names it yet. When it returns, ``formed`` is durable and
the transport shakes hands under the cluster's id; unformed peers go on being answered. It raises StartRefused,
with one line that says what to do, where waiting cannot help. ``on_waiting`` is told what blocks, on each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from sos.catalog.model import FormationRecord
from sos.clock import Clock, IdSource
from sos.errors import FatalStop, StartRefused
from sos.failpoints import hit
from sos.limits import PEER_DEAD_S
from sos.packing import PackingError
from sos.raft.formation_messages import FormedNotice, Prepare, Report, decode, encode
from sos.raft.formation_rules import (
    Phase,
    Promise,
    Stand,
    may_adopt,
    may_form,
    may_join,
    may_prepare,
    name_of,
    round_to_propose,
)
from sos.raft.founding import (
    Founder,
    agrees,
    check_seeds,
    make_record,
    member_nodes,
    misfit,
    objection,
)
from sos.raft.handshake import Claim, LocalIdentity, RefusalCode
from sos.raft.identity import DataDirectory, Empty, Prepared
from sos.raft.links import LinkStatus
from sos.raft.messages import MessageRefused
from sos.raft.transport import NodeTransport
from sos.telemetry import log

_LOOK_S: Final = 0.25
# A wiped node may come back before its old connections are known to be dead.
_CONFLICT_S_MAX: Final = 2.5 * PEER_DEAD_S
_ONE_WITHOUT_KEY: Final = (
    "; a cluster of one that was started without a key lets nobody in: start it again with one"
)
_CONFLICTS: Final = frozenset(
    {RefusalCode.NAME_TAKEN, RefusalCode.DUPLICATE_IDENTITY, RefusalCode.SELF}
)


class RecordCodec(Protocol):
    """``sos.catalog.codec``; this package knows no bytes of the catalog."""

    def encode_formation(self, record: FormationRecord) -> bytes: ...

    def decode_formation(self, data: bytes) -> FormationRecord:
        """Raises: PackingError."""
        ...


async def form(
    *,
    transport: NodeTransport,
    directory: DataDirectory,
    founder: Founder,
    codec: RecordCodec,
    clock: Clock,
    ids: IdSource,
    dial: Mapping[str, str] | None = None,
    on_waiting: Callable[[tuple[str, ...]], None] = lambda _: None,
) -> FormationRecord:
    """The record by which this node's cluster was formed; see the module. Raises: StartRefused, FatalStop."""
    check_seeds(founder)
    if founder.join and founder.seeds and isinstance(directory.identity.formation, Empty):
        raise StartRefused(
            "--seeds makes a new cluster and --join belongs to an existing one: this directory is empty, give one of them"
        )
    formation = Formation(
        transport=transport,
        directory=directory,
        founder=founder,
        codec=codec,
        clock=clock,
        ids=ids,
    )
    addresses = {seed.name: str(seed.address) for seed in founder.seeds} | dict(dial or {})
    transport.set_formation_handler(formation)
    transport.set_peers(addresses)
    transport.set_joins(founder.join)
    return await formation.run(on_waiting)


class Formation:
    """One node's part in it; a FormationHandler of the transport, also when it is formed."""

    def __init__(
        self,
        *,
        transport: NodeTransport,
        directory: DataDirectory,
        founder: Founder,
        codec: RecordCodec,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._transport = transport
        self._directory = directory
        self._founder = founder
        self._codec = codec
        self._clock = clock
        self._ids = ids
        self._reports: dict[str, Report] = {}  # of the peers that are connected now
        self._notices: dict[str, FormedNotice] = {}  # of those that belong to a cluster
        self._conflict_since: float | None = None
        self._failure: FatalStop | StartRefused | None = None
        self._changed = asyncio.Event()

    async def run(self, on_waiting: Callable[[tuple[str, ...]], None]) -> FormationRecord:
        """Wait until this node is formed."""
        told: tuple[str, ...] = ()
        self._advance()
        while self._failure is None and self._stand().phase is not Phase.FORMED:
            self._refuse_hopeless()
            obstacles = self.obstacles()
            if obstacles != told:
                told = obstacles
                log.info("formation.waiting", obstacles=list(obstacles))
                on_waiting(obstacles)
            self._changed.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                # Ask again: who was asked before it heard of an incarnation that is gone has declined, and
                # nothing that happens later would make it or this node speak.
                self._advance()
        if self._failure is not None:
            raise self._failure
        return self._record()

    # --- FormationHandler -------------------------------------------------------------------------------
    def on_connected(self, claim: Claim, /) -> None:
        if self._stand().phase is Phase.FORMED:
            self._tell_formed(claim.node)
        self._transport.send_formation(claim.node, encode(self._report()))

    def on_disconnected(self, peer: str, /) -> None:
        report = self._reports.get(name_of(peer))
        if report is not None and report.stand.node == peer:
            del self._reports[name_of(peer)]
        self._notices.pop(peer, None)
        self._changed.set()

    def on_message(self, peer: str, payload: bytes, /) -> None:
        """Raises: MessageRefused. What the disk says against it, ``run`` raises."""
        message = decode(payload)
        try:
            match message:
                case Report():
                    if message.stand.node != peer:
                        raise MessageRefused("a report of somebody else")
                    self._reports[name_of(peer)] = message
                    self._advance()
                case Prepare():
                    self._on_prepare(peer, message)
                case FormedNotice():
                    self._notices[peer] = message
                    self._follow(message)
        except (FatalStop, StartRefused) as failure:
            self._failure = failure
        self._changed.set()

    # --- the two phases -----------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Do what the rules allow now."""
        founder, own = self._founder, self._stand()
        if own.phase is Phase.FORMED:
            return
        was_member = self._was_member()
        if founder.names == (founder.name,) and not was_member:
            record = self._make_record()
            self._become_formed(record)
            return
        if may_form(own, self._seen()):
            self._become_formed(self._record())
            return
        for notice in tuple(self._notices.values()):
            if self._follow(notice):
                return
        if founder.only_joins or was_member:
            return
        if all(self._objection(name) is None for name in self._others()):
            number = round_to_propose(own, founder.names, self._seen())
            if number is not None:
                self._prepare(number, self._make_record())
        if founder.name == founder.names[0]:
            self._ask_for_promises()

    def _prepare(self, round_number: int, record: FormationRecord) -> None:
        """Promise, durably, then tell everybody."""
        self._directory.write_prepared(
            round_number=round_number,
            cluster_id=record.cluster_id,
            record=self._codec.encode_formation(record),
        )
        log.info("formation.prepared", round=round_number, cluster=record.cluster_id.hex())
        self._tell_report()

    def _ask_for_promises(self) -> None:
        promise = self._stand().promise
        formation = self._directory.identity.formation
        if promise is None or isinstance(formation, Empty):
            return
        request = encode(Prepare(round_number=promise.round_number, record=formation.record))
        for report in self._reports.values():
            peer = report.stand.node
            if peer in promise.nodes and report.stand.promise != promise:
                self._transport.send_formation(peer, request)

    def _on_prepare(self, peer: str, message: Prepare) -> None:
        record = self._decoded(message.record)
        offer = Promise(
            round_number=message.round_number,
            cluster_id=record.cluster_id,
            nodes=member_nodes(record),
        )
        own = self._stand()
        if own.promise == offer:
            self._transport.send_formation(peer, encode(self._report()))
            return
        if self._was_member() or not may_prepare(
            own, self._founder.names, self._seen(), peer, offer
        ):
            return
        if not agrees(self._founder, record):
            return
        if record.region != self._founder.region:
            raise StartRefused(
                f"--region {self._founder.region}: {name_of(peer)}, which makes the cluster, has region "
                f"{record.region}: start every node with the same --region"
            )
        self._prepare(message.round_number, record)
        self._advance()

    def _follow(self, notice: FormedNotice) -> bool:
        """Become formed with a formed peer, as one of the first members or as a newcomer, if the rules allow."""
        record, own = self._decoded(notice.record), self._stand()
        formed = Promise(round_number=0, cluster_id=record.cluster_id, nodes=member_nodes(record))
        if may_adopt(own, formed):
            self._become_formed(record, epoch=notice.epoch)
            return True
        newest = max(other.epoch for other in (notice, *self._notices.values()))
        if notice.epoch < newest or not may_join(own, formed, self._seen()):
            return False  # one that stayed behind a recovery would lead astray
        trouble = misfit(self._founder, record)
        if trouble is not None:
            raise StartRefused(trouble)
        log.info("formation.joining", cluster=record.cluster_id.hex(), node=own.node)
        self._become_formed(record, epoch=notice.epoch)
        return True

    def _become_formed(self, record: FormationRecord, *, epoch: int = 0) -> None:
        hit("join.before_formed")
        self._directory.write_formed(
            cluster_id=record.cluster_id, record=self._codec.encode_formation(record), epoch=epoch
        )
        hit("join.after_formed")
        log.info(
            "formation.formed", cluster=record.cluster_id.hex(), members=list(member_nodes(record))
        )
        identity = self._directory.identity
        self._reports.clear()
        self._notices.clear()
        # Connections end here; those who did not hear of it yet hear it when they connect again.
        self._transport.set_identity(
            LocalIdentity(
                node=identity.node,
                boot=identity.boot,
                cluster_id=record.cluster_id,
                epoch=identity.epoch,
            )
        )
        self._changed.set()

    def _make_record(self) -> FormationRecord:
        reports = self._reports | {self._founder.name: self._report()}
        return make_record(self._founder, reports, ids=self._ids, created_ms=self._clock.wall_ms())

    # --- what this node knows and says ----------------------------------------------------------------------
    def _stand(self) -> Stand:
        identity = self._directory.identity
        formation = identity.formation
        if isinstance(formation, Empty):
            return Stand(node=identity.node, phase=Phase.EMPTY)
        is_prepared = isinstance(formation, Prepared)
        return Stand(
            node=identity.node,
            phase=Phase.PREPARED if is_prepared else Phase.FORMED,
            promise=Promise(
                round_number=formation.round_number if isinstance(formation, Prepared) else 0,
                cluster_id=formation.cluster_id,
                nodes=member_nodes(self._record()),
            ),
        )

    def _record(self) -> FormationRecord:
        formation = self._directory.identity.formation
        assert not isinstance(formation, Empty)
        return self._codec.decode_formation(formation.record)

    def _decoded(self, record: bytes) -> FormationRecord:
        try:
            return self._codec.decode_formation(record)
        except PackingError as error:
            raise MessageRefused(f"not a formation record: {error}") from error

    def _seen(self) -> dict[str, Stand]:
        """What the members of the seed list say; whoever else has the cluster key has no voice."""
        return {
            name: report.stand
            for name, report in self._reports.items()
            if name in self._founder.names
        }

    def _others(self) -> list[str]:
        return [name for name in self._founder.names if name != self._founder.name]

    def _report(self) -> Report:
        founder = self._founder
        return Report(
            stand=self._stand(),
            seeds=founder.seed_texts,
            blob_address=founder.blob_address,
            s3_address=founder.s3_address,
            root_keys=founder.root_keys,
        )

    def _was_member(self) -> bool:
        """Whether this node came back as a wiped member: it joins its cluster again and never makes a new one."""
        formation = self._directory.identity.formation
        returned = formation.returned if isinstance(formation, Empty) else None
        return returned is not None and returned.was_formed

    def _tell_report(self) -> None:
        report = encode(self._report())
        for claim in self._transport.claims():
            self._transport.send_formation(claim.node, report)

    def _tell_formed(self, peer: str) -> None:
        identity = self._directory.identity
        assert not isinstance(identity.formation, Empty)
        notice = FormedNotice(record=identity.formation.record, epoch=identity.epoch)
        self._transport.send_formation(peer, encode(notice))

    # --- what blocks ----------------------------------------------------------------------------------------
    def obstacles(self) -> tuple[str, ...]:
        """What this node waits for, a line per peer; empty when nothing blocks."""
        if self._was_member():
            return (
                "this node came back as an empty member of its cluster: it waits for one that still has its "
                "directory (if none has: docs/operations.md, Damage)",
            )
        if self._founder.only_joins:
            return self._join_obstacles()
        objections = (self._objection(name) for name in self._others())
        return tuple(objection for objection in objections if objection is not None)

    def _join_obstacles(self) -> tuple[str, ...]:
        unformed = [
            f"{name} does not belong to a cluster yet: waiting until it does"
            for name in self._reports
        ]
        links = [link for link in self._transport.status() if not link.connected]
        troubles = [
            f"waiting for the cluster at {link.address}: {link.trouble or 'no answer yet'}"
            for link in links
        ]
        return (*unformed, *troubles)

    def _objection(self, name: str) -> str | None:
        link = next((link for link in self._transport.status() if link.name == name), None)
        trouble = link.trouble if link is not None and link.trouble else "no answer yet"
        return objection(self._founder, name, self._reports.get(name), trouble)

    def _refuse_hopeless(self) -> None:
        """Raises: StartRefused where waiting cannot help and nothing was promised that others count on."""
        links = self._transport.status()
        others = len(self._others()) or len(self._founder.join)
        for code, what in (
            (
                RefusalCode.OTHER_KEY,
                "the cluster key of this node is not that of the others: give every node the same SOS_CLUSTER_KEY"
                + (_ONE_WITHOUT_KEY if self._founder.join else ""),
            ),
            (
                RefusalCode.CLOCK_SKEW,
                "the clock of this node is more than 15 minutes away from that of the others: set it",
            ),
        ):
            refused = [link for link in links if link.refusal is code]
            # One that is wrong among many says so of itself; all others, and this node waits for it.
            if 2 * len(refused) > others and not any(link.connected for link in links):
                names = ", ".join(
                    f"{link.name} at {link.address}".removeprefix(" at ") for link in refused
                )
                raise StartRefused(f"{what} ({names})")
        self._refuse_conflict(links)
        if self._founder.only_joins:
            return
        first = self._reports.get(self._founder.names[0])
        given = self._founder.root_keys
        if first is not None and given is not None and first.root_keys not in (None, given):
            raise StartRefused(
                f"the root keys of this node are not those of {self._founder.names[0]}, which makes the "
                "cluster: give all nodes the same SOS_ROOT_ACCESS_KEY and SOS_ROOT_SECRET_KEY, or none"
            )

    def _refuse_conflict(self, links: tuple[LinkStatus, ...]) -> None:
        conflicts = [link for link in links if link.refusal in _CONFLICTS]
        if not conflicts:
            self._conflict_since = None
            return
        now = self._clock.monotonic()
        if self._conflict_since is None:
            self._conflict_since = now
        elif now - self._conflict_since > _CONFLICT_S_MAX:
            link = conflicts[0]
            where = f"{link.name} at {link.address}".removeprefix(" at ")
            raise StartRefused(f"{where}: {link.trouble}")
