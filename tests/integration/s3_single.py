"""One S3 endpoint without Raft, for tests of the S3 protocol: the real app over real sockets, a real catalog
store, real blob files; only the link is replaced, by one that applies each command at once.

Runs in a thread of its own with its own loop, so that tests stay plain blocking code.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from sos.blob.fetch import BlobReader
from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.peer import PeerIdentity
from sos.blob.peer_client import PeerClient
from sos.blob.replicas import BlobWriter
from sos.catalog.codec import decode_result, encode_command, encode_entry
from sos.catalog.model import (
    AccessKeyId,
    BlobId,
    Command,
    FormationRecord,
    Member,
    NodeId,
    Operation,
    RequestId,
    Result,
)
from sos.catalog.store import CatalogStore
from sos.catalog.views import View
from sos.clock import SystemClock, SystemIds
from sos.errors import OutcomeUnknown, Unavailable
from sos.limits import COMMIT_S_MAX
from sos.link.protocol import Barrier, MemberState, NodeState
from sos.raft.api import EntryKind, LogEntry
from sos.s3.app import S3App
from sos.s3.checksums import new_hasher
from sos.s3.gate import Gate
from sos.s3.handlers import Handlers
from sos.s3.server import HttpServer
from sos.s3.target import S3Settings
from sos.service.access import CatalogAccess
from sos.service.buckets import BucketService
from sos.service.copied import Copier
from sos.service.members import MemberAddresses
from sos.service.multipart import UploadService
from sos.service.objects import ObjectService
from sos.service.storing import BodyStore
from sos.telemetry import Metrics, log
from tests.compat.raw import Credentials, RawClient

__all__ = ["ACCESS_KEY", "SECRET_KEY", "DirectLink", "Endpoint", "serve"]
T = TypeVar("T")
ACCESS_KEY = "AKIDEXAMPLE0"
SECRET_KEY = "secret-of-the-tests/+0"
NODE = NodeId("n1@0123456789abcdef")
OWNER_ID = "0a" * 32


def formation(region: str = "us-east-1") -> FormationRecord:
    """A cluster of one."""
    member = Member(
        node=NODE,
        name="n1",
        address="127.0.0.1:1",
        blob_address="127.0.0.1:2",
        s3_address="127.0.0.1:3",
    )
    return FormationRecord(
        cluster_id=b"c" * 16,
        members=(member,),
        root_access_key=AccessKeyId(ACCESS_KEY),
        root_secret_key=SECRET_KEY,
        token_secret=b"t" * 32,
        owner_id=OWNER_ID,
        region=region,
        created_ms=1_760_000_000_000,
    )


class StoreViews:
    """``CatalogReader`` over the writer's own environment: LMDB opens one only once in a process."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    def view(self, index: int = 0, generation: int = 0) -> View:
        view = self._store.view()
        assert view.applied_index >= index
        assert self._store.generation >= generation
        return view


class DirectLink:
    """``CoreLink`` without a core: a command is one log entry, applied at once.

    ``fail_barriers`` and ``fail_proposals`` make the next calls fail as a cluster without majority would.
    """

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._count = 0
        self.fail_barriers = False
        self.proposal_error: Unavailable | OutcomeUnknown | None = None
        self.barrier_count = 0
        self.damage: list[str] = []
        self.state = NodeState(
            node=NODE,
            cluster_id=b"c" * 16,
            is_formed=True,
            leader=NODE,
            is_leader=True,
            members=(
                MemberState(
                    node=NODE,
                    name="n1",
                    address="127.0.0.1:1",
                    blob_address="127.0.0.1:2",
                    s3_address="127.0.0.1:3",
                    is_reachable=True,
                    is_voter=True,
                ),
            ),
            write_quorum=1,
        )

    @property
    def applied_index(self) -> int:
        return self._store.applied()[0]

    async def propose(self, command: Command, *, deadline_s: float = COMMIT_S_MAX) -> Result:
        if self.proposal_error is not None:
            raise self.proposal_error
        self._count += 1
        index, term = self._store.applied()
        operation = Operation(
            request_id=RequestId(b"s" * 8 + self._count.to_bytes(8, "big")),
            first_index=index,
            command=encode_command(command),
        )
        entry = LogEntry(
            index=index + 1,
            term=term + 1,
            kind=EntryKind.OPERATIONS,
            payload=encode_entry([operation]),
        )
        (results,) = self._store.apply([entry])
        assert isinstance(results, list)
        return decode_result(results[0])

    async def barrier(self) -> Barrier:
        self.barrier_count += 1
        if self.fail_barriers:
            raise Unavailable("no majority")
        return Barrier(generation=self._store.generation, index=self._store.applied()[0])

    def report_damage(self, text: str) -> None:
        self.damage.append(text)


@dataclass
class Endpoint:
    """A running endpoint and the parts of it that tests reach into."""

    host: str
    port: int
    link: DirectLink
    store: CatalogStore
    files: BlobFiles
    objects: ObjectService
    server: HttpServer
    data: Path
    loop: asyncio.AbstractEventLoop

    def client(self) -> RawClient:
        """A new connection to it."""
        credentials = Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        return RawClient(self.host, self.port, credentials)

    def blob_files(self) -> list[Path]:
        """Every file of a blob, whole or on its way."""
        found = (self.data / "blobs").rglob("*")
        return [path for path in found if path.is_file() and not path.name.endswith("lock")]

    def waits_for_a_body(self) -> bool:
        """Whether a request has passed every early check and now waits for more of its body."""
        connections = self.server.connections()
        return any(each.is_reading_body and each.deadline is not None for each in connections)

    def expire_deadlines(self) -> None:
        """As if every wait on a client had just reached its deadline."""

        def expire() -> None:
            for connection in self.server.connections():
                if connection.deadline is not None:
                    connection.deadline = 0.0

        self.loop.call_soon_threadsafe(expire)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` on the endpoint's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


@contextmanager
def serve(
    data: Path,
    *,
    settings: S3Settings | None = None,
    tls: ssl.SSLContext | None = None,
    is_open: bool = True,
) -> Iterator[Endpoint]:
    """An endpoint over a fresh catalog in ``data``."""
    settings = settings or S3Settings()
    log.configure(level="warning")  # a line per request would only hide what tests look for
    started: list[Endpoint] = []
    ready = threading.Event()
    stop: list[asyncio.Event] = []

    async def main() -> None:
        stop.append(asyncio.Event())
        async with _Parts(data, settings, tls, is_open) as endpoint:
            started.append(endpoint)
            ready.set()
            await stop[0].wait()

    thread = threading.Thread(target=lambda: uvloop.run(main()), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not ready.wait(0.1):
            assert thread.is_alive(), "the endpoint did not start"
            assert time.monotonic() < deadline
        yield started[0]
    finally:
        if started:
            started[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(20)


class _Parts:
    """Builds an endpoint as ``sos.gateway`` does, and takes it down."""

    def __init__(
        self, data: Path, settings: S3Settings, tls: ssl.SSLContext | None, is_open: bool
    ) -> None:
        self._data = data
        self._settings = settings
        self._tls = tls
        self._is_open = is_open

    async def __aenter__(self) -> Endpoint:
        clock, ids = SystemClock(), SystemIds()
        data = self._data
        data.mkdir(parents=True, exist_ok=True)
        self._store = CatalogStore.create(data / "catalog", formation(self._settings.region))
        link = DirectLink(self._store)
        access = CatalogAccess(link, StoreViews(self._store))
        (data / "blobs").mkdir()
        prepare_directories(str(data / "blobs"))
        self._files = BlobFiles(str(data / "blobs"), on_fatal=lambda error: None)
        identity = PeerIdentity(cluster_id=b"c" * 16, node=NODE, cluster_key=b"k" * 32)
        self._peers = PeerClient(identity)
        lost: list[BlobId] = []
        self._executor = ThreadPoolExecutor(2)
        members = MemberAddresses(link)
        reader = BlobReader(self._files, self._peers, self_id=NODE, on_lost=lost.append)
        writer = BlobWriter(
            self._files,
            self._peers,
            self_id=NODE,
            is_named=access.is_named,
            on_late_holder=lambda blob, node: None,
        )
        bodies = BodyStore(access, members=members, writer=writer, reader=reader, ids=ids)
        copier = Copier(new_hasher, self._executor)
        objects = ObjectService(
            access, bodies=bodies, copier=copier, members=members, reader=reader, clock=clock
        )
        uploads = UploadService(
            access, bodies=bodies, copier=copier, objects=objects, clock=clock, ids=ids
        )
        buckets = BucketService(access, clock)
        app = S3App(
            settings=self._settings,
            ids=ids,
            metrics=Metrics(),
            clock=SystemClock(),
            shows_index=True,
        )
        gate = Gate(access, region=self._settings.region, clock=clock)
        handlers = Handlers(
            access=access,
            buckets=buckets,
            objects=objects,
            uploads=uploads,
            gate=gate,
            settings=self._settings,
            clock=clock,
            executor=self._executor,
        )
        if self._is_open:
            app.open(gate, handlers.dispatch, cors=handlers.settings, forms=handlers.forms)
        self._server = HttpServer(app)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.setblocking(False)
        await self._server.listen(listener, self._tls)
        return Endpoint(
            host="127.0.0.1",
            port=port,
            link=link,
            store=self._store,
            files=self._files,
            objects=objects,
            server=self._server,
            data=data,
            loop=asyncio.get_running_loop(),
        )

    async def __aexit__(self, *_: object) -> None:
        await self._server.close(drain_s=2.0)
        await self._peers.close()
        self._files.close()
        self._store.close()
        self._executor.shutdown()
