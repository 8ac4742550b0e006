"""The one gate: every request passes here, and only here becomes an ``Exchange`` (design 11).

An access key that was seen once is remembered: a node's own knowledge may let a request go on, because
every use case looks the key up again in the view, or the log entry, that decides. It never refuses: before
a refusal the key is looked up after a read barrier (design 5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sos.catalog.model import AccessKeyId
from sos.s3.errors import AccessDenied, InvalidAccessKeyId, S3Error
from sos.s3.sigv4 import Anonymous, SigningKeys, parse_authorization, verify

if TYPE_CHECKING:
    from sos.catalog.model import AccessKeyRecord
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.s3.head import RequestHead
    from sos.s3.sigv4 import Claim, Verified
    from sos.service.access import CatalogAccess

_RECORDS_MAX: Final = 4096


class Gate:
    """Proves who sent a request."""

    def __init__(self, access: CatalogAccess, *, region: str, clock: Clock) -> None:
        self._access = access
        self._region = region
        self._clock = clock
        self._keys = SigningKeys()
        self._records: dict[str, AccessKeyRecord] = {}

    async def admit(self, head: RequestHead) -> tuple[Verified, AccessKeyRecord]:
        """Who sent the request, and the key's record: its limits never change. Raises: the errors of s3.md 3.4; Unavailable."""
        claim = parse_authorization(head, region=self._region, now_ms=self._clock.wall_ms())
        if isinstance(claim, Anonymous):
            raise AccessDenied  # nothing is public: there are no policies and no ACLs yet
        record = self._records.get(claim.access_key) or self._access.peek(
            lambda view: _enabled(view, claim.access_key)
        )
        if record is not None:
            try:
                verified = verify(claim, record.secret_key, head, self._keys)
            except S3Error:
                self._records.pop(claim.access_key, None)
            else:
                self._remember(record)
                return verified, record
        return await self._admit_surely(claim, head)

    async def find_key(self, access_key: str) -> AccessKeyRecord | None:
        """A valid access key, for what proves itself in another way than by its head. Raises: Unavailable."""
        return await self._access.read(lambda view: _enabled(view, access_key))

    async def _admit_surely(
        self, claim: Claim, head: RequestHead
    ) -> tuple[Verified, AccessKeyRecord]:
        record = await self._access.read(lambda view: _enabled(view, claim.access_key))
        if record is None:
            raise InvalidAccessKeyId(claim.access_key)
        return verify(claim, record.secret_key, head, self._keys), record

    def _remember(self, record: AccessKeyRecord) -> None:
        if len(self._records) >= _RECORDS_MAX:
            self._records.clear()
        self._records[record.access_key] = record


def _enabled(view: View, access_key: str) -> AccessKeyRecord | None:
    record = view.access_key(AccessKeyId(access_key))
    return record if record is not None and record.enabled else None
