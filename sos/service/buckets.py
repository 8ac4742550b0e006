"""Buckets: create, delete, find, list; and pages of the keys of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sos.catalog.model import (
    CreateBucket,
    DeleteBucket,
    PutBucketSetting,
    Rejection,
    SetVersioning,
)

if TYPE_CHECKING:
    from sos.catalog.model import (
        AccessKeyId,
        BucketRecord,
        BucketSetting,
        KeyPage,
        Result,
        Versioning,
        VersionPage,
        VersionPosition,
    )
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.service.access import CatalogAccess


class BucketService:
    """Use cases about buckets."""

    def __init__(self, access: CatalogAccess, clock: Clock) -> None:
        self._access = access
        self._clock = clock

    async def create(self, access_key: AccessKeyId, bucket: str) -> Result:
        """Create ``bucket``, or the rejection."""
        command = CreateBucket(
            access_key=access_key, bucket=bucket, created_ms=self._clock.wall_ms()
        )
        return await self._access.propose(command)

    async def delete(self, access_key: AccessKeyId, bucket: str) -> Result:
        """Delete ``bucket`` if it is empty, or the rejection."""
        return await self._access.propose(DeleteBucket(access_key=access_key, bucket=bucket))

    async def find(self, access_key: AccessKeyId, bucket: str) -> BucketRecord | Rejection:
        """The bucket's current record."""

        def query(view: View) -> BucketRecord | Rejection:
            if not self._access.lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            return self._access.lookups.bucket(view, bucket) or Rejection.NO_SUCH_BUCKET

        return await self._access.read(query)

    async def list_all(self, access_key: AccessKeyId) -> list[BucketRecord] | Rejection:
        """Every bucket, by name in byte order."""

        def query(view: View) -> list[BucketRecord] | Rejection:
            if not self._access.lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            return view.buckets()

        return await self._access.read(query)

    async def set_versioning(
        self, access_key: AccessKeyId, bucket: str, versioning: Versioning
    ) -> Result:
        """Enable or suspend versioning, or the rejection."""
        return await self._access.propose(
            SetVersioning(access_key=access_key, bucket=bucket, versioning=versioning)
        )

    async def put_setting(
        self, access_key: AccessKeyId, bucket: str, setting: BucketSetting, document: bytes | None
    ) -> Result:
        """Set (None: remove) a configuration document, or the rejection."""
        return await self._access.propose(
            PutBucketSetting(
                access_key=access_key, bucket=bucket, setting=setting, document=document
            )
        )

    async def find_setting(
        self, access_key: AccessKeyId, bucket: str, setting: BucketSetting
    ) -> bytes | Rejection | None:
        """A configuration document; None: not configured."""

        def query(view: View) -> bytes | Rejection | None:
            if not self._access.lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            return self._setting(view, bucket, setting)

        return await self._access.read(query)

    async def find_setting_of(self, bucket: str, setting: BucketSetting) -> bytes | None:
        """As ``find_setting``, whoever asks; None also for a bucket that is not there."""
        found = await self._access.read(lambda view: self._setting(view, bucket, setting))
        return None if isinstance(found, Rejection) else found

    def _setting(self, view: View, bucket: str, setting: BucketSetting) -> bytes | Rejection | None:
        record = self._access.lookups.bucket(view, bucket)
        if record is None:
            return Rejection.NO_SUCH_BUCKET
        if not record.configured >> setting.value & 1:
            return None
        return view.setting(record.bucket_id, setting)

    async def list_versions(
        self,
        access_key: AccessKeyId,
        bucket: str,
        *,
        prefix: str,
        delimiter: str,
        after: VersionPosition | None,
        limit: int,
    ) -> VersionPage | Rejection:
        """One page of the versions and common prefixes behind ``after``; one snapshot."""

        def query(view: View) -> VersionPage | Rejection:
            if not self._access.lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            record = self._access.lookups.bucket(view, bucket)
            if record is None:
                return Rejection.NO_SUCH_BUCKET
            return view.list_versions(
                record.bucket_id, prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )

        return await self._access.read(query)

    async def list_keys(
        self,
        access_key: AccessKeyId,
        bucket: str,
        *,
        prefix: str,
        delimiter: str,
        after: str,
        limit: int,
    ) -> KeyPage | Rejection:
        """One page of the keys and common prefixes that are greater than ``after``; one snapshot."""

        def query(view: View) -> KeyPage | Rejection:
            if not self._access.lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            record = self._access.lookups.bucket(view, bucket)
            if record is None:
                return Rejection.NO_SUCH_BUCKET
            return view.list_keys(
                record.bucket_id, prefix=prefix, delimiter=delimiter, after=after, limit=limit
            )

        return await self._access.read(query)
