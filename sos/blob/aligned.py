"""Buffers that lie on page boundaries, as direct I/O demands."""

from __future__ import annotations

import ctypes
from typing import Final

Buffer = bytes | bytearray | memoryview
PAGE_BYTES: Final = 4096


def aligned_buffer(count: int, *, skip: int = 0) -> memoryview:
    """A new writable buffer of ``count`` bytes whose byte ``skip`` lies on a page boundary."""
    assert skip <= count
    whole = bytearray(count + PAGE_BYTES)
    start = -(_address(whole) + skip) % PAGE_BYTES
    return memoryview(whole)[start : start + count]


def is_aligned(data: Buffer) -> bool:
    """Whether ``data`` begins on a page boundary and fills whole pages. ``False`` for read-only buffers: nobody aligns those."""
    if len(data) % PAGE_BYTES or isinstance(data, bytes):
        return False
    if isinstance(data, memoryview) and data.readonly:
        return False
    return _address(data) % PAGE_BYTES == 0


def _address(data: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) else 0
