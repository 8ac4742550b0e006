"""Scrubs of the whole cluster: who is asked, which pass belongs to which request, what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sos.catalog.model import NodeId
from sos.clock import ManualClock
from sos.core.messages import AppKind, decode_app
from sos.core.scrubs import Scrubs

N1, N2, N3 = (NodeId(f"n{n}@000000000000000{n}") for n in (1, 2, 3))
Ended = Callable[[bool, dict[str, Any]], None]


class Ids:
    def __init__(self) -> None:
        self.count = 0

    def random_bytes(self, count: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(count, "big")


class Bed:
    """One core without a gateway until ``has_gateway``."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.has_gateway = True
        self.jobs: list[tuple[str, Ended]] = []
        self.sent: list[tuple[AppKind, Any]] = []
        self.scrubs = Scrubs(
            node=N1,
            start_job=self.start,
            broadcast=self.broadcast,
            clock=self.clock,
            ids=Ids(),
        )

    def start(self, kind: str, arguments: dict[str, Any], ended: Ended) -> int | None:
        if not self.has_gateway:
            return None
        self.jobs.append((kind, ended))
        return len(self.jobs)

    def broadcast(self, payload: bytes) -> None:
        kind, fields = decode_app(payload)
        self.sent.append((kind, fields[0]))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.jobs]


def test_the_paced_scrub_runs_whenever_there_is_a_gateway() -> None:
    """Issue 5, point 4: it outlives every gateway."""
    bed = Bed()
    bed.has_gateway = False
    bed.scrubs.update()
    assert bed.kinds() == []
    bed.has_gateway = True
    bed.scrubs.update()
    bed.scrubs.update()
    assert bed.kinds() == ["scrub"]

    bed.jobs[0][1](False, {"error": "gateway lost"})
    bed.scrubs.update()

    assert bed.kinds() == ["scrub", "scrub"]


def test_a_request_reaches_every_node_and_runs_once() -> None:
    """Asking again while it runs is no second pass; a peer's word of the same request neither."""
    bed = Bed()
    request = bed.scrubs.start_now()
    assert (AppKind.SCRUB_REQUEST, request) in bed.sent
    assert bed.scrubs.start_now() == request
    bed.scrubs.take_request(request)
    bed.scrubs.update()
    assert bed.kinds().count("scrub_now") == 1
    assert bed.scrubs.own()["is_done"] is False

    bed.jobs[-1][1](True, {"found": 2, "damaged_blobs": 1})

    own = bed.scrubs.own()
    assert (own["request"], own["is_done"], own["error"]) == (request, True, None)
    assert own["found"] == 2
    assert bed.scrubs.damaged_blobs == 1
    assert bed.scrubs.start_now() != request


def test_another_request_waits_for_the_running_pass() -> None:
    """Two people on two nodes: each sees the end of a whole pass that began after the request."""
    bed = Bed()
    first = bed.scrubs.start_now()
    bed.scrubs.take_request("second")
    assert bed.kinds().count("scrub_now") == 1
    bed.jobs[-1][1](True, {})
    assert bed.scrubs.own()["is_done"] is False

    bed.scrubs.update()

    assert bed.kinds().count("scrub_now") == 2
    assert first != bed.scrubs.own()["request"] == "second"


def test_a_pass_that_died_with_its_gateway_is_told_as_such() -> None:
    """It is not called done: what it had not read may be rotten."""
    bed = Bed()
    request = bed.scrubs.start_now()
    bed.jobs[-1][1](False, {"error": "gateway lost"})
    own = bed.scrubs.own()
    assert (own["request"], own["is_done"], own["error"]) == (request, True, "gateway lost")


def test_a_row_for_every_member() -> None:
    """``age_s`` tells a silent node from a fresh one, and null one that never spoke."""
    bed = Bed()
    bed.scrubs.take_state(N2, {"found": 7, "node": "another", "age_s": -1})
    bed.clock.advance(3.0)
    rows = bed.scrubs.states([N1, N2, N3])
    assert [row["node"] for row in rows] == [N1, N2, N3]
    assert [row["age_s"] for row in rows] == [0.0, 3.0, None]
    assert rows[1]["found"] == 7


def test_the_state_is_told_when_it_changes_and_now_and_then() -> None:
    """A peer that just connected hears of it within seconds; nothing is repeated at every turn."""
    bed = Bed()
    bed.scrubs.update()
    told = len(bed.sent)
    bed.scrubs.update()
    assert len(bed.sent) == told
    bed.scrubs.progress(1, {"found": 1})
    bed.scrubs.update()
    assert len(bed.sent) == told + 1
    bed.clock.advance(2.5)
    bed.scrubs.update()
    assert len(bed.sent) == told + 2
