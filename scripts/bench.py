"""How fast is SOS here? Prints figures beside baselines taken in the same run, for this machine is noisy.

    python3 scripts/bench.py                        all scenarios, five runs each, median and worst
    python3 scripts/bench.py --only put4k get4k     some scenarios
    python3 scripts/bench.py --runs 1 --json F      once; figures also as JSON

Three nodes on loopback from the real command line, all syncs on, and one client process with keep-alive sockets and
signed requests over distinct keys whose answers are checked. All of it shares this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from _environment import ROOT, run_inside, say

KIB = 1024
MIB = 1024 * KIB


@dataclass(slots=True)
class Figures:
    """Samples of each figure, one per run."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        self.samples.setdefault(name, []).append(value)
        self.units[name] = unit

    def worst(self, name: str) -> float:
        lower_is_worse = self.units[name].endswith("/s")
        return (min if lower_is_worse else max)(self.samples[name])


async def _closed_loop(
    connections: int, count: int, work: Callable[[int, int], Awaitable[None]]
) -> tuple[float, list[float]]:
    """``count`` calls spread over ``connections`` loops that each wait for their answer: (seconds, latencies)."""
    latencies: list[float] = []
    following = iter(range(count))

    async def loop(connection: int) -> None:
        for n in following:
            start = time.perf_counter()
            await work(connection, n)
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(loop(c) for c in range(connections)))
    return time.perf_counter() - start, sorted(latencies)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Bench:
    """Scenarios over one running cluster. ``ports``: the S3 port of each node; ``cpu_s``: what its processes used."""

    def __init__(
        self,
        ports: list[int],
        credentials: object,
        figures: Figures,
        scale: float,
        cpu_s: Callable[[], float],
    ) -> None:
        from tests.load.client import Connection, Credentials

        assert isinstance(credentials, Credentials)
        self._new = lambda n: Connection("127.0.0.1", ports[n % len(ports)], credentials)
        self._figures = figures
        self._scale = scale
        self._cpu_s = cpu_s
        self._run = 0

    async def prepare(self, run: int) -> None:
        self._run = run
        await self.prepare_bucket(f"/bench{run}")

    def _count(self, full: int) -> int:
        return max(32, int(full * self._scale))

    async def _spread(
        self,
        name: str,
        *,
        connections: int,
        count: int,
        method: str,
        path: Callable[[int], str],
        body: bytes = b"",
        payload: str | None = None,
        expect: Callable[[object], bool],
    ) -> tuple[float, list[float]]:
        clients = [self._new(n) for n in range(connections)]
        keep = method != "GET" or len(body) <= MIB

        async def one(connection: int, n: int) -> None:
            answer = await clients[connection].request(
                method,
                path(n),
                body=body if method == "PUT" else b"",
                payload=payload,
                keep_body=keep,
            )
            assert expect(answer), f"{name}: {answer.status} {answer.body[:300]!r}"

        for client in clients:  # connect first: the figure is of requests
            await client.request("HEAD", f"/bench{self._run}")
        cpu_s, own_s = self._cpu_s(), time.process_time()
        result = await _closed_loop(connections, count, one)
        if len(body) <= MIB:
            nodes_us = (self._cpu_s() - cpu_s) / count * 1e6
            self._figures.add(f"{name}: CPU of the nodes a request", nodes_us, "us")
            client_us = (time.process_time() - own_s) / count * 1e6
            self._figures.add(f"{name}: CPU of the client a request", client_us, "us")
        for client in clients:
            client.close()
        return result

    async def put4k(self) -> None:
        body = os.urandom(4 * KIB)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        for name, connections, count in (("put 4 KiB x32", 32, 6000), ("put 4 KiB x1", 1, 500)):
            seconds, latencies = await self._spread(
                name, connections=connections, count=self._count(count), method="PUT",
                path=lambda n, c=connections: f"/bench{self._run}/small/{c}/{n:08d}", body=body,
                expect=lambda a: a.status == 200 and a.headers["etag"] == etag,
            )  # fmt: skip
            self._figures.add(f"{name}", len(latencies) / seconds, "/s")
            self._figures.add(f"{name} p50", _percentile(latencies, 0.5) * 1e3, "ms")
            self._figures.add(f"{name} p99", _percentile(latencies, 0.99) * 1e3, "ms")
        self._small_keys = self._count(6000)
        self._small_body = body

    async def get4k(self) -> None:
        """After ``put4k``: reads what it wrote."""
        body = self._small_body
        for method, name in (("GET", "get 4 KiB x32"), ("HEAD", "head x32")):
            seconds, latencies = await self._spread(
                name, connections=32, count=self._count(12_000), method=method,
                path=lambda n: f"/bench{self._run}/small/32/{n % self._small_keys:08d}",
                expect=lambda a, m=method: a.status == 200 and (m == "HEAD" or a.body == body),
            )  # fmt: skip
            self._figures.add(name, len(latencies) / seconds, "/s")
            self._figures.add(f"{name} p99", _percentile(latencies, 0.99) * 1e3, "ms")

    async def list100k(self) -> None:
        """One client, 1,000 keys a page, parsed. The keys are made once per cluster, empty ones."""
        from xml.etree import ElementTree

        total = self._count(100_000)
        connection = self._new(0)
        await connection.request("PUT", "/benchlist")
        probe = await connection.request("HEAD", f"/benchlist/key/{total - 1:09d}")
        if probe.status == 404:
            say(f"  making {total} keys to list")
            await self._spread(
                "make keys", connections=64, count=total, method="PUT",
                path=lambda n: f"/benchlist/key/{n:09d}", expect=lambda a: a.status == 200,
            )  # fmt: skip
        namespace = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        from urllib.parse import quote

        start, seen, token = time.perf_counter(), 0, ""
        while True:
            query = (
                "list-type=2"
                if not token
                else f"continuation-token={quote(token, safe='')}&list-type=2"
            )
            answer = await connection.request("GET", "/benchlist", query=query)
            assert answer.status == 200, answer.body[:300]
            root = ElementTree.fromstring(answer.body)
            seen += len([c.find(f"{namespace}Key").text for c in root.iter(f"{namespace}Contents")])  # type: ignore[union-attr]
            if root.findtext(f"{namespace}IsTruncated") != "true":
                break
            token = root.findtext(f"{namespace}NextContinuationToken") or ""
        assert seen == total, (seen, total)
        self._figures.add("list 1,000 a page", seen / (time.perf_counter() - start), "keys/s")
        connection.close()

    async def large(self) -> None:
        body = os.urandom(16 * MIB)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        count = max(8, int(24 * self._scale))
        seconds, latencies = await self._spread(
            "put 16 MiB x4", connections=4, count=count, method="PUT", payload="UNSIGNED-PAYLOAD",
            path=lambda n: f"/bench{self._run}/large/{n:04d}", body=body,
            expect=lambda a: a.status == 200 and a.headers["etag"] == etag,
        )  # fmt: skip
        self._figures.add("put 16 MiB x4", len(latencies) * 16 / seconds, "MiB/s")
        seconds, latencies = await self._spread(
            "get 16 MiB x4", connections=4, count=count * 3, method="GET",
            path=lambda n: f"/bench{self._run}/large/{n % count:04d}", body=body,
            expect=lambda a: a.status == 200 and a.body_bytes == len(body),
        )  # fmt: skip
        self._figures.add("get 16 MiB x4", len(latencies) * 16 / seconds, "MiB/s")

    async def prepare_bucket(self, path: str) -> None:
        connection = self._new(0)
        answer = await connection.request("PUT", path)
        assert answer.status == 200, answer
        connection.close()

    async def put_stream(self, path: str, size_bytes: int) -> None:
        """One PUT of ``size_bytes`` through the first node, sent as it is made."""
        connection = self._new(0)
        answer = await connection.request(
            "PUT", path, repeat=(os.urandom(MIB), size_bytes // MIB), timeout_s=900
        )
        assert answer.status == 200, answer
        connection.close()

    async def get_stream(self, path: str, size_bytes: int) -> None:
        """One GET through the second node; its bytes are counted."""
        connection = self._new(1)
        answer = await connection.request("GET", path, keep_body=False, timeout_s=900)
        assert answer.status == 200
        assert answer.body_bytes == size_bytes
        connection.close()


def baseline_disk(figures: Figures, directory: Path) -> None:
    """What the disk gives: 4 KiB appends with fdatasync, and 1 MiB writes with fsync."""
    path = directory / "baseline"
    page, block = os.urandom(4 * KIB), os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 1.0:
            os.pwrite(file.fileno(), page, (count % 2048) * 4096)
            os.fdatasync(file.fileno())
            count += 1
        figures.add("baseline: 4 KiB fdatasync", count / (time.perf_counter() - start), "/s")
    start, count = time.perf_counter(), 0
    with path.open("wb", buffering=0) as file:
        while time.perf_counter() - start < 1.5:
            file.write(block)
            os.fsync(file.fileno())
            count += 1
    figures.add("baseline: 1 MiB writes with fsync", count / (time.perf_counter() - start), "MiB/s")
    path.unlink()


BARE_SERVER = """
import asyncio, sys, uvloop
from aiohttp import web
async def main():
    async def handle(request):
        await request.read()
        return web.Response(body=b"x" * 4096)
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    print("ready", flush=True)
    await asyncio.sleep(600)
uvloop.run(main())
"""


async def baseline_http(figures: Figures, port: int) -> None:
    """What a bare ``web.Server`` gives to the same client: 32 connections, signed requests nobody checks."""
    from tests.load.client import Connection, Credentials

    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BARE_SERVER, str(port), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        await asyncio.wait_for(server.stdout.readline(), 20)
        keys = Credentials(access_key="a" * 20, secret_key="s" * 40)
        clients = [Connection("127.0.0.1", port, keys) for _ in range(32)]

        async def one(connection: int, n: int) -> None:
            answer = await clients[connection].request("GET", f"/bucket/{n}")
            assert answer.body_bytes == 4096

        seconds, latencies = await _closed_loop(32, 6000, one)
        figures.add("baseline: bare web.Server GET 4 KiB x32", len(latencies) / seconds, "/s")
        for client in clients:
            client.close()
    finally:
        server.kill()
        await server.wait()


# --- scenarios that start, kill or weigh nodes ---------------------------------------------------------


def _pss_mib(pids: list[int]) -> float:
    """Proportional memory of processes, without mappings of ``data.mdb`` (they are page cache)."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps").read_text()
        except OSError:
            continue
        counted = True
        for line in text.splitlines():
            first = line.split(None, 1)[0]
            if "-" in first and not first.endswith(":"):
                counted = not line.endswith("data.mdb")
            elif counted and line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds that processes have used, all their threads."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total_ns += int(task.read_text().split()[0])
    return total_ns / 1e9


def _node_pids(node: object) -> list[int]:
    from tests.integration.cluster import TestNode

    assert isinstance(node, TestNode)
    assert node.process is not None
    return [node.process.pid, *node.children().values()]


async def measure_big(figures: Figures, cluster: object, bench: Bench, size_bytes: int) -> None:
    """Memory that one large PUT and GET add to each node."""
    from tests.integration.cluster import Cluster

    assert isinstance(cluster, Cluster)
    before = [_pss_mib(_node_pids(node)) for node in cluster.nodes]
    peaks = list(before)
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            for at, node in enumerate(cluster.nodes):
                peaks[at] = max(peaks[at], await asyncio.to_thread(_pss_mib, _node_pids(node)))
            await asyncio.sleep(0.5)

    watcher = asyncio.create_task(watch())
    start = time.perf_counter()
    await bench.put_stream("/benchbig/object", size_bytes)
    put_s = time.perf_counter() - start
    start = time.perf_counter()
    await bench.get_stream("/benchbig/object", size_bytes)
    get_s = time.perf_counter() - start
    done.set()
    await watcher
    gib = size_bytes / (1024 * MIB)
    figures.add(f"{gib:.0f} GiB put", size_bytes / MIB / put_s, "MiB/s")
    figures.add(f"{gib:.0f} GiB get", size_bytes / MIB / get_s, "MiB/s")
    added = max(peak - was for peak, was in zip(peaks, before, strict=True))
    figures.add(f"{gib:.0f} GiB put and get: memory added, worst node", added, "MiB")


async def measure_failover(figures: Figures, cluster: object, kills: int) -> None:
    """Kill the leader; the time until a PUT through a survivor succeeds again."""
    from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
    from tests.load.client import Connection, ConnectionLost, Credentials

    assert isinstance(cluster, Cluster)
    keys = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
    for kill in range(kills):
        leader = await asyncio.to_thread(cluster.leader)
        survivors = [node for node in cluster.nodes if node is not leader]
        clients = [Connection("127.0.0.1", node.s3_port, keys) for node in survivors]
        for client in clients:
            await client.request("PUT", "/bench0/failover", body=b"before")
        await asyncio.to_thread(leader.kill)
        start = time.perf_counter()
        n = 0
        while True:
            try:
                answer = await clients[n % 2].request(
                    "PUT", "/bench0/failover", body=b"after", timeout_s=15
                )
                if answer.status == 200:
                    break
            except (ConnectionLost, TimeoutError):
                pass
            n += 1
            await asyncio.sleep(0.01)
        figures.add("leader killed: write gap", time.perf_counter() - start, "s")
        for client in clients:
            client.close()
        cluster.start_node(leader)
        await asyncio.to_thread(cluster.wait_in_sync, deadline_s=120)
        say(
            f"  kill {kill + 1} of {kills}: {figures.samples['leader killed: write gap'][-1]:.2f} s"
        )


async def measure_return(figures: Figures, cluster: object, seconds: float) -> None:
    """A node is killed, ``seconds`` of 4 KiB writes pass, it starts again: time until it is in sync."""
    from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
    from tests.load.client import Connection, Credentials

    assert isinstance(cluster, Cluster)
    leader = await asyncio.to_thread(cluster.leader)
    victim = next(node for node in cluster.nodes if node is not leader)
    keys = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
    ports = [node.s3_port for node in cluster.nodes if node is not victim]
    await asyncio.to_thread(victim.kill)
    body = os.urandom(4 * KIB)
    end = time.perf_counter() + seconds
    written = 0

    async def writer(n: int) -> None:
        nonlocal written
        client = Connection("127.0.0.1", ports[n % 2], keys)
        while time.perf_counter() < end:
            answer = await client.request("PUT", f"/bench0/return/{n}/{written:08d}", body=body)
            assert answer.status == 200, answer
            written += 1
        client.close()

    await asyncio.gather(*(writer(n) for n in range(16)))
    start = time.perf_counter()
    cluster.start_node(victim)

    def in_sync() -> bool:
        status = cluster.leader().status()
        return status is not None and all(
            member["in_sync"] for member in status["members"] if member["name"] == victim.name
        )

    await asyncio.to_thread(cluster.wait, in_sync, "the returned node is in sync", deadline_s=300)
    figures.add(
        f"back after {seconds:.0f} s of 4 KiB writes, in sync", time.perf_counter() - start, "s"
    )
    figures.add("  objects written meanwhile", written, "")


async def measure_scrub(figures: Figures, cluster: object, bench: Bench, mib: int) -> None:
    """Every node re-reads all its replicas at once, past the page cache, as fast as it can."""
    from sos.admin.client import ask
    from sos.settings import Address
    from tests.integration.cluster import ROOT_SECRET_KEY, Cluster

    assert isinstance(cluster, Cluster)
    await bench.prepare_bucket("/benchscrub")
    for n in range(-(-mib // 64)):
        await bench.put_stream(f"/benchscrub/{n}", 64 * MIB)
    await asyncio.to_thread(cluster.wait_in_sync, deadline_s=120)
    admin = Address(host="127.0.0.1", port=cluster.nodes[0].admin_port)
    answer = await asyncio.to_thread(
        ask, admin, "POST", "/scrub", body={}, root_secret_key=ROOT_SECRET_KEY
    )
    request = answer.body["request"]
    while True:
        rows = (await asyncio.to_thread(ask, admin, "GET", "/scrub")).body["nodes"]
        if all(row.get("request") == request and row["is_done"] for row in rows):
            break
        await asyncio.sleep(0.1)
    assert not any(row["found"] or row["error"] for row in rows), rows
    rates = [row["last_bytes_s"] / MIB for row in rows]
    figures.add("scrub, unpaced: slowest of three nodes", min(rates), "MiB/s")
    figures.add("scrub, unpaced: all nodes together", sum(rates), "MiB/s")


def print_table(figures: Figures) -> None:
    """Median and worst of each figure; ratios beside the baseline that bounds it."""
    from rich.console import Console
    from rich.table import Table

    bounds = {
        "put 4 KiB x32": "baseline: 4 KiB fdatasync",
        "put 4 KiB x1": "baseline: 4 KiB fdatasync",
        "get 4 KiB x32": "baseline: bare web.Server GET 4 KiB x32",
        "head x32": "baseline: bare web.Server GET 4 KiB x32",
        "put 16 MiB x4": "baseline: 1 MiB writes with fsync",
    }
    table = Table("figure", "median", "worst", "unit", "runs", "ratio to baseline")
    for name, samples in figures.samples.items():
        median = statistics.median(samples)
        ratio = ""
        if name in bounds and bounds[name] in figures.samples:
            ratio = f"{median / statistics.median(figures.samples[bounds[name]]):.2f}"
        table.add_row(
            name,
            f"{median:,.2f}",
            f"{figures.worst(name):,.2f}",
            figures.units[name],
            str(len(samples)),
            ratio,
        )
    Console(width=130).print(table)


SCENARIOS = (
    *("put4k", "get4k", "list100k", "large", "memory", "big", "failover", "return", "scrub"),
    *("resync", "members", "multipart", "versions", "many"),
)


async def run_all(arguments: argparse.Namespace) -> Figures:
    import _bench_nodes
    import _bench_s3

    from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, free_ports
    from tests.load.client import Credentials

    figures = Figures()
    chosen = arguments.only or SCENARIOS
    with (
        tempfile.TemporaryDirectory(prefix="sos-bench-", dir=arguments.dir) as directory,
        Cluster(Path(directory), test_mode=False) as cluster,
    ):
        start = time.perf_counter()
        await asyncio.to_thread(cluster.start)
        figures.add("three nodes ready after start", time.perf_counter() - start, "s")
        if "memory" in chosen:
            await asyncio.sleep(3)
            for node in cluster.nodes:
                figures.add("memory of an idle node", _pss_mib(_node_pids(node)), "MiB")
        keys = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
        pids = [pid for node in cluster.nodes for pid in _node_pids(node)]
        ports = [node.s3_port for node in cluster.nodes]
        bench = Bench(ports, keys, figures, arguments.scale, lambda: _cpu_s(pids))
        for run in range(arguments.runs):
            say(f"run {run + 1} of {arguments.runs}")
            gc.collect()
            baseline_disk(figures, Path(directory))
            await baseline_http(figures, free_ports(1)[0])
            await bench.prepare(run)
            for name in ("put4k", "get4k", "list100k", "large"):
                if name in chosen or (name == "put4k" and "get4k" in chosen):
                    say(f"  {name}")
                    await getattr(bench, name)()
        for name, what, measure in (
            (
                "multipart",
                "one object in parts, and its bytes in plain PUTs",
                _bench_s3.measure_multipart,
            ),
            ("versions", "versioned and plain buckets", _bench_s3.measure_versions),
            ("many", "many keys: prefixes, deletes of a thousand", _bench_s3.measure_many),
        ):
            if name in chosen:
                say(what)
                await measure(figures, cluster, arguments.scale)
        if "big" in chosen:
            say("one large object")
            await bench.prepare_bucket("/benchbig")
            await measure_big(figures, cluster, bench, int(arguments.big_gib * 1024 * MIB))
        if "scrub" in chosen:
            say("every node re-reads its replicas")
            await measure_scrub(figures, cluster, bench, max(64, int(1024 * arguments.scale)))
        if "resync" in chosen:
            say("a node returns and gets large and small blobs, under load")
            await _bench_nodes.measure_resync(figures, cluster, arguments.scale)
        if "members" in chosen:
            say("a fourth member comes and goes, under load")
            await _bench_nodes.measure_members(figures, cluster, arguments.scale)
        if "return" in chosen:
            say(f"a node returns after {arguments.away:.0f} s of writes")
            await measure_return(figures, cluster, arguments.away)
        if "failover" in chosen:
            say(f"{arguments.kills} leader kills")
            await measure_failover(figures, cluster, arguments.kills)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, help="some scenarios (default: all)"
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="runs of each throughput scenario (default 5)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full request counts")
    parser.add_argument("--kills", type=int, default=5, help="leader kills (default 5)")
    parser.add_argument(
        "--away", type=float, default=60.0, help="seconds of writes while a node is away"
    )
    parser.add_argument(
        "--big-gib", type=float, default=5.0, help="size of the large object in GiB"
    )
    parser.add_argument(
        "--dir", help="where the nodes keep their data (default: the temporary directory)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    run_inside("dev")
    sys.path.insert(0, str(ROOT))
    import uvloop

    gc.disable()  # a collection per 700 parsed elements would measure the client
    figures = uvloop.run(run_all(arguments))
    print_table(figures)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures.samples, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
