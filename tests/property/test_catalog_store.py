"""The database against dictionaries: any history of commands, in any batches, gives the same answers and rows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from sos.catalog.codec import decode_result
from sos.catalog.model import (
    AccessKeyId,
    Command,
    CopyObject,
    CopySourceCondition,
    CreateAccessKey,
    CreateBucket,
    DeleteBucket,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    RaiseSweepFloor,
    ReportHolders,
    RevokeAccessKey,
    StoredHeaders,
    WriteCondition,
)
from sos.catalog.store import CatalogStore
from sos.catalog.views import View
from tests.property.catalog_model import Model
from tests.unit.catalog_samples import (
    NODES,
    ROOT,
    Entry,
    Log,
    blob_body,
    blob_id,
    formation,
    inline_body,
    put,
)

OTHER = AccessKeyId("OTHERKEY")
LONG = "k" * 450
VERY_LONG = "k" * 900

buckets = st.sampled_from(["bucket", "bucket", "bucket", "other"])
keys = st.sampled_from(["a", "b", "dir/c", LONG, LONG + "2", VERY_LONG, VERY_LONG + "2", "k" * 400])
md5s = st.sampled_from([b"1" * 16, b"2" * 16])
etags = st.sampled_from([None, None, None, (b"1" * 16).hex(), (b"2" * 16).hex()])
access_keys = st.sampled_from([ROOT, ROOT, ROOT, ROOT, OTHER])
blob_numbers = st.integers(min_value=1, max_value=6)
conditions = st.builds(
    WriteCondition, if_none_match_any=st.booleans(), if_match=st.none()
) | st.builds(WriteCondition, if_match=etags)
bodies = st.one_of(
    st.none(),
    st.builds(inline_body, blob_numbers.map(lambda number: number + 100), st.binary(max_size=9)),
    st.builds(
        blob_body,
        blob_numbers,
        st.sampled_from([NODES[:3], NODES[:2], NODES[1:3], NODES[:1], (NODES[0], NODES[3])]),
        size=st.sampled_from([50_000, 70_000]),
    ),
)
nodes = st.sampled_from(NODES)
some_blobs = st.lists(st.builds(blob_id, blob_numbers), max_size=4).map(tuple)

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        put,
        keys,
        bodies,
        bucket=buckets,
        md5=md5s,
        condition=conditions,
        access_key=access_keys,
        modified_ms=st.integers(min_value=0, max_value=9),
    ),
    st.builds(
        CopyObject,
        access_key=st.just(ROOT),
        source_bucket=buckets,
        source_key=keys,
        bucket=buckets,
        key=keys,
        modified_ms=st.integers(min_value=0, max_value=9),
        headers=st.none() | st.just(StoredHeaders(content_type="x/y")),
        checksum=st.none(),
        expect_commit_index=st.none() | st.integers(min_value=2, max_value=20),
        changes_something=st.booleans(),
        source_condition=st.builds(
            CopySourceCondition,
            if_match=st.none() | st.tuples(md5s.map(bytes.hex)),
            if_none_match=st.none() | st.tuples(md5s.map(bytes.hex)),
        ),
        condition=conditions,
    ),
    st.builds(
        DeleteObject,
        access_key=access_keys,
        bucket=buckets,
        key=keys,
        condition=st.builds(WriteCondition, if_match=etags | st.just("*")),
    ),
    st.builds(
        DeleteObjects,
        access_key=st.just(ROOT),
        bucket=buckets,
        entries=st.lists(
            st.builds(
                DeleteEntry, key=keys, etag=etags, version_id=st.sampled_from([None, "null", "v"])
            ),
            max_size=6,
        ).map(tuple),
    ),
    st.builds(CreateBucket, access_key=access_keys, bucket=buckets, created_ms=st.just(1)),
    st.builds(DeleteBucket, access_key=access_keys, bucket=buckets),
    st.builds(
        ReportHolders,
        node=nodes,
        sequence=st.integers(min_value=1, max_value=9),
        gained=some_blobs,
        lost=some_blobs,
    ),
    st.builds(RaiseSweepFloor, floor_index=st.integers(min_value=0, max_value=2)),
    st.builds(
        CreateAccessKey, access_key=st.just(OTHER), secret_key=st.just("s"), created_ms=st.just(1)
    ),
    st.builds(RevokeAccessKey, access_key=st.just(OTHER)),
)


def check_against_model(view: View, model: Model) -> None:
    """Everything that a view tells is what the dictionaries hold."""
    assert [bucket.name for bucket in view.buckets()] == sorted(model.buckets)
    for name, things in model.buckets.items():
        bucket = view.bucket(name)
        assert bucket is not None
        assert bucket.object_count == len(things)
        assert bucket.size_bytes == sum(thing.size for thing in things.values())
        page = view.list_keys(bucket.bucket_id, limit=1000)
        assert [entry.key for entry in page.objects] == sorted(things)
        for key, thing in things.items():
            record = view.object(bucket.bucket_id, key)
            assert record is not None
            assert (record.blob, record.size_bytes, record.etag) == (
                thing.blob,
                thing.size,
                thing.etag,
            )
            assert (record.headers, record.commit_index) == (thing.headers, thing.index)
            if record.inline and record.blob is not None:
                assert view.inline_body(record.blob) == model.inline[record.blob]
    stored = {record.blob: record for record in view.blobs(limit=1000)}
    assert set(stored) == set(model.files)
    for blob, file in model.files.items():
        assert set(stored[blob].holders) == file.holders
        assert stored[blob].reference_count == model.references(blob)
    for blob, data in model.inline.items():
        record_of = view.blob(blob)
        assert record_of is not None
        assert (record_of.reference_count, record_of.size_bytes) == (
            model.references(blob),
            len(data),
        )
    for node in NODES[:3]:
        owed = {row.blob: row.size_bytes for row in view.owed(node, limit=1000)}
        assert owed == model.owed(node)
        copies = view.member_copies(node)
        assert copies is not None
        assert (copies.blobs_owed, copies.bytes_owed) == (len(owed), sum(owed.values()))
    forgotten = [(row.index, row.blob) for row in view.forgotten(limit=1000)]
    assert forgotten == sorted(model.forgotten)
    counters = view.counters()
    assert counters.bucket_count == len(model.buckets)
    assert counters.object_count == sum(len(things) for things in model.buckets.values())
    assert (counters.blob_count, counters.forgotten_count) == (len(stored), len(forgotten))
    assert counters.blob_bytes == sum(file.size for file in model.files.values())


def logged(groups: list[list[Command]]) -> list[Entry]:
    log = Log()
    return [log.entry(*group) for group in groups]


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(st.lists(commands, min_size=1, max_size=5), max_size=14),
    split=st.integers(1, 5),
)
def test_any_history_gives_the_answers_and_rows_of_the_model(
    groups: list[list[Command]], split: int
) -> None:
    """Rules and store agree with dictionaries; batches change nothing; digests are equal and true (P2, P11)."""
    groups = [[CreateBucket(access_key=ROOT, bucket="bucket", created_ms=1)], *groups]
    model = Model([*NODES[:3]], ROOT)
    expected = [
        [model.apply(command, index) for command in group] for index, group in enumerate(groups, 2)
    ]
    entries = logged(groups)

    with TemporaryDirectory() as directory:
        one = CatalogStore.create(Path(directory) / "one", formation())
        many = CatalogStore.create(Path(directory) / "many", formation())
        results = [one.apply([entry])[0] for entry in entries]
        in_batches = [
            result
            for start in range(0, len(entries), split)
            for result in many.apply(entries[start : start + split])
        ]

        assert results == in_batches
        answered = [[decode_result(data) for data in result or []] for result in results]
        assert answered == expected
        with one.view() as view, many.view() as other:
            check_against_model(view, model)
            assert view.digests() == other.digests()
            assert view.scan_digest() == view.digests().record_sum
            assert other.scan_digest() == view.digests().record_sum
        one.close()
        many.close()
