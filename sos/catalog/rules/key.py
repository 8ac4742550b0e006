"""Rules of access keys. Pure."""

from __future__ import annotations

from dataclasses import replace

from sos.catalog.model import (
    AccessKeyId,
    AccessKeyRecord,
    CreateAccessKey,
    Done,
    Position,
    Rejection,
    RevokeAccessKey,
)
from sos.catalog.rules.view import CatalogView, Decision, PutAccessKey


def is_valid(view: CatalogView, access_key: AccessKeyId) -> bool:
    """Whether a command of this key may take effect: a revocation holds from its own log index on."""
    record = view.access_key(access_key)
    return record is not None and record.enabled


def decide_create_access_key(
    view: CatalogView, command: CreateAccessKey, position: Position
) -> Decision:
    """An id is used once: a revoked one cannot come back to life with another secret."""
    if view.access_key(command.access_key) is not None:
        return Decision(Rejection.ACCESS_KEY_EXISTS)
    record = AccessKeyRecord(
        access_key=command.access_key,
        secret_key=command.secret_key,
        root=False,
        enabled=True,
        created_ms=command.created_ms,
        name=command.name,
        read_only=command.read_only,
        buckets=command.buckets,
        prefixes=command.prefixes,
    )
    return Decision(Done(existed=False), [PutAccessKey(record)])


def decide_revoke_access_key(
    view: CatalogView, command: RevokeAccessKey, position: Position
) -> Decision:
    """Revoking a revoked key succeeds again; an unknown one is refused."""
    record = view.access_key(command.access_key)
    if record is None:
        return Decision(Rejection.INVALID_ACCESS_KEY)
    if not record.enabled:
        return Decision(Done(existed=False))
    return Decision(Done(), [PutAccessKey(replace(record, enabled=False))])
