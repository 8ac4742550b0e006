"""Rules of buckets. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from sos.catalog.model import (
    AccessKeyId,
    BucketRecord,
    BucketSetting,
    CreateBucket,
    DeleteBucket,
    Done,
    Position,
    PutBucketSetting,
    Rejection,
    SetVersioning,
)
from sos.catalog.rules.key import is_valid
from sos.catalog.rules.view import (
    CatalogView,
    Decision,
    DropUploads,
    PutBucket,
    PutSetting,
    RemoveBucket,
    Write,
)


class Admitted(Protocol):
    """A command of a request that was admitted to a bucket by what the bucket says about access."""

    @property
    def access_key(self) -> AccessKeyId: ...

    @property
    def bucket(self) -> str: ...

    @property
    def access_epoch(self) -> int: ...


def admitted(view: CatalogView, command: Admitted) -> BucketRecord | Rejection:
    """The bucket of a command, unless its key is not valid any more or access was changed since it was admitted."""
    if not is_valid(view, command.access_key):
        return Rejection.INVALID_ACCESS_KEY
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Rejection.NO_SUCH_BUCKET
    if command.access_epoch != bucket.access_epoch:
        return Rejection.ACCESS_CHANGED
    return bucket


def decide_create_bucket(view: CatalogView, command: CreateBucket, position: Position) -> Decision:
    """A new, empty bucket; what an existing one of the same owner answers is the handler's (s3.md 1.1.2)."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    if view.bucket(command.bucket) is not None:
        return Decision(Rejection.BUCKET_ALREADY_OWNED_BY_YOU)
    record = BucketRecord(
        name=command.bucket,
        created_ms=command.created_ms,
        object_count=0,
        size_bytes=0,
        bucket_id=position.number,
    )
    return Decision(Done(existed=False), [PutBucket(record)])


def decide_delete_bucket(view: CatalogView, command: DeleteBucket, position: Position) -> Decision:
    """Any object, version or delete marker blocks it (S3 API: DeleteBucket); uploads in progress do not, they are aborted with it."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Decision(Rejection.NO_SUCH_BUCKET)
    if bucket.object_count or bucket.version_count:
        return Decision(Rejection.BUCKET_NOT_EMPTY)
    writes: list[Write] = [RemoveBucket(command.bucket)]
    writes.extend(
        PutSetting(bucket.bucket_id, setting, None)
        for setting in BucketSetting
        if bucket.configured >> setting.value & 1
    )
    if bucket.upload_count:
        writes.append(DropUploads(bucket.bucket_id))
    return Decision(Done(), writes)


def decide_set_versioning(
    view: CatalogView, command: SetVersioning, position: Position
) -> Decision:
    """Enable or suspend versioning (S3 API: PutBucketVersioning)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    if bucket.versioning is command.versioning:
        return Decision(Done())
    return Decision(Done(), [PutBucket(replace(bucket, versioning=command.versioning))])


# Who may do what depends on these: a request that was judged before one of them changed is judged again.
_ACCESS_SETTINGS: Final = frozenset(
    {
        BucketSetting.POLICY,
        BucketSetting.ACL,
        BucketSetting.OWNERSHIP,
        BucketSetting.PUBLIC_ACCESS_BLOCK,
    }
)


def decide_put_bucket_setting(
    view: CatalogView, command: PutBucketSetting, position: Position
) -> Decision:
    """Set or remove a configuration document; removing one that is not there changes nothing."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    setting, document = command.setting, command.document
    bit = 1 << setting.value
    existed = bool(bucket.configured & bit)
    if document is None and not existed:
        return Decision(Done(existed=False))
    configured = bucket.configured & ~bit if document is None else bucket.configured | bit
    epoch = position.number if setting in _ACCESS_SETTINGS else bucket.access_epoch
    changed = replace(bucket, configured=configured, access_epoch=epoch)
    writes: list[Write] = [PutSetting(bucket.bucket_id, setting, document), PutBucket(changed)]
    return Decision(Done(existed=existed), writes)


def recounted(
    bucket: BucketRecord, objects: int, size_bytes: int, *, versions: int = 0, uploads: int = 0
) -> PutBucket:
    """The bucket with its counters changed by these differences."""
    object_count = bucket.object_count + objects
    bytes_now = bucket.size_bytes + size_bytes
    version_count = bucket.version_count + versions
    upload_count = bucket.upload_count + uploads
    assert object_count >= 0, "a bucket counts fewer than no objects"
    assert bytes_now >= 0, "a bucket counts fewer than no bytes"
    assert version_count >= 0, "a bucket counts fewer than no versions"
    assert upload_count >= 0, "a bucket counts fewer than no uploads"
    return PutBucket(
        BucketRecord(
            name=bucket.name,
            created_ms=bucket.created_ms,
            object_count=object_count,
            size_bytes=bytes_now,
            bucket_id=bucket.bucket_id,
            versioning=bucket.versioning,
            version_count=version_count,
            owner=bucket.owner,
            access_epoch=bucket.access_epoch,
            configured=bucket.configured,
            upload_count=upload_count,
        )
    )
