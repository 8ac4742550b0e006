"""What the use cases about objects are asked, and what they answer with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sos.catalog.model import ALWAYS, SOURCE_ALWAYS, CopySourceCondition, WriteCondition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sos.blob.handshake import PeerAddress
    from sos.catalog.model import AccessKeyId, Checksum, ObjectRecord, StoredHeaders


class Target(NamedTuple):
    """Who asks for which key."""

    access_key: AccessKeyId
    bucket: str
    key: str


class PutRequest(NamedTuple):
    """Everything of a PutObject but its bytes."""

    target: Target
    headers: StoredHeaders
    condition: WriteCondition = ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """A CopyObject. ``headers is None``: the source's. ``recompute``: read the bytes for a new checksum."""

    target: Target
    source_bucket: str
    source_key: str
    headers: StoredHeaders | None
    source_condition: CopySourceCondition = SOURCE_ALWAYS
    condition: WriteCondition = ALWAYS
    changes_something: bool = False  # whether a copy onto itself is legal
    recompute: Callable[[], ChecksumMaker] | None = None


class UploadDigests(NamedTuple):
    """What was computed over a whole upload."""

    md5: bytes
    checksum: Checksum


class Found(NamedTuple):
    """A key's current record, with its bytes when they are in the catalog, else with who holds them."""

    record: ObjectRecord
    data: bytes | None
    crc64: bytes
    holders: tuple[PeerAddress, ...]


class ChecksumMaker(Protocol):
    """An incremental whole-object checksum."""

    def update(self, data: bytes | memoryview) -> None: ...

    def finish(self) -> Checksum: ...


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
