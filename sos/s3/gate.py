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
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.s3.head import RequestHead
    from sos.s3.sigv4 import Claim, Verified
    from sos.service.access import CatalogAccess

_SECRETS_MAX: Final = 4096


class Gate:
    """Proves who sent a request."""

    def __init__(self, access: CatalogAccess, *, region: str, clock: Clock) -> None:
        self._access = access
        self._region = region
        self._clock = clock
        self._keys = SigningKeys()
        self._secrets: dict[str, str] = {}

    async def admit(self, head: RequestHead) -> Verified:
        """Who sent the request. Raises: the errors of s3.md 3.4; Unavailable."""
        claim = parse_authorization(head, region=self._region, now_ms=self._clock.wall_ms())
        if isinstance(claim, Anonymous):
            raise AccessDenied  # nothing is public: there are no policies and no ACLs yet
        secret = self._secrets.get(claim.access_key) or self._access.peek(
            lambda view: _secret_of(view, claim.access_key)
        )
        if secret is not None:
            try:
                verified = verify(claim, secret, head, self._keys)
            except S3Error:
                self._secrets.pop(claim.access_key, None)
            else:
                self._remember(claim.access_key, secret)
                return verified
        return await self._admit_surely(claim, head)

    async def _admit_surely(self, claim: Claim, head: RequestHead) -> Verified:
        secret = await self._access.read(lambda view: _secret_of(view, claim.access_key))
        if secret is None:
            raise InvalidAccessKeyId(claim.access_key)
        return verify(claim, secret, head, self._keys)

    def _remember(self, access_key: str, secret: str) -> None:
        if len(self._secrets) >= _SECRETS_MAX:
            self._secrets.clear()
        self._secrets[access_key] = secret


def _secret_of(view: View, access_key: str) -> str | None:
    record = view.access_key(AccessKeyId(access_key))
    return record.secret_key if record is not None and record.enabled else None
