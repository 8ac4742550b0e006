"""The node's numbers: the core's own and, when scraped, those of its gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from sos.core.member import Member
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
        raft, proposer = member.raft, member.proposer
        gauge = self._metrics.gauge
        gauge("sos_raft_term", "Raft term", lambda: raft.term)
        gauge("sos_raft_is_leader", "1 on the leader", lambda: float(raft.is_leader))
        gauge("sos_raft_commit_index", "Committed log index", lambda: raft.commit_index)
        gauge("sos_raft_applied_index", "Applied log index", lambda: raft.applied_index)
        gauge("sos_core_ticks", "Turns of Raft since the start", lambda: member.ticks)
        gauge("sos_core_queue", "Operations that wait for an entry", lambda: proposer.waiting)
        gauge(
            "sos_core_operations", "Operations put into entries", lambda: proposer.operations_count
        )
        gauge("sos_core_entries", "Entries proposed", lambda: proposer.entries_count)
        gauge("sos_disk_free_bytes", "Free bytes of the data disk", lambda: member.disk.free_bytes)

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
