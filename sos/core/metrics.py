"""The node's numbers: the core's own and, when scraped, those of its gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from sos import __version__
from sos.core.member import Member
from sos.core.status import shown_members
from sos.link.server import Connection
from sos.telemetry import Metrics, render

_GATEWAY_S_MAX: Final = 1.0  # a gateway that is slower is left out of this scrape


class CoreMetrics:
    """One scrape asks every gateway once and waits for all of them."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self._count = 0
        self._waiting: dict[tuple[int, Connection], asyncio.Future[list[Any]]] = {}

    def observe(self, member: Member) -> None:
        """Read the member's numbers when asked."""
        self._observe_raft(member)
        self._observe_members(member)
        self._observe_storage(member)
        self._metrics.gauges(
            "sos_build_info", "1, labelled with the version", ("version",),
            lambda: [((__version__,), 1.0)],
        )  # fmt: skip

    def _observe_raft(self, member: Member) -> None:
        raft, proposer = member.raft, member.proposer
        gauge = self._metrics.gauge
        gauge("sos_raft_term", "Raft term; each election raises it", lambda: raft.term)
        gauge("sos_raft_is_leader", "1 on the leader", lambda: float(raft.is_leader))
        gauge("sos_raft_has_leader", "1 while a leader is known", lambda: raft.leader is not None)
        gauge("sos_raft_commit_index", "Committed log index", lambda: raft.commit_index)
        gauge("sos_raft_applied_index", "Applied log index", lambda: raft.applied_index)
        gauge("sos_core_ticks", "Turns of Raft since the start", lambda: member.ticks)
        gauge("sos_core_queue", "Operations that wait for an entry", lambda: proposer.waiting)
        gauge(
            "sos_core_operations", "Operations put into entries", lambda: proposer.operations_count
        )
        gauge("sos_core_entries", "Entries proposed", lambda: proposer.entries_count)
        barriers = self._metrics.histogram(
            "sos_barrier_seconds", "Read barriers that passed, until their index was applied here"
        )
        member.barriers.on_passed = barriers.observe
        commits = self._metrics.histogram(
            "sos_commit_seconds", "Entries that this leader proposed, until they were applied here"
        )
        proposer.on_committed = commits.observe

    def _observe_members(self, member: Member) -> None:
        """The leader's table; a node without a leader shows what it sees itself."""
        kept: tuple[int, list[dict[str, Any]]] = (-1, [])

        def column(name: str, field: str, help_text: str) -> None:
            def read() -> Iterable[tuple[tuple[str, ...], float]]:
                nonlocal kept
                if kept[0] != self._count:  # one table for all columns of a scrape
                    kept = (self._count, shown_members(member))
                told = [(r["name"], r.get(field)) for r in kept[1]]  # an older leader tells less
                return [((name,), float(value)) for name, value in told if value is not None]

            self._metrics.gauges(name, help_text, ("member",), read)

        column("sos_member_reachable", "reachable", "1: the leader has a connection to it")
        column("sos_member_in_sync", "in_sync", "1: it holds every acknowledged write")
        column("sos_member_applied_index", "applied_index", "Log index it applied")
        column("sos_member_blobs_owed", "blobs_owed", "Replicas it still has to get")
        column("sos_member_bytes_owed", "bytes_owed", "Bytes of these replicas")
        column("sos_member_eta_seconds", "eta_s", "Rest of its running resync at the present rate")
        column("sos_member_disk_low", "disk_low", "1: below its disk reserve")
        column(
            "sos_member_disk_full", "disk_full", "1: it takes no log entries until there is space"
        )
        column("sos_member_disk_free_bytes", "free_bytes", "Free bytes of its data disk")

    def _observe_storage(self, member: Member) -> None:
        gauge, disk = self._metrics.gauge, member.disk

        def counter_of(field: str) -> Callable[[], float]:
            def read() -> float:
                with member.store.view() as view:
                    return float(getattr(view.counters(), field))

            return read

        gauge("sos_disk_free_bytes", "Free bytes of the data disk", lambda: disk.free_bytes)
        gauge("sos_disk_total_bytes", "Size of the data disk", lambda: disk.total_bytes)
        gauge("sos_disk_low", "1: below the reserve, new writes are refused", lambda: disk.is_low)
        gauge(
            "sos_disk_full",
            "1: no log entries are taken until there is space",
            lambda: disk.is_full,
        )
        syncs = self._metrics.histogram("sos_journal_sync_seconds", "Syncs of journal and vote")
        member.sync_times.observe = syncs.observe
        gauge("sos_journal_last_sync_seconds", "The last of them", lambda: member.sync_times.last_s)
        gauge(
            "sos_damaged_blobs", "Blobs of which no member has a good copy",
            lambda: member.scrubs.damaged_blobs or 0,
        )  # fmt: skip
        gauge("sos_catalog_buckets", "Buckets", counter_of("bucket_count"))
        gauge("sos_catalog_objects", "Objects", counter_of("object_count"))
        gauge("sos_catalog_object_bytes", "Bytes of all objects", counter_of("size_bytes"))
        gauge("sos_catalog_blobs", "Blobs that objects name", counter_of("blob_count"))
        gauge(
            "sos_catalog_file_bytes", "Bytes of the catalog's file",
            lambda: _file_bytes(member.data / "catalog"),
        )  # fmt: skip
        gauge(
            "sos_journal_file_bytes", "Bytes of the journal's files",
            lambda: _file_bytes(member.data / "journal"),
        )  # fmt: skip

    async def scrape(self, gateways: Iterable[Connection]) -> bytes:
        """The whole node in Prometheus' text format."""
        self._count += 1
        scrape = self._count
        loop = asyncio.get_running_loop()
        asked: dict[Connection, asyncio.Future[list[Any]]] = {}
        for gateway in gateways:
            asked[gateway] = self._waiting[scrape, gateway] = loop.create_future()
            gateway.request_metrics(scrape)
        if asked:
            await asyncio.wait(asked.values(), timeout=_GATEWAY_S_MAX)
        processes = {"core": self._metrics.samples()}
        for gateway, answer in asked.items():
            self._waiting.pop((scrape, gateway), None)
            if answer.done() and not answer.cancelled():
                processes[f"gateway-{gateway.gateway}"] = answer.result()
        return render(processes)

    def answer(self, gateway: Connection, scrape: int, samples: list[Any]) -> None:
        """A gateway's numbers."""
        waiting = self._waiting.pop((scrape, gateway), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(samples)

    def forget(self, gateway: Connection) -> None:
        """The gateway is gone: do not wait for it."""
        for key in [key for key in self._waiting if key[1] is gateway]:
            self._waiting.pop(key).cancel()


def _file_bytes(directory: Path) -> float:
    """What the files below a directory occupy; one that goes meanwhile counts for nothing."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return float(total)
