"""Version ids as clients see them: opaque, URL-safe, and told from what we never issued. Pure.

Source: s3.md 1.3 (S3 API: versionId). The number of the command that wrote the version, and a keyed hash of it under
the cluster's secret: 24 bytes, 32 characters, the same on every node.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode
from functools import lru_cache
from typing import Final

from sos.catalog.model import NULL_VERSION, VersionNumber
from sos.s3.errors import InvalidArgument

NULL_ID: Final = "null"
_NUMBER_BYTES: Final = 8
_MAC_BYTES: Final = 16
_CHARACTERS: Final = 32
_VERSION_DOMAIN: Final = b"sos version"
_PLACE_DOMAIN: Final = b"sos null place"


def version_id(secret: bytes, version: VersionNumber) -> str:
    """The id of a version. ``secret``: 32 bytes, of the cluster."""
    return _seal(secret, _VERSION_DOMAIN, version) if version else NULL_ID


def parse_version_id(secret: bytes, text: str, argument: str = "versionId") -> VersionNumber:
    """The version that an id names. Raises: InvalidArgument, for what we never issued."""
    if text == NULL_ID:
        return NULL_VERSION
    number = _open(secret, _VERSION_DOMAIN, text)
    if number is None:
        raise InvalidArgument(argument, text, message="Invalid version id specified")
    return VersionNumber(number)


def place_id(secret: bytes, order: int) -> str:
    """A marker in a listing behind a null version that has older ones: it holds when that version is gone."""
    return _seal(secret, _PLACE_DOMAIN, order)


def parse_place_id(secret: bytes, text: str) -> int | None:
    """The place in a marker of ``place_id``; None for anything else."""
    return _open(secret, _PLACE_DOMAIN, text)


def _seal(secret: bytes, domain: bytes, number: int) -> str:
    """A page of versions seals a thousand: two thirds of the time of ``urlsafe_b64encode`` goes into its own work."""
    body = number.to_bytes(_NUMBER_BYTES, "big")
    text = binascii.b2a_base64(_mac(secret, domain, body) + body, newline=False)
    return text.translate(_URL_SAFE).decode()


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _open(secret: bytes, domain: bytes, text: str) -> int | None:
    if len(text) != _CHARACTERS or not text.isascii():
        return None
    try:
        raw = urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        return None
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if len(body) != _NUMBER_BYTES or not hmac.compare_digest(mac, _mac(secret, domain, body)):
        return None
    return int.from_bytes(body, "big")


def _mac(secret: bytes, domain: bytes, body: bytes) -> bytes:
    state = _keyed(secret, domain).copy()
    state.update(body)
    return state.digest()


@lru_cache(maxsize=8)
def _keyed(secret: bytes, domain: bytes) -> hashlib.blake2b:
    """The state behind key and domain, from which each hash goes on."""
    return hashlib.blake2b(domain, digest_size=_MAC_BYTES, key=secret)
