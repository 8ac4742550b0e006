"""The one door to msgpack: pack plain values, unpack hostile bytes with one declared error."""

from __future__ import annotations

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


def _refuse_extension(code: int, data: bytes) -> object:
    raise PackingError(f"extension type {code} is not allowed")
