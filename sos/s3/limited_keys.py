"""What a limited access key may do: one table over all operations, asked in one place before any handler runs. Pure.

A key may be limited to buckets, in each of them to prefixes of keys, and to reading (``sos key create``). Whatever is
not said here to be allowed is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sos.s3 import operations as ops

if TYPE_CHECKING:
    from sos.catalog.model import AccessKeyRecord
    from sos.s3.operations import Operation

_READS: Final[tuple[type, ...]] = (
    ops.ListBuckets,
    ops.HeadBucket,
    ops.GetBucketLocation,
    ops.GetBucketVersioning,
    ops.GetBucketSetting,
    ops.GetSubresource,
    ops.ListObjects,
    ops.ListObjectsV2,
    ops.ListObjectVersions,
    ops.ListMultipartUploads,
    ops.ListParts,
    ops.GetObject,
    ops.HeadObject,
    ops.GetObjectTagging,
    ops.GetObjectAttributes,
)
_LISTS: Final = (
    ops.ListObjects,
    ops.ListObjectsV2,
    ops.ListObjectVersions,
    ops.ListMultipartUploads,
)
# Of a whole bucket, and harmless: clients ask them before anything else.
_ABOUT_BUCKETS: Final = (ops.HeadBucket, ops.GetBucketLocation, ops.GetBucketVersioning)


def is_limited(key: AccessKeyRecord) -> bool:
    """Whether a key may not do everything."""
    return key.read_only or bool(key.buckets) or bool(key.prefixes)


def allows(key: AccessKeyRecord, operation: Operation) -> bool:
    """Whether a key may do ``operation``. The keys of a DeleteObjects are not known yet: ``allows_key`` judges each."""
    if key.read_only and not isinstance(operation, _READS):
        return False
    if isinstance(operation, ops.ListBuckets):
        return True  # it sees those that it may use
    if key.buckets and operation.bucket not in key.buckets:
        return False
    if isinstance(operation, ops.CopyObject | ops.UploadPartCopy):
        source = operation.source
        if key.buckets and source.bucket not in key.buckets:
            return False
        if not allows_key(key, source.key):
            return False
    return not key.prefixes or _allows_prefixes(key, operation)


def _allows_prefixes(key: AccessKeyRecord, operation: Operation) -> bool:
    if isinstance(operation, (ops.DeleteObjects, *_ABOUT_BUCKETS)):
        return True
    if isinstance(operation, _LISTS):
        return operation.list.prefix.startswith(key.prefixes)
    if isinstance(operation, ops.ObjectOperation):
        return allows_key(key, operation.key)
    if isinstance(operation, ops.GetSubresource | ops.DeleteSubresource) and operation.key:
        return allows_key(key, operation.key)
    return False  # of a bucket as a whole


def allows_key(key: AccessKeyRecord, name: str) -> bool:
    """Whether an access key may touch the object key ``name``, in the buckets that it may use."""
    return not key.prefixes or name.startswith(key.prefixes)
