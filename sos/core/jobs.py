"""Jobs of this core at its gateway 0: started, followed, ended also when the gateway dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sos.link.protocol import Job
from sos.link.server import Connection, LinkServer

Ended = Callable[[bool, dict[str, Any]], None]


class Jobs:
    """Every job ends exactly once, with what the gateway answered or with ``gateway lost``."""

    def __init__(self, link: LinkServer) -> None:
        self._link = link
        self._count = 0
        self._running: dict[int, tuple[Connection, Ended]] = {}

    def start(self, kind: str, arguments: dict[str, Any], ended: Ended) -> int | None:
        """The job's number; None, and no call of ``ended``, while gateway 0 is not there."""
        gateway = self._link.first_gateway()
        if gateway is None:
            return None
        self._count += 1
        self._running[self._count] = (gateway, ended)
        gateway.send_job(Job(job_id=self._count, kind=kind, arguments=arguments))
        return self._count

    def cancel(self, job_id: int) -> None:
        """Ask the gateway to stop the job; it still ends through its own answer."""
        running = self._running.get(job_id)
        if running is not None:
            self._count += 1
            cancel = Job(job_id=self._count, kind="cancel", arguments={"job_id": job_id})
            running[0].send_job(cancel)

    def done(
        self, connection: Connection, job_id: int, is_done: bool, values: dict[str, Any]
    ) -> None:
        """The gateway's answer."""
        running = self._running.get(job_id)
        if running is not None and running[0] is connection:
            del self._running[job_id]
            running[1](is_done, values)

    def gateway_lost(self, connection: Connection) -> None:
        """Its jobs ended with it."""
        for job_id, (gateway, ended) in list(self._running.items()):
            if gateway is connection:
                del self._running[job_id]
                ended(False, {"error": "gateway lost"})
