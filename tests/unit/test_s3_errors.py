"""The table of S3 errors (s3.md 9)."""

from __future__ import annotations

import pytest

from sos.catalog.model import Rejection
from sos.errors import NoMajority, NotYet, QueueFull, StorageFull, Unavailable
from sos.s3 import errors
from sos.s3.errors import NoSuchKey, S3Error
from sos.s3.refusals import Subject, s3_error_for, unavailable_error

STATUS: dict[str, int] = {  # section 9, and the codes of 1.4
    "AccessDenied": 403,
    "AccessForbidden": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BadRequest": 400,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "ConditionalRequestConflict": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IllegalLocationConstraintException": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidChunkSizeError": 403,
    "InvalidDigest": 400,
    "InvalidLocationConstraint": 400,
    "InvalidPart": 400,
    "InvalidPartNumber": 416,
    "InvalidPartOrder": 400,
    "InvalidPolicyDocument": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidStorageClass": 400,
    "InvalidTag": 400,
    "InvalidToken": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedPOSTRequest": 400,
    "MalformedTrailerError": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MaxPostPreDataLengthExceededError": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchPublicAccessBlockConfiguration": 404,
    "NoSuchTagSet": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NoSuchWebsiteConfiguration": 404,
    "NotImplemented": 501,
    "ObjectLockConfigurationNotFoundError": 404,
    "OwnershipControlsNotFoundError": 404,
    "PreconditionFailed": 412,
    "ReplicationConfigurationNotFoundError": 404,
    "RequestHeaderSectionTooLarge": 400,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServerSideEncryptionConfigurationNotFoundError": 404,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}
CLASSES: list[type[S3Error]] = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, S3Error) and found is not S3Error
]


def test_codes_and_statuses() -> None:
    """Status and code are contract."""
    assert {found.code: found.status for found in CLASSES} == STATUS


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_fields_keep_their_order(kind: type[S3Error]) -> None:
    """Fields come in the order given in section 9, missing ones at the end are left out."""
    names = kind.field_names
    values = [str(number) for number in range(len(names))]
    assert kind(*values).fields == tuple(zip(names, values, strict=True))
    assert kind(*values[:-1]).fields == tuple(zip(names, values, strict=True))[:-1]
    assert kind().message == kind.default_message


def test_503_says_when_to_retry() -> None:
    """1.0: certainly not applied -> 503 with ``Retry-After: 1``."""
    for kind in CLASSES:
        assert (("Retry-After", "1") in kind().headers) == (kind.status == 503)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (QueueFull("4096 wait at n1"), "reduce your request rate"),
        (NoMajority("n2@0 is down"), "No majority"),
        (StorageFull("n2@0: disk full"), "disks"),
        (Unavailable("blob 00 of n2"), "cannot be served now"),
    ],
)
def test_503_tells_the_truth(error: Unavailable, told: str) -> None:
    """s3.md 9: the code is SlowDown, but only who sends too much is told to send less; nothing of the inside shows."""
    answer = unavailable_error(error)
    assert (answer.code, answer.status) == ("SlowDown", 503)
    assert told in answer.message
    assert "n2" not in answer.message


def test_what_the_oldest_member_does_not_know_is_not_implemented() -> None:
    """Issue 5, 7: during an upgrade a new operation is refused for certain, and says what it waits for."""
    answer = unavailable_error(NotYet("this needs every node at version 9"))
    assert (answer.code, answer.status) == ("NotImplemented", 501)
    assert "every node at version 9" in answer.message


REJECTED: dict[Rejection, str] = {
    Rejection.NO_SUCH_BUCKET: "NoSuchBucket",
    Rejection.BUCKET_ALREADY_OWNED_BY_YOU: "BucketAlreadyOwnedByYou",
    Rejection.BUCKET_NOT_EMPTY: "BucketNotEmpty",
    Rejection.NO_SUCH_KEY: "NoSuchKey",
    Rejection.PRECONDITION_FAILED_IF_MATCH: "PreconditionFailed",
    Rejection.PRECONDITION_FAILED_IF_NONE_MATCH: "PreconditionFailed",
    Rejection.NO_SUCH_SOURCE_BUCKET: "NoSuchBucket",
    Rejection.NO_SUCH_SOURCE_KEY: "NoSuchKey",
    Rejection.SOURCE_PRECONDITION_FAILED: "PreconditionFailed",
    Rejection.SOURCE_CHANGED: "ServiceUnavailable",
    Rejection.ACCESS_CHANGED: "ServiceUnavailable",
    Rejection.HOLDERS_TOO_FEW: "ServiceUnavailable",
    Rejection.BLOB_BELOW_FLOOR: "ServiceUnavailable",
    Rejection.BLOB_ALREADY_NAMED: "InternalError",
    Rejection.INVALID_ACCESS_KEY: "InvalidAccessKeyId",
    Rejection.TOO_OLD_TO_REMEMBER: "InternalError",
    Rejection.ACCESS_KEY_EXISTS: "InternalError",
    Rejection.SELF_COPY_WITHOUT_CHANGE: "InvalidRequest",
    Rejection.UNKNOWN_COMMAND: "InternalError",
    Rejection.SOURCE_TOO_LARGE: "InvalidRequest",
    Rejection.NO_SUCH_VERSION: "NoSuchVersion",
    Rejection.SOURCE_IS_MARKER: "InvalidRequest",
    Rejection.NO_SUCH_SOURCE_VERSION: "NoSuchVersion",
    Rejection.BUCKET_NEVER_VERSIONED: "InvalidArgument",
    Rejection.DELETE_NEEDS_TIME: "ServiceUnavailable",
    Rejection.VERSION_IS_MARKER: "MethodNotAllowed",
    Rejection.NO_SUCH_UPLOAD: "NoSuchUpload",
    Rejection.KEY_CHANGED_DURING_UPLOAD: "ConditionalRequestConflict",
    Rejection.PART_CHECKSUM_TYPE: "InvalidRequest",
    Rejection.PART_CHECKSUM_MISSING: "InvalidRequest",
    Rejection.COMPLETE_TYPE_MISMATCH: "InvalidRequest",
    Rejection.COMPLETE_SIZE_MISMATCH: "InvalidRequest",
    Rejection.COMPLETE_CHECKSUM_MISMATCH: "BadDigest",
    Rejection.OBJECT_TOO_LARGE: "EntityTooLarge",
    Rejection.SOURCE_IN_PARTS: "ServiceUnavailable",
}


@pytest.mark.parametrize("rejection", list(Rejection), ids=lambda rejection: rejection.name)
def test_every_rejection_has_an_answer(rejection: Rejection) -> None:
    """House style 6: the table from rejections to errors is exhaustive."""
    subject = Subject(bucket="b", key="k", source_bucket="sb", source_key="sk", access_key="a")
    assert s3_error_for(rejection, subject).code == REJECTED[rejection]


def test_rejections_name_their_subject() -> None:
    """Fields tell which bucket, key or condition it was."""
    subject = Subject(
        bucket="b", key="k", source_bucket="sb", source_key="sk", source_condition="x-if"
    )
    fields = {
        rejection: s3_error_for(rejection, subject).fields
        for rejection in (
            Rejection.NO_SUCH_SOURCE_BUCKET,
            Rejection.NO_SUCH_SOURCE_KEY,
            Rejection.SOURCE_PRECONDITION_FAILED,
            Rejection.PRECONDITION_FAILED_IF_NONE_MATCH,
        )
    }
    assert list(fields.values()) == [
        (("BucketName", "sb"),),
        (("Key", "sk"),),
        (("Condition", "x-if"),),
        (("Condition", "If-None-Match"),),
    ]


def test_messages_are_the_exceptions_text() -> None:
    """Logs name the code; a message can be given for one case."""
    assert str(NoSuchKey("k", message="gone")) == "NoSuchKey: gone"
