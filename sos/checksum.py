"""The one door to awscrt's checksums: CRC32, CRC32C and CRC64NVME at memory speed, as plain integers."""

from __future__ import annotations

from typing import Final, Protocol

from awscrt import checksums as _awscrt

Buffer = bytes | bytearray | memoryview


class RunningChecksum(Protocol):
    """The checksum of ``data``; ``previous`` continues a running one."""

    def __call__(self, data: Buffer, previous: int = 0, /) -> int: ...


# Names of the library's own functions, not wrappers: a row of the catalog is checked on each read.
crc32: Final[RunningChecksum] = _awscrt.crc32
crc32c: Final[RunningChecksum] = _awscrt.crc32c
crc64nvme: Final[RunningChecksum] = _awscrt.crc64nvme


class CombinedChecksum(Protocol):
    """The checksum of two neighbouring pieces, from that of each and the length of the second; reads no data."""

    def __call__(self, first: int, second: int, second_bytes: int, /) -> int: ...


combine_crc32: Final[CombinedChecksum] = _awscrt.combine_crc32
combine_crc32c: Final[CombinedChecksum] = _awscrt.combine_crc32c
combine_crc64nvme: Final[CombinedChecksum] = _awscrt.combine_crc64nvme
