"""Requests, disks and catalogs of a test cluster: what tests of a returning node look at.

Blocking; one connection per request. Reads of another process's catalog go through ``CatalogReader``, as a
gateway's do.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from sos.blob.layout import FAN_OUT, blob_id_of_name, blob_path
from sos.blob.reading import OpenedFile
from sos.catalog.model import BlobId, BlobRecord
from sos.catalog.reader import CatalogReader
from sos.catalog.views import View
from sos.disk import SystemDisk
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.load.client import Credentials, signed_head

Found = TypeVar("Found")
ROOT: Final = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
BUCKET: Final = "return"
KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer; ``cut``: the connection ended before the body did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False


def request(
    node: TestNode,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: tuple[tuple[str, str], ...] = (),
    timeout_s: float = 30.0,
) -> Reply:
    """One signed request. Raises: OSError when no answer came (then the outcome is unknown)."""
    host = f"127.0.0.1:{node.s3_port}"
    head = signed_head(
        ROOT,
        method=method,
        host=host,
        path=path,
        headers=headers,
        payload=hashlib.sha256(body).hexdigest(),
        content_length=len(body) if body or method == "PUT" else None,
    )
    with socket.create_connection(("127.0.0.1", node.s3_port), timeout=timeout_s) as connection:
        connection.sendall(head + body)
        response = http.client.HTTPResponse(connection, method=method)
        try:
            response.begin()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        received = {name.lower(): value for name, value in response.getheaders()}
        try:
            data, cut = response.read(), False
        except (http.client.IncompleteRead, ConnectionError) as error:
            data = error.partial if isinstance(error, http.client.IncompleteRead) else b""
            cut = True
        return Reply(status=response.status, headers=received, body=data, cut=cut)


def put(node: TestNode, key: str, body: bytes, *, timeout_s: float = 30.0) -> int | None:
    """The status of a PUT; None: unknown."""
    try:
        return request(node, "PUT", f"/{BUCKET}/{key}", body=body, timeout_s=timeout_s).status
    except OSError:
        return None


def put_ok(node: TestNode, key: str, body: bytes, *, deadline_s: float = 20.0) -> None:
    """PUT until it is acknowledged; what it was answered last is in the failure."""
    last: OSError | Reply | None = None

    def ask() -> bool:
        nonlocal last
        try:
            last = request(node, "PUT", f"/{BUCKET}/{key}", body=body)
        except OSError as error:
            last = error
            raise
        return last.status == 200

    try:
        until(ask, f"{key} is stored", deadline_s)
    except AssertionError as error:
        raise AssertionError(f"{error}; {node.name} said {last!r}\n{node.log_tail()}") from None


def get(
    node: TestNode, key: str, *, byte_range: str | None = None, timeout_s: float = 30.0
) -> Reply:
    """One GET. Raises: OSError."""
    headers = () if byte_range is None else (("range", f"bytes={byte_range}"),)
    return request(node, "GET", f"/{BUCKET}/{key}", headers=headers, timeout_s=timeout_s)


def get_settled(node: TestNode, key: str, *, deadline_s: float = 20.0) -> Reply:
    """A GET once the node serves: 503 is asked again."""

    def ask() -> Reply | None:
        try:
            reply = get(node, key)
        except OSError:
            return None
        return None if reply.status == 503 else reply

    return until(ask, f"{node.name} answers for {key}", deadline_s)


def delete_ok(node: TestNode, key: str) -> None:
    until(lambda: request(node, "DELETE", f"/{BUCKET}/{key}").status == 204, f"{key} is gone", 20.0)


def make_bucket(node: TestNode) -> None:
    until(
        lambda: request(node, "PUT", f"/{BUCKET}").status in (200, 409), "there is a bucket", 20.0
    )


def content(seed: str, size: int) -> bytes:
    """Bytes that only ``seed`` and ``size`` decide."""
    return random.Random(f"{seed}/{size}").randbytes(size)


def check_all(cluster: Cluster, expected: Mapping[str, bytes]) -> None:
    """P1: every acknowledged key, byte for byte, through every node that runs."""
    for node in cluster.nodes:
        if node.process is None:
            continue
        for key, body in expected.items():
            reply = get_settled(node, key)
            assert reply.status == 200, (node.name, key, reply.status)
            assert not reply.cut, (node.name, key)
            assert reply.body == body, (node.name, key)


# --- disks ----------------------------------------------------------------------------------------
def blobs_on_disk(node: TestNode) -> set[BlobId]:
    """Ids of the blob files of a node."""
    found: set[BlobId] = set()
    for name in FAN_OUT:
        for file in os.listdir(node.data / "blobs" / name):
            blob = blob_id_of_name(file)
            assert blob is not None, f"{name}/{file} is no blob"
            found.add(blob)
    return found


def blob_file(node: TestNode, blob: BlobId) -> Path:
    return Path(blob_path(str(node.data / "blobs"), blob))


def check_sound(node: TestNode, blob: BlobId) -> None:
    """Read a replica in full. Raises: Corruption, FileNotFoundError."""
    opened = OpenedFile(SystemDisk(), str(blob_file(node, blob)), blob)
    try:
        opened.verify_all()
    finally:
        opened.close()


def temporary_files(node: TestNode) -> list[str]:
    """What is half written, half fetched or half removed in a node's directory."""
    blobs, catalog = node.data / "blobs", node.data / "catalog"
    found = [str(path) for path in (blobs / "tmp").glob("*/*")]
    for name in ("incoming", "outgoing"):
        found += [str(path) for path in (catalog / name).glob("*")]
    return found + [str(path) for path in node.data.rglob("*.tmp")]


# --- catalogs -------------------------------------------------------------------------------------
@contextmanager
def catalog_view(node: TestNode) -> Iterator[View]:
    """The node's applied catalog, as it is now."""
    reader = CatalogReader(node.data / "catalog")
    try:
        with reader.view() as view:
            yield view
    finally:
        reader.close()


def named_blobs(node: TestNode) -> list[BlobRecord]:
    """Every blob in files that the node's catalog names."""
    with catalog_view(node) as view:
        return view.blobs(limit=1_000_000)


def blob_of(node: TestNode, key: str) -> BlobId:
    """The blob that a key names, once this node applied that."""

    def look() -> BlobId | None:
        with catalog_view(node) as view:
            bucket = view.bucket(BUCKET)
            record = None if bucket is None else view.object(bucket.bucket_id, key)
            return None if record is None else record.blob

    return until(look, f"{node.name} knows {key}", 10.0)


def check_disk(node: TestNode) -> int:
    """P12, P14: the node holds every named blob, soundly, and is a listed holder; how many.

    The leader's word that a node is in sync is up to a second ahead of what the node itself has applied.
    """
    node_id = _node_id(node)

    def holds_all() -> bool:
        present = blobs_on_disk(node)
        return all(r.blob in present and node_id in r.holders for r in named_blobs(node))

    until(holds_all, f"{node.name} holds every blob and is counted for it", 10.0)
    records = named_blobs(node)
    for record in records:
        check_sound(node, record.blob)
    return len(records)


def _node_id(node: TestNode) -> str:
    status = node.status()
    assert status is not None
    return str(status["node"])


def member_row(cluster: Cluster, name: str) -> dict[str, object] | None:
    """What the leader says of a member; None while there is no leader."""
    for node in cluster.nodes:
        if node.process is None:
            continue
        code, text = node.admin("/status", timeout_s=2.0)  # a paused one does not answer
        status = json.loads(text) if code == 200 else None
        if status is not None and status["leader"] == status["node"] and status["ready"]:
            return next((row for row in status["members"] if row["name"] == name), None)
    return None


def wait_in_sync(cluster: Cluster, node: TestNode, *, deadline_s: float = 60.0) -> None:
    """Until the leader calls ``node`` in sync and owes it nothing."""

    def is_in_sync() -> bool:
        row = member_row(cluster, node.name)
        return row is not None and bool(row["in_sync"]) and row["blobs_owed"] == 0

    cluster.wait(is_in_sync, f"{node.name} is in sync", deadline_s=deadline_s)


def until(condition: Callable[[], Found | None], what: str, deadline_s: float) -> Found:
    """The first true value; lost connections count as not yet."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            value = condition()
        except OSError:
            value = None
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
