"""Scenarios of `bench.py` in which nodes come, go and catch up while clients go on: `resync` and `members`.

The foreground is paced, for it stands for clients and not for the limit of the machine: each of its connections sends a
request every ``_EVERY_S``, PUT and GET of 4 KiB in turn, and waits for the answer. A request that is late begins the next
one at once, so none is left out of the percentiles.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.load.client import Connection, ConnectionLost, Credentials

KIB: Final = 1024
MIB: Final = 1024 * KIB
_KEYS: Final = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
_EVERY_S: Final = 0.02
_CONNECTIONS: Final = 4
_BEFORE_S: Final = 10.0


class Samples(Protocol):
    """What is needed of ``bench.Figures``."""

    def add(self, name: str, value: float, unit: str) -> None: ...


@dataclass(slots=True)
class _Latencies:
    """Of one phase, in seconds."""

    put: list[float] = field(default_factory=list)
    get: list[float] = field(default_factory=list)
    failed: int = 0
    retried: int = 0

    def p99_ms(self, method: str) -> float:
        ordered = sorted(self.put if method == "PUT" else self.get)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3


class Foreground:
    """Clients that go on whatever the cluster does."""

    def __init__(self, nodes: Iterable[TestNode], bucket: str) -> None:
        self.phase = _Latencies()
        self._bucket = bucket
        self._ports = [node.s3_port for node in nodes]
        self._body = os.urandom(4 * KIB)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Foreground]:
        tasks = [asyncio.create_task(self._one(n)) for n in range(_CONNECTIONS)]
        try:
            yield self
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        client = Connection("127.0.0.1", self._ports[number % len(self._ports)], _KEYS)
        begin = time.perf_counter()
        for n in count():
            method = "PUT" if n % 2 == 0 else "GET"
            path = f"{self._bucket}/foreground/{number}/{n - n % 2}"
            phase, start = self.phase, time.perf_counter()
            await self._until_answered(client, method, path, phase)
            (phase.put if method == "PUT" else phase.get).append(time.perf_counter() - start)
            begin = max(begin + _EVERY_S, time.perf_counter() - 1.0)
            await asyncio.sleep(max(begin - time.perf_counter(), 0))

    async def _until_answered(
        self, client: Connection, method: str, path: str, phase: _Latencies
    ) -> None:
        """As an S3 client's ordinary retry: a lost connection or a 5xx is tried again, at most three times."""
        for attempt in range(4):
            try:
                answer = await client.request(
                    method, path, body=self._body if method == "PUT" else b""
                )
            except (ConnectionLost, TimeoutError):
                answer = None
            if answer is not None and answer.status == 200:
                assert method == "PUT" or answer.body == self._body
                return
            phase.retried += 1
            await asyncio.sleep(0.1 * 2**attempt)
        phase.failed += 1

    def begin_phase(self) -> _Latencies:
        """What follows is counted apart; the figures of what was before."""
        before, self.phase = self.phase, _Latencies()
        return before


def _compare(figures: Samples, name: str, before: _Latencies, during: _Latencies) -> None:
    for method in ("PUT", "GET"):
        was, now = before.p99_ms(method), during.p99_ms(method)
        figures.add(f"{name}: {method} 4 KiB p99 before", was, "ms")
        figures.add(f"{name}: {method} 4 KiB p99 meanwhile", now, "ms")
        figures.add(f"{name}: {method} p99 meanwhile, times that before", now / was, "x")
    figures.add(f"{name}: requests failed for good", during.failed, "")
    figures.add(f"{name}: requests tried again", during.retried, "")


async def _write(nodes: list[TestNode], path: str, *, size_bytes: int, total: int) -> None:
    body = os.urandom(size_bytes)
    numbers = iter(range(total))

    async def writer(n: int) -> None:
        client = Connection("127.0.0.1", nodes[n % len(nodes)].s3_port, _KEYS)
        for number in numbers:
            answer = await client.request("PUT", f"{path}/{number:06d}", body=body, timeout_s=120)
            assert answer.status == 200, (answer.status, answer.body[:300])
        client.close()

    await asyncio.gather(*(writer(n) for n in range(8)))


def _row(cluster: Cluster, name: str) -> dict[str, Any] | None:
    status = cluster.leader().status()
    rows = [] if status is None else status["members"]
    return next((row for row in rows if row["name"] == name), None)


def _jobs(nodes: Iterable[TestNode], since: dict[str, int]) -> list[dict[str, Any]]:
    """Log entries of ended and begun resyncs, as the leaders wrote them."""
    found: list[dict[str, Any]] = []
    for node in nodes:
        with node.log_path.open("rb") as file:
            file.seek(since.get(node.name, 0))
            found += [json.loads(line) for line in file if b'"core.resync.' in line]
    return found


async def _back(
    cluster: Cluster, victim: TestNode, load: Foreground
) -> tuple[dict[str, Any], _Latencies]:
    """Start a node; the ended full resync with its seconds, and the foreground's latencies while it ran."""
    since = {node.name: node.log_path.stat().st_size for node in cluster.nodes}
    survivors = [node for node in cluster.nodes if node is not victim]
    cluster.start_node(victim)
    begun: float | None = None
    end = time.perf_counter() + 600
    while time.perf_counter() < end:
        entries = [
            e
            for e in _jobs(survivors, since)
            if str(e.get("member", "")).startswith(f"{victim.name}@")
        ]
        events = {e["event"] for e in entries}
        if begun is None and "core.resync.started" in events:
            begun = time.perf_counter()
            load.begin_phase()
        done = [e for e in entries if e["event"] == "core.resync.done" and e["full"]]
        if begun is not None and done:
            return {**done[0], "seconds": time.perf_counter() - begun}, load.begin_phase()
        await asyncio.sleep(0.02)
    raise AssertionError(f"{victim.name} is not back")


async def measure_resync(figures: Samples, cluster: Cluster, scale: float) -> None:
    """A node is away while blobs are written, and gets them: how fast, and what clients notice."""
    leader = await asyncio.to_thread(cluster.leader)
    victim = next(node for node in cluster.nodes if node is not leader)
    others = [node for node in cluster.nodes if node is not victim]
    client = Connection("127.0.0.1", leader.s3_port, _KEYS)
    await client.request("PUT", "/benchresync")
    client.close()
    for name, size_bytes, total in (
        ("16 MiB", 16 * MIB, max(4, int(128 * scale))),
        ("64 KiB", 64 * KIB, max(100, int(5000 * scale))),
    ):
        await asyncio.to_thread(victim.kill)
        await _write(others, f"/benchresync/{size_bytes}", size_bytes=size_bytes, total=total)
        async with Foreground(others, "/benchresync").running() as load:
            await asyncio.sleep(1.0)
            load.begin_phase()
            await asyncio.sleep(_BEFORE_S)
            before = load.begin_phase()
            done, during = await _back(cluster, victim, load)
        assert done["blobs_done"] >= total, (done, total)
        figures.add(f"resync of {name} blobs", done["bytes_done"] / MIB / done["seconds"], "MiB/s")
        figures.add(f"resync of {name} blobs: objects", done["blobs_done"] / done["seconds"], "/s")
        _compare(figures, f"resync of {name} blobs", before, during)
        await asyncio.to_thread(cluster.wait_in_sync, deadline_s=120)


async def measure_members(figures: Samples, cluster: Cluster, scale: float) -> None:
    """A fourth node joins a cluster that holds data while clients go on, and leaves again."""
    others = list(cluster.nodes)
    client = Connection("127.0.0.1", others[0].s3_port, _KEYS)
    await client.request("PUT", "/benchmembers")
    client.close()
    await _write(others, "/benchmembers/data", size_bytes=MIB, total=max(16, int(256 * scale)))
    await asyncio.to_thread(cluster.wait_in_sync, deadline_s=120)
    async with Foreground(others, "/benchmembers").running() as load:
        await asyncio.sleep(1.0)
        load.begin_phase()
        await asyncio.sleep(_BEFORE_S)
        before = load.begin_phase()
        start = time.perf_counter()
        new = cluster.new_node("n4", join=others)
        cluster.start_node(new)
        await _member(others[0], "add", f"n4=127.0.0.1:{new.node_port}")

        def is_whole() -> bool:
            row = _row(cluster, "n4")
            return row is not None and bool(row["voter"]) and bool(row["in_sync"])

        await asyncio.to_thread(cluster.wait, is_whole, "n4 is in sync", deadline_s=300)
        figures.add("member added: a voter and in sync after", time.perf_counter() - start, "s")
        _compare(figures, "member added", before, load.begin_phase())
        start = time.perf_counter()
        await _member(others[0], "remove", "n4")
        figures.add("member removed after", time.perf_counter() - start, "s")
        _compare(figures, "member removed", before, load.begin_phase())
    assert new.process is not None
    await asyncio.to_thread(new.process.wait, 30)
    new.process = None
    cluster.nodes.remove(new)


async def _member(node: TestNode, *arguments: str) -> None:
    """`sos member ...` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sos", "member", *arguments),
        *("--admin", f"127.0.0.1:{node.admin_port}"),
        env={**os.environ, "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, told.decode(errors="replace")
