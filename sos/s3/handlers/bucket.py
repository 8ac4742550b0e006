"""Operations on buckets, and the truthful answers about what a bucket has not configured (s3.md 1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sos.catalog.model import Done, Rejection
from sos.s3.body import read_document
from sos.s3.exchange import Response, xml_response
from sos.s3.handlers.common import rejected
from sos.s3.parsing import check_location
from sos.s3.subresources import render_subresource
from sos.s3.xml import (
    bucket_arn,
    parse_create_bucket,
    parse_versioning,
    render_location,
    render_versioning,
)
from sos.service.requests import Target

if TYPE_CHECKING:
    from sos.catalog.model import BucketRecord, Result
    from sos.s3.errors import S3Error
    from sos.s3.exchange import Exchange
    from sos.s3.handlers.common import Cluster, OwnerCheck
    from sos.s3.operations import (
        BucketOperation,
        CreateBucket,
        DeleteBucket,
        DeleteSubresource,
        GetBucketLocation,
        GetBucketVersioning,
        GetSubresource,
        HeadBucket,
        PutBucketVersioning,
    )
    from sos.s3.target import S3Settings
    from sos.service.buckets import BucketService
    from sos.service.objects import ObjectService

# Where creating one's own bucket again is a success, for historical reasons (S3 API: CreateBucket).
_LENIENT_REGION: Final = "us-east-1"


class BucketHandlers:
    """Operations on buckets themselves."""

    def __init__(
        self,
        buckets: BucketService,
        objects: ObjectService,
        owners: OwnerCheck,
        cluster: Cluster,
        settings: S3Settings,
    ) -> None:
        self._buckets = buckets
        self._objects = objects
        self._owners = owners
        self._cluster = cluster
        self._region = settings.region

    async def create_bucket(self, exchange: Exchange, operation: CreateBucket) -> Response:
        """CreateBucket (S3 API). 200 with Location; again by the owner: 200 in us-east-1, else 409."""
        constraint = None
        if operation.body is not None:
            constraint = parse_create_bucket(await read_document(exchange, operation.body))
        check_location(constraint, self._region)
        bucket = operation.bucket
        result = await self._buckets.create(exchange.access_key, bucket)
        already = result is Rejection.BUCKET_ALREADY_OWNED_BY_YOU
        if not isinstance(result, Done) and not (already and self._region == _LENIENT_REGION):
            raise _unexpected(result, exchange, bucket)
        return Response(
            headers=[("Location", f"/{bucket}"), ("x-amz-bucket-arn", bucket_arn(bucket))]
        )

    async def head_bucket(self, exchange: Exchange, operation: HeadBucket) -> Response:
        """HeadBucket (S3 API)."""
        await self._find(exchange, operation)
        return Response(
            headers=[
                ("x-amz-bucket-region", self._region),
                ("x-amz-bucket-arn", bucket_arn(operation.bucket)),
                ("x-amz-access-point-alias", "false"),
                ("Content-Type", "application/xml"),
            ]
        )

    async def delete_bucket(self, exchange: Exchange, operation: DeleteBucket) -> Response:
        """DeleteBucket (S3 API). 204; any object blocks it."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        result = await self._buckets.delete(exchange.access_key, operation.bucket)
        if not isinstance(result, Done):
            raise _unexpected(result, exchange, operation.bucket)
        return Response(status=204)

    async def get_bucket_location(
        self, exchange: Exchange, operation: GetBucketLocation
    ) -> Response:
        """GetBucketLocation (S3 API)."""
        await self._find(exchange, operation)
        return xml_response(render_location(self._region))

    async def get_versioning(self, exchange: Exchange, operation: GetBucketVersioning) -> Response:
        """GetBucketVersioning (S3 API)."""
        record = await self._find(exchange, operation)
        return xml_response(render_versioning(record.versioning))

    async def put_versioning(self, exchange: Exchange, operation: PutBucketVersioning) -> Response:
        """PutBucketVersioning (S3 API). 200, in force for every request that begins after it."""
        await self._find(exchange, operation)
        state = parse_versioning(await read_document(exchange, operation.body))
        bucket = operation.bucket
        result = await self._buckets.set_versioning(exchange.access_key, bucket, state)
        if not isinstance(result, Done):
            raise _unexpected(result, exchange, bucket)
        return Response()

    async def get_subresource(self, exchange: Exchange, operation: GetSubresource) -> Response:
        """``GET ?selector`` of what is not configured: the truth, from the first version on."""
        await self._find_resource(exchange, operation)
        return xml_response(render_subresource(operation, owner_id=self._cluster.facts.owner_id))

    async def delete_subresource(
        self, exchange: Exchange, operation: DeleteSubresource
    ) -> Response:
        """``DELETE ?selector``: there is nothing to delete."""
        await self._find_resource(exchange, operation)
        return Response(status=204)

    async def _find_resource(
        self, exchange: Exchange, operation: GetSubresource | DeleteSubresource
    ) -> None:
        """Raises: NoSuchBucket; NoSuchKey for a selector on an object that is not there."""
        if not operation.key:
            await self._find(exchange, operation)
            return
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        found = await self._objects.find(target, with_body=False)
        if isinstance(found, Rejection):
            raise rejected(found, exchange, operation.bucket, operation.key)

    async def _find(self, exchange: Exchange, operation: BucketOperation) -> BucketRecord:
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        record = await self._buckets.find(exchange.access_key, operation.bucket)
        if isinstance(record, Rejection):
            raise rejected(record, exchange, operation.bucket)
        return record


def _unexpected(result: Result, exchange: Exchange, bucket: str) -> S3Error:
    """The error of a rejection; any other result of another command's kind is our bug."""
    assert isinstance(result, Rejection), f"the catalog answered {type(result).__name__}"
    return rejected(result, exchange, bucket)
