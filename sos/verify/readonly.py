"""A disk that can only be read: what reads a directory at start reads it here, and repairs nothing.

Writes are swallowed, not refused: a start makes its repairs before it goes on to judge, and what it would have
written it never reads back.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sos.disk import FileIdentity, Lock, SystemFile


class ReadOnlyFile:
    """An open file, or one that only seems to have been made."""

    def __init__(self, file: SystemFile | None, on_read: Callable[[int], None]) -> None:
        self._file = file
        self._on_read = on_read

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Nothing."""

    def pread(self, count: int, offset: int) -> bytes:
        data = b"" if self._file is None else self._file.pread(count, offset)
        self._on_read(len(data))
        return data

    def fsync(self) -> None:
        """Nothing."""

    def fdatasync(self) -> None:
        """Nothing."""

    def fallocate(self, offset: int, count: int) -> None:
        """Nothing."""

    def truncate(self, size_bytes: int) -> None:
        """Nothing."""

    def size(self) -> int:
        return 0 if self._file is None else self._file.size()

    def drop_cache(self) -> None:
        if self._file is not None:
            self._file.drop_cache()

    def identity(self) -> FileIdentity:
        if self._file is None:
            return FileIdentity(inode=0, birth_ns=0)
        return self._file.identity()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class ReadOnlyDisk:
    """Satisfies ``Disk``. ``on_read`` is told of every read's bytes."""

    def __init__(self, on_read: Callable[[int], None] = lambda _: None) -> None:
        self._on_read = on_read

    def create(self, path: str) -> ReadOnlyFile:
        return ReadOnlyFile(None, self._on_read)

    def open(self, path: str, *, writable: bool = False) -> ReadOnlyFile:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return ReadOnlyFile(SystemFile(descriptor, path), self._on_read)

    def rename(self, old: str, new: str) -> None:
        """Nothing."""

    def unlink(self, path: str) -> None:
        """Nothing."""

    def mkdir(self, path: str) -> None:
        """Nothing."""

    def rmdir(self, path: str) -> None:
        """Nothing."""

    def fsync_directory(self, path: str) -> None:
        """Nothing."""

    def listing(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path) and not os.path.islink(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def lock(self, path: str) -> Lock:
        raise AssertionError("the verification locks the directory by itself")
