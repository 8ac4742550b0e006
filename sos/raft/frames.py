"""Frames of an open connection: length, counter, channel, payload, MAC under the session key. Pure.

    u32 length of what follows | u64 counter | u8 channel | payload | 16 bytes MAC over all of it

The counter starts at 0 and rises by one: a frame that is replayed, lost, swapped or comes from another
connection ends the connection. The length is checked against the cap before anything is allocated.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from sos.limits import FRAME_BYTES_MAX, KIB, MIB

CHANNEL_PING: Final = 0
CHANNEL_RAFT: Final = 1
CHANNEL_FORMATION: Final = 2

_HEADER: Final = struct.Struct(">IQB")
_LENGTH: Final = struct.Struct(">I")
_NUMBERS: Final = struct.Struct(">QB")
_MAC_BYTES: Final = 16
_OVERHEAD_BYTES: Final = _NUMBERS.size + _MAC_BYTES  # of what the length counts
PAYLOAD_BYTES_MAX: Final = FRAME_BYTES_MAX - _OVERHEAD_BYTES
# Measured on one x86 core: BLAKE2b takes 0.5 us for a small frame (HMAC-SHA-256: 2 us), HMAC-SHA-256
# 0.7 ms for 1 MiB (BLAKE2b: 1.5 ms). Both sides choose by size, so nothing is negotiated.
_LARGE_BYTES: Final = 16 * KIB
_JOIN_BYTES: Final = 64 * KIB  # beyond this a copy costs more than one more buffer in the write

_READ_BYTES: Final = 128 * KIB
_KEEP_BYTES: Final = 2 * MIB
_TAIL_BYTES: Final = 32 * KIB  # less room than this is not worth a system call


class FrameError(ValueError):
    """What arrived is not the next frame of this connection: close it, trust nothing that follows."""


class _Authenticator:
    """MACs under one session key; the keyed states are set up once and copied per frame."""

    __slots__ = ("_large", "_small")

    def __init__(self, key: bytes) -> None:
        self._small = hashlib.blake2b(key=key, digest_size=_MAC_BYTES)
        self._large = hmac.new(key, digestmod="sha256")

    def of(self, *parts: bytes | memoryview, size: int) -> bytes:
        """The MAC over ``parts``, which hold ``size`` bytes together."""
        if size < _LARGE_BYTES:
            small = self._small.copy()
            for part in parts:
                small.update(part)
            return small.digest()
        large = self._large.copy()
        for part in parts:
            large.update(part)
        return large.digest()[:_MAC_BYTES]


class FrameWriter:
    """Seals payloads, in order."""

    __slots__ = ("_authenticator", "_counter")

    def __init__(self, key: bytes) -> None:
        self._authenticator = _Authenticator(key)
        self._counter = 0

    def seal_into(self, parts: list[bytes], channel: int, payload: bytes) -> int:
        """Append the pieces of one frame to ``parts``; returns how many bytes they hold."""
        size = len(payload)
        assert size <= PAYLOAD_BYTES_MAX
        header = _HEADER.pack(size + _OVERHEAD_BYTES, self._counter, channel)
        self._counter += 1
        if size <= _JOIN_BYTES:
            head = header + payload
            parts.append(head)
            parts.append(self._authenticator.of(head, size=len(head)))
        else:
            parts.append(header)
            parts.append(payload)
            parts.append(self._authenticator.of(header, payload, size=_HEADER.size + size))
        return _HEADER.size + size + _MAC_BYTES


class FrameReader:
    """Received bytes, cut into verified frames without copying them more than a constant number of times.

    ``space()`` is where the next bytes go, ``filled(n)`` says how many came, ``take()`` gives payloads until
    there is no whole one; ``channel`` is that of the last payload.
    """

    __slots__ = ("_authenticator", "_buffer", "_counter", "_end", "_start", "_view", "channel")

    def __init__(self, key: bytes) -> None:
        self._authenticator = _Authenticator(key)
        self._counter = 0
        self._start = 0
        self._end = 0
        self.channel = 0
        self._allocate(_READ_BYTES)

    def space(self) -> memoryview:
        """A writable view, never empty."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start and len(self._buffer) - end < _TAIL_BYTES:
            # ``take`` left less than one frame: at most one move per frame, so the work stays linear.
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """``count`` more bytes are in the view that ``space`` gave."""
        self._end += count

    def take(self) -> bytes | None:
        """The next whole frame's payload, or None.

        Raises: FrameError if the length is beyond the cap, the MAC wrong or the counter not the next.
        """
        start = self._start
        have = self._end - start
        if have < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        if not _OVERHEAD_BYTES <= length <= FRAME_BYTES_MAX:
            raise FrameError(f"a frame of {length} bytes")
        whole = _LENGTH.size + length
        if have < whole:
            if whole > len(self._buffer):
                self._grow(whole)
            return None
        view = self._view
        mac_at = start + whole - _MAC_BYTES
        expected = self._authenticator.of(view[start:mac_at], size=whole - _MAC_BYTES)
        if not hmac.compare_digest(expected, view[mac_at : mac_at + _MAC_BYTES]):
            raise FrameError("a frame with a wrong MAC")
        counter, self.channel = _NUMBERS.unpack_from(self._buffer, start + _LENGTH.size)
        if counter != self._counter:
            raise FrameError(f"frame {counter} instead of {self._counter}")
        self._counter = counter + 1
        self._start = start + whole
        return bytes(view[start + _HEADER.size : mac_at])

    def shrink(self) -> None:
        """Give back what one large frame needed; called now and then, not per frame."""
        if len(self._buffer) > _READ_BYTES and self._end - self._start < _READ_BYTES:
            self._resize(_READ_BYTES)

    def _grow(self, whole: int) -> None:
        # Room for the next frame's beginning too: large frames come in rows.
        self._resize(max(whole, min(2 * whole, _KEEP_BYTES)))

    def _resize(self, capacity: int) -> None:
        rest = self._view[self._start : self._end]
        self._allocate(capacity)
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _allocate(self, capacity: int) -> None:
        self._buffer = bytearray(capacity)
        self._view = memoryview(self._buffer)
