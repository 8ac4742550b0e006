"""The values of the database: pinned bytes, checksums over key and value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sos.catalog import keys, records, upload_records
from sos.catalog.model import (
    AccessKeyId,
    AccessKeyRecord,
    BlobRecord,
    BucketRecord,
    BucketSetting,
    Checksum,
    ChecksumAlgorithm,
    FinishedUpload,
    Manifest,
    MemberCopies,
    PartRecord,
    Stored,
    StoredHeaders,
    UploadId,
    UploadRecord,
    Versioning,
)
from sos.catalog.store import CatalogStore
from sos.errors import Corruption, MadeByNewer
from sos.packing import PackingError, pack, unpack_each
from tests.unit.catalog_samples import (
    CHECKSUM,
    COMMANDS,
    NODES,
    ROOT,
    Log,
    blob_id,
    create_bucket,
    formation,
    object_record,
    put,
    run,
)

GOLDEN: dict[str, str] = json.loads(
    (Path(__file__).parent / "golden" / "catalog_records.json").read_text()
)
BUCKET = BucketRecord(
    name="bucket", created_ms=1, object_count=2, size_bytes=3, bucket_id=4 << 16 | 5
)
BUCKET_OF_TWO = replace(
    BUCKET,
    versioning=Versioning.SUSPENDED,
    version_count=7,
    owner="0" * 64,
    access_epoch=9 << 16,
    configured=1 << BucketSetting.CORS.value,
    upload_count=8,
)
OBJECT_OF_TWO = replace(
    object_record(),
    number=7 << 16 | 1,
    is_null=False,
    is_marker=True,
    older=3,
    null_order=6 << 16,
    composite=True,
    part_count=2,
    manifest=UploadId(b"upload-id-of-two"),
    tags=(("a", "1"), ("b", "")),
    acl="public-read",
    owner="1" * 64,
)
BLOB = BlobRecord(
    blob=blob_id(9),
    size_bytes=100_000,
    crc64=b"crc64crc",
    reference_count=2,
    inline=False,
    holders=NODES[:2],
)
MEMBER = MemberCopies(node=NODES[0], since_index=1, report_sequence=2, blobs_owed=3, bytes_owed=4)
KEY = AccessKeyRecord(
    access_key=AccessKeyId("KEY"), secret_key="s", root=False, enabled=True, created_ms=6
)
UPLOAD = UploadRecord(
    upload=UploadId(b"upload-id-of-one"),
    bucket_id=4 << 16,
    key="key",
    initiated_ms=5,
    headers=StoredHeaders(content_type="a/b"),
    algorithm=ChecksumAlgorithm.CRC32,
    composite=True,
    key_order=6 << 16,
    tags=(("a", "1"),),
    acl="private",
)
PART = PartRecord(
    number=7,
    blob=blob_id(3),
    inline=True,
    size_bytes=5,
    md5=b"m" * 16,
    modified_ms=8,
    sent=Checksum(algorithm=ChecksumAlgorithm.CRC32, digest=b"crc3"),
    whole=CHECKSUM,
)
FINISHED = FinishedUpload(
    bucket_id=4 << 16,
    key="key",
    finished_ms=9,
    parts_digest=b"d" * 16,
    result=Stored(etag="e-2", modified_ms=9, checksum=CHECKSUM, commit_index=10),
)
KEY_OF_TWO = replace(
    KEY, name="ci", account="2" * 64, read_only=True, buckets=("a", "b"), prefixes=("p/",)
)
STATE = records.State(
    index=1,
    term=2,
    chain=b"c" * 16,
    record_sum=1 << 127,
    sweep_floor=3,
    bucket_count=4,
    object_count=5,
    size_bytes=6,
    blob_count=7,
    blob_bytes=8,
    forgotten_count=9,
)

Case = tuple[bytes, bytes, Callable[[bytes, bytes], object], object]
CASES: dict[str, Case] = {
    "bucket": (
        keys.bucket_key("bucket"),
        records.encode_bucket(BUCKET),
        records.decode_bucket,
        BUCKET,
    ),
    "object": (
        keys.object_key(4 << 16, b"key"),
        records.encode_object(object_record()),
        records.decode_object,
        object_record(),
    ),
    "bucket_2": (
        keys.bucket_key("bucket"),
        records.encode_bucket(BUCKET_OF_TWO),
        records.decode_bucket,
        BUCKET_OF_TWO,
    ),
    "object_2": (
        keys.object_key(4 << 16, b"key"),
        records.encode_object(OBJECT_OF_TWO),
        records.decode_object,
        OBJECT_OF_TWO,
    ),
    "access_key_2": (
        keys.access_key_key(AccessKeyId("KEY")),
        records.encode_access_key(KEY_OF_TWO),
        lambda row_key, value: records.decode_access_key(AccessKeyId("KEY"), row_key, value),
        KEY_OF_TWO,
    ),
    "setting": (
        keys.setting_key(4 << 16, BucketSetting.CORS),
        records.encode_setting(b"rules"),
        records.decode_setting,
        b"rules",
    ),
    "version": (
        keys.version_key(4 << 16, b"key", 7 << 16 | 1),
        records.encode_object(replace(OBJECT_OF_TWO, is_marker=False)),
        records.decode_object,
        replace(OBJECT_OF_TWO, is_marker=False),
    ),
    "upload": (
        keys.upload_key(UPLOAD.upload),
        upload_records.encode_upload(UPLOAD),
        upload_records.decode_upload,
        UPLOAD,
    ),
    "uploads_of": (
        keys.tree_key(keys.UPLOADS, 4 << 16, b"key"),
        upload_records.encode_uploads_of((UPLOAD.upload,)),
        upload_records.decode_uploads_of,
        (UPLOAD.upload,),
    ),
    "part": (
        keys.part_key(UPLOAD.upload, 7),
        upload_records.encode_part(PART),
        upload_records.decode_part,
        PART,
    ),
    "part_composite": (
        keys.part_key(UPLOAD.upload, 7),
        upload_records.encode_part(replace(PART, whole=None)),
        upload_records.decode_part,
        replace(PART, whole=None),
    ),
    "manifest": (
        keys.manifest_key(UPLOAD.upload),
        upload_records.encode_manifest(Manifest(numbers=(1, 7), ends=(5, 1 << 40))),
        upload_records.decode_manifest,
        Manifest(numbers=(1, 7), ends=(5, 1 << 40)),
    ),
    "finished_upload": (
        keys.finished_upload_key(UPLOAD.upload),
        upload_records.encode_finished_upload(FINISHED),
        upload_records.decode_finished_upload,
        FINISHED,
    ),
    "long_object": (
        keys.object_key(4 << 16, b"k" * 900),
        records.encode_object(object_record()),
        records.decode_object,
        object_record(),
    ),
    "pointer": (
        keys.pointer_keys(4 << 16, b"k" * 900)[0],
        records.encode_pointer(3),
        records.decode_pointer,
        3,
    ),
    "blob": (keys.blob_key(BLOB.blob), records.encode_blob(BLOB), records.decode_blob, BLOB),
    "inline": (
        keys.inline_key(blob_id(1)),
        records.encode_inline(2, b"data"),
        records.decode_inline,
        (2, b"data"),
    ),
    "owed": (
        keys.owed_key(NODES[0], blob_id(1)),
        records.encode_owed(7),
        records.decode_owed,
        7,
    ),
    "tombstone": (
        keys.tombstone_key(blob_id(1)),
        records.encode_tombstone(5),
        records.decode_tombstone,
        5,
    ),
    "member": (
        keys.member_key(NODES[0]),
        records.encode_member(MEMBER),
        lambda row_key, value: records.decode_member(NODES[0], row_key, value),
        MEMBER,
    ),
    "access_key": (
        keys.access_key_key(AccessKeyId("KEY")),
        records.encode_access_key(KEY),
        lambda row_key, value: records.decode_access_key(AccessKeyId("KEY"), row_key, value),
        KEY,
    ),
    "state": (keys.STATE_KEY, records.encode_state(STATE), records.decode_state, STATE),
    "digest": (
        keys.digest_key(1024),
        records.encode_number_and_bytes(1024, b"chain"),
        records.decode_number_and_bytes,
        (1024, b"chain"),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_rows_are_pinned(name: str) -> None:
    """Key and value of each table are readable for ever (house style, 7)."""
    row_key, body, decode, expected = CASES[name]
    row = bytes.fromhex(GOLDEN[f"{name}.key"]), bytes.fromhex(GOLDEN[f"{name}.value"])

    assert (row_key, records.seal(row_key, body)) == row
    assert decode(*row) == expected


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_bit_of_a_row_is_checked(name: str) -> None:
    """P7: a record that rotted, or that stands under a wrong key, is never returned."""
    row_key, body, decode, _ = CASES[name]
    value = records.seal(row_key, body)

    for bit in range(len(value) * 8):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption):
            decode(row_key, bytes(changed))
    with pytest.raises(Corruption):
        decode(row_key + b"\x00", value)
    for length in range(len(value)):
        with pytest.raises(Corruption):
            decode(row_key, value[:length])


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", pack(5), pack([32, 0, "bucket", 1, 2, 3, 4]), pack([32, 1, "bucket"])]
)
def test_a_row_of_another_version_is_refused(body: bytes) -> None:
    """A valid checksum over something else comes from a bug: never guessed at."""
    row_key = keys.bucket_key("bucket")

    with pytest.raises(Corruption):
        records.decode_bucket(row_key, records.seal(row_key, body))


def test_a_row_of_a_newer_release_is_no_damage() -> None:
    """Issue 5, 7: whoever goes back to an older release too late is told so; nothing is quarantined for it."""
    row_key, deep_key = keys.bucket_key("bucket"), keys.object_key(4 << 16, b"key")

    with pytest.raises(MadeByNewer, match=r"version 3.*use that version"):
        records.decode_bucket(
            row_key, records.seal(row_key, pack([32, 3, "bucket", 1, 2, 3, 4, 5]))
        )
    body = records.seal(deep_key, pack((33, 3, *range(10))))
    with pytest.raises(MadeByNewer, match=r"version 3.*use that version"):
        records.decode_listed([(b"key", deep_key, body)])


def test_a_page_checks_every_bit_of_its_rows() -> None:
    """P7: a listing never shows what rotted, wherever in the page it stands; the message names the row."""
    rows = []
    for key in (b"a", b"b", b"c"):
        row_key = keys.object_key(4 << 16, key)
        rows.append((key, row_key, records.seal(row_key, records.encode_object(object_record()))))
    assert [entry.key for entry in records.decode_listed(rows)] == ["a", "b", "c"]

    key, row_key, value = rows[1]
    broken = [value[:cut] for cut in range(len(value))]
    for bit in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(flipped))
    broken.append(rows[2][2])
    for bad in broken:
        with pytest.raises(Corruption, match=row_key[keys.PREFIX_BYTES :].hex()):
            records.decode_listed([rows[0], (key, row_key, bad), rows[2]])


@pytest.mark.parametrize(
    "body",
    [
        *(pack((33, 0, *range(10))), pack((33, 1, *range(9))), pack((33, 1, *range(11)))),
        *(pack((32, 1, *range(10))), pack(33), pack({}), b"", b"\xc1"),
        records.encode_object(object_record()) * 2,
    ],
)
def test_a_page_refuses_rows_of_another_version(body: bytes) -> None:
    """A checksum that holds is not enough: only the layout that this version writes is read."""
    row_key = keys.object_key(4 << 16, b"key")

    with pytest.raises(Corruption, match="catalog table objects"):
        records.decode_listed([(b"key", row_key, records.seal(row_key, body))])


def test_values_unpacked_in_one_pass_are_each_complete() -> None:
    """What does not end where its bytes end is refused, first, last or alone; none at all is no error."""
    assert unpack_each([]) == []
    assert unpack_each([pack(1), pack(["a", b"b"])]) == [1, ["a", b"b"]]
    whole = pack(["a", "b"])
    for bad in (b"", whole[:-1], whole + b"\x01", b"\xc1", b"\xd4\x01\x00"):
        for values in ([bad], [bad, whole], [whole, bad]):
            with pytest.raises(PackingError):
                unpack_each(values)


def test_the_dump_shows_every_row_and_no_secret(tmp_path: Path) -> None:
    """P21: a person can read a catalog; secrets stay out of the output."""
    log = Log()
    store = CatalogStore.create(tmp_path / "catalog", formation())
    run(store, log, *COMMANDS.values())
    run(store, log, create_bucket(), put("k" * 900, None), put("a", None))
    script = Path(__file__).parents[2] / "scripts" / "dump_catalog.py"
    store.copy_snapshot(tmp_path / "copy")

    dumps = [
        subprocess.run(
            [sys.executable, str(script), str(path)], capture_output=True, text=True, check=False
        )
        for path in (tmp_path, tmp_path / "catalog", tmp_path / "copy")
    ]

    assert [dump.returncode for dump in dumps] == [0, 0, 0], dumps[0].stderr
    assert dumps[0].stdout == dumps[1].stdout == dumps[2].stdout
    tables = {json.loads(line)["table"] for line in dumps[0].stdout.splitlines()}
    assert {"meta", "buckets", "objects", "objects_deep", "requests", "access_keys"} <= tables
    assert "root-secret" not in dumps[0].stdout
    assert ROOT in dumps[0].stdout
