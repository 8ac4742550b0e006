"""Copies of the catalog for a member whose log no longer reaches back far enough: served, and fetched.

A gateway makes a consistent copy from its own read-only environment and serves it by range on the blob port,
every piece under a checksum; the fetching side resumes where it was after a lost connection.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sos.blob.peer_errors import NotHere
from sos.blob.wire import Status
from sos.catalog.environment import LmdbError
from sos.catalog.model import NodeId
from sos.checksum import crc64nvme
from sos.child import child_command
from sos.errors import Unavailable
from sos.failpoints import hit
from sos.limits import BLOB_RESERVE_BYTES, BLOCK_BYTES, SNAPSHOT_COPIES_MAX, SNAPSHOT_KEPT_S
from sos.telemetry import log

if TYPE_CHECKING:
    from sos.blob.exchange import PeerExchange
    from sos.blob.handshake import PeerAddress
    from sos.blob.peer import PeerServer
    from sos.blob.peer_client import PeerClient
    from sos.catalog.reader import CatalogReader
    from sos.clock import Clock, IdSource
    from sos.service.members import MemberAddresses

ROUTE: Final = "/snapshot/"
SERVED: Final = "outgoing"  # directories below DATA/catalog
FETCHED: Final = "incoming"
_TOKEN_HEX: Final = 32
_PART: Final = ".part"
_COPY_S_MAX: Final = 600.0  # a copy of 100 GiB at 200 MiB/s
_VERIFY_S_MAX: Final = 3600.0
_ATTEMPTS_MAX: Final = 8
_PAUSE_S: Final = 0.5


class SnapshotServer:
    """Makes a copy at the first request for a token, and serves ranges of it.

    Every gateway of a node serves: the next request of a fetch may reach another one, so all that is known of a
    copy is its file. The name says for whom it is (a member that begins anew no longer wants its last one), the
    file's time when it was last asked for.
    """

    def __init__(self, directory: Path, *, reader: CatalogReader, clock: Clock) -> None:
        self._directory = directory / SERVED
        self._reader = reader
        self._clock = clock
        self._making = asyncio.Lock()

    def serve(self, server: PeerServer) -> None:
        """Take requests on the blob port."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        server.add_route("GET", ROUTE, self._get)

    def remove_leftovers(self) -> None:
        """At the start of the node's first gateway: fetches of an earlier life begin afresh."""
        empty_directory(self._directory)

    async def remove_unread(self) -> None:
        """Now and then: the room of copies that nobody asked for again."""
        await asyncio.to_thread(self._remove_old)

    async def _get(self, exchange: PeerExchange) -> None:
        token = exchange.path.removeprefix(ROUTE)
        offset = exchange.query.get("offset", "0")
        if len(token) != _TOKEN_HEX or not _is_hex(token) or not _is_offset(offset):
            await exchange.answer(Status.BAD_REQUEST, "not a token and an offset")
            return
        path = self._directory / f"{exchange.sender}.{token}"
        async with self._making:
            if not path.exists():
                if int(offset) > 0:
                    await exchange.answer(Status.NOT_HERE)
                    return
                await self._make(path, exchange.sender)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            await exchange.answer(Status.NOT_HERE)
            return
        try:
            now_ns = self._clock.wall_ms() * 1_000_000
            os.utime(descriptor, ns=(now_ns, now_ns))
            size_bytes = os.fstat(descriptor).st_size
            pieces = _pieces(descriptor, int(offset))
            await exchange.answer_body(pieces, size_bytes=size_bytes)
        finally:
            os.close(descriptor)
        # Read to its end: the room is free for the next. In a thread: unlinking 5 GiB took 846 ms.
        await asyncio.to_thread(_unlink, path)

    async def _make(self, path: Path, member: NodeId) -> None:
        """Raises: Unavailable."""
        self._make_room(member)
        self._reader.refresh()
        log.info("snapshot.copy.started", member=member)
        part = path.with_name(path.name + _PART)
        try:
            _check_space(self._directory, self._reader.used_bytes())
            await asyncio.to_thread(self._reader.copy_snapshot, part)
            hit("snapshot.before_rename")
            part.rename(path)
            hit("snapshot.after_rename")
        except FileExistsError as error:  # by another gateway of this node
            raise Unavailable("this copy is under way") from error
        except (LmdbError, OSError) as error:  # no room; or a newer fetch of this member removed it
            _unlink(part)
            log.warning("snapshot.copy.failed", member=member, why=str(error))
            raise Unavailable(f"the copy failed: {error}") from error
        except BaseException:
            _unlink(part)
            raise

    def _make_room(self, member: NodeId) -> None:
        """Remove copies that nobody reads any more. Raises: Unavailable when too many are left."""
        self._remove_old()
        for path in self._directory.glob(f"{member}.*"):
            _unlink(path)
        if len(list(self._directory.iterdir())) >= SNAPSHOT_COPIES_MAX:
            raise Unavailable("too many copies of the catalog are being served")

    def _remove_old(self) -> None:
        # File times are wall times: at worst a copy is made twice.
        now_s = self._clock.wall_ms() / 1000
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):
                if now_s - path.stat().st_mtime > SNAPSHOT_KEPT_S:
                    path.unlink()


async def _pieces(descriptor: int, offset: int) -> AsyncIterator[tuple[bytes, int]]:
    while piece := await asyncio.to_thread(os.pread, descriptor, BLOCK_BYTES, offset):
        yield piece, crc64nvme(piece)
        offset += len(piece)


class SnapshotFetcher:
    """Jobs of a lagging core: bring a copy of a peer's catalog to this disk."""

    def __init__(
        self,
        directory: Path,
        *,
        members: MemberAddresses,
        peers: PeerClient,
        ids: IdSource,
        verify: Callable[[Path], Awaitable[None]],
    ) -> None:
        """``verify``: reads the whole copy, as ``verify_in_child`` does. Raises: Unavailable."""
        self._verify = verify
        self._directory = directory / FETCHED
        self._members = members
        self._peers = peers
        self._ids = ids

    async def fetch(self, node: NodeId) -> dict[str, Any]:
        """``{"path": file}``: a whole, durable, verified copy; the core removes or installs it. Raises: Unavailable."""
        found = self._members.of(frozenset((node,)))
        if not found:
            raise Unavailable(f"{node} is no member")
        await asyncio.to_thread(empty_directory, self._directory)
        token = self._ids.random_bytes(_TOKEN_HEX // 2).hex()
        path = self._directory / token
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await self._copy(found[0], token, descriptor)
            await asyncio.to_thread(os.fsync, descriptor)
            await self._verify(path)
        except BaseException:
            _unlink(path)
            raise
        finally:
            os.close(descriptor)
        return {"path": str(path)}

    async def _copy(self, peer: PeerAddress, token: str, descriptor: int) -> None:
        offset, size_bytes = 0, -1
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            try:
                target = f"{ROUTE}{token}?offset={offset}"
                async with self._peers.call(
                    peer, "GET", target, answer_s_max=_COPY_S_MAX
                ) as answer:
                    size_bytes = answer.head.size_bytes
                    _check_space(self._directory, size_bytes - offset)
                    async for piece, _ in answer.body():
                        await asyncio.to_thread(_write, descriptor, piece, offset)
                        offset += len(piece)
                        hit("resync.catalog.half")
            except NotHere as error:
                raise Unavailable("the peer no longer has the copy") from error
            except Unavailable as error:
                if attempt == _ATTEMPTS_MAX:
                    raise
                log.warning("snapshot.fetch.resumed", peer=peer.node, offset=offset, why=str(error))
            if (
                offset == size_bytes
            ):  # each piece was found right; only the end was lost, if anything
                return
            await asyncio.sleep(_PAUSE_S)
        raise Unavailable(f"a copy of {offset} of {size_bytes} bytes")


async def verify_in_child(path: Path) -> None:
    """Check every record of a copy, and that none is missing: what the peer read from its disk may be damaged.

    In a process of its own: a scan of millions of records would hold this one's interpreter, and on damaged pages
    LMDB may die of a signal. Raises: Unavailable.
    """
    command = child_command("sos.catalog.probe", "--copy", str(path))
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_VERIFY_S_MAX):
            _, told = await child.communicate()
    except TimeoutError as error:
        raise Unavailable("the copy was not read in time") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        reason = (
            told.decode(errors="replace").strip() or f"reading it ended with {child.returncode}"
        )
        log.error("snapshot.copy.damaged", why=reason)
        raise Unavailable(f"the copy is damaged: {reason}")


def _write(descriptor: int, piece: memoryview, offset: int) -> None:
    while len(piece):
        written = os.pwrite(descriptor, piece, offset)
        piece, offset = piece[written:], offset + written


def _check_space(directory: Path, size_bytes: int) -> None:
    """Copies must not take the room of journal and catalog. Raises: Unavailable."""
    space = os.statvfs(directory)
    if space.f_bavail * space.f_frsize < size_bytes + BLOB_RESERVE_BYTES:
        raise Unavailable("the disk has no room for a copy of the catalog")


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 15


def empty_directory(directory: Path) -> None:
    """Make ``directory``, or remove what a dead process left in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.iterdir():
        _unlink(path)
