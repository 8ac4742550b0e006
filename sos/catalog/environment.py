"""The one door to LMDB: opens environments, and owns the directory around them.

    catalog/current            names the generation in use; replaced by rename
    catalog/<generation>/      one LMDB environment: data.mdb, lock.mdb

LMDB is one writer and many readers, each a process of its own; a process opens an environment once, and never
forks with it open.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol, cast

import lmdb

from sos.disk import is_no_space
from sos.errors import Corruption, DiskFull, SosError, Unavailable

Environment = lmdb.Environment
LmdbError = lmdb.Error
MapFullError = lmdb.MapFullError
MapResizedError = lmdb.MapResizedError


_PASSING: Final = (lmdb.ReadersFullError, lmdb.TlsFullError, lmdb.MemoryError, lmdb.DiskError)
_DAMAGE: Final = (
    *(lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError),
    *(lmdb.VersionMismatchError, lmdb.BadRslotError, lmdb.BadTxnError),
    *(lmdb.CursorFullError, lmdb.PageFullError),  # LMDB's own invariants
)


def meaning_of(error: LmdbError) -> SosError | None:
    """What LMDB told a reader, in our terms; None for what only a bug of ours brings about.

    The latter stays what it is: were a key that is too long taken for damage, a client could stop the node.
    """
    if isinstance(error, _DAMAGE):
        return Corruption(f"catalog: {error}")
    if isinstance(error, _PASSING):
        return Unavailable(f"catalog: {error}")
    return None


class Cursor(Protocol):
    """The part of LMDB's cursor that is used, without buffers: values are bytes."""

    def set_range(self, key: bytes, /) -> bool: ...

    def key(self) -> bytes: ...

    def iternext(self, keys: bool = ..., values: bool = ...) -> Iterator[tuple[bytes, bytes]]: ...


class Transaction(Protocol):
    """The part of LMDB's transaction that is used, without buffers: values are bytes."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, dupdata: bool = ..., overwrite: bool = ...) -> bool: ...

    def pop(self, key: bytes, /) -> bytes | None: ...

    def cursor(self) -> Cursor: ...

    def commit(self) -> None: ...

    def abort(self) -> None: ...


# Address space, not memory or disk: the file is as long as its pages. 100 million objects with inline bodies need
# more than 1 TiB of disk; enlarging the map later would need a moment without readers.
MAP_BYTES: Final = 1 << 40
READERS_MAX: Final = 254  # fits 16 KiB of lock file
_LOCK_FILE_BYTES: Final = 16 * 1024
_SPARE_TRANSACTIONS: Final = 8
DATA_FILE: Final = "data.mdb"
POINTER: Final = "current"


# --- environments ---------------------------------------------------------------------------------
def open_writer(directory: Path) -> Environment:
    """The environment of a generation, for the one process that writes it.

    ``metasync=False``: a commit syncs its data pages, and its meta page becomes durable with the next commit. A
    power cut may take back the last transaction, never tear one; the journal is replayed over it.

    The file is written, not mapped for writing: where a page finds no room the commit fails, and nobody dies of
    SIGBUS. Raises: LmdbError, DiskFull, OSError.
    """
    _prepare_lock_file(directory)
    try:
        environment = lmdb.open(
            str(directory),
            map_size=MAP_BYTES,
            mode=0o600,
            metasync=False,
            max_readers=READERS_MAX,
            max_spare_txns=_SPARE_TRANSACTIONS,
        )
    except lmdb.DiskError as error:  # a full disk is no damage
        raise DiskFull(errno.ENOSPC, str(error), str(directory)) from error
    os.chmod(directory / DATA_FILE, 0o600)
    return environment


def open_reader(directory: Path) -> Environment:
    """The environment of a generation, read-only, next to a writer in another process."""
    return lmdb.open(
        str(directory),
        map_size=MAP_BYTES,
        readonly=True,
        create=False,
        max_readers=READERS_MAX,
        max_spare_txns=_SPARE_TRANSACTIONS,
    )


def open_copy(file: Path) -> Environment:
    """A copy that no process writes, as a single file."""
    return lmdb.open(
        str(file), subdir=False, map_size=MAP_BYTES, readonly=True, create=False, lock=False
    )


def copy_environment(environment: Environment, file: Path) -> None:
    """A consistent, compacted copy in a new durable file. Raises: FileExistsError, LmdbError, OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        environment.copyfd(descriptor, compact=True)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def used_bytes(environment: Environment) -> int:
    """All pages that were ever used, free ones included; the file may be longer, see ``GrowthRoom``."""
    pages: int = environment.info()["last_pgno"] + 1
    page_bytes: int = environment.stat()["psize"]
    return pages * page_bytes


def check_length(environment: Environment, file: Path) -> None:
    """Raises: Corruption if the file ends before its last page, where reading would be SIGBUS."""
    needed = used_bytes(environment)
    if file.stat().st_size < needed:
        raise Corruption(f"{file} has {file.stat().st_size} bytes of {needed}")


class GrowthRoom:
    """Blocks behind the last page: a foreign process that fills the disk under a commit does not fail it."""

    def __init__(self, environment: Environment, file: Path) -> None:
        self._environment = environment
        self._file = file
        self._kept_to = 0

    def keep(self, ahead_bytes: int) -> bool:
        """Have ``ahead_bytes`` for the pages of the next transaction. False: there is no space for them now.

        Raises: OSError.
        """
        used = used_bytes(self._environment)
        if used + ahead_bytes <= self._kept_to:
            return True
        stop = used + ahead_bytes + ahead_bytes // 2
        descriptor = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, used, stop - used)
        except OSError as error:
            if is_no_space(error):
                return False
            raise
        finally:
            os.close(descriptor)
        self._kept_to = stop
        return True


def _prepare_lock_file(directory: Path) -> None:
    """Preallocate the file that readers and writer share: on a full disk its mapping would be SIGBUS."""
    descriptor = os.open(directory / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    finally:
        os.close(descriptor)


def begin(environment: Environment, *, write: bool = False) -> Transaction:
    """A transaction; a writing one must end in the thread that began it. Raises: LmdbError."""
    return cast(Transaction, environment.begin(write=write))


# --- generations ----------------------------------------------------------------------------------
def generation_directory(directory: Path, generation: int) -> Path:
    return directory / str(generation)


def read_pointer(directory: Path) -> int:
    """The generation in use. Raises: FileNotFoundError, Corruption."""
    text = (directory / POINTER).read_bytes()
    if not text.endswith(b"\n") or not text[:-1].isdigit():
        raise Corruption(f"{directory / POINTER} does not name a generation")
    return int(text)


def write_pointer(directory: Path, generation: int) -> None:
    """Make ``generation`` the one in use; when this returns it stays so after a power cut."""
    temporary = directory / f"{POINTER}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"%d\n" % generation)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, directory / POINTER)
    sync_path(directory)


def make_generation(directory: Path, generation: int) -> Path:
    """An empty directory for ``generation``; what a crashed attempt left there goes."""
    path = generation_directory(directory, generation)
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    return path


def remove_other_generations(directory: Path, generation: int) -> None:
    """Remove what is not in use; readers that still map a removed file keep it until they close."""
    for path in directory.iterdir():
        if path.name.isdigit() and path.name != str(generation):
            shutil.rmtree(path)


def sync_path(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
