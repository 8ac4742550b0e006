"""What the use cases about objects are asked, and what they answer with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sos.catalog.model import ALWAYS, SOURCE_ALWAYS, CopySourceCondition, WriteCondition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sos.blob.handshake import PeerAddress
    from sos.catalog.model import (
        AccessKeyId,
        Checksum,
        ChecksumAlgorithm,
        ListedPart,
        ObjectRecord,
        StoredHeaders,
        UploadId,
        VersionNumber,
    )
    from sos.service.parts import PartSpan


class Target(NamedTuple):
    """Who asks for which key, or which version of it (None: the current one)."""

    access_key: AccessKeyId
    bucket: str
    key: str
    version: VersionNumber | None = None


class PutRequest(NamedTuple):
    """Everything of a PutObject but its bytes."""

    target: Target
    headers: StoredHeaders
    condition: WriteCondition = ALWAYS
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """A CopyObject. ``headers is None``: the source's. ``algorithm``: read the bytes for a new checksum of it."""

    target: Target
    source: Target
    headers: StoredHeaders | None
    source_condition: CopySourceCondition = SOURCE_ALWAYS
    condition: WriteCondition = ALWAYS
    changes_something: bool = False  # whether a copy onto itself is legal
    algorithm: ChecksumAlgorithm | None = None
    tags: tuple[tuple[str, str], ...] | None = None  # None: the source's


class CreateUploadRequest(NamedTuple):
    """A CreateMultipartUpload. ``algorithm is None``: the client named none."""

    target: Target
    headers: StoredHeaders
    algorithm: ChecksumAlgorithm | None
    composite: bool
    tags: tuple[tuple[str, str], ...] = ()


class PartCopyRequest(NamedTuple):
    """An UploadPartCopy. ``span``: bytes ``[start, stop)`` of the source, None: all."""

    target: Target
    number: int
    source: Target
    span: tuple[int, int] | None
    source_condition: CopySourceCondition


class CompleteRequest(NamedTuple):
    """A CompleteMultipartUpload; what is None was not said."""

    target: Target
    upload: UploadId
    parts: tuple[ListedPart, ...]
    condition: WriteCondition
    checksum: Checksum | None
    composite: bool | None
    size_bytes: int | None


class UploadDigests(NamedTuple):
    """What was computed over a whole upload. ``also``: a second checksum, if one was asked for."""

    md5: bytes
    checksum: Checksum
    also: Checksum | None = None


class Found(NamedTuple):
    """A key's current record, with its bytes when they are in the catalog, else with who holds them.

    Of an object in parts neither: ``ObjectService.open`` finds those that it needs. ``span``: the part that was asked for;
    None if it has none of that number, or none was asked for. ``is_versioned``: the bucket was ever versioned.
    """

    record: ObjectRecord
    data: bytes | None
    crc64: bytes
    holders: tuple[PeerAddress, ...]
    span: PartSpan | None = None
    is_versioned: bool = False


class UploadBody(Protocol):
    """The decoded bytes of an upload, by iteration or as a whole. If that ends without an exception, all
    that the client claimed about them (length, digests, signatures) was verified."""

    @property
    def expected_bytes(self) -> int | None: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def read_whole(self) -> bytes:
        """Only for a body that is known to be small."""
        ...

    def digests(self) -> UploadDigests: ...
