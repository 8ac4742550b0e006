"""No command can stop the cluster: whatever the codec decodes is decided and written, on any state."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from sos.catalog.audit import audit
from sos.catalog.codec import (
    command_level,
    decode_command,
    decode_result,
    encode_command,
    encode_entry,
)
from sos.catalog.model import (
    NULL_VERSION,
    AbortUpload,
    AccessKeyId,
    BlobBody,
    BlobId,
    BucketSetting,
    Checksum,
    ChecksumAlgorithm,
    Command,
    CompleteUpload,
    CopyObject,
    CopySourceCondition,
    CreateAccessKey,
    CreateBucket,
    CreateUpload,
    DeleteBucket,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    InlineBody,
    ListedPart,
    NewBytes,
    NodeId,
    Operation,
    PutBucketSetting,
    PutObject,
    PutObjectTags,
    RaiseSweepFloor,
    Rejection,
    ReportHolders,
    RequestId,
    RevokeAccessKey,
    SetVersioning,
    StoredHeaders,
    UploadId,
    UploadPart,
    Versioning,
    VersionNumber,
    WriteCondition,
)
from sos.catalog.store import CatalogStore
from sos.levels import LEVEL
from sos.packing import PackingError
from tests.unit.catalog_samples import (
    NODES,
    ROOT,
    Entry,
    Log,
    blob_body,
    formation,
    put,
    run,
)

WIDE = "\U0010ffff"  # four bytes of UTF-8
numbers = st.sampled_from([0, 1, 2, 5, 1 << 32, (1 << 46) - 1, 1 << 46, (1 << 63) - 1])
# The longest of what the codec lets through: it counts characters, the database counts bytes.
buckets = st.sampled_from(["b", "b", "b", "c", WIDE * 100, "\x00", "/" * 100])
keys = st.sampled_from(["a", "a", "b", "\x00", WIDE * 1024, "k" * 400, "k" * 401, "k" * 1024, WIDE])
texts = st.sampled_from(["", "x", WIDE, "\x00", "t" * 65536])
texts_or_none = st.none() | texts
access_keys = st.sampled_from([ROOT, ROOT, ROOT, ROOT, AccessKeyId("~" * 128), AccessKeyId("new")])
blobs = st.sampled_from(
    [
        *(BlobId(bytes(16)), BlobId(b"\xff" * 16)),
        *(BlobId(bytes(7) + bytes([number]) + b"12345678") for number in range(6)),
    ]
)
strangers = (NodeId("z" * 32 + "@" + "f" * 16), NodeId("n1@" + "e" * 16))
nodes = st.sampled_from([*NODES, *strangers])
holders = st.lists(nodes, max_size=6).map(tuple) | st.just(NODES[:3])
many_blobs = st.lists(blobs, max_size=8).map(tuple)
conditions = st.builds(
    WriteCondition,
    if_none_match_any=st.booleans(),
    if_match=st.none() | st.sampled_from(["*", "", "e", (b"1" * 16).hex()]),
)
checksums = st.builds(
    Checksum,
    algorithm=st.sampled_from(ChecksumAlgorithm),
    digest=st.binary(min_size=4, max_size=32),
)
headers = st.builds(
    StoredHeaders,
    content_type=texts_or_none,
    expires=texts_or_none,
    user=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
)
bodies = st.one_of(
    st.none(),
    st.builds(InlineBody, blob=blobs, data=st.binary(max_size=5) | st.just(bytes(20_000))),
    st.builds(
        BlobBody, blob=blobs, size_bytes=numbers, crc64=st.just(b"crc64crc"), holders=holders
    ),
)
etag_lists = st.none() | st.lists(st.sampled_from(["*", "", "e"]), max_size=2).map(tuple)
seconds = st.none() | st.sampled_from([-(1 << 62), 0, 1 << 62])

# An upload that is there (the second entry of each run begins it), and one that is not.
UPLOAD = UploadId((3 << 16).to_bytes(8, "big") + b"rrrrrrrr")
uploads = st.sampled_from([UPLOAD, UPLOAD, UPLOAD, UploadId(bytes(16))])
versions = st.none() | st.sampled_from(
    [
        NULL_VERSION,
        *(VersionNumber(index << 16) for index in range(2, 9)),
        VersionNumber((1 << 63) - 1),
    ]
)
tags = st.lists(st.tuples(texts, texts), max_size=2).map(tuple)
epochs = st.sampled_from([0, 0, 0, 1])
good_checksums = st.sampled_from(
    [
        Checksum(algorithm=ChecksumAlgorithm.CRC64NVME, digest=b"crc64crc"),
        Checksum(algorithm=ChecksumAlgorithm.CRC32, digest=b"crc3"),
        Checksum(algorithm=ChecksumAlgorithm.SHA256, digest=b"s" * 32),
    ]
)
second_level: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        CreateUpload,
        access_key=access_keys,
        bucket=buckets,
        key=keys,
        random=st.just(b"rrrrrrrr"),
        initiated_ms=numbers,
        headers=headers,
        algorithm=st.none() | st.sampled_from(ChecksumAlgorithm),
        composite=st.booleans(),
        tags=tags,
    ),
    st.builds(
        UploadPart,
        access_key=access_keys,
        bucket=st.just("b") | buckets,
        key=st.just("a") | keys,
        upload=uploads,
        number=st.sampled_from([1, 2, 3, 10_000]),
        body=bodies,
        md5=st.just(b"1" * 16),
        modified_ms=numbers,
        sent=st.none() | checksums | good_checksums,
        whole=st.none() | checksums | good_checksums,
    ),
    st.builds(
        CompleteUpload,
        access_key=access_keys,
        bucket=st.just("b") | buckets,
        key=st.just("a") | keys,
        upload=uploads,
        parts=st.lists(
            st.builds(
                ListedPart,
                number=st.sampled_from([1, 2, 3]) | numbers,
                etag=st.just((b"1" * 16).hex()) | texts,
                checksum=st.none() | checksums,
            ),
            max_size=3,
        ).map(tuple),
        modified_ms=numbers,
        condition=conditions,
        checksum=st.none() | checksums,
        composite=st.none() | st.booleans(),
        size_bytes=st.none() | numbers,
    ),
    st.builds(
        AbortUpload,
        access_key=access_keys,
        bucket=st.just("b"),
        key=st.just("a"),
        upload=uploads,
        aborted_ms=numbers,
    ),
    st.builds(
        SetVersioning,
        access_key=access_keys,
        bucket=st.just("b") | buckets,
        versioning=st.sampled_from([Versioning.ENABLED, Versioning.SUSPENDED]),
    ),
    st.builds(
        PutBucketSetting,
        access_key=access_keys,
        bucket=buckets,
        setting=st.sampled_from(BucketSetting),
        document=st.none() | st.binary(max_size=9),
        access_epoch=epochs,
    ),
    st.builds(
        PutObjectTags,
        access_key=access_keys,
        bucket=buckets,
        key=keys,
        tags=tags,
        version=versions,
    ),
    st.builds(
        DeleteObject,
        access_key=access_keys,
        bucket=st.just("b"),
        key=keys,
        condition=conditions,
        modified_ms=numbers,
        version=versions,
        access_epoch=epochs,
    ),
    st.builds(
        DeleteObjects,
        access_key=access_keys,
        bucket=st.just("b"),
        entries=st.lists(
            st.builds(DeleteEntry, key=keys, etag=texts_or_none, version=versions), max_size=6
        ).map(tuple),
        modified_ms=numbers,
    ),
    st.builds(
        CopyObject,
        access_key=access_keys,
        source_bucket=st.just("b"),
        source_key=keys,
        bucket=st.just("b"),
        key=keys,
        modified_ms=numbers,
        headers=st.none() | headers,
        checksum=st.none() | checksums,
        source_version=versions,
        tags=st.none() | tags,
        new=st.none() | st.builds(NewBytes, body=bodies, md5=st.just(b"1" * 16)),
    ),
    st.builds(
        CreateAccessKey,
        access_key=access_keys,
        secret_key=texts,
        created_ms=numbers,
        name=texts,
        read_only=st.booleans(),
        buckets=st.lists(buckets, max_size=2).map(tuple),
        prefixes=st.lists(texts, max_size=2).map(tuple),
    ),
)

commands: st.SearchStrategy[Command] = second_level | st.one_of(
    st.builds(
        PutObject,
        access_key=access_keys,
        bucket=buckets,
        key=keys,
        body=bodies,
        etag=texts,
        md5=st.just(b"1" * 16),
        modified_ms=numbers,
        checksum=checksums,
        headers=headers,
        condition=conditions,
    ),
    st.builds(
        CopyObject,
        access_key=access_keys,
        source_bucket=buckets,
        source_key=keys,
        bucket=buckets,
        key=keys,
        modified_ms=numbers,
        headers=st.none() | headers,
        checksum=st.none() | checksums,
        expect_commit_index=st.none() | numbers,
        changes_something=st.booleans(),
        source_condition=st.builds(
            CopySourceCondition,
            if_match=etag_lists,
            if_none_match=etag_lists,
            if_modified_since_s=seconds,
            if_unmodified_since_s=seconds,
        ),
        condition=conditions,
    ),
    st.builds(DeleteObject, access_key=access_keys, bucket=buckets, key=keys, condition=conditions),
    st.builds(
        DeleteObjects,
        access_key=access_keys,
        bucket=buckets,
        entries=st.lists(
            st.builds(DeleteEntry, key=keys, etag=texts_or_none, version_id=texts_or_none),
            max_size=6,
        ).map(tuple),
    ),
    st.builds(CreateBucket, access_key=access_keys, bucket=buckets, created_ms=numbers),
    st.builds(DeleteBucket, access_key=access_keys, bucket=buckets),
    st.builds(ReportHolders, node=nodes, sequence=numbers, gained=many_blobs, lost=many_blobs),
    st.builds(RaiseSweepFloor, floor_index=numbers),
    st.builds(CreateAccessKey, access_key=access_keys, secret_key=texts, created_ms=numbers),
    st.builds(RevokeAccessKey, access_key=access_keys),
)
# A command of a later release is never refused: who cannot apply it stops (sos.levels).
encoded = commands.map(encode_command) | st.binary(max_size=20).filter(
    lambda data: command_level(data) <= LEVEL
)
operations = st.builds(
    Operation,
    # Few ids: some come twice, also within one entry.
    request_id=st.integers(0, 40).map(lambda number: RequestId(number.to_bytes(16, "big"))),
    first_index=numbers,
    command=encoded,
)


def _is_command(data: bytes) -> bool:
    try:
        decode_command(data)
    except PackingError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(groups=st.lists(st.lists(operations, min_size=1, max_size=6), max_size=10))
def test_no_operation_stops_the_state_machine(groups: list[list[Operation]]) -> None:
    """House style 7: what raises in apply raises on every node, and again at each start. A refusal is a value."""
    first = Operation(
        request_id=RequestId(b"f" * 16),
        first_index=1,
        command=encode_command(CreateBucket(access_key=ROOT, bucket="b", created_ms=1)),
    )
    begun = Operation(
        request_id=RequestId(b"g" * 16),
        first_index=1,
        command=encode_command(
            CreateUpload(
                access_key=ROOT,
                bucket="b",
                key="a",
                random=b"rrrrrrrr",
                initiated_ms=1,
                headers=StoredHeaders(),
            )
        ),
    )
    groups = [[first], [begun], *groups]
    entries = [
        Entry(index=index, term=1, payload=encode_entry(group))
        for index, group in enumerate(groups, 2)
    ]

    with TemporaryDirectory() as directory:
        store = CatalogStore.create(Path(directory) / "catalog", formation())
        answers = [store.apply([entry])[0] for entry in entries]

        with store.view() as view:
            assert view.scan_digest() == view.digests().record_sum
            problems: list[tuple[str, str]] = []
            audit(view._transaction, lambda *what: problems.append(what), lambda _: None)
            assert problems == []
        store.close()
    first_answers: dict[RequestId, bytes] = {}
    for group, answered in zip(groups, answers, strict=True):
        assert answered is not None
        for operation, answer in zip(group, answered, strict=True):
            assert first_answers.setdefault(operation.request_id, answer) == answer
            if first_answers[operation.request_id] is answer and not _is_command(operation.command):
                assert decode_result(answer) is Rejection.UNKNOWN_COMMAND


def test_sizes_that_no_disk_has_do_not_overflow_a_counter(tmp_path: Path) -> None:
    """Counters have 64 bits: a command that claims more than could ever be summed is no command."""
    store = CatalogStore.create(tmp_path / "catalog", formation())
    commands = [CreateBucket(access_key=ROOT, bucket="bucket", created_ms=1)]
    sizes = [(1 << 63) - 1] * 3
    log = Log()
    results = run(
        store,
        log,
        *commands,
        *(put(f"k{number}", blob_body(number, size=size)) for number, size in enumerate(sizes)),
    )
    assert results[1:] == [Rejection.UNKNOWN_COMMAND] * 3
    store.close()
