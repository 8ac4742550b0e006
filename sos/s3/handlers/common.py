"""What the handlers share: the cluster's constants, the owner check, rejections as errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sos.catalog.model import Rejection
from sos.s3.errors import AccessDenied
from sos.s3.refusals import Subject, s3_error_for
from sos.s3.version_ids import parse_version_id, version_id

if TYPE_CHECKING:
    from sos.catalog.model import FormationRecord, VersionNumber
    from sos.catalog.views import View
    from sos.s3.errors import S3Error
    from sos.s3.exchange import Exchange
    from sos.s3.operations import CopySource
    from sos.service.access import CatalogAccess
    from sos.service.buckets import BucketService


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What never changes after formation."""

    owner_id: str
    token_secret: bytes
    region: str


class Cluster:
    """The facts, read once from the catalog."""

    def __init__(self, access: CatalogAccess) -> None:
        self._access = access
        self._facts: ClusterFacts | None = None

    @property
    def facts(self) -> ClusterFacts:
        """Only once the cluster is formed. Raises: Unavailable when the catalog is damaged here."""
        if self._facts is None:
            formation = self._access.peek(_formation)
            self._facts = ClusterFacts(
                owner_id=formation.owner_id,
                token_secret=formation.token_secret,
                region=formation.region,
            )
        return self._facts

    def version_id(self, version: VersionNumber) -> str:
        """The id of a version as clients see it."""
        return version_id(self.facts.token_secret, version)

    def parse_version_id(self, text: str, argument: str = "versionId") -> VersionNumber:
        """The version that an id names. Raises: InvalidArgument, for what we never issued."""
        return parse_version_id(self.facts.token_secret, text, argument)

    def parse_source_version(self, source: CopySource) -> VersionNumber | None:
        """The version that a copy source names. Raises: InvalidArgument."""
        if source.version_id is None:
            return None
        return self.parse_version_id(source.version_id, "x-amz-copy-source")


def _formation(view: View) -> FormationRecord:
    return view.formation()


class OwnerCheck:
    """``x-amz-expected-bucket-owner``: another account's id is refused, after the bucket was found (1.0)."""

    def __init__(self, buckets: BucketService, cluster: Cluster) -> None:
        self._buckets = buckets
        self._cluster = cluster

    async def check(self, exchange: Exchange, bucket: str, expected_owner: str | None) -> None:
        """Raises: AccessDenied, NoSuchBucket."""
        if expected_owner is None or expected_owner == self._cluster.facts.owner_id:
            return
        record = await self._buckets.find(exchange.access_key, bucket)
        if isinstance(record, Rejection):
            raise rejected(record, exchange, bucket)
        raise AccessDenied


def rejected(rejection: Rejection, exchange: Exchange, bucket: str = "", key: str = "") -> S3Error:
    """The error for a rejection about ``bucket`` and ``key``."""
    subject = Subject(bucket=bucket, key=key, access_key=exchange.access_key)
    return s3_error_for(rejection, subject)
