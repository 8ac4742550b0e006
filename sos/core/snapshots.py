"""A lagging node gets the state machine by copy: gateway 0 fetches the file, this installs it.

The copy comes from a peer's gateway; the two log entries at its boundary come from that peer's core, which
alone has the journal (protocols.md 6: the catalog copy carries both entries).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sos.catalog.environment import begin, open_copy
from sos.catalog.model import MemberList, NodeId
from sos.catalog.store import CatalogStore, check_snapshot
from sos.catalog.views import View
from sos.core.log_holds import RENEW_S
from sos.core.members import to_raft_list
from sos.core.messages import encode_hold_log, encode_point_question
from sos.errors import Corruption
from sos.packing import PackingError, pack, unpack
from sos.raft.node import RaftNode
from sos.raft.snapshot import InstallDecision, SnapshotPoint
from sos.telemetry import log

_RETRY_S: Final = 1.0
_POINT_S_MAX: Final = 10.0

FetchJob = Callable[[str, dict[str, Any], Callable[[bool, dict[str, Any]], None]], int | None]
CancelJob = Callable[[int], None]


def encode_point(point: SnapshotPoint) -> bytes:
    """What is kept beside an installed copy, and what travels between cores."""
    return pack([point.index, point.term, [list(entry) for entry in point.entries]])


def decode_point(data: bytes) -> SnapshotPoint:
    """Raises: PackingError."""
    fields = unpack(data)
    try:
        index, term, entries, *_ = fields
        before, last = entries
        return SnapshotPoint(index=index, term=term, entries=(_entry(before), _entry(last)))
    except (AssertionError, TypeError, ValueError) as error:
        raise PackingError("not a snapshot point") from error


def _entry(row: list[Any]) -> tuple[bytes, int, int]:
    command, index, term = row
    if type(command) is not bytes or type(index) is not int or type(term) is not int:
        raise TypeError("an entry is (bytes, index, term)")
    return command, index, term


class SnapshotFetch:
    """At most one fetch at a time, begun when Raft says that its log no longer reaches back far enough."""

    def __init__(
        self, *, raft: RaftNode, store: CatalogStore, start_job: FetchJob, cancel_job: CancelJob
    ) -> None:
        self._raft = raft
        self._store = store
        self._start_job = start_job
        self._cancel_job = cancel_job
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._point: asyncio.Future[SnapshotPoint | None] | None = None
        self._fetches = 0
        self._peer: NodeId | None = None  # of the fetch that runs
        self._job_id: int | None = None
        self.installed: Callable[[], None] = lambda: None  # told after an installation

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def need(self, peer: NodeId, index: int) -> None:
        """Called by Raft: ``peer`` leads, and no longer has what this node lacks."""
        if self._peer not in (None, peer) and self._job_id is not None:
            self._cancel_job(self._job_id)  # it led before; paused, it would be waited for
        if self._task is None:
            log.info("core.snapshot.needed", peer=peer, index=index)
            self._task = self._loop.create_task(self._run(peer))
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()  # a bug or a FatalStop reaches the loop's handler, which stops the process

    async def _run(self, peer: NodeId) -> None:
        self._fetches += 1
        self._peer = peer
        holding = self._loop.create_task(self._hold_log(peer, self._fetches))
        is_installed = False
        try:
            is_installed = await self._fetch_and_install(peer)
        finally:
            self._peer = None
            holding.cancel()
            if not is_installed:
                self._raft.send_app(peer, encode_hold_log(0))
        if not is_installed:
            await asyncio.sleep(_RETRY_S)  # Raft asks again

    async def _hold_log(self, peer: NodeId, fetch: int) -> None:
        while True:
            self._raft.send_app(peer, encode_hold_log(fetch))
            await asyncio.sleep(RENEW_S)

    async def _fetch_and_install(self, peer: NodeId) -> bool:
        done: asyncio.Future[tuple[bool, dict[str, Any]]] = self._loop.create_future()

        def ended(is_done: bool, values: dict[str, Any]) -> None:
            if not done.done():
                done.set_result((is_done, values))

        self._job_id = self._start_job("fetch_snapshot", {"peer": peer}, ended)
        if self._job_id is None:
            return False  # no gateway yet
        is_done, values = await done
        self._job_id = None
        if not is_done:
            log.warning("core.snapshot.failed", peer=peer, why=values.get("error"))
            return False
        path = values["path"]
        try:
            return await self._install(peer, path)
        finally:
            await asyncio.to_thread(_remove, path)

    async def _install(self, peer: NodeId, path: str) -> bool:
        """Whether the copy was of use."""
        try:
            copy = await asyncio.to_thread(check_snapshot, path)
        except Corruption as error:
            log.error("core.snapshot.damaged", peer=peer, why=str(error))
            return False
        point = await self._ask_point(peer, copy.index)
        if point is None or (point.index, point.term) != (copy.index, copy.term):
            log.warning("core.snapshot.detached", peer=peer, index=copy.index)
            return False
        copied = await asyncio.to_thread(_members_of, path)
        decision = self._raft.install(
            point,
            to_raft_list(copied.members, epoch=copied.epoch),
            lambda: _swap(self._store, path, point),
        )
        log.info("core.snapshot.installed", index=point.index, decision=decision.value)
        if decision is InstallDecision.INSTALL:
            self.installed()
        return decision is not InstallDecision.IGNORE

    async def _ask_point(self, peer: NodeId, index: int) -> SnapshotPoint | None:
        self._point = self._loop.create_future()
        if not self._raft.send_app(peer, encode_point_question(index)):
            return None
        try:
            async with asyncio.timeout(_POINT_S_MAX):
                return await self._point
        except TimeoutError:
            return None
        finally:
            self._point = None

    def take_point(self, data: bytes) -> None:
        """The peer's answer; empty: its log no longer has the point. Raises: PackingError."""
        point = decode_point(data) if data else None
        if self._point is not None and not self._point.done():
            self._point.set_result(point)


def _remove(path: str) -> None:
    """What was not installed is of no use; what was has another name by now."""
    if os.path.lexists(path):
        os.unlink(path)


def _swap(store: CatalogStore, path: str, point: SnapshotPoint) -> None:
    store.install_snapshot(path, encode_point(point))


def _members_of(path: str) -> MemberList:
    environment = open_copy(Path(path))
    try:
        with View(begin(environment), 0) as view:
            return view.member_list()
    finally:
        environment.close()
