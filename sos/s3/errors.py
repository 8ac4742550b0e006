"""Every error a client can see: one class per S3 code.

Source: s3.md section 9 (S3 API, error responses). Status and code are contract, message text is not.
A class states its status, default message and the extra elements in their order; an instance gives their values:
``NoSuchKey("a/b")``, ``InvalidArgument("max-keys", "x", message="...")``.
"""

from __future__ import annotations

from typing import ClassVar

Headers = tuple[tuple[str, str], ...]


class S3Error(Exception):
    """A client-visible answer. Raised anywhere in ``s3``, rendered once, by ``s3/app``.

    ``fields``: extra elements in document order. ``headers``: extra response headers. ``close``: end the connection.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    default_message: ClassVar[str]
    field_names: ClassVar[tuple[str, ...]]
    default_headers: ClassVar[Headers]

    def __init_subclass__(
        cls,
        *,
        status: int,
        message: str,
        fields: tuple[str, ...] = (),
        headers: Headers = (),
        code: str = "",
    ) -> None:
        super().__init_subclass__()
        cls.status = status
        cls.code = code or cls.__name__
        cls.default_message = message
        cls.field_names = fields
        cls.default_headers = headers

    def __init__(
        self, *values: str, message: str = "", headers: Headers = (), close: bool = False
    ) -> None:
        """``values`` fill the class's fields in order; missing ones are left out of the document."""
        assert len(values) <= len(self.field_names), f"{self.code} has fields {self.field_names}"
        self.message = message or self.default_message
        super().__init__(f"{self.code}: {self.message}")
        self.fields = tuple(zip(self.field_names, values, strict=False))
        self.headers = self.default_headers + headers
        self.close = close


RETRY: Headers = (("Retry-After", "1"),)
ARGUMENT = ("ArgumentName", "ArgumentValue")


# --- who asks -------------------------------------------------------------------------------------
class AccessDenied(S3Error, status=403, message="Access Denied"):
    """Nothing sent, or not allowed."""


class RequestExpired(
    S3Error,
    status=403,
    code="AccessDenied",
    message="Request has expired",
    fields=("X-Amz-Expires", "Expires", "ServerTime"),
):
    """A presigned URL outside its time."""


class HeadersNotSigned(
    S3Error,
    status=403,
    code="AccessDenied",
    message="There were headers present in the request which were not signed",
    fields=("HeadersNotSigned",),
):
    """``host`` or an ``x-amz-*`` header is outside the signature: a stranger could have added it."""


class AccessForbidden(
    S3Error,
    status=403,
    message="CORSResponse: CORS is not enabled for this bucket.",
    fields=("Method", "ResourceType"),
):
    """Every preflight, until CORS can be configured."""


class AuthorizationHeaderMalformed(
    S3Error, status=400, message="The authorization header is malformed.", fields=("Region",)
):
    """``Region`` is filled when the region is what is wrong: SDKs retry with it."""


class AuthorizationQueryParametersError(
    S3Error, status=400, message="Query-string authentication is malformed.", fields=("Region",)
):
    """The same for presigned URLs."""


class InvalidAccessKeyId(
    S3Error,
    status=403,
    message="The AWS Access Key Id you provided does not exist in our records.",
    fields=("AWSAccessKeyId",),
):
    """Unknown or disabled."""


class InvalidToken(
    S3Error,
    status=400,
    message="The provided token is malformed or otherwise invalid.",
    fields=("Token-0",),
):
    """Temporary credentials are not accepted."""


class RequestTimeTooSkewed(
    S3Error,
    status=403,
    message="The difference between the request time and the current time is too large.",
    fields=("RequestTime", "ServerTime", "MaxAllowedSkewMilliseconds"),
):
    """The client's clock is more than 15 minutes off."""


class SignatureDoesNotMatch(
    S3Error,
    status=403,
    message="The request signature we calculated does not match the signature you provided."
    " Check your key and signing method.",
    fields=(
        "AWSAccessKeyId",
        "StringToSign",
        "SignatureProvided",
        "StringToSignBytes",
        "CanonicalRequest",
        "CanonicalRequestBytes",
    ),
):
    """Request, chunk (without fields) or trailer."""


# --- what is asked --------------------------------------------------------------------------------
class BadRequest(
    S3Error,
    status=400,
    message="Insufficient information. Origin request header needed.",
):
    """A preflight without Origin, and broken HTTP (then with ``close``)."""


class FeatureNotImplemented(
    S3Error,
    status=501,
    code="NotImplemented",
    message="A header (or query) you provided implies functionality that is not implemented",
    fields=("Header", "additionalMessage"),
):
    """What we do not do is refused, never accepted and dropped (s3.md 0).

    Clients show the message alone, so it says what was asked for: ``POST ?uploads`` of a large upload.
    """

    def __init__(
        self, *values: str, message: str = "", headers: Headers = (), close: bool = False
    ) -> None:
        message = message or ": ".join((self.default_message, *values[-1:]))
        super().__init__(*values, message=message, headers=headers, close=close)


class InvalidArgument(S3Error, status=400, message="Invalid Argument", fields=ARGUMENT):
    """``message`` names the argument."""


class InvalidRequest(S3Error, status=400, message="Invalid Request"):
    """``message`` names the fault."""


class InvalidStorageClass(
    S3Error,
    status=400,
    message="The storage class you specified is not valid",
    fields=("StorageClassRequested",),
):
    """Only STANDARD exists."""


class InvalidURI(S3Error, status=400, message="Couldn't parse the specified URI.", fields=("URI",)):
    """Bad percent-encoding, or bytes that are not UTF-8."""


class KeyTooLongError(
    S3Error, status=400, message="Your key is too long", fields=("Size", "MaxSizeAllowed")
):
    """Over 1,024 bytes of UTF-8."""


class MetadataTooLarge(
    S3Error,
    status=400,
    message="Your metadata headers exceed the maximum allowed metadata size",
    fields=("Size", "MaxSizeAllowed"),
):
    """Names and values of ``x-amz-meta-*`` over 2,048 bytes."""


class MethodNotAllowed(
    S3Error,
    status=405,
    message="The specified method is not allowed against this resource.",
    fields=("Method", "ResourceType"),
):
    """Raised with an ``Allow`` header."""


class RequestHeaderSectionTooLarge(
    S3Error,
    status=400,
    message="Your request header section exceeds the maximum allowed size.",
    fields=("MaxSizeAllowed",),
):
    """Over 8 KiB."""


class MalformedXML(
    S3Error,
    status=400,
    message="The XML you provided was not well-formed or did not validate against our published schema",
):
    """Not well-formed, has a DOCTYPE, or is not what the operation takes."""


class MaxMessageLengthExceeded(S3Error, status=400, message="Your request was too big."):
    """A request document over its cap."""


class InvalidRange(
    S3Error,
    status=416,
    message="The requested range is not satisfiable",
    fields=("RangeRequested", "ActualObjectSize"),
):
    """Raised with ``Content-Range: bytes */size``."""


class InvalidPartNumber(
    S3Error,
    status=416,
    message="The requested partnumber is not satisfiable",
    fields=("PartNumberRequested", "ActualPartCount"),
):
    """Beyond the last part."""


class PreconditionFailed(
    S3Error,
    status=412,
    message="At least one of the pre-conditions you specified did not hold",
    fields=("Condition",),
):
    """``Condition``: the header that did not hold."""


# --- bodies ---------------------------------------------------------------------------------------
class BadDigest(
    S3Error,
    status=400,
    message="The Content-MD5 you specified did not match what we received.",
    fields=("ExpectedDigest", "CalculatedDigest"),
):
    """MD5 (with fields) or a checksum (``message`` names it)."""


class InvalidDigest(
    S3Error,
    status=400,
    message="The Content-MD5 you specified was invalid.",
    fields=("Content-MD5",),
):
    """Not base64 of 16 bytes."""


class EntityTooLarge(
    S3Error,
    status=400,
    message="Your proposed upload exceeds the maximum allowed size",
    fields=("ProposedSize", "MaxSizeAllowed"),
):
    """Over 5 GiB."""


class IncompleteBody(S3Error, status=400, message="The request body terminated unexpectedly"):
    """Shorter or longer than announced, or broken aws-chunked framing."""


class InvalidChunkSizeError(
    S3Error,
    status=403,
    message="Only the last chunk is allowed to have a size less than 8192 bytes",
    fields=("Chunk", "BadChunkSize"),
):
    """Status unsure (s3.md 9)."""


class MalformedTrailerError(
    S3Error,
    status=400,
    message="The request contained trailing data that was not well-formed or did not conform to our published schema.",
):
    """The trailer is not exactly the one that ``x-amz-trailer`` announced."""


class MissingContentLength(
    S3Error, status=411, message="You must provide the Content-Length HTTP header."
):
    """Also a missing or unreadable ``x-amz-decoded-content-length``."""


class RequestTimeout(
    S3Error,
    status=400,
    message="Your socket connection to the server was not read from or written to within the timeout period."
    " Idle connections will be closed.",
):
    """Raised with ``close``."""


class XAmzContentSHA256Mismatch(
    S3Error,
    status=400,
    message="The provided 'x-amz-content-sha256' header does not match what was computed.",
    fields=("ClientComputedContentSHA256", "S3ComputedContentSHA256"),
):
    """The body is not the one that was signed."""


# --- buckets and objects --------------------------------------------------------------------------
class BucketAlreadyOwnedByYou(
    S3Error,
    status=409,
    message="Your previous request to create the named bucket succeeded and you already own it.",
    fields=("BucketName",),
):
    """Outside us-east-1; there, creating again is a 200."""


class BucketNotEmpty(
    S3Error,
    status=409,
    message="The bucket you tried to delete is not empty",
    fields=("BucketName",),
):
    """Any object blocks it."""


class IllegalLocationConstraintException(
    S3Error,
    status=400,
    message="The location constraint is incompatible for the region specific endpoint this request was sent to.",
):
    """None, or another region's, while the region is not us-east-1."""


class InvalidLocationConstraint(
    S3Error,
    status=400,
    message="The specified location-constraint is not valid",
    fields=("LocationConstraint",),
):
    """Any constraint in us-east-1."""


class InvalidBucketName(
    S3Error, status=400, message="The specified bucket is not valid.", fields=("BucketName",)
):
    """S3 user guide, bucket naming rules."""


class NoSuchBucket(
    S3Error, status=404, message="The specified bucket does not exist", fields=("BucketName",)
):
    """Also every name that could not exist."""


class NoSuchKey(S3Error, status=404, message="The specified key does not exist.", fields=("Key",)):
    """Absent, or ``If-Match`` on an absent key."""


class NoSuchVersion(
    S3Error,
    status=404,
    message="The specified version does not exist.",
    fields=("Key", "VersionId"),
):
    """In the answer of DeleteObjects, for an id we never issued."""


class InvalidTag(
    S3Error,
    status=400,
    message="The tag provided was not a valid tag.",
    fields=("TagKey", "TagValue"),
):
    """``message`` says what is wrong with it."""


class MalformedPOSTRequest(
    S3Error,
    status=400,
    message="The body of your POST request is not well-formed multipart/form-data.",
):
    """A browser form that cannot be read."""


class MaxPostPreDataLengthExceededError(
    S3Error,
    status=400,
    message="Your POST request fields preceding the upload file were too large.",
):
    """Over 20 KiB."""


class InvalidPolicyDocument(
    S3Error,
    status=400,
    message="The content of the form does not meet the conditions specified in the policy document.",
):
    """``message`` says what is wrong with it."""


class NoSuchUpload(
    S3Error,
    status=404,
    message="The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload"
    " might have been aborted or completed.",
    fields=("UploadId",),
):
    """Also one of another key."""


# --- multipart uploads ------------------------------------------------------------------------------
class InvalidPart(
    S3Error,
    status=400,
    message="One or more of the specified parts could not be found. The part might not have been uploaded, or the"
    " specified entity tag might not have matched the part's entity tag.",
    fields=("UploadId", "PartNumber", "ETag"),
):
    """In the list of a CompleteMultipartUpload."""


class InvalidPartOrder(
    S3Error,
    status=400,
    message="The list of parts was not in ascending order. The parts list must be specified in order by part number.",
    fields=("UploadId",),
):
    """Also a gap, where the checksum is of the parts' checksums."""


class EntityTooSmall(
    S3Error,
    status=400,
    message="Your proposed upload is smaller than the minimum allowed size",
    fields=("ProposedSize", "MinSizeAllowed", "PartNumber", "ETag"),
):
    """A part that is not the last and has less than 5 MiB."""


class ConditionalRequestConflict(
    S3Error,
    status=409,
    message="The conditional request cannot succeed due to a conflicting operation against this resource.",
    fields=("Condition", "Key"),
):
    """The key was written or deleted since its upload began."""


# --- configuration that is not there (s3.md 1.4) ----------------------------------------------------
class NoSuchBucketPolicy(
    S3Error, status=404, message="The bucket policy does not exist", fields=("BucketName",)
):
    """``?policy``, ``?policyStatus``."""


class NoSuchConfiguration(
    S3Error,
    status=404,
    message="The specified configuration does not exist.",
    fields=("BucketName",),
):
    """One named analytics, inventory, metrics or tiering configuration."""


class NoSuchCORSConfiguration(
    S3Error, status=404, message="The CORS configuration does not exist", fields=("BucketName",)
):
    """``?cors``."""


class NoSuchLifecycleConfiguration(
    S3Error,
    status=404,
    message="The lifecycle configuration does not exist",
    fields=("BucketName",),
):
    """``?lifecycle``."""


class NoSuchPublicAccessBlockConfiguration(
    S3Error,
    status=404,
    message="The public access block configuration was not found",
    fields=("BucketName",),
):
    """``?publicAccessBlock``."""


class NoSuchTagSet(
    S3Error, status=404, message="The TagSet does not exist", fields=("BucketName",)
):
    """Bucket ``?tagging``."""


class NoSuchWebsiteConfiguration(
    S3Error,
    status=404,
    message="The specified bucket does not have a website configuration",
    fields=("BucketName",),
):
    """``?website``."""


class ObjectLockConfigurationNotFoundError(
    S3Error,
    status=404,
    message="Object Lock configuration does not exist for this bucket",
    fields=("BucketName",),
):
    """``?object-lock``."""


class OwnershipControlsNotFoundError(
    S3Error,
    status=404,
    message="The bucket ownership controls were not found",
    fields=("BucketName",),
):
    """``?ownershipControls``."""


class ReplicationConfigurationNotFoundError(
    S3Error,
    status=404,
    message="The replication configuration was not found",
    fields=("BucketName",),
):
    """``?replication``."""


class ServerSideEncryptionConfigurationNotFoundError(
    S3Error,
    status=404,
    message="The server side encryption configuration was not found",
    fields=("BucketName",),
):
    """``?encryption``."""


# --- us -------------------------------------------------------------------------------------------
class InternalError(
    S3Error, status=500, message="We encountered an internal error. Please try again."
):
    """Perhaps applied, or our bug."""


class SlowDown(S3Error, status=503, message="Please reduce your request rate.", headers=RETRY):
    """Certainly not applied, for whatever reason: SDKs back off at this code (s3.md 9)."""


class ServiceUnavailable(
    S3Error,
    status=503,
    message="The cluster cannot take this request now: no majority, or no space. Please try again.",
    headers=RETRY,
):
    """Certainly not applied."""
