"""Rules and rows of multipart uploads (s3.md 7): what apply decides, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sos.catalog.audit import audit
from sos.catalog.model import (
    AbortUpload,
    Body,
    BucketRecord,
    Checksum,
    ChecksumAlgorithm,
    Command,
    CompleteUpload,
    CreateUpload,
    DeleteBucket,
    Done,
    ListedPart,
    PartFault,
    PartRefused,
    Rejection,
    Result,
    Stored,
    StoredHeaders,
    UploadCreated,
    UploadId,
    UploadPart,
)
from sos.catalog.store import CatalogStore
from sos.limits import FINISHED_UPLOAD_MS, PART_BYTES_MIN, PARTS_RELEASED_MAX
from tests.unit.catalog_samples import (
    ROOT,
    Log,
    blob_body,
    blob_id,
    copy,
    create_bucket,
    delete,
    formation,
    inline_body,
    put,
    run,
)

NOW = 1_760_000_000_000
CRC = Checksum(algorithm=ChecksumAlgorithm.CRC64NVME, digest=bytes(8))


@dataclass
class Catalog:
    """A catalog with a bucket, and its log."""

    store: CatalogStore
    log: Log

    def do(self, command: Command) -> Result:
        return run(self.store, self.log, command)[0]

    def create(self, key: str = "k") -> UploadId:
        result = self.do(
            CreateUpload(
                access_key=ROOT,
                bucket="bucket",
                key=key,
                random=b"rrrrrrrr",
                initiated_ms=NOW,
                headers=StoredHeaders(content_type="text/plain"),
            )
        )
        assert isinstance(result, UploadCreated)
        return result.upload

    def part(self, upload: UploadId, number: int, body: Body | None, key: str = "k") -> Result:
        return self.do(
            UploadPart(
                access_key=ROOT,
                bucket="bucket",
                key=key,
                upload=upload,
                number=number,
                body=body,
                md5=number.to_bytes(16, "big"),
                modified_ms=NOW,
                sent=None,
                whole=CRC,
            )
        )

    def complete(
        self, upload: UploadId, *numbers: int, key: str = "k", now_ms: int = NOW
    ) -> Result:
        parts = tuple(
            ListedPart(number=number, etag=number.to_bytes(16, "big").hex()) for number in numbers
        )
        return self.do(
            CompleteUpload(
                access_key=ROOT,
                bucket="bucket",
                key=key,
                upload=upload,
                parts=parts,
                modified_ms=now_ms,
            )
        )

    def abort(self, upload: UploadId, now_ms: int = NOW) -> Result:
        return self.do(
            AbortUpload(access_key=ROOT, bucket="bucket", key="k", upload=upload, aborted_ms=now_ms)
        )

    def blobs(self) -> int:
        with self.store.view() as view:
            return view.counters().blob_count

    def bucket(self) -> BucketRecord:
        with self.store.view() as view:
            record = view.bucket("bucket")
        assert record is not None
        return record


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """After the test every row agrees with every counter, and the sums with the rows."""
    store = CatalogStore.create(tmp_path / "catalog", formation())
    catalog = Catalog(store, Log())
    run(store, catalog.log, create_bucket())
    yield catalog
    problems: list[tuple[str, str]] = []
    with store.view() as view:
        assert view.scan_digest() == view.digests().record_sum
        transaction = view._transaction
        assert audit(transaction, lambda *found: problems.append(found), lambda _: None), problems
    store.close()


def big(number: int) -> Body:
    return blob_body(number, size=PART_BYTES_MIN)


def test_complete_makes_one_object_of_the_listed_parts(catalog: Catalog) -> None:
    """Bytes stay where they are; parts that are not listed are forgotten with the upload."""
    upload = catalog.create()
    for number in (1, 3, 7):
        assert isinstance(catalog.part(upload, number, big(number)), Stored)
    catalog.part(upload, 8, inline_body(8, b"tail"))
    assert catalog.bucket().upload_count == 1

    stored = catalog.complete(upload, 1, 7, 8)

    assert isinstance(stored, Stored)
    assert stored.etag.endswith("-3")
    with catalog.store.view() as view:
        record = view.object(catalog.bucket().bucket_id, "k")
        assert record is not None
        assert (record.manifest, record.part_count) == (upload, 3)
        assert record.size_bytes == 2 * PART_BYTES_MIN + 4
        assert view.manifest(upload).numbers == (1, 7, 8)
        assert view.manifest(upload).ends == (
            PART_BYTES_MIN,
            2 * PART_BYTES_MIN,
            2 * PART_BYTES_MIN + 4,
        )
        assert view.was_forgotten(blob_id(3))
    assert catalog.blobs() == 2
    assert catalog.bucket().upload_count == 0
    assert catalog.bucket().size_bytes == record.size_bytes


@pytest.mark.parametrize("ends_by", ["overwrite", "copy", "delete", "abort", "bucket"])
def test_the_bytes_of_parts_go_with_what_named_them(catalog: Catalog, ends_by: str) -> None:
    """Nothing is left behind: no part, no manifest, no reference (P14)."""
    upload = catalog.create()
    catalog.part(upload, 1, big(1))
    catalog.part(upload, 1, big(2))  # the same part again
    catalog.part(upload, 2, big(3))
    assert catalog.blobs() == 2
    if ends_by not in ("abort", "bucket"):
        catalog.complete(upload, 1, 2)
    match ends_by:
        case "overwrite":
            catalog.do(put("k", None))
        case "copy":
            catalog.do(put("other", inline_body(9)))
            catalog.do(copy("other", "k"))
        case "delete":
            catalog.do(delete("k"))
        case "abort":
            assert catalog.abort(upload) == Done()
        case _:
            access = DeleteBucket(access_key=ROOT, bucket="bucket")
            assert catalog.do(access) == Done()
            catalog.do(create_bucket())

    assert catalog.blobs() == 0
    with catalog.store.view() as view:
        assert view.parts(upload) == {}
        assert not view.has_manifest(upload)
        assert view.upload(upload) is None


def test_many_parts_are_let_go_with_the_entries_that_follow(catalog: Catalog) -> None:
    """Ten thousand in one entry would stop every node: some go with each, and all go in the end."""
    upload, count = catalog.create(), PARTS_RELEASED_MAX * 2 + 10
    for number in range(1, count + 1):
        catalog.part(upload, number, big(number))

    catalog.abort(upload)
    left = [catalog.blobs()]
    for _ in range(3):
        catalog.do(put("another", None))
        left.append(catalog.blobs())

    assert left == [count - PARTS_RELEASED_MAX, 10, 0, 0]


def test_what_ended_is_answered_the_same_for_a_day(catalog: Catalog) -> None:
    """Complete and Abort again; later the upload is unknown (s3.md 7)."""
    upload = catalog.create()
    catalog.part(upload, 1, None)
    first = catalog.complete(upload, 1)
    later = NOW + FINISHED_UPLOAD_MS

    assert catalog.complete(upload, 1, now_ms=later - 1) == first
    assert catalog.complete(upload, 1, 2) is Rejection.NO_SUCH_UPLOAD
    assert catalog.abort(upload) == Done(existed=False)
    assert catalog.complete(upload, 1, now_ms=later) is Rejection.NO_SUCH_UPLOAD
    assert catalog.abort(upload, now_ms=later) is Rejection.NO_SUCH_UPLOAD
    for _ in range(2):
        other = catalog.create()
        catalog.abort(other, now_ms=later + 1)
    with catalog.store.view() as view:
        assert view.finished_upload(upload) is None, "it is forgotten by and by"


def test_a_part_of_another_upload_or_key_changes_nothing(catalog: Catalog) -> None:
    """An upload id is bound to bucket and key."""
    upload = catalog.create()
    assert catalog.part(upload, 1, None, key="other") is Rejection.NO_SUCH_UPLOAD
    unknown = UploadId(bytes(16))
    assert catalog.part(unknown, 1, big(1)) is Rejection.NO_SUCH_UPLOAD
    assert catalog.complete(upload, 1, key="other") is Rejection.NO_SUCH_UPLOAD
    assert catalog.blobs() == 0


def test_a_refused_list_leaves_the_upload_as_it_was(catalog: Catalog) -> None:
    """Each fault names its part."""
    upload = catalog.create()
    catalog.part(upload, 1, inline_body(1, b"small"))
    catalog.part(upload, 2, big(2))

    assert catalog.complete(upload, 2, 1) == PartRefused(fault=PartFault.ORDER, number=1)
    assert catalog.complete(upload, 1, 3) == PartRefused(fault=PartFault.INVALID, number=3)
    assert catalog.complete(upload, 1, 2) == PartRefused(
        fault=PartFault.TOO_SMALL, number=1, size_bytes=5
    )
    assert catalog.complete(upload) == PartRefused(fault=PartFault.INVALID, number=0)
    assert isinstance(catalog.complete(upload, 2), Stored)


def test_a_copy_of_parts_brings_its_own_bytes(catalog: Catalog) -> None:
    """Parts are never shared: a copy that brings none is told so, and nothing changes (s3.md 1.1.6)."""
    upload = catalog.create()
    catalog.part(upload, 1, big(1))
    catalog.complete(upload, 1)
    assert catalog.do(copy("k", "copy")) is Rejection.SOURCE_IN_PARTS
    too_short = replace(copy("k", "copy"), checksum=CRC)
    assert catalog.do(too_short) is Rejection.SOURCE_IN_PARTS


def test_uploads_of_long_keys_are_listed_in_order(catalog: Catalog) -> None:
    """Keys longer than a piece lie in deeper nodes, here as for objects."""
    keys = sorted(["a", "k" * 400, "k" * 401, "k" * 1024, "k" * 800 + "z", "z"])
    uploads = {key: catalog.create(key) for key in keys}
    with catalog.store.view() as view:
        page = view.list_uploads(catalog.bucket().bucket_id, limit=100)
        assert [upload.key for upload in page.uploads] == keys
        assert not page.truncated
        some = view.list_uploads(
            catalog.bucket().bucket_id, after_key=keys[2], after_upload=None, limit=2
        )
        assert [upload.key for upload in some.uploads] == keys[3:5]
        assert some.truncated
        assert (some.last_key, some.last_upload) == (keys[4], uploads[keys[4]])
