"""What the layers below refuse or cannot do, told in S3's errors. Pure.

Source: s3.md section 9. Both tables say nothing of the inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from sos.catalog.model import Rejection
from sos.errors import NoMajority, NotYet, QueueFull, StorageFull, Unavailable
from sos.limits import MULTIPART_BYTES_MAX
from sos.s3.errors import (
    BadDigest,
    BucketAlreadyOwnedByYou,
    BucketNotEmpty,
    ConditionalRequestConflict,
    EntityTooLarge,
    FeatureNotImplemented,
    InternalError,
    InvalidAccessKeyId,
    InvalidArgument,
    InvalidRequest,
    MethodNotAllowed,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NoSuchVersion,
    PreconditionFailed,
    S3Error,
    ServiceUnavailable,
    SlowDown,
)


def unavailable_error(error: Unavailable) -> S3Error:
    """What a client is told of ``error``: why, but nothing of the inside."""
    match error:
        case QueueFull():
            return SlowDown()
        case NoMajority():
            return SlowDown(
                message="No majority of the cluster's nodes answers. Nothing was changed. Please try again."
            )
        case NotYet():
            return FeatureNotImplemented(
                message=f"Not every node of the cluster knows this operation: {error}. Nothing was changed."
            )
        case StorageFull():
            return SlowDown(
                message="The disks of the cluster are nearly full. Nothing was stored."
                " Delete objects or add space, then try again."
            )
        case _:
            return SlowDown(
                message="The request cannot be served now. Nothing was changed. Please try again."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a rejected command was about; fills the fields of its error."""

    bucket: str = ""
    key: str = ""
    source_bucket: str = ""
    source_key: str = ""
    source_condition: str = ""  # header name, where one alone can have failed
    version_id: str = ""
    access_key: str = ""
    upload: str = ""


def s3_error_for(rejection: Rejection, subject: Subject) -> S3Error:
    """The answer for a command that the catalog refused; exhaustive (house style 6)."""
    match rejection:
        case Rejection.NO_SUCH_BUCKET:
            return NoSuchBucket(subject.bucket)
        case Rejection.BUCKET_ALREADY_OWNED_BY_YOU:
            return BucketAlreadyOwnedByYou(subject.bucket)
        case Rejection.BUCKET_NOT_EMPTY:
            return BucketNotEmpty(subject.bucket)
        case Rejection.NO_SUCH_KEY:
            return NoSuchKey(subject.key)
        case Rejection.NO_SUCH_VERSION:
            return NoSuchVersion(subject.key, subject.version_id)
        case Rejection.PRECONDITION_FAILED_IF_MATCH:
            return PreconditionFailed("If-Match")
        case Rejection.PRECONDITION_FAILED_IF_NONE_MATCH:
            return PreconditionFailed("If-None-Match")
        case Rejection.NO_SUCH_SOURCE_BUCKET:
            return NoSuchBucket(subject.source_bucket)
        case Rejection.NO_SUCH_SOURCE_KEY:
            return NoSuchKey(subject.source_key)
        case Rejection.SOURCE_PRECONDITION_FAILED:
            return PreconditionFailed(*filter(None, (subject.source_condition,)))
        case Rejection.INVALID_ACCESS_KEY:
            return InvalidAccessKeyId(subject.access_key)
        case Rejection.SELF_COPY_WITHOUT_CHANGE:
            return InvalidRequest(
                message="This copy request is illegal because it is trying to copy an object to itself without"
                " changing the object's metadata, storage class, website redirect location or encryption attributes."
            )
        case Rejection.SOURCE_TOO_LARGE:
            return InvalidRequest(
                message="The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            )
        case Rejection.SOURCE_IS_MARKER:
            return InvalidRequest(
                message="The source of a copy request may not specifically refer to a delete marker by version id."
            )
        case Rejection.NO_SUCH_SOURCE_VERSION:
            return NoSuchVersion(subject.source_key, subject.version_id)
        case Rejection.BUCKET_NEVER_VERSIONED:
            return InvalidArgument(
                "versionId", subject.version_id, message="Invalid version id specified"
            )
        case Rejection.VERSION_IS_MARKER:
            return MethodNotAllowed("", "DeleteMarker", headers=(("Allow", "DELETE"),))
        case Rejection.NO_SUCH_UPLOAD:
            return NoSuchUpload(subject.upload)
        case Rejection.KEY_CHANGED_DURING_UPLOAD:
            return ConditionalRequestConflict()
        case Rejection.PART_CHECKSUM_TYPE | Rejection.PART_CHECKSUM_MISSING:
            return InvalidRequest(message="Checksum Type mismatch occurred.")
        case Rejection.COMPLETE_TYPE_MISMATCH:
            return InvalidRequest(
                message="The upload was created using another checksum type than x-amz-checksum-type says."
            )
        case Rejection.COMPLETE_SIZE_MISMATCH:
            return InvalidRequest(
                message="The provided 'x-amz-mp-object-size' header does not match what was computed."
            )
        case Rejection.COMPLETE_CHECKSUM_MISMATCH:
            return BadDigest(
                message="The checksum you specified did not match the calculated checksum."
            )
        case Rejection.OBJECT_TOO_LARGE:
            return EntityTooLarge("", str(MULTIPART_BYTES_MAX))
        case (
            Rejection.SOURCE_CHANGED
            | Rejection.DELETE_NEEDS_TIME  # answered by saying when
            | Rejection.SOURCE_IN_PARTS  # answered by writing its bytes anew
            | Rejection.HOLDERS_TOO_FEW
            | Rejection.BLOB_BELOW_FLOOR
            | Rejection.ACCESS_CHANGED
        ):
            return ServiceUnavailable()  # certainly not applied, and another attempt may succeed
        case (
            Rejection.BLOB_ALREADY_NAMED
            | Rejection.TOO_OLD_TO_REMEMBER  # perhaps applied long ago, and forgotten
            | Rejection.ACCESS_KEY_EXISTS  # no S3 operation makes keys
            | Rejection.UNKNOWN_COMMAND
        ):
            return InternalError()
    assert_never(rejection)
