"""Small files of a data directory: replaced in one step, and where a person may read them, JSON with its CRC."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from sos.disk import Disk, FileIdentity

_TEMPORARY_SUFFIX: Final = ".tmp"


def encode_document(document: Mapping[str, Any]) -> bytes:
    """One line of JSON, one line with its CRC."""
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    return body + _check_line(body)


def decode_document(data: bytes) -> dict[str, Any] | None:
    """None if the bytes fail their check."""
    body, newline, check = data.partition(b"\n")
    body += newline
    if check != _check_line(body):
        return None
    document: dict[str, Any] = json.loads(body)
    return document


def _check_line(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x}\n".encode()


def write_file(
    disk: Disk, directory: str, name: str, data: bytes | Callable[[FileIdentity], bytes]
) -> None:
    """Replace a file in one step; durable when it returns. ``data`` may depend on which file it becomes.

    Raises: OSError, FatalStop.
    """
    path = os.path.join(directory, name)
    temporary = path + _TEMPORARY_SUFFIX
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.create(temporary)
    try:
        file.pwrite(data if isinstance(data, bytes) else data(file.identity()), 0)
        file.fsync()
    finally:
        file.close()
    disk.rename(temporary, path)
    disk.fsync_directory(directory)


def read_file(disk: Disk, path: str) -> bytes | None:
    """The whole file, None if there is none. Raises: OSError."""
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def remove_content(disk: Disk, path: str) -> None:
    """Empty a directory. Raises: OSError."""
    for name in disk.listing(path):
        child = os.path.join(path, name)
        if disk.is_directory(child):
            remove_content(disk, child)
            disk.rmdir(child)
        else:
            disk.unlink(child)
