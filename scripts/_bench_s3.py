"""Scenarios of `bench.py` about parts, versions and many keys: each beside the plain way of the same, in the same run."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from urllib.parse import quote

from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
from tests.load.client import UNSIGNED, Answer, Connection, Credentials

MIB: Final = 1024 * 1024
_KEYS: Final = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
_PART: Final = 16 * MIB
_CONNECTIONS: Final = 16


class Samples(Protocol):
    """What is needed of ``bench.Figures``."""

    def add(self, name: str, value: float, unit: str) -> None: ...


class _Clients:
    """Connections to all nodes in turn."""

    def __init__(self, cluster: Cluster, count: int = _CONNECTIONS) -> None:
        ports = [node.s3_port for node in cluster.nodes]
        self._all = [Connection("127.0.0.1", ports[n % len(ports)], _KEYS) for n in range(count)]

    async def ask(self, n: int, method: str, path: str, **more: object) -> Answer:
        answer = await self._all[n % len(self._all)].request(method, path, **more)  # type: ignore[arg-type]
        assert answer.status in (200, 204), (method, path, answer)
        return answer

    async def each(self, count: int, work: Callable[[int, int], Awaitable[object]]) -> float:
        """``count`` calls over all connections; seconds."""
        following = iter(range(count))

        async def loop(connection: int) -> None:
            for n in following:
                await work(connection, n)

        start = time.perf_counter()
        await asyncio.gather(*(loop(connection) for connection in range(len(self._all))))
        return time.perf_counter() - start

    def close(self) -> None:
        for client in self._all:
            client.close()


async def measure_multipart(figures: Samples, cluster: Cluster, scale: float) -> None:
    """1 GiB in parts of 16 MiB, beside eight plain PUTs of an eighth each; four connections."""
    total = max(128 * MIB, int(1024 * MIB * scale)) // (8 * _PART) * 8 * _PART
    clients = _Clients(cluster, 4)
    eighth, part = os.urandom(total // 8), os.urandom(_PART)
    await clients.ask(0, "PUT", "/benchparts")

    async def plain(connection: int, n: int) -> None:
        await clients.ask(
            connection, "PUT", f"/benchparts/plain{n}", body=eighth, payload=UNSIGNED, timeout_s=600
        )

    plain_s = await clients.each(8, plain)
    begun = await clients.ask(0, "POST", "/benchparts/whole", query="uploads")
    found = re.search(rb"<UploadId>(\w+)<", begun.body)
    assert found is not None
    upload = found[1].decode()
    etags: dict[int, str] = {}

    async def one_part(connection: int, n: int) -> None:
        answer = await clients.ask(
            connection,
            "PUT",
            "/benchparts/whole",
            query=f"partNumber={n + 1}&uploadId={upload}",
            body=part,
            payload=UNSIGNED,
            timeout_s=600,
        )
        etags[n + 1] = answer.headers["etag"]

    count = total // _PART
    parts_s = await clients.each(count, one_part)
    rows = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n]}</ETag></Part>"
        for n in range(1, count + 1)
    )
    document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    start = time.perf_counter()
    await clients.ask(
        0, "POST", "/benchparts/whole", query=f"uploadId={upload}", body=document, payload=UNSIGNED
    )
    complete_s = time.perf_counter() - start
    head = await clients.ask(1, "HEAD", "/benchparts/whole")
    assert int(head.headers["content-length"]) == total
    clients.close()
    size_mib = total / MIB
    figures.add("eight plain PUTs, all of them together", size_mib / plain_s, "MiB/s")
    figures.add("the same bytes in parts of 16 MiB", size_mib / (parts_s + complete_s), "MiB/s")
    figures.add("  of it CompleteMultipartUpload", complete_s * 1e3, "ms")
    figures.add("  in parts / plain, time", (parts_s + complete_s) / plain_s, "x")


async def _fill(clients: _Clients, bucket: str, names: list[str], body: bytes) -> float:
    async def put(connection: int, n: int) -> None:
        await clients.ask(connection, "PUT", f"/{bucket}/{names[n]}", body=body)

    return await clients.each(len(names), put)


async def _list(
    clients: _Clients, bucket: str, query: str, marker: Callable[[bytes], str]
) -> float:
    """All pages; seconds."""
    start, more = time.perf_counter(), ""
    for _ in range(10_000):
        page = (await clients.ask(0, "GET", f"/{bucket}", query=query + more)).body
        if b"<IsTruncated>true" not in page:
            break
        more = marker(page)
    return time.perf_counter() - start


def _after_token(page: bytes) -> str:
    found = re.search(rb"<NextContinuationToken>([^<]+)<", page)
    assert found is not None
    return f"&continuation-token={quote(found[1].decode(), safe='')}"


def _after_version(page: bytes) -> str:
    key = re.search(rb"<NextKeyMarker>([^<]+)<", page)
    version = re.search(rb"<NextVersionIdMarker>([^<]+)<", page)
    assert key is not None
    assert version is not None
    return f"&key-marker={quote(key[1].decode(), safe='')}&version-id-marker={version[1].decode()}"


async def measure_versions(figures: Samples, cluster: Cluster, scale: float) -> None:
    """Versioned PUTs beside plain ones, and both listings of both buckets."""
    count = max(2000, int(10_000 * scale))
    clients = _Clients(cluster)
    names = [f"k{n:07d}" for n in range(count)]
    for bucket in ("benchplain", "benchversioned"):
        await clients.ask(0, "PUT", f"/{bucket}")
    document = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    await clients.ask(0, "PUT", "/benchversioned", query="versioning", body=document)
    seconds = dict.fromkeys(("benchplain", "benchversioned"), 0.0)
    for start in range(0, count, 1000):  # in turn, so that both see the same machine
        for bucket in seconds:
            seconds[bucket] += await _fill(
                clients, bucket, names[start : start + 1000], b"x" * 4096
            )
    figures.add("PUT 4 KiB x16", count / seconds["benchplain"], "/s")
    figures.add("versioned PUT 4 KiB x16", count / seconds["benchversioned"], "/s")
    figures.add("  versioned / plain, time", seconds["benchversioned"] / seconds["benchplain"], "x")
    for bucket, what in (("benchplain", "unversioned"), ("benchversioned", "versioned")):
        keys_s = versions_s = 0.0
        for _ in range(3):
            keys_s += await _list(clients, bucket, "list-type=2", _after_token)
            versions_s += await _list(clients, bucket, "versions=", _after_version)
        figures.add(f"ListObjectsV2, {what}", 3 * count / keys_s, "/s")
        figures.add(f"ListObjectVersions, {what}", 3 * count / versions_s, "/s")
        figures.add("  versions / keys, time", versions_s / keys_s, "x")
    clients.close()


async def measure_many(figures: Samples, cluster: Cluster, scale: float) -> None:
    """A delimiter listing over 1,000 prefixes, first page and later ones; then DeleteObjects of 1,000 keys each."""
    each = max(10, int(100 * scale))
    clients = _Clients(cluster)
    await clients.ask(0, "PUT", "/benchmany")
    names = [f"p{prefix:04d}/{n:06d}" for prefix in range(1000) for n in range(each)]
    await _fill(clients, "benchmany", names, b"")
    figures.add("delimiter listing: keys below 1,000 prefixes", len(names), "")
    for what, query in (
        ("first page of 100", "list-type=2&delimiter=%2F&max-keys=100"),
        ("a later page of 100", "list-type=2&delimiter=%2F&max-keys=100&start-after=p0800"),
        ("all 1,000 prefixes", "list-type=2&delimiter=%2F"),
    ):
        taken = []
        for _ in range(10):
            start = time.perf_counter()
            await clients.ask(0, "GET", "/benchmany", query=query)
            taken.append(time.perf_counter() - start)
        figures.add(f"  {what}", sorted(taken)[5] * 1e3, "ms")
    chosen = names[:10_000]
    start = time.perf_counter()
    for at in range(0, len(chosen), 1000):
        rows = "".join(f"<Object><Key>{name}</Key></Object>" for name in chosen[at : at + 1000])
        document = f"<Delete><Quiet>true</Quiet>{rows}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
        await clients.ask(
            0,
            "POST",
            "/benchmany",
            query="delete",
            body=document,
            payload=UNSIGNED,
            headers=(("content-md5", md5),),
        )
    figures.add("DeleteObjects of 1,000, keys", len(chosen) / (time.perf_counter() - start), "/s")
    clients.close()
