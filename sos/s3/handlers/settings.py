"""Configuration documents of buckets: one table of their forms, three operations for all (s3.md 1.3).

Stored are their canonical bytes, made here from the client's document; what they say decides nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sos.catalog.model import BucketSetting, Done, Rejection
from sos.s3.body import read_document
from sos.s3.cors import (
    pack_cors,
    parse_cors,
    preflight_headers,
    render_cors,
    response_headers,
    unpack_cors,
)
from sos.s3.errors import AccessForbidden, NoSuchCORSConfiguration, NoSuchTagSet, S3Error
from sos.s3.exchange import Response, xml_response
from sos.s3.handlers.common import rejected
from sos.s3.tagging import BUCKET_TAGS_MAX, pack_tags, parse_tagging, render_tagging, unpack_tags

if TYPE_CHECKING:
    from collections.abc import Callable

    from sos.s3.exchange import Exchange
    from sos.s3.handlers.common import OwnerCheck
    from sos.s3.head import RequestHead
    from sos.s3.operations import (
        DeleteBucketSetting,
        GetBucketSetting,
        PutBucketSetting,
    )
    from sos.s3.target import Target
    from sos.service.buckets import BucketService


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """One kind of document: from the client's bytes to the stored ones, and back to what a client reads."""

    to_stored: Callable[[bytes], bytes]
    to_document: Callable[[bytes], bytes]
    missing: type[S3Error]
    put_status: int


_FORMS: Final = {
    BucketSetting.TAGGING: _Form(
        to_stored=lambda data: pack_tags(parse_tagging(data, BUCKET_TAGS_MAX)),
        to_document=lambda stored: render_tagging(unpack_tags(stored)),
        missing=NoSuchTagSet,
        put_status=204,
    ),
    BucketSetting.CORS: _Form(
        to_stored=lambda data: pack_cors(parse_cors(data)),
        to_document=lambda stored: render_cors(unpack_cors(stored)),
        missing=NoSuchCORSConfiguration,
        put_status=200,
    ),
}


class SettingHandlers:
    """Put, get and delete of configuration documents; and what the CORS one makes of requests."""

    def __init__(self, buckets: BucketService, owners: OwnerCheck) -> None:
        self._buckets = buckets
        self._owners = owners

    async def get(self, exchange: Exchange, operation: GetBucketSetting) -> Response:
        """The document as it is in force. Raises: the 404 of its kind."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        found = await self._buckets.find_setting(
            exchange.access_key, operation.bucket, operation.setting
        )
        if isinstance(found, Rejection):
            raise rejected(found, exchange, operation.bucket)
        form = _FORMS[operation.setting]
        if found is None:
            raise form.missing(operation.bucket)
        return xml_response(form.to_document(found))

    async def put(self, exchange: Exchange, operation: PutBucketSetting) -> Response:
        """In force for every request that begins after the answer, on every node."""
        form = _FORMS[operation.setting]
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        document = form.to_stored(await read_document(exchange, operation.body))
        await self._change(exchange, operation.bucket, operation.setting, document)
        return Response(status=form.put_status)

    async def delete(self, exchange: Exchange, operation: DeleteBucketSetting) -> Response:
        """204, also for what is not configured."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        await self._change(exchange, operation.bucket, operation.setting, None)
        return Response(status=204)

    async def _change(
        self, exchange: Exchange, bucket: str, setting: BucketSetting, document: bytes | None
    ) -> None:
        result: Any = await self._buckets.put_setting(
            exchange.access_key, bucket, setting, document
        )
        if isinstance(result, Rejection):
            raise rejected(result, exchange, bucket)
        assert isinstance(result, Done), f"the catalog answered {type(result).__name__}"

    # --- cross-origin requests ------------------------------------------------------------------
    async def preflight(self, head: RequestHead, target: Target) -> Response:
        """OPTIONS (UG: cors). Raises: AccessForbidden, if no rule matches; Unavailable."""
        method = head.headers.get("access-control-request-method", "")
        stored = await self._buckets.find_setting_of(target.bucket, BucketSetting.CORS)
        headers = None
        if stored is not None:
            headers = preflight_headers(
                unpack_cors(stored),
                origin=head.headers["origin"],
                method=method,
                requested=head.headers.get("access-control-request-headers", ""),
            )
        if headers is None:
            raise AccessForbidden(
                method,
                target.resource.value,
                message="CORSResponse: This CORS request is not allowed. This is usually because the evalution of"
                " Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not"
                " whitelisted by the resource's CORS spec.",
            )
        return Response(headers=headers)

    async def cors_headers(self, head: RequestHead, target: Target) -> list[tuple[str, str]]:
        """What the answer to a request with an ``Origin`` carries. Raises: Unavailable."""
        stored = await self._buckets.find_setting_of(target.bucket, BucketSetting.CORS)
        if stored is None:
            return []
        return response_headers(
            unpack_cors(stored), origin=head.headers["origin"], method=head.method
        )
