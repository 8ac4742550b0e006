"""The one door to msgpack: pack plain values, unpack hostile bytes with one declared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

_KEPT_BYTES_MAX: Final = 1 << 20  # a packer keeps the buffer of the largest value it ever packed


class PackingError(ValueError):
    """The bytes are not one complete msgpack value of the allowed kinds."""


def pack(value: object) -> bytes:
    """The canonical bytes of ``value``: None, bool, int, float, str, bytes, list, tuple, dict."""
    packed: bytes = _packer.pack(value)
    if len(packed) > _KEPT_BYTES_MAX:
        _replace_packer()
    return packed


def _replace_packer() -> None:
    global _packer
    _packer = msgpack.Packer(use_bin_type=True)


# One for all: making one per value, as ``packb`` does, allocates 256 KiB each time (a tenth of a core's CPU). It
# runs under the interpreter's lock from beginning to end, and forgets what it could not pack.
_packer = msgpack.Packer(use_bin_type=True)


def unpack(data: bytes | bytearray | memoryview) -> Any:  # noqa: ANN401 - schemas check what they take from it
    """The one value in ``data``; lists stay lists, no extension types.

    Raises: PackingError for anything else. Lengths inside are bounded by ``len(data)``, so that a
    short frame cannot announce a huge array.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, ext_hook=_refuse_extension)
    except PackingError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise PackingError(f"not msgpack: {type(error).__name__}") from error


def unpack_each(values: Sequence[bytes]) -> list[Any]:
    """``unpack`` of each, in one pass of the library: a third less for the small values of a page of rows.

    Only for bytes that passed a checksum of ours: two values that are broken in ways that match are not told from
    two good ones. Raises: PackingError, without telling which.
    """
    size_bytes = sum(map(len, values))
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, ext_hook=_refuse_extension, max_buffer_size=size_bytes
    )
    try:
        unpacker.feed(b"".join(values))
        unpacked = list(unpacker)
    except PackingError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise PackingError(f"not msgpack: {type(error).__name__}") from error
    # It stops before an incomplete value and says nothing.
    if len(unpacked) != len(values) or unpacker.tell() != size_bytes:
        raise PackingError("not one complete value each")
    return unpacked


def _refuse_extension(code: int, data: bytes) -> object:
    raise PackingError(f"extension type {code} is not allowed")
