"""Access keys through the log: what `sos key` asks the admin listener for."""

from __future__ import annotations

from sos.admin.server import KeyLimits, KeyRow
from sos.catalog.model import AccessKeyId, CreateAccessKey, Rejection, RevokeAccessKey
from sos.clock import Clock, IdSource
from sos.core.member import Member
from sos.errors import Unavailable

_SECRET_BYTES = 30


class AccessKeys:
    """Lists, creates and revokes access keys. Every answer follows a barrier or a commit."""

    def __init__(self, member: Member, *, ids: IdSource, clock: Clock) -> None:
        self._member = member
        self._ids = ids
        self._clock = clock

    async def list_keys(self) -> list[KeyRow]:
        """Raises: Unavailable."""
        if not await self._member.is_ready():
            raise Unavailable("no majority confirmed a leader")
        with self._member.store.view() as view:
            return [
                KeyRow(
                    access_key=key.access_key,
                    root=key.root,
                    enabled=key.enabled,
                    name=key.name,
                    read_only=key.read_only,
                    buckets=key.buckets,
                    prefixes=key.prefixes,
                )
                for key in view.access_keys()
            ]

    async def create(self, limits: KeyLimits) -> tuple[str, str]:
        """A new access key and its secret. Raises: Unavailable, OutcomeUnknown."""
        access = AccessKeyId("SOS" + self._ids.random_bytes(8).hex().upper())
        secret = self._ids.random_bytes(_SECRET_BYTES).hex()
        result = await self._member.propose(
            CreateAccessKey(
                access_key=access,
                secret_key=secret,
                created_ms=self._clock.wall_ms(),
                name=limits.name,
                read_only=limits.read_only,
                buckets=limits.buckets,
                prefixes=limits.prefixes,
            )
        )
        assert not isinstance(result, Rejection), "the id is random"
        return access, secret

    async def rotate(self, access_key: str, *, revoke: bool) -> tuple[str, str] | None:
        """A new key with the limits of an old one, which goes if ``revoke``; None: there is none, or it is a root key.

        Raises: Unavailable, OutcomeUnknown.
        """
        for row in await self.list_keys():
            if row.access_key == access_key and row.enabled and not row.root:
                limits = KeyLimits(
                    name=row.name,
                    read_only=row.read_only,
                    buckets=row.buckets,
                    prefixes=row.prefixes,
                )
                made = await self.create(limits)
                if revoke:
                    await self.revoke(access_key)
                return made
        return None

    async def revoke(self, access_key: str) -> bool:
        """False when there is no such key. Raises: Unavailable, OutcomeUnknown."""
        result = await self._member.propose(RevokeAccessKey(access_key=AccessKeyId(access_key)))
        return not isinstance(result, Rejection)
