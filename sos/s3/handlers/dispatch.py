"""From an authenticated request to the method that answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from sos.s3 import operations as ops
from sos.s3.errors import AccessDenied
from sos.s3.handlers.bucket import BucketHandlers
from sos.s3.handlers.common import Cluster, OwnerCheck
from sos.s3.handlers.listing import ListingHandlers
from sos.s3.handlers.multipart import MultipartHandlers
from sos.s3.handlers.object import ObjectHandlers
from sos.s3.handlers.post import PostHandlers
from sos.s3.handlers.settings import SettingHandlers
from sos.s3.limited_keys import allows, is_limited
from sos.s3.parsing import parse_operation

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Executor

    from sos.clock import Clock
    from sos.s3.exchange import Exchange, Response
    from sos.s3.gate import Gate
    from sos.s3.target import S3Settings
    from sos.service.access import CatalogAccess
    from sos.service.buckets import BucketService
    from sos.service.multipart import UploadService
    from sos.service.objects import ObjectService


class Handlers:
    """Every operation that SOS answers."""

    def __init__(
        self,
        *,
        access: CatalogAccess,
        buckets: BucketService,
        objects: ObjectService,
        uploads: UploadService,
        gate: Gate,
        settings: S3Settings,
        clock: Clock,
        executor: Executor,
    ) -> None:
        cluster = Cluster(access)
        self.forms = PostHandlers(objects, gate, cluster, settings, clock)
        owners = OwnerCheck(buckets, cluster)
        self._settings = settings
        self._buckets = BucketHandlers(buckets, objects, owners, cluster, settings)
        self._listings = ListingHandlers(buckets, owners, cluster, settings)
        self._objects = ObjectHandlers(objects, owners, cluster, clock, executor)
        self.settings = SettingHandlers(buckets, owners)
        self._multipart = MultipartHandlers(uploads, owners, cluster, settings, executor)

    def dispatch(self, exchange: Exchange) -> Coroutine[Any, Any, Response]:
        """Parse the operation (s3.md 1.0, step 4) and start it. Raises: S3Error and the internal errors.

        No coroutine itself: each one more in the chain costs every request, and every wait in it, a little.
        """
        verified = exchange.verified
        operation = parse_operation(
            exchange.target,
            exchange.head,
            verified.payload,
            self._settings,
            presigned=verified.presigned,
        )
        if is_limited(exchange.key) and not allows(exchange.key, operation):
            raise AccessDenied
        match operation:
            case ops.GetObject():
                return self._objects.get_object(exchange, operation)
            case ops.PutObject():
                return self._objects.put_object(exchange, operation)
            case ops.HeadObject():
                return self._objects.head_object(exchange, operation)
            case ops.DeleteObject():
                return self._objects.delete_object(exchange, operation)
            case ops.CopyObject():
                return self._objects.copy_object(exchange, operation)
            case ops.DeleteObjects():
                return self._objects.delete_objects(exchange, operation)
            case ops.UploadPart():
                return self._multipart.upload_part(exchange, operation)
            case ops.UploadPartCopy():
                return self._multipart.upload_part_copy(exchange, operation)
            case ops.CreateMultipartUpload():
                return self._multipart.create(exchange, operation)
            case ops.CompleteMultipartUpload():
                return self._multipart.complete(exchange, operation)
            case ops.AbortMultipartUpload():
                return self._multipart.abort(exchange, operation)
            case ops.ListParts():
                return self._multipart.list_parts(exchange, operation)
            case _:
                return self._dispatch_bucket(exchange, operation)

    def _dispatch_bucket(
        self, exchange: Exchange, operation: _BucketOperation
    ) -> Coroutine[Any, Any, Response]:
        match operation:
            case ops.ListObjectsV2():
                return self._listings.list_objects_v2(exchange, operation)
            case ops.ListObjects():
                return self._listings.list_objects(exchange, operation)
            case ops.ListObjectVersions():
                return self._listings.list_object_versions(exchange, operation)
            case ops.ListMultipartUploads():
                return self._multipart.list_uploads(exchange, operation)
            case ops.ListBuckets():
                return self._listings.list_buckets(exchange, operation)
            case ops.HeadBucket():
                return self._buckets.head_bucket(exchange, operation)
            case ops.CreateBucket():
                return self._buckets.create_bucket(exchange, operation)
            case ops.DeleteBucket():
                return self._buckets.delete_bucket(exchange, operation)
            case ops.GetBucketLocation():
                return self._buckets.get_bucket_location(exchange, operation)
            case ops.GetObjectTagging():
                return self._objects.get_tagging(exchange, operation)
            case ops.PutObjectTagging():
                return self._objects.put_tagging(exchange, operation)
            case ops.DeleteObjectTagging():
                return self._objects.delete_tagging(exchange, operation)
            case ops.GetObjectAttributes():
                return self._objects.get_attributes(exchange, operation)
            case ops.GetBucketSetting():
                return self.settings.get(exchange, operation)
            case ops.PutBucketSetting():
                return self.settings.put(exchange, operation)
            case ops.DeleteBucketSetting():
                return self.settings.delete(exchange, operation)
            case ops.GetBucketVersioning():
                return self._buckets.get_versioning(exchange, operation)
            case ops.PutBucketVersioning():
                return self._buckets.put_versioning(exchange, operation)
            case ops.GetSubresource():
                return self._buckets.get_subresource(exchange, operation)
            case ops.DeleteSubresource():
                return self._buckets.delete_subresource(exchange, operation)
            case _:
                assert_never(operation)


_BucketOperation = (
    ops.ListBuckets
    | ops.CreateBucket
    | ops.HeadBucket
    | ops.DeleteBucket
    | ops.GetBucketLocation
    | ops.ListObjects
    | ops.ListObjectsV2
    | ops.ListObjectVersions
    | ops.ListMultipartUploads
    | ops.GetObjectTagging
    | ops.PutObjectTagging
    | ops.DeleteObjectTagging
    | ops.GetObjectAttributes
    | ops.GetBucketSetting
    | ops.PutBucketSetting
    | ops.DeleteBucketSetting
    | ops.GetBucketVersioning
    | ops.PutBucketVersioning
    | ops.GetSubresource
    | ops.DeleteSubresource
)
