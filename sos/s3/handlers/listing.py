"""Listings: buckets, keys (both versions of the operation) and object versions. Each page is one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sos.catalog.model import NULL_VERSION, Rejection, VersionPosition
from sos.s3.exchange import Response, xml_response
from sos.s3.handlers.common import rejected
from sos.s3.listing import list_position, page_buckets, seal_token
from sos.s3.listing_xml import (
    render_list_objects,
    render_list_objects_v2,
    render_list_versions,
)
from sos.s3.version_ids import parse_place_id, place_id
from sos.s3.xml import render_list_buckets

if TYPE_CHECKING:
    from sos.catalog.model import KeyPage, VersionPage
    from sos.s3.exchange import Exchange
    from sos.s3.handlers.common import Cluster, OwnerCheck
    from sos.s3.listing import ListParameters
    from sos.s3.operations import (
        BucketOperation,
        ListBuckets,
        ListObjects,
        ListObjectsV2,
        ListObjectVersions,
    )
    from sos.s3.target import S3Settings
    from sos.service.buckets import BucketService


class ListingHandlers:
    """Operations that return pages."""

    def __init__(
        self, buckets: BucketService, owners: OwnerCheck, cluster: Cluster, settings: S3Settings
    ) -> None:
        self._buckets = buckets
        self._owners = owners
        self._cluster = cluster
        self._settings = settings

    async def list_buckets(self, exchange: Exchange, operation: ListBuckets) -> Response:
        """ListBuckets (S3 API). Own buckets, by name in byte order."""
        records = await self._buckets.list_all(exchange.access_key)
        if isinstance(records, Rejection):
            raise rejected(records, exchange)
        if exchange.key.buckets:
            records = [record for record in records if record.name in exchange.key.buckets]
        region = operation.bucket_region
        if region is not None and region != self._settings.region:
            records = []
        facts = self._cluster.facts
        page = page_buckets(
            records,
            secret=facts.token_secret,
            prefix=operation.prefix,
            token=operation.continuation_token,
            max_buckets=operation.max_buckets,
        )
        return xml_response(
            render_list_buckets(
                operation, page, owner_id=facts.owner_id, region=self._settings.region
            )
        )

    async def list_objects_v2(self, exchange: Exchange, operation: ListObjectsV2) -> Response:
        """ListObjectsV2 (S3 API)."""
        facts = self._cluster.facts
        after = list_position(
            facts.token_secret,
            token=operation.continuation_token,
            start_after=operation.start_after,
            superset=self._settings.superset,
        )
        page = await self._page(exchange, operation, operation.list, after)
        token = None
        if page.truncated and page.last is not None:
            token = seal_token(facts.token_secret, page.last)
        return xml_response(
            render_list_objects_v2(operation, page, next_token=token, owner_id=facts.owner_id)
        )

    async def list_objects(self, exchange: Exchange, operation: ListObjects) -> Response:
        """ListObjects (S3 API), version 1."""
        page = await self._page(exchange, operation, operation.list, operation.marker)
        return xml_response(
            render_list_objects(operation, page, owner_id=self._cluster.facts.owner_id)
        )

    async def list_object_versions(
        self, exchange: Exchange, operation: ListObjectVersions
    ) -> Response:
        """ListObjectVersions (S3 API)."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        parameters = operation.list
        page = await self._buckets.list_versions(
            exchange.access_key,
            operation.bucket,
            prefix=parameters.prefix,
            delimiter=parameters.delimiter,
            after=self._position(operation),
            limit=parameters.max_keys,
        )
        if isinstance(page, Rejection):
            raise rejected(page, exchange, operation.bucket)
        return xml_response(
            render_list_versions(
                operation,
                page,
                owner_id=self._cluster.facts.owner_id,
                id_of=self._cluster.version_id,
                next_id=self._next_id(page),
            )
        )

    def _position(self, operation: ListObjectVersions) -> VersionPosition | None:
        """Raises: InvalidArgument."""
        key, marker = operation.key_marker, operation.version_id_marker
        if not key:
            return None
        if not marker:
            return VersionPosition(key=key)
        order = parse_place_id(self._cluster.facts.token_secret, marker)
        if order is not None:
            return VersionPosition(key=key, version=NULL_VERSION, order=order)
        version = self._cluster.parse_version_id(marker, "version-id-marker")
        return VersionPosition(key=key, version=version)

    def _next_id(self, page: VersionPage) -> str | None:
        last = page.last
        if last is None or last.version is None:
            return None
        if last.order:
            return place_id(self._cluster.facts.token_secret, last.order)
        return self._cluster.version_id(last.version)

    async def _page(
        self, exchange: Exchange, operation: BucketOperation, parameters: ListParameters, after: str
    ) -> KeyPage:
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        page = await self._buckets.list_keys(
            exchange.access_key,
            operation.bucket,
            prefix=parameters.prefix,
            delimiter=parameters.delimiter,
            after=after,
            limit=parameters.max_keys,
        )
        if isinstance(page, Rejection):
            raise rejected(page, exchange, operation.bucket)
        return page
