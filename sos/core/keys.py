"""Access keys through the log: what `sos key` asks the admin listener for."""

from __future__ import annotations

from sos.admin.server import KeyRow
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
                KeyRow(access_key=key.access_key, root=key.root, enabled=key.enabled)
                for key in view.access_keys()
            ]

    async def create(self) -> tuple[str, str]:
        """A new access key and its secret. Raises: Unavailable, OutcomeUnknown."""
        access = AccessKeyId("SOS" + self._ids.random_bytes(8).hex().upper())
        secret = self._ids.random_bytes(_SECRET_BYTES).hex()
        result = await self._member.propose(
            CreateAccessKey(access_key=access, secret_key=secret, created_ms=self._clock.wall_ms())
        )
        assert not isinstance(result, Rejection), "the id is random"
        return access, secret

    async def revoke(self, access_key: str) -> bool:
        """False when there is no such key. Raises: Unavailable, OutcomeUnknown."""
        result = await self._member.propose(RevokeAccessKey(access_key=AccessKeyId(access_key)))
        return not isinstance(result, Rejection)
