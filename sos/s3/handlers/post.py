"""PostObject: a file from a browser's form, allowed by a signed policy instead of a signed request (s3.md 3.5)."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode, urlsplit

from sos.catalog.model import AccessKeyId, Rejection, Stored
from sos.limits import KEY_BYTES_MAX, OBJECT_BYTES_MAX
from sos.s3.body import read_piece
from sos.s3.checksums import BodyDigests, DigestPlan, checksum_headers, parse_digests
from sos.s3.errors import (
    AccessDenied,
    EntityTooLarge,
    EntityTooSmall,
    InvalidAccessKeyId,
    InvalidArgument,
    InvalidRequest,
    KeyTooLongError,
    MalformedPOSTRequest,
    NoSuchBucket,
    SignatureDoesNotMatch,
)
from sos.s3.exchange import XML, Response
from sos.s3.form import FormParser, parse_boundary
from sos.s3.head import check_header
from sos.s3.limited_keys import allows_key
from sos.s3.metadata import META_PREFIX, SYSTEM_NAMES, parse_stored_headers
from sos.s3.parsing import NO_CONDITIONS, check_stored, refuse_headers
from sos.s3.post_policy import check_policy, parse_policy
from sos.s3.refusals import Subject, s3_error_for
from sos.s3.sigv4 import ALGORITHM, UNSIGNED, SigningKeys, parse_scope
from sos.s3.tagging import OBJECT_TAGS_MAX, parse_tagging
from sos.s3.target import is_bucket_name
from sos.s3.xml import document, element
from sos.service.requests import PutRequest, Target, UploadDigests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sos.catalog.model import AccessKeyRecord, StoredHeaders
    from sos.clock import Clock
    from sos.s3.exchange import RawBody
    from sos.s3.gate import Gate
    from sos.s3.handlers.common import Cluster
    from sos.s3.head import RequestHead
    from sos.s3.post_policy import PostPolicy
    from sos.s3.target import S3Settings
    from sos.s3.target import Target as RequestTarget
    from sos.service.objects import ObjectService

_SIGNED: Final = ("policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_TIMESTAMP: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_STATUSES: Final = {"200": 200, "201": 201, "204": 204}


class PostHandlers:
    """Forms, which are admitted by what stands in their fields."""

    def __init__(
        self,
        objects: ObjectService,
        gate: Gate,
        cluster: Cluster,
        settings: S3Settings,
        clock: Clock,
    ) -> None:
        self._objects = objects
        self._gate = gate
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._keys = SigningKeys()

    async def post(self, head: RequestHead, target: RequestTarget, raw: RawBody) -> Response:
        """PostObject (S3 API). 204, 200, 201 or 303, after commit."""
        bucket = target.bucket
        parser = FormParser(parse_boundary(head.headers.get("content-type", "")))
        first = await _read_fields(parser, raw)
        fields = parser.fields
        if not is_bucket_name(bucket):
            raise NoSuchBucket(bucket)
        if "key" not in fields:
            raise InvalidArgument(
                "key", "", message="Bucket POST must contain a field named 'key'."
            )
        key, policy = await self._admit(fields, bucket)
        name = fields["key"].replace("${filename}", _base_name(parser.file_name))
        _check_name(name)
        if (
            key.read_only
            or not allows_key(key, name)
            or (key.buckets and bucket not in key.buckets)
        ):
            raise AccessDenied
        tags = (
            parse_tagging(fields["tagging"].encode(), OBJECT_TAGS_MAX)
            if "tagging" in fields
            else ()
        )
        headers = _stored_headers(fields)
        body = _FormFile(
            parser,
            raw,
            first,
            parse_digests(fields, UNSIGNED),
            None if policy is None else policy.length,
        )
        result = await self._objects.put(
            PutRequest(
                target=Target(AccessKeyId(key.access_key), bucket, name),
                headers=headers,
                tags=tags,
            ),
            body,
        )
        if isinstance(result, Rejection):
            raise s3_error_for(result, Subject(bucket=bucket, key=name, access_key=key.access_key))
        assert isinstance(result, Stored)
        return self._answer(head, fields, bucket, name, result)

    async def _admit(
        self, fields: Mapping[str, str], bucket: str
    ) -> tuple[AccessKeyRecord, PostPolicy]:
        """Raises: AccessDenied, InvalidRequest, InvalidArgument, InvalidAccessKeyId, SignatureDoesNotMatch, ..."""
        if "awsaccesskeyid" in fields or "signature" in fields:
            raise InvalidRequest(
                message="The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
            )
        if not any(name in fields for name in _SIGNED):
            raise AccessDenied  # nothing is public
        for name in _SIGNED:
            if not fields.get(name):
                raise InvalidArgument(
                    name, "", message=f"Bucket POST must contain a field named '{name}'."
                )
        if fields["x-amz-algorithm"] != ALGORITHM:
            raise InvalidRequest(message="Please use AWS4-HMAC-SHA256.")
        scope = parse_scope(fields["x-amz-credential"])
        if isinstance(scope, str) or not _TIMESTAMP.fullmatch(fields["x-amz-date"]):
            raise InvalidArgument(
                "x-amz-credential",
                fields["x-amz-credential"],
                message="Invalid credential or date.",
            )
        access_key, date, region = scope
        if region != self._settings.region or fields["x-amz-date"][:8] != date:
            raise InvalidArgument(
                "x-amz-credential",
                fields["x-amz-credential"],
                message="Invalid credential or date.",
            )
        key = await self._gate.find_key(access_key)
        if key is None or not key.secret_key:
            raise InvalidAccessKeyId(access_key)
        signing_key = self._keys.derive(key.secret_key, date, region)
        signature = signing_key.sign(fields["policy"])
        given = fields["x-amz-signature"].encode("utf-8", "replace")
        if not hmac.compare_digest(signature.encode(), given):
            raise SignatureDoesNotMatch(access_key, fields["policy"], fields["x-amz-signature"])
        policy = parse_policy(fields["policy"])
        check_policy(policy, fields, bucket=bucket, now_ms=self._clock.wall_ms())
        return key, policy

    def _answer(
        self,
        head: RequestHead,
        fields: Mapping[str, str],
        bucket: str,
        key: str,
        result: Stored,
    ) -> Response:
        etag = f'"{result.etag}"'
        location = f"{self._settings.scheme}://{head.headers.get('host', '')}/{quote(f'{bucket}/{key}', safe='/~')}"
        headers = [("ETag", etag), *checksum_headers(result.checksum)]
        if result.version is not None:
            headers.append(("x-amz-version-id", self._cluster.version_id(result.version)))
        redirect = fields.get("success_action_redirect") or fields.get("redirect", "")
        elsewhere = _redirect(redirect, urlencode({"bucket": bucket, "key": key, "etag": etag}))
        if elsewhere is not None:
            return Response(status=303, headers=[*headers, ("Location", elsewhere)])
        headers.append(("Location", location))
        status = _STATUSES.get(fields.get("success_action_status", ""), 204)
        if status != 201:
            return Response(status=status, headers=headers)
        body = document(
            "PostResponse",
            element("Location", location),
            element("Bucket", bucket),
            element("Key", key),
            element("ETag", etag),
        )
        return Response(status=201, headers=[XML, *headers], body=body)


async def _read_fields(parser: FormParser, raw: RawBody) -> list[bytes]:
    """Until the file begins; the bytes of it that came along."""
    while not parser.in_file:
        piece = await read_piece(raw)
        if not piece:
            parser.finish()
            raise MalformedPOSTRequest
        first = parser.feed(piece)
    return first


def _stored_headers(fields: Mapping[str, str]) -> StoredHeaders:
    """What a PUT with these fields as headers would store.

    Raises: InvalidArgument (a PUT could not have sent it), NotImplemented, InvalidStorageClass, MetadataTooLarge.
    """
    refuse_headers(fields, NO_CONDITIONS)
    check_stored({**fields, "x-amz-acl": fields.get("acl", "private")})
    stored = parse_stored_headers(fields)
    for name, value in fields.items():
        if name in SYSTEM_NAMES or name.startswith(META_PREFIX):
            check_header(name, value)
    return stored


def _redirect(url: str, query: str) -> str | None:
    """``url`` with ``query`` added; None for what is no address of the web: the bytes are stored, come what may."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not url.isprintable():
        return None
    return f"{url}{'&' if parts.query else '?'}{query}"


def _base_name(file_name: str) -> str:
    """Some browsers send a whole path."""
    return re.split(r"[\\/]", file_name)[-1]


def _check_name(name: str) -> None:
    size_bytes = len(name.encode())
    if not name:
        raise InvalidArgument("key", "", message="User key must have a length greater than 0.")
    if size_bytes > KEY_BYTES_MAX:
        raise KeyTooLongError(str(size_bytes), str(KEY_BYTES_MAX))


class _FormFile:
    """``sos.service.requests.UploadBody`` over the file of a form."""

    expected_bytes: int | None = None

    def __init__(
        self,
        parser: FormParser,
        raw: RawBody,
        first: list[bytes],
        plan: DigestPlan,
        length: tuple[int, int] | None,
    ) -> None:
        self._parser = parser
        self._raw = raw
        self._first = first
        self._running = BodyDigests(plan)
        self._least, self._greatest = length or (0, OBJECT_BYTES_MAX)
        self._digests: UploadDigests | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises: EntityTooLarge, EntityTooSmall, MalformedPOSTRequest, BadDigest, IncompleteBody, RequestTimeout."""
        size = 0
        pieces = self._first
        while True:
            for piece in pieces:
                size += len(piece)
                if size > min(self._greatest, OBJECT_BYTES_MAX):
                    raise EntityTooLarge(str(size), str(self._greatest))
                self._running.update(piece)
                yield piece
            data = await read_piece(self._raw)
            if not data:
                break
            pieces = self._parser.feed(data)
        self._parser.finish()
        if size < self._least:
            raise EntityTooSmall(str(size), str(self._least))
        verified = self._running.finish()
        self._digests = UploadDigests(verified.md5, verified.checksum)

    async def read_whole(self) -> bytes:
        """Only for a body that is known to be small."""
        return b"".join([piece async for piece in self])

    def digests(self) -> UploadDigests:
        """After the iteration ended."""
        assert self._digests is not None, "the body was not read to its end"
        return self._digests
