"""The one way to durable files: two small protocols, and the machine's own disk behind them.

Journal, vote, identity and blobs reach files only through these, so that tests can put a simulated
disk in their place and build every state that a crash may leave (``tests/faults/simdisk.py``).
A failed sync raises ``FatalStop`` and is never tried again: Linux drops the dirty pages of a failed
fsync and lets the next one succeed, so a second attempt would report as durable what is lost.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from sos.errors import EXIT_DISK, DiskFull, FatalStop, StartRefused

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What a copy of a file does not share with it. ``birth_ns`` is 0 where the file system has none."""

    inode: int
    birth_ns: int


class File(Protocol):
    """An open file. There is no position: every access names its offset."""

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data``. Raises: DiskFull (a part may be written), OSError."""
        ...

    def pread(self, count: int, offset: int) -> bytes:
        """``count`` bytes, fewer only at the end of the file. Raises: OSError."""
        ...

    def fsync(self) -> None:
        """Content and metadata survive power loss. Raises: FatalStop."""
        ...

    def fdatasync(self) -> None:
        """Content, and what is needed to read it, survives power loss. Raises: FatalStop."""
        ...

    def fallocate(self, offset: int, count: int) -> None:
        """Reserve space; the file grows to hold it and reads as zeros there. Raises: DiskFull."""
        ...

    def truncate(self, size_bytes: int) -> None: ...

    def size(self) -> int: ...

    def identity(self) -> FileIdentity: ...

    def close(self) -> None:
        """Give the descriptor back; may be called twice. Makes nothing durable."""
        ...


class Lock(Protocol):
    """An exclusive lock that ends with ``close`` or with the process, however that dies."""

    def close(self) -> None: ...


@runtime_checkable
class Disk(Protocol):
    """Names and directories. A changed name is durable only after ``fsync_directory`` of its parent."""

    def create(self, path: str) -> File:
        """A new file, readable and writable by the owner alone. Raises: FileExistsError, DiskFull."""
        ...

    def open(self, path: str, *, writable: bool = False) -> File:
        """Raises: FileNotFoundError."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it, in one step."""
        ...

    def unlink(self, path: str) -> None: ...

    def mkdir(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def fsync_directory(self, path: str) -> None:
        """The names in ``path`` survive power loss. Raises: FatalStop."""
        ...

    def listing(self, path: str) -> list[str]:
        """The names in ``path``, sorted."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_directory(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def lock(self, path: str) -> Lock:
        """Lock ``path`` (made if absent) against other processes. Raises: StartRefused if it is held."""
        ...


class SystemFile:
    """A descriptor of the operating system."""

    __slots__ = ("_fd", "_path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        try:
            written = os.pwrite(self._fd, data, offset)
            if written != len(data):
                self._pwrite_rest(memoryview(data), written, offset)
        except OSError as error:
            raise _told_apart(error, self._path) from error

    def _pwrite_rest(self, data: memoryview, done: int, offset: int) -> None:
        """Go on after a short write: the next call says why it was short."""
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)

    def pread(self, count: int, offset: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        if len(data) == count or not data:
            return data
        parts = [data]
        done = len(data)
        while done < count:  # one read returns at most 2 GiB, and a signal may cut it
            data = os.pread(self._fd, count - done, offset + done)
            if not data:
                break
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def fsync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise sync_failed(self._path, error) from error

    def fdatasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise sync_failed(self._path, error) from error

    def fallocate(self, offset: int, count: int) -> None:
        try:
            os.posix_fallocate(self._fd, offset, count)
        except OSError as error:
            raise _told_apart(error, self._path) from error

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def drop_cache(self) -> None:
        """Take the file's clean pages out of the page cache: the next read asks the disk."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def identity(self) -> FileIdentity:
        return FileIdentity(inode=os.fstat(self._fd).st_ino, birth_ns=_birth_ns(self._fd))

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class SystemLock:
    """An ``flock`` of the operating system, held by an open descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class SystemDisk:
    """The machine's file systems. Files are 0600 and directories 0700: they hold keys and users' bytes."""

    def create(self, path: str) -> SystemFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return self._file(os.open(path, flags, FILE_MODE), path)
        except OSError as error:
            raise _told_apart(error, path) from error

    def open(self, path: str, *, writable: bool = False) -> SystemFile:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        return self._file(os.open(path, flags), path)

    def _file(self, fd: int, path: str) -> SystemFile:
        """What ``create`` and ``open`` give; a descendant may give something that knows more."""
        return SystemFile(fd, path)

    def open_direct(self, path: str) -> SystemFile | None:
        """``path`` for writes past the page cache, aligned to 4 KiB; ``None`` where the file system has no such thing."""
        try:
            return SystemFile(os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC), path)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise

    def rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new)
        except OSError as error:
            raise _told_apart(error, new) from error

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except OSError as error:
            raise _told_apart(error, path) from error

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def fsync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            raise sync_failed(path, error) from error
        finally:
            os.close(fd)

    def listing(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path) and not os.path.islink(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def lock(self, path: str) -> SystemLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise lock_is_held(path) from error
        return SystemLock(fd)


def sync_failed(path: str, error: OSError) -> FatalStop:
    """The stop that follows a failed sync."""
    return FatalStop(f"sync of {path} failed: {error.strerror}", exit_code=EXIT_DISK)


def is_no_space(error: BaseException | None) -> bool:
    """Whether ``error`` means that a write found no room."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def no_space(path: str) -> StartRefused:
    """The refusal of a start on a full disk."""
    return StartRefused(
        f"--data {path}: no space is left on its disk; free some, then start again: nothing is lost",
        exit_code=EXIT_DISK,
    )


def lock_is_held(path: str) -> StartRefused:
    """The refusal of a second process over one lock file."""
    directory = os.path.dirname(path)
    return StartRefused(
        f"data directory {directory} is in use by another process: stop that one first, "
        "or choose another --data"
    )


def _told_apart(error: OSError, path: str) -> OSError:
    """``DiskFull`` for no space, the error itself for anything else."""
    if error.errno in _NO_SPACE:
        return DiskFull(error.errno, f"no space: {error.strerror}", path)
    return error


# --- birth time: statx(2) by ctypes, for Python 3.11's os.stat does not tell it on Linux ----------
class _Timestamp(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("pad", ctypes.c_int32),
    )


class _Statx(ctypes.Structure):
    """The head of ``struct statx``; the kernel fills 256 bytes."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before_atime", ctypes.c_uint8 * 60),
        ("atime", _Timestamp),
        ("btime", _Timestamp),
        ("rest", ctypes.c_uint8 * 160),
    )


_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800


def _birth_ns(fd: int) -> int:
    """When the file behind ``fd`` was made; 0 where libc or the file system cannot say."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0
    answer = _Statx()
    failed = statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(answer))
    if failed or not answer.mask & _STATX_BTIME:
        return 0
    return int(answer.btime.seconds) * 1_000_000_000 + int(answer.btime.nanoseconds)
