"""Blobs of which no member has a good copy, and the objects that name them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sos.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from sos.catalog.model import BlobId, BlobRecord
    from sos.catalog.views import View
    from sos.service.access import CatalogAccess
    from sos.service.members import MemberAddresses

_PAGE: Final = 500  # rows decoded without an await
_NAMED_MAX: Final = 16  # told in the status; the log has them all
_LISTED_MAX: Final = 100_000


class Damaged:
    """The list of one node, kept true by ``note``. What nobody can read is found by nobody else: hence the names."""

    def __init__(self, access: CatalogAccess, members: MemberAddresses) -> None:
        self._access = access
        self._members = members
        self._blobs: dict[BlobId, None] = {}
        self._objects: list[str] = []
        self._named: frozenset[BlobId] = frozenset()  # what ``_objects`` is of

    def __contains__(self, blob: BlobId) -> bool:
        return blob in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)

    @property
    def blobs(self) -> tuple[BlobId, ...]:
        return tuple(self._blobs)

    @property
    def shown(self) -> tuple[list[str], list[str]]:
        """The first blobs in hex, and the first objects as BUCKET/KEY."""
        return [blob.hex() for blob in self.blobs[:_NAMED_MAX]], self._objects[:_NAMED_MAX]

    def note(self, blob: BlobId, record: BlobRecord | None) -> None:
        """What the catalog says of ``blob`` now; None: nothing names it any more."""
        if record is None or self._members.of(frozenset(record.holders)):
            self._blobs.pop(blob, None)
        elif blob not in self._blobs and len(self._blobs) < _LISTED_MAX:
            self._blobs[blob] = None
            log.error("scrub.blob.damaged", blob=blob.hex(), bytes=record.size_bytes)

    async def find_names(self) -> None:
        """Look through all keys, if the list changed: no row leads from a blob to its objects. Raises: Unavailable."""
        wanted = frozenset(self._blobs)
        if wanted == self._named:
            return
        found: list[str] = []
        for bucket in self._access.peek(lambda view: view.buckets()) if wanted else ():
            after: str | None = ""
            while after is not None:
                keys, after = self._access.peek(_page(bucket.bucket_id, wanted, after))
                for key in keys:
                    log.error("scrub.object.damaged", bucket=bucket.name, key=key)
                    found.append(f"{bucket.name}/{key}")
                await asyncio.sleep(0)  # requests go first
        self._objects, self._named = found, wanted


def _page(
    bucket_id: int, wanted: frozenset[BlobId], after: str
) -> Callable[[View], tuple[list[str], str | None]]:
    return lambda view: view.objects_of(bucket_id, wanted, after, _PAGE)
