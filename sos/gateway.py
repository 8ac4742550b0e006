"""Composition root of a gateway process (``python -m sos.gateway``): S3, use cases, blobs, catalog reader.

Started by the supervisor with inherited sockets. The S3 port answers from the first moment, with 503 until
the cluster is formed. A gateway never writes the catalog; when it dies, the supervisor starts another one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from sos import failpoints
from sos.blob.bundle import BundleReader, BundleServer
from sos.blob.checking import ReplicaChecker
from sos.blob.fetch import BlobReader
from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.handshake import PeerIdentity
from sos.blob.layout import FAN_OUT
from sos.blob.peer import PeerServer
from sos.blob.peer_client import PeerClient
from sos.blob.replicas import BlobWriter
from sos.blob.threads import DiskThreads
from sos.catalog.model import NodeId
from sos.catalog.reader import CatalogReader
from sos.clock import Clock, SystemIds, node_clock
from sos.config import Config
from sos.disk import is_no_space
from sos.disk_sizes import disk_sizes
from sos.errors import EXIT_DAMAGE, EXIT_DISK, EXIT_REMOVED, Corruption, FatalStop, StartRefused
from sos.inherit import Inheritance, receive
from sos.limits import DRAIN_S_MAX, SCRUB_PARALLEL
from sos.link import CoreLink, NodeState
from sos.link.client import JobProgress
from sos.link.protocol import Job
from sos.s3.app import S3App
from sos.s3.checksums import new_hasher
from sos.s3.gate import Gate
from sos.s3.handlers import Handlers
from sos.s3.server import HttpServer
from sos.s3.target import S3Settings
from sos.service.access import CatalogAccess
from sos.service.buckets import BucketService
from sos.service.copied import Copier
from sos.service.elsewhere import Elsewhere
from sos.service.holders import HolderNotices
from sos.service.members import MemberAddresses
from sos.service.multipart import UploadService
from sos.service.objects import ObjectService
from sos.service.resync import Puller, Resync
from sos.service.scrub import Scrub
from sos.service.scrub_memory import ScrubMemory
from sos.service.snapshots import SnapshotFetcher, SnapshotServer, verify_in_child
from sos.service.storing import BodyStore
from sos.service.upkeep import Upkeep
from sos.telemetry import Metrics, log
from sos.tls import Certificate

_HASH_THREADS: Final = 4  # MD5 of large bodies; more threads than cores only queue
_DRAIN_S: Final = DRAIN_S_MAX / 2  # the supervisor's own deadline leaves the core its share
_PREPARE_POLL_S: Final = 0.02
_GC_THRESHOLD: Final = 50_000  # cycles are rare here; a full collection per 700 objects costs 5 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts of a running gateway that jobs work with."""

    config: Config
    clock: Clock
    number: int
    link: CoreLink
    access: CatalogAccess
    members: MemberAddresses
    files: BlobFiles
    peers: PeerClient
    peer_server: PeerServer
    blob_reader: BlobReader
    notices: HolderNotices
    puller: Puller
    snapshots: SnapshotServer
    self_id: NodeId


def main() -> None:
    """Run one gateway until SIGTERM. Exit codes as in ``sos.errors``."""
    inheritance = receive(sys.argv[1:])
    config = inheritance.config
    log.configure(
        level=config.log.level,
        node=config.node.name,
        process=f"gateway-{inheritance.gateway}",
    )
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    try:
        failpoints.arm(config.test.failpoints, test_mode=config.test.enabled)
        uvloop.run(_run(inheritance))
    except StartRefused as error:
        sys.stderr.write(f"sos: {error}\n")
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        if not is_no_space(error):
            raise
        # not the code of a disk error, which ends the node: the supervisor tries again every second
        log.error("gateway.disk.full", reason=str(error))
        raise SystemExit(1) from error
    except FatalStop as error:
        log.error("gateway.stopped", reason=str(error))
        raise SystemExit(error.exit_code) from error


async def _run(inheritance: Inheritance) -> None:
    config = inheritance.config
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics, clock = Metrics(), node_clock(config.test.clock_file)
    async with AsyncExitStack() as stack:
        link = CoreLink(
            directory=config.node.data,
            gateway=inheritance.gateway,
            token=inheritance.link_token,
            clock=clock,
            ids=SystemIds(),
        )
        stack.push_async_callback(link.close)
        link.on_metrics(metrics.samples)
        settings = S3Settings(
            region=config.s3.region,
            domains=(config.s3.domain,) if config.s3.domain else (),
            scheme="https" if config.s3.tls_cert else "http",
            superset=config.s3.superset,
        )
        app = S3App(
            settings=settings,
            ids=SystemIds(),
            metrics=metrics,
            clock=clock,
            shows_index=config.test.enabled,
        )
        tls = None
        if config.s3.tls_cert:
            certificate = Certificate(config.s3.tls_cert, config.s3.tls_key)
            stack.callback(loop.create_task(certificate.watch()).cancel)
            tls = certificate.context
        server = HttpServer(app)
        await server.listen(inheritance.sockets["s3"], tls)
        stack.push_async_callback(server.close, _DRAIN_S)
        link.on_state(lambda state: stop.set() if state.is_removed else None)
        link.start()
        state = await _formed_or_stopped(link, stop)
        if state is None:
            _end_if_removed(link)
            return
        gateway = await _open(inheritance, link, state, stack, clock, metrics)
        if gateway.number == 0:
            _open_jobs(gateway, stack)
        _open_app(app, gateway, settings, stack)
        link.set_serving()
        # The last callback runs first: requests are answered before anything below them closes.
        stack.push_async_callback(server.close, _DRAIN_S)
        log.info("gateway.ready", node_id=gateway.self_id)
        await stop.wait()
        log.info("gateway.draining")
        _end_if_removed(link)


def _end_if_removed(link: CoreLink) -> None:
    """The supervisor is to end the node, not to start another gateway. Raises: FatalStop."""
    if link.state.is_removed:
        raise FatalStop("this node was removed from the cluster", exit_code=EXIT_REMOVED)


async def _formed_or_stopped(link: CoreLink, stop: asyncio.Event) -> NodeState | None:
    """The state once the cluster is formed; None when the gateway is to end before."""
    formed = asyncio.ensure_future(link.wait_formed())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((formed, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not formed.done():
        formed.cancel()
        return None
    return formed.result()


async def _open(
    inheritance: Inheritance,
    link: CoreLink,
    state: NodeState,
    stack: AsyncExitStack,
    clock: Clock,
    metrics: Metrics,
) -> Gateway:
    """Build what works on the catalog and on blobs, and serve the blob port."""
    config = inheritance.config
    data = Path(config.node.data)
    reader = _open_reader(data / "catalog", link)
    stack.callback(reader.close)
    access = CatalogAccess(link, reader)
    overrides = {entry.name: str(entry.address) for entry in config.test.blob_dial}
    members = MemberAddresses(link, overrides)
    files = await _open_files(inheritance, data / "blobs")
    stack.callback(files.close)
    # A cluster of one has no peers and may have no key: a key that nobody knows admits nobody.
    key = config.secrets.cluster_key.encode() or SystemIds().random_bytes(32)
    identity = PeerIdentity(cluster_id=state.cluster_id, node=state.node, cluster_key=key)
    peers = PeerClient(identity)
    stack.push_async_callback(peers.close)
    notices = HolderNotices(link, self_id=state.node, members=members, peers=peers, files=files)
    stack.push_async_callback(notices.close)
    blob_reader = BlobReader(files, peers, self_id=state.node, on_lost=notices.lost)
    stack.push_async_callback(blob_reader.close)
    peer_server = PeerServer(
        files,
        identity,
        is_named=access.is_named,
        on_lost=notices.lost,
    )
    notices.serve(peer_server)
    snapshots = SnapshotServer(data / "catalog", reader=reader, clock=clock)
    snapshots.serve(peer_server)
    if inheritance.gateway == 0:
        snapshots.remove_leftovers()
    puller = Puller(
        access=access,
        members=members,
        files=files,
        reader=blob_reader,
        bundles=BundleReader(files, peers, self_id=state.node),
        link=link,
        clock=clock,
        metrics=metrics,
    )
    BundleServer(files).serve(peer_server)
    puller.serve(peer_server)
    await peer_server.start(inheritance.sockets["blob"])
    stack.push_async_callback(peer_server.close)
    return Gateway(
        config=config,
        clock=clock,
        number=inheritance.gateway,
        link=link,
        access=access,
        members=members,
        files=files,
        peers=peers,
        peer_server=peer_server,
        blob_reader=blob_reader,
        notices=notices,
        puller=puller,
        snapshots=snapshots,
        self_id=state.node,
    )


def _open_reader(directory: Path, link: CoreLink) -> CatalogReader:
    """Damage that is met here ends the node as it does later: starting gateways over and over heals nothing."""
    try:
        return CatalogReader(directory)
    except Corruption as error:
        link.report_damage(str(error))
        raise FatalStop(str(error), exit_code=EXIT_DAMAGE) from error


async def _open_files(inheritance: Inheritance, directory: Path) -> BlobFiles:
    """The blob directory; gateway 0 makes what is missing of it at the first start."""
    if inheritance.gateway == 0:
        prepare_directories(str(directory))
    while not (directory / FAN_OUT[-1]).is_dir():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(_PREPARE_POLL_S)
    files = BlobFiles(
        str(directory),
        on_fatal=_die,
        reserve_bytes=disk_sizes(inheritance.config).reserve,
    )
    if inheritance.gateway == 0:
        await files.remove_leftovers()
    return files


def _die(error: FatalStop) -> None:
    """A sync of a blob failed: this process acknowledges nothing more (design 11). Called from any thread."""
    log.error("gateway.disk.failed", reason=str(error))
    os._exit(error.exit_code or EXIT_DISK)


def _open_jobs(gateway: Gateway, stack: AsyncExitStack) -> None:
    """What only one gateway of a node does: resync, copies of the catalog, unlinking."""
    resync = Resync(
        access=gateway.access,
        members=gateway.members,
        files=gateway.files,
        peers=gateway.peers,
        puller=gateway.puller,
        self_id=gateway.self_id,
    )
    catalog = Path(gateway.config.node.data) / "catalog"
    fetcher = SnapshotFetcher(
        catalog,
        members=gateway.members,
        peers=gateway.peers,
        ids=SystemIds(),
        verify=verify_in_child,
    )
    upkeep = Upkeep(
        access=gateway.access,
        files=gateway.files,
        clock=gateway.clock,
        unlink_delay_s=gateway.config.test.unlink_delay_s,
        sweep_period_s=gateway.config.test.sweep_period_s,
        remove_unread=gateway.snapshots.remove_unread,
    )

    scrub = _open_scrub(gateway, stack)

    async def run_job(job: Job, progress: JobProgress) -> dict[str, Any]:
        arguments = job.arguments
        match job.kind:
            case "resync":
                return await resync.run(
                    NodeId(arguments["node"]), full=arguments["full"], report=progress.report
                )
            case "scrub":
                return await scrub.run_paced(progress.report)
            case "scrub_now":
                return await scrub.run_now(progress.report)
            case "fetch_snapshot":
                return await fetcher.fetch(NodeId(arguments["peer"]))
            case _:
                raise AssertionError(f"no such job: {job.kind}")

    gateway.link.on_job(run_job)
    task = asyncio.get_running_loop().create_task(upkeep.run())
    stack.callback(task.cancel)


def _open_scrub(gateway: Gateway, stack: AsyncExitStack) -> Scrub:
    blobs = Path(gateway.config.node.data) / "blobs"
    # One thread more than an unpaced pass uses: what was found is looked at again meanwhile.
    threads = DiskThreads(count=SCRUB_PARALLEL + 1, name="scrub", on_fatal=_die)
    stack.callback(threads.close)
    return Scrub(
        access=gateway.access,
        members=gateway.members,
        files=gateway.files,
        checker=ReplicaChecker(str(blobs), threads),
        on_lost=gateway.notices.lost,
        self_id=gateway.self_id,
        clock=gateway.clock,
        bytes_s=gateway.config.node.scrub_bytes_s,
        memory=ScrubMemory(blobs / "scrub", gateway.self_id),
    )


def _open_app(app: S3App, gateway: Gateway, settings: S3Settings, stack: AsyncExitStack) -> None:
    """Let the S3 port serve requests."""
    clock = gateway.clock
    executor = ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="hash")
    stack.callback(executor.shutdown)
    writer = BlobWriter(
        gateway.files,
        gateway.peers,
        self_id=gateway.self_id,
        is_named=gateway.access.is_named,
        on_late_holder=gateway.notices.late,
    )
    stack.push_async_callback(writer.close)
    buckets = BucketService(gateway.access, clock)
    elsewhere = Elsewhere(members=gateway.members, peers=gateway.peers, self_id=gateway.self_id)
    bodies = BodyStore(
        gateway.access,
        members=gateway.members,
        writer=writer,
        reader=gateway.blob_reader,
        ids=SystemIds(),
    )
    copier = Copier(new_hasher, executor)
    objects = ObjectService(
        gateway.access,
        bodies=bodies,
        copier=copier,
        members=gateway.members,
        reader=gateway.blob_reader,
        clock=clock,
        elsewhere=elsewhere,
    )
    uploads = UploadService(
        gateway.access,
        bodies=bodies,
        copier=copier,
        objects=objects,
        clock=clock,
        ids=SystemIds(),
    )
    elsewhere.serve(gateway.peer_server, objects)
    gate = Gate(gateway.access, region=settings.region, clock=clock)
    handlers = Handlers(
        access=gateway.access,
        buckets=buckets,
        objects=objects,
        uploads=uploads,
        gate=gate,
        settings=settings,
        clock=clock,
        executor=executor,
    )
    app.open(gate, handlers.dispatch, cors=handlers.settings, forms=handlers.forms)


if __name__ == "__main__":
    main()
