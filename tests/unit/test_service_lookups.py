"""Remembered rows are never older than the view that answers (design 5.1, 6)."""

from __future__ import annotations

from typing import Any, cast

from sos.catalog.model import AccessKeyId, AccessKeyRecord, BucketRecord
from sos.service.lookups import Lookups

KEY = AccessKeyId("key")


class FakeView:
    """A view at one index that counts its lookups."""

    def __init__(self, index: int, *, enabled: bool, has_bucket: bool, generation: int = 1) -> None:
        self.generation = generation
        self.applied_index = index
        self.count = 0
        self._enabled = enabled
        self._has_bucket = has_bucket

    def access_key(self, access_key: AccessKeyId) -> AccessKeyRecord:
        self.count += 1
        return AccessKeyRecord(
            access_key=access_key, secret_key="s", root=False, enabled=self._enabled, created_ms=1
        )

    def bucket(self, name: str) -> BucketRecord | None:
        self.count += 1
        if not self._has_bucket:
            return None
        return BucketRecord(name=name, created_ms=1, object_count=0, size_bytes=0, bucket_id=1)


def test_one_lookup_serves_while_the_catalog_stands_still() -> None:
    """Reads of an unchanged catalog look hot rows up once; an absent bucket is remembered as well."""
    lookups = Lookups()
    view = FakeView(5, enabled=True, has_bucket=False)

    for _ in range(3):
        assert lookups.may_ask(cast("Any", view), KEY)
        assert lookups.bucket(cast("Any", view), "b") is None

    assert view.count == 2


def test_a_view_that_moved_is_looked_at_again() -> None:
    """A revoked key and a deleted bucket are seen by the first view that holds the change."""
    lookups = Lookups()
    before = cast("Any", FakeView(5, enabled=True, has_bucket=True))
    assert lookups.may_ask(before, KEY)
    assert lookups.bucket(before, "b") is not None

    after = cast("Any", FakeView(6, enabled=False, has_bucket=False))

    assert not lookups.may_ask(after, KEY)
    assert lookups.bucket(after, "b") is None


def test_an_installed_snapshot_is_another_catalog() -> None:
    """Another generation at the same index is looked at again."""
    lookups = Lookups()
    assert lookups.may_ask(cast("Any", FakeView(5, enabled=True, has_bucket=True)), KEY)

    installed = FakeView(5, enabled=False, has_bucket=True, generation=2)

    assert not lookups.may_ask(cast("Any", installed), KEY)
