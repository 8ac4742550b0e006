"""The core as a process: its start order, what it serves meanwhile, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from typing import Any, Final, NoReturn

from sos.admin.server import AdminServer
from sos.catalog import codec
from sos.catalog.model import BlobId, FormationRecord, NodeId
from sos.clock import Clock, IdSource
from sos.core import returning, start
from sos.core.keys import AccessKeys
from sos.core.member import Member
from sos.core.metrics import CoreMetrics
from sos.core.proposer import Row
from sos.core.status import formed_status, waiting_status
from sos.core.sync_times import TimedDisk
from sos.disk import is_no_space
from sos.errors import EXIT_BUG, EXIT_DAMAGE, Corruption, FatalStop, StartRefused
from sos.inherit import Inheritance
from sos.link.protocol import Answer
from sos.link.server import Connection, LinkServer
from sos.raft.boots import PeerBoots
from sos.raft.formation import form
from sos.raft.founding import Founder
from sos.raft.handshake import LocalIdentity
from sos.raft.identity import Empty, Formed
from sos.raft.transport import NodeTransport
from sos.telemetry import log

_HAND_OVER_S: Final = 1.5  # of the drain


class CoreProcess:
    """Composes one core. ``run`` returns the exit code, or raises StartRefused or FatalStop."""

    def __init__(
        self,
        inheritance: Inheritance,
        opened: start.OpenDirectory,
        *,
        clock: Clock,
        ids: IdSource,
        disk: TimedDisk,
    ) -> None:
        self._directory = opened.directory
        self._lock = opened.lock  # held until the process ends
        self._listed = opened.listed
        self._config = inheritance.config
        self._inheritance = inheritance
        self._clock = clock
        self._ids = ids
        self._disk = disk
        self._member: Member | None = None
        self._waiting: tuple[str, ...] = ()
        self._node = opened.directory.identity.node
        self._stopped = asyncio.Event()
        self.metrics = CoreMetrics()

    # --- start and end ----------------------------------------------------------------------------
    async def run(self) -> int:
        """Take part until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        config = self._config
        self._link = LinkServer(
            directory=config.node.data, token=self._inheritance.link_token, handler=self
        )
        await self._link.start()
        await self._start_transport()
        admin = AdminServer(self, listener=self._inheritance.sockets["admin"], clock=self._clock)
        await admin.start()
        starting = loop.create_task(self._become_member())
        stopping = loop.create_task(self._stopped.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            error = starting.exception()
            if error is not None:
                if isinstance(error, StartRefused | FatalStop) or is_no_space(error):
                    raise error
                self.stop_now(error)
            await stopping
        else:
            starting.cancel()
        await self._end(admin)
        return 0

    async def _start_transport(self) -> None:
        identity = self._directory.identity
        formation = identity.formation
        self._transport = NodeTransport(
            identity=LocalIdentity(
                node=identity.node,
                boot=identity.boot,
                cluster_id=formation.cluster_id if isinstance(formation, Formed) else None,
                epoch=identity.epoch,
            ),
            key=self._cluster_key(),
            listener=self._inheritance.sockets["node"],
            clock=self._clock,
            ids=self._ids,
            boots=PeerBoots.load(self._disk, self._config.node.data),
        )
        await self._transport.start()

    def _cluster_key(self) -> bytes:
        """A cluster of one without a key answers nobody: a key that no other node can know."""
        key = self._config.secrets.cluster_key.encode()
        return key or self._ids.random_bytes(32)

    async def _become_member(self) -> None:
        config, directory = self._config, self._directory
        record = await self._formation_record()
        path = start.write_root_keys(config.node.data, record)
        log.info("core.formed", cluster=record.cluster_id, root_keys=path)
        journal = start.open_log(config, directory, disk=self._disk)
        store = start.open_catalog(directory, record, journal)
        self._member = member = Member(
            config=config,
            identity=directory.identity,
            journal=journal,
            store=store,
            transport=self._transport,
            link=self._link,
            clock=self._clock,
            ids=self._ids,
            sync_times=self._disk.times,
            stop=self.stop_now,
        )
        self._waiting = ()
        self.metrics.observe(member)
        self.keys = AccessKeys(member, ids=self._ids, clock=self._clock)
        member.start()
        log.info(
            "core.started",
            applied=store.applied()[0],
            journal_first=journal.first_index,
            journal_last=journal.last_index,
            boot=directory.identity.boot,
        )

    async def _formation_record(self) -> FormationRecord:
        """Returns at once on a formed node, and goes on answering nodes that are not formed yet."""
        config = self._config
        return await form(
            transport=self._transport,
            directory=self._directory,
            founder=Founder(
                name=config.node.name,
                seeds=config.node.seeds,
                blob_address=str(config.node.blob_listen),
                s3_address=str(config.s3.listen),
                region=config.s3.region,
                root_access_key=config.secrets.root_access_key or None,
                root_secret_key=config.secrets.root_secret_key or None,
                join=tuple(map(str, config.node.join)),
            ),
            codec=codec,
            clock=self._clock,
            ids=self._ids,
            dial={over.name: str(over.address) for over in config.test.dial},
            on_waiting=self._on_waiting,
        )

    def _on_waiting(self, reasons: tuple[str, ...]) -> None:
        self._waiting = reasons

    async def _end(self, admin: AdminServer) -> None:
        """SIGTERM: hand over, then close in the order in which nothing is acknowledged too early."""
        member = self._member
        if member is not None:
            await member.drain(_HAND_OVER_S)
            member.quiesce()
        await admin.close()
        await self._link.close()
        await self._transport.close()
        if member is not None:
            member.close()
        log.info("core.stopped")

    def stop_now(self, error: BaseException) -> NoReturn:
        """End the process at once: nothing may be acknowledged after a fatal stop (design, section 11)."""
        code = EXIT_BUG
        if isinstance(error, FatalStop | StartRefused):
            code = error.exit_code
            log.error("core.fatal", why=str(error), exit_code=code)
        elif isinstance(error, Corruption):
            code = EXIT_DAMAGE
            log.error("core.damaged", why=str(error), exit_code=code)
        else:
            text = "".join(traceback.format_exception(error))
            log.error("core.bug", why=repr(error), traceback=text, exit_code=code)
        if code == EXIT_DAMAGE:
            self._note_damage(str(error))
        sys.stderr.flush()
        os._exit(code)

    def _note_damage(self, why: str) -> None:
        """The next start comes back as a wiped member, if there is somebody to heal it."""
        listed = self._listed
        if self._member is not None:
            listed = {NodeId(member.node) for member in self._member.raft.members.members}
        returning.note_damage(
            self._config,
            disk=self._disk,
            identity=self._directory.identity,
            listed=listed,
            why=why,
        )

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback or task failed. Raft wraps its disk errors; other OSErrors are those of sockets."""
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError):
            return  # a task of the loop's own streams, while the loop ends for another reason
        if isinstance(error, BaseException) and not isinstance(error, OSError):
            self.stop_now(error)
        log.warning("core.loop", message=context.get("message"), why=repr(error))

    # --- LinkHandler ------------------------------------------------------------------------------
    def on_gateway(self, connection: Connection) -> None:
        log.info("core.gateway", gateway=connection.gateway)

    def on_gateway_lost(self, connection: Connection) -> None:
        log.info("core.gateway_lost", gateway=connection.gateway)
        self.metrics.forget(connection)
        if self._member is not None:
            self._member.gateway_lost(connection)

    def on_operations(self, connection: Connection, operations: list[Row]) -> None:
        if self._member is not None:
            self._member.submit(connection, operations)
            return
        for row in operations:
            connection.answer(row[0], Answer.NO_LEADER)

    def on_barrier(self, connection: Connection, round_number: int) -> None:
        if self._member is None:
            connection.fail_barrier(round_number)
        else:
            self._member.barrier(connection, round_number)

    def on_holders(
        self,
        connection: Connection,
        report: int,
        gained: tuple[BlobId, ...],
        lost: tuple[BlobId, ...],
    ) -> None:
        if self._member is None:
            connection.answer_holders(report, False)
        else:
            self._member.report_holders(connection, report, gained, lost)

    def on_job_progress(self, connection: Connection, job_id: int, values: dict[str, Any]) -> None:
        if self._member is not None:
            self._member.catch_up.progress(job_id, values)
            self._member.scrubs.progress(job_id, values)

    def on_job_done(
        self, connection: Connection, job_id: int, is_done: bool, values: dict[str, Any]
    ) -> None:
        if self._member is not None:
            self._member.jobs.done(connection, job_id, is_done, values)

    def on_damage(self, connection: Connection, text: str) -> None:
        """A gateway read a record that fails its checksum: this node stops (issue 4, item 6)."""
        self.stop_now(FatalStop(f"gateway: {text}", exit_code=EXIT_DAMAGE))

    def on_metrics(self, connection: Connection, scrape: int, samples: list[Any]) -> None:
        self.metrics.answer(connection, scrape, samples)

    # --- what the admin listener asks -------------------------------------------------------------
    async def is_ready(self) -> bool:
        """A gateway serves, and a read barrier succeeds now."""
        return self._member is not None and await self._member.is_ready()

    async def status(self) -> dict[str, Any]:
        if self._member is None:
            waiting = self._waiting
            identity = self._directory.identity
            if isinstance(identity.formation, Empty) and not waiting:
                waiting = ("waiting for the other nodes of the seed list",)
            warnings = returning.warnings(self._disk, self._config.node.data)
            return waiting_status(node=self._node, waiting=waiting) | {"warnings": warnings}
        is_ready = await self.is_ready()
        try:
            return formed_status(self._member, is_ready=is_ready, warnings=self._warnings())
        except Corruption as error:
            self.stop_now(error)

    def _warnings(self) -> list[str]:
        """What this node put aside, and troubles of the links that a person has to end."""
        told = returning.warnings(self._disk, self._config.node.data)
        if self._member is not None and self._member.raft.is_recovering:
            names = ", ".join(member.name for member in self._member.raft.members.members)
            told.append(f"after `sos recover` the first election needs all survivors: {names}")
        return told + [
            f"{link.name} at {link.address}: {link.trouble}"
            for link in self._transport.status()
            if link.trouble is not None
        ]

    async def scrape(self) -> bytes:
        return await self.metrics.scrape(self._link.connections)

    def root_secret_key(self) -> str | None:
        return None if self._member is None else self._member.record.root_secret_key

    def access_keys(self) -> AccessKeys | None:
        return None if self._member is None else self.keys

    async def change_members(self, document: object) -> dict[str, Any] | None:
        return None if self._member is None else await self._member.change_requests.ask(document)

    def scrub_states(self) -> list[dict[str, Any]]:
        """One row per member; none before the cluster is formed."""
        member = self._member
        if member is None:
            return []
        rows = member.scrubs.states([NodeId(row.node) for row in member.raft.members.members])
        return [{"name": row["node"].partition("@")[0], **row} for row in rows]

    def start_scrub(self) -> str | None:
        """Have every node that is connected read all its replicas; the request's id."""
        return None if self._member is None else self._member.scrubs.start_now()
