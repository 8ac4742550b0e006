"""Scrubs of the whole cluster: keeps this node's own one running, asks all for a pass, tells all how theirs goes.

The reading is a job of each node's gateway 0. A pass that a person asks for carries the id of that request, so
that whoever asked can tell its end from that of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sos.catalog.model import NodeId
from sos.clock import Clock, IdSource
from sos.core import messages
from sos.telemetry import log

_TELL_S: Final = 2.0  # an unchanged state is told again: a peer may have just connected
_REQUEST_BYTES: Final = 8

StartJob = Callable[[str, dict[str, Any], Callable[[bool, dict[str, Any]], None]], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    at: float
    state: dict[str, Any]


class Scrubs:
    """Belongs to one core; turned by ``update`` twice a second."""

    def __init__(
        self,
        *,
        node: NodeId,
        start_job: StartJob,
        broadcast: Callable[[bytes], object],
        clock: Clock,
        ids: IdSource,
    ) -> None:
        """``broadcast`` sends to every connected peer."""
        self._node = node
        self._start_job = start_job
        self._broadcast = broadcast
        self._clock = clock
        self._ids = ids
        self._paced_job: int | None = None
        self._now_job: int | None = None
        self._wanted: str | None = None  # a request that no job has begun for yet
        self._request: str | None = None  # the newest one that a job began for
        self._error: str | None = None  # what ended that job before its time
        self._values: dict[str, Any] = {}
        self._heard: dict[NodeId, _Heard] = {}
        self._told: dict[str, Any] = {}
        self._told_at = 0.0

    def update(self) -> None:
        """Start what is due, tell the peers what is new."""
        if self._paced_job is None:
            self._paced_job = self._start_job("scrub", {}, self._paced_ended)
        if self._wanted is not None and self._now_job is None:
            self._now_job = self._start_job("scrub_now", {}, self._now_ended)
            if self._now_job is not None:
                self._request, self._wanted, self._error = self._wanted, None, None
                log.info("core.scrub.started", request=self._request)
        now = self._clock.monotonic()
        state = self.own()
        if state != self._told or now - self._told_at >= _TELL_S:
            self._broadcast(messages.encode_scrub_state(state))
            self._told, self._told_at = state, now

    def _paced_ended(self, is_done: bool, values: dict[str, Any]) -> None:
        self._paced_job = None

    def _now_ended(self, is_done: bool, values: dict[str, Any]) -> None:
        self._now_job = None
        if is_done:
            self._values = values
            return
        self._error = str(values.get("error", "it ended early"))
        log.warning("core.scrub.failed", request=self._request, why=self._error)

    def progress(self, job_id: int, values: dict[str, Any]) -> None:
        """A running job said how far it is."""
        if job_id in (self._paced_job, self._now_job):
            self._values = values

    # --- passes on request ------------------------------------------------------------------------
    def start_now(self) -> str:
        """Have every connected node read all its replicas now: the request's id.

        While a pass that was asked for runs here, it is that one's: asking twice reads once.
        """
        request = self._wanted or (self._request if self._now_job is not None else None)
        if request is None:
            request = self._wanted = self._ids.random_bytes(_REQUEST_BYTES).hex()
        self._broadcast(messages.encode_scrub_request(request))
        self.update()
        return request

    def take_request(self, request: str) -> None:
        """A peer was asked by a person."""
        if request != self._request:
            self._wanted = request
            self.update()

    def take_state(self, peer: NodeId, state: dict[str, Any]) -> None:
        self._heard[peer] = _Heard(at=self._clock.monotonic(), state=state)

    # --- pictures ---------------------------------------------------------------------------------
    def own(self) -> dict[str, Any]:
        """This node's state; ``request``: of the pass that was asked for last, ``is_done`` when that one ended."""
        return {
            **self._values,
            "request": self._wanted or self._request,
            "is_done": self._wanted is None and self._now_job is None,
            "error": self._error,
        }

    def states(self, members: Sequence[NodeId]) -> list[dict[str, Any]]:
        """One row per member; ``age_s`` is null for one that never told anything."""
        now = self._clock.monotonic()
        rows: list[dict[str, Any]] = []
        for member in members:
            if member == self._node:
                rows.append({"node": member, "age_s": 0.0, **self.own()})
                continue
            heard = self._heard.get(member)
            age_s = None if heard is None else round(now - heard.at, 1)
            rows.append({**({} if heard is None else heard.state), "node": member, "age_s": age_s})
        return rows

    @property
    def damaged_blobs(self) -> int | None:
        """Blobs without any good copy; None until a gateway told."""
        count = self._values.get("damaged_blobs")
        return count if isinstance(count, int) else None
