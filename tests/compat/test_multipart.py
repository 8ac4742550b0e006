"""Multipart uploads, by boto3 as people use it: over HTTP, over TLS, and with each request on another of three nodes (s3.md 7, 8)."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.compat.conftest import Site

MIB = 1024 * 1024
PART = 5 * MIB
SMALL = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)


class Turns:
    """boto3 clients of all endpoints, used in turn."""

    def __init__(self, site: Site) -> None:
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 0},
            max_pool_connections=20,
        )
        self.clients = [
            boto3.client(
                "s3",
                endpoint_url=url,
                aws_access_key_id=site.credentials.access_key,
                aws_secret_access_key=site.credentials.secret_key,
                region_name="us-east-1",
                verify=str(site.certificate) if site.certificate else True,
                config=config,
            )
            for url in site.urls
        ]
        self._turn = itertools.cycle(self.clients)
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            return getattr(next(self._turn), name)


@pytest.fixture
def s3(site: Site) -> Iterator[Any]:
    turns = Turns(site)
    yield turns
    for client in turns.clients:
        client.close()


def data_of(size: int, seed: int = 0) -> bytes:
    return (hashlib.sha256(seed.to_bytes(4)).digest() * (size // 32 + 1))[:size]


def refused(call: Callable[[], Any]) -> tuple[str, int, dict[str, Any]]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return (
        response["Error"]["Code"],
        response["ResponseMetadata"]["HTTPStatusCode"],
        response["Error"],
    )


def create(s3: Any, bucket: str, key: str = "k", **more: Any) -> str:
    upload: str = s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]
    return upload


def put_part(s3: Any, bucket: str, upload: str, number: int, body: bytes, **more: Any) -> Any:
    answer = s3.upload_part(
        Bucket=bucket,
        Key=more.pop("Key", "k"),
        UploadId=upload,
        PartNumber=number,
        Body=body,
        **more,
    )
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(s3: Any, bucket: str, upload: str, parts: list[Any], **more: Any) -> Any:
    return s3.complete_multipart_upload(
        Bucket=bucket,
        Key=more.pop("Key", "k"),
        UploadId=upload,
        MultipartUpload={"Parts": parts},
        **more,
    )


def read(s3: Any, bucket: str, key: str = "k", **more: Any) -> bytes:
    body: bytes = s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()
    return body


def etag_of(pieces: list[bytes]) -> str:
    digests = b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(pieces)}"'


def test_upload_file_and_download_file(s3: Any, bucket: str, tmp_path: Any) -> None:
    """What everybody does with a large file: parts up in threads, ranges down in threads."""
    data = data_of(3 * PART + 12345)
    source, target = tmp_path / "up", tmp_path / "down"
    source.write_bytes(data)

    s3.upload_file(str(source), bucket, "big", Config=SMALL, ExtraArgs={"Metadata": {"a": "1"}})
    s3.download_file(bucket, "big", str(target), Config=SMALL)

    assert target.read_bytes() == data
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ContentLength"] == len(data)
    assert head["Metadata"] == {"a": "1"}
    assert head["ETag"] == etag_of([data[at : at + PART] for at in range(0, len(data), PART)])
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    (listed,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (listed["Size"], listed["ETag"]) == (len(data), head["ETag"])


def test_ranges_and_parts(s3: Any, bucket: str) -> None:
    """Ranges across the edges of parts, and single parts by number (s3.md 5)."""
    pieces = [data_of(PART, 1), data_of(PART + 3, 2), data_of(7, 3)]
    whole = b"".join(pieces)
    upload = create(s3, bucket)
    parts = [put_part(s3, bucket, upload, at + 1, piece) for at, piece in enumerate(pieces)]
    complete(s3, bucket, upload, parts)

    assert read(s3, bucket) == whole
    for start, stop in (
        (0, 1),
        (PART - 1, PART + 1),
        (PART, PART + 1),
        (2 * PART + 2, 2 * PART + 4),
        (PART - 5, 2 * PART + 8),
        (len(whole) - 3, len(whole)),
    ):
        answer = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={start}-{stop - 1}")
        assert answer["Body"].read() == whole[start:stop]
        assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    begin = 0
    for number, piece in enumerate(pieces, 1):
        answer = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert answer["Body"].read() == piece
        assert answer["PartsCount"] == 3
        assert answer["ETag"] == etag_of(pieces)
        assert answer["ContentRange"] == f"bytes {begin}-{begin + len(piece) - 1}/{len(whole)}"
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (head["ContentLength"], head["PartsCount"]) == (len(piece), 3)
        begin += len(piece)
    code, status, _ = refused(lambda: s3.get_object(Bucket=bucket, Key="k", PartNumber=4))
    assert (code, status) == ("InvalidPartNumber", 416)


def test_invisible_until_completed_and_gone_when_aborted(s3: Any, bucket: str) -> None:
    """An upload in progress shows in its own lists alone; an aborted one nowhere."""
    upload = create(s3, bucket)
    put_part(s3, bucket, upload, 1, b"one")
    assert refused(lambda: s3.head_object(Bucket=bucket, Key="k"))[1] == 404
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    (listed,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (listed["Key"], listed["UploadId"]) == ("k", upload)
    (part,) = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]
    assert (part["PartNumber"], part["Size"]) == (1, 3)

    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)  # again: 204 for a day

    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    for call in (
        lambda: put_part(s3, bucket, upload, 2, b"two"),
        lambda: s3.list_parts(Bucket=bucket, Key="k", UploadId=upload),
        lambda: complete(s3, bucket, upload, [{"PartNumber": 1, "ETag": part["ETag"]}]),
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId="0" * 32),
        lambda: put_part(s3, bucket, "no id of ours", 1, b""),
    ):
        assert refused(call)[:2] == ("NoSuchUpload", 404)


def test_the_upload_of_another_key_is_none(s3: Any, bucket: str) -> None:
    """An upload id is bound to bucket and key (s3.md 7)."""
    upload = create(s3, bucket)
    answer = refused(lambda: put_part(s3, bucket, upload, 1, b"x", Key="other"))
    assert answer[:2] == ("NoSuchUpload", 404)


def test_a_part_again_replaces_it(s3: Any, bucket: str) -> None:
    """The last in the log wins, and only its ETag is accepted."""
    upload = create(s3, bucket)
    old = put_part(s3, bucket, upload, 1, data_of(100_000, 1))
    new = put_part(s3, bucket, upload, 1, data_of(70_000, 2))

    code, status, error = refused(lambda: complete(s3, bucket, upload, [old]))
    assert (code, status) == ("InvalidPart", 400)
    assert (error["PartNumber"], error["UploadId"]) == ("1", upload)
    complete(s3, bucket, upload, [new])
    assert read(s3, bucket) == data_of(70_000, 2)


def test_complete_again_answers_the_same_even_after_an_overwrite(s3: Any, bucket: str) -> None:
    """A client that lost the answer asks again: nothing changes, and the answer is that of then (s3.md 7)."""
    upload = create(s3, bucket)
    part = put_part(s3, bucket, upload, 1, b"multipart")
    first = complete(s3, bucket, upload, [part])
    s3.put_object(Bucket=bucket, Key="k", Body=b"later")

    again = complete(s3, bucket, upload, [part], IfNoneMatch="*")

    assert again["ETag"] == first["ETag"]
    assert read(s3, bucket) == b"later"
    other = {"PartNumber": 2, "ETag": part["ETag"]}
    assert refused(lambda: complete(s3, bucket, upload, [part, other]))[0] == "NoSuchUpload"
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)  # 204, and nothing goes
    assert read(s3, bucket) == b"later"


def test_lists_that_are_refused(s3: Any, bucket: str) -> None:
    """Order, unknown parts, small parts, sizes: each refusal leaves the upload as it was (s3.md 7)."""
    upload = create(s3, bucket)
    one = put_part(s3, bucket, upload, 1, b"too small to be the first")
    two = put_part(s3, bucket, upload, 2, b"two")

    def told(parts: list[Any], **more: Any) -> tuple[str, int]:
        return refused(lambda: complete(s3, bucket, upload, parts, **more))[:2]

    assert told([two, one]) == ("InvalidPartOrder", 400)
    assert told([one, one]) == ("InvalidPartOrder", 400)
    assert told([{"PartNumber": 3, "ETag": one["ETag"]}]) == ("InvalidPart", 400)
    assert told([{"PartNumber": 2, "ETag": one["ETag"]}]) == ("InvalidPart", 400)
    assert told([one, two]) == ("EntityTooSmall", 400)
    assert told([two], MpuObjectSize=4) == ("InvalidRequest", 400)
    assert told([two], ChecksumCRC64NVME="AAAAAAAAAAA=") == ("BadDigest", 400)
    assert told([]) in (("InvalidRequest", 400), ("MalformedXML", 400))
    complete(s3, bucket, upload, [two], MpuObjectSize=3)  # parts that are not listed go
    assert read(s3, bucket) == b"two"


def test_conditions_are_decided_at_the_end(s3: Any, bucket: str) -> None:
    """If-None-Match and If-Match on Complete; a key written since Create is a conflict (s3.md 4.3)."""
    first, second, third = (create(s3, bucket) for _ in range(3))
    parts = [put_part(s3, bucket, upload, 1, upload.encode()) for upload in (first, second, third)]

    complete(s3, bucket, first, [parts[0]], IfNoneMatch="*")
    taken = refused(lambda: complete(s3, bucket, second, [parts[1]], IfNoneMatch="*"))
    assert taken[:2] == ("PreconditionFailed", 412)
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    raced = refused(lambda: complete(s3, bucket, third, [parts[2]], IfMatch=etag))
    assert raced[:2] == ("ConditionalRequestConflict", 409)
    assert read(s3, bucket) == first.encode()

    fourth = create(s3, bucket)
    part = put_part(s3, bucket, fourth, 1, b"fourth")
    complete(s3, bucket, fourth, [part], IfMatch=etag)
    assert read(s3, bucket) == b"fourth"


def test_one_of_many_racing_completes_wins(s3: Any, bucket: str) -> None:
    """N conditional uploads, one object: exactly one is told that it is the one (P5)."""
    uploads = [create(s3, bucket, "race") for _ in range(8)]
    parts = [put_part(s3, bucket, upload, 1, upload.encode(), Key="race") for upload in uploads]

    def finish(at: int) -> int:
        try:
            complete(s3, bucket, uploads[at], [parts[at]], Key="race", IfNoneMatch="*")
        except ClientError as error:
            status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return status
        return 200

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(finish, range(8)))

    assert sorted(statuses)[0] == 200
    assert set(statuses) <= {200, 412, 409}
    assert statuses.count(200) == 1
    assert read(s3, bucket, "race") == uploads[statuses.index(200)].encode()


def test_same_upload_completed_and_aborted_at_once(s3: Any, bucket: str) -> None:
    """Whatever comes first in the log holds; no half of an object is ever seen (s3.md 7)."""
    for turn in range(4):
        key = f"turn-{turn}"
        upload = create(s3, bucket, key)
        part = put_part(s3, bucket, upload, 1, b"whole", Key=key)

        def finish(key: str = key, upload: str = upload, part: Any = part) -> str:
            try:
                complete(s3, bucket, upload, [part], Key=key)
            except ClientError as error:
                code: str = error.response["Error"]["Code"]
                return code
            return ""

        def abort(key: str = key, upload: str = upload) -> None:
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)

        with ThreadPoolExecutor(3) as pool:
            completed = [pool.submit(finish), pool.submit(finish)]
            pool.submit(abort).result()
        codes = [future.result() for future in completed]
        assert set(codes) <= {"", "NoSuchUpload"}
        if "" in codes:
            assert read(s3, bucket, key) == b"whole"
        else:
            assert refused(partial(s3.head_object, Bucket=bucket, Key=key))[1] == 404


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_composite_checksums(s3: Any, bucket: str, algorithm: str) -> None:
    """Of the checksums of the parts, with their number (s3.md 8)."""
    pieces = [data_of(PART, 1), b"last"]
    answer = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm)
    assert (answer["ChecksumAlgorithm"], answer["ChecksumType"]) == (algorithm, "COMPOSITE")
    upload = answer["UploadId"]
    name = f"Checksum{algorithm}"
    parts, digests = [], b""
    for number, piece in enumerate(pieces, 1):
        sent = s3.upload_part(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            PartNumber=number,
            Body=piece,
            ChecksumAlgorithm=algorithm,
        )
        digests += base64.b64decode(sent[name])
        parts.append({"PartNumber": number, "ETag": sent["ETag"], name: sent[name]})

    bare = [{key: part[key] for key in ("PartNumber", "ETag")} for part in parts]
    assert refused(lambda: complete(s3, bucket, upload, bare))[:2] == ("InvalidRequest", 400)
    done = complete(s3, bucket, upload, parts)

    assert (done["ChecksumType"], done[name].endswith("-2")) == ("COMPOSITE", True)
    if algorithm in ("SHA1", "SHA256"):
        expected = hashlib.new(algorithm.lower(), digests).digest()
        assert done[name] == f"{base64.b64encode(expected).decode()}-2"
    elif algorithm == "CRC32":
        expected = zlib.crc32(digests).to_bytes(4)
        assert done[name] == f"{base64.b64encode(expected).decode()}-2"
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[name], head["ChecksumType"]) == (done[name], "COMPOSITE")
    (listed,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert listed["ChecksumType"] == "COMPOSITE"
    assert read(s3, bucket) == b"".join(pieces)


def test_full_object_checksums_are_combined(s3: Any, bucket: str) -> None:
    """Of all bytes, without reading them again; a wrong claim is refused (s3.md 8)."""
    pieces = [data_of(PART, 4), data_of(PART, 5), b"end"]
    expected = base64.b64encode(zlib.crc32(b"".join(pieces)).to_bytes(4)).decode()
    upload = create(s3, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = [put_part(s3, bucket, upload, at + 1, piece) for at, piece in enumerate(pieces)]

    wrong = refused(lambda: complete(s3, bucket, upload, parts, ChecksumCRC32="AAAAAA=="))
    assert wrong[:2] == ("BadDigest", 400)
    mismatch = refused(lambda: complete(s3, bucket, upload, parts, ChecksumType="COMPOSITE"))
    assert mismatch[:2] == ("InvalidRequest", 400)
    done = complete(s3, bucket, upload, parts, ChecksumCRC32=expected, ChecksumType="FULL_OBJECT")

    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (expected, "FULL_OBJECT")
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == expected


def test_without_an_algorithm_the_object_has_a_crc64(s3: Any, bucket: str) -> None:
    """Parts may carry any checksum; the object gets the combined CRC64NVME, equal to that of one PUT (s3.md 8)."""
    pieces = [data_of(PART, 6), b"tail"]
    upload = create(s3, bucket)
    parts = [put_part(s3, bucket, upload, at + 1, piece) for at, piece in enumerate(pieces)]
    done = complete(s3, bucket, upload, parts)
    s3.put_object(Bucket=bucket, Key="one", Body=b"".join(pieces), ChecksumAlgorithm="CRC64NVME")
    one = s3.head_object(Bucket=bucket, Key="one", ChecksumMode="ENABLED")

    assert done["ChecksumCRC64NVME"] == one["ChecksumCRC64NVME"]
    assert done["ChecksumType"] == "FULL_OBJECT"


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("SHA256", "FULL_OBJECT"), ("SHA1", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")],
)
def test_pairs_that_cannot_be(s3: Any, bucket: str, algorithm: str, kind: str) -> None:
    """s3.md 8: not every algorithm has both types."""
    answer = refused(lambda: create(s3, bucket, ChecksumAlgorithm=algorithm, ChecksumType=kind))
    assert answer[:2] == ("InvalidRequest", 400)


def test_parts_of_another_algorithm_are_refused(s3: Any, bucket: str) -> None:
    """The upload's algorithm holds for its parts."""
    upload = create(s3, bucket, ChecksumAlgorithm="SHA256")
    answer = refused(lambda: put_part(s3, bucket, upload, 1, b"x", ChecksumAlgorithm="CRC32"))
    assert answer[:2] == ("InvalidRequest", 400)


def test_copies_of_parts_and_of_objects_in_parts(s3: Any, bucket: str) -> None:
    """UploadPartCopy with and without ranges; a copy of the result is one object with a plain MD5 (s3.md 1.1.6, 7)."""
    source = data_of(PART + 100, 8)
    s3.put_object(Bucket=bucket, Key="source", Body=source)
    named = {"Bucket": bucket, "Key": "source"}
    upload = create(s3, bucket)

    def copied(number: int, **more: Any) -> Any:
        answer = s3.upload_part_copy(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            PartNumber=number,
            CopySource=named,
            **more,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    parts = [copied(1), copied(2, CopySourceRange="bytes=10-19")]
    for bad in ("bytes=0-", "bytes=5-4", f"bytes=0-{len(source)}"):
        assert refused(partial(copied, 3, CopySourceRange=bad))[0] == "InvalidArgument"
    assert refused(lambda: copied(3, CopySourceIfMatch='"no"'))[:2] == ("PreconditionFailed", 412)
    complete(s3, bucket, upload, parts)
    whole = source + source[10:20]
    assert read(s3, bucket) == whole

    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    s3.delete_object(Bucket=bucket, Key="k")

    assert read(s3, bucket, "copy") == whole
    md5 = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    assert s3.head_object(Bucket=bucket, Key="copy")["ETag"] == f'"{md5}"'


def test_lists_come_in_pages(s3: Any, bucket: str) -> None:
    """Uploads by key and then by creation, prefixes rolled up; parts by number (s3.md 6.6, 6.7)."""
    keys = ["a/1", "a/2", "b", "b", "b", "c/" + "k" * 900, "d"]
    made = [(key, create(s3, bucket, key)) for key in keys]

    found: list[tuple[str, str]] = []
    marker: dict[str, str] = {}
    for _ in range(20):
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **marker)
        found += [(one["Key"], one["UploadId"]) for one in page["Uploads"]]
        if not page["IsTruncated"]:
            break
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }
    assert found == made
    rolled = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in rolled["CommonPrefixes"]] == ["a/", "c/"]
    assert [one["Key"] for one in rolled["Uploads"]] == ["b", "b", "b", "d"]

    upload = made[2][1]
    for number in (1, 2, 5, 9):
        put_part(s3, bucket, upload, number, bytes(number), Key="b")
    page = s3.list_parts(Bucket=bucket, Key="b", UploadId=upload, MaxParts=2)
    assert [part["PartNumber"] for part in page["Parts"]] == [1, 2]
    assert (page["IsTruncated"], page["NextPartNumberMarker"]) == (True, 2)
    page = s3.list_parts(Bucket=bucket, Key="b", UploadId=upload, PartNumberMarker=2)
    assert [(part["PartNumber"], part["Size"]) for part in page["Parts"]] == [(5, 5), (9, 9)]
    assert page["IsTruncated"] is False


def test_a_bucket_with_uploads_can_be_deleted(s3: Any, bucket: str) -> None:
    """They are aborted with it, and a new bucket of the name has none (s3.md 1.1.4)."""
    upload = create(s3, bucket)
    put_part(s3, bucket, upload, 1, data_of(100_000))
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)

    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert refused(lambda: put_part(s3, bucket, upload, 1, b"x"))[0] == "NoSuchUpload"


@pytest.mark.parametrize("number", [0, 10001])
def test_part_numbers_have_bounds(s3: Any, bucket: str, number: int) -> None:
    """1 to 10,000 (UG: qfacts)."""
    upload = create(s3, bucket)
    answer = refused(lambda: put_part(s3, bucket, upload, number, b"x"))
    assert answer[:2] == ("InvalidArgument", 400)


def test_tiny_and_empty_last_parts(s3: Any, bucket: str) -> None:
    """pyarrow ends its uploads so; a single empty part makes an empty object."""
    upload = create(s3, bucket)
    parts = [put_part(s3, bucket, upload, 1, data_of(PART)), put_part(s3, bucket, upload, 2, b"")]
    complete(s3, bucket, upload, parts)
    assert read(s3, bucket) == data_of(PART)

    upload = create(s3, bucket, "empty")
    part = put_part(s3, bucket, upload, 1, b"", Key="empty")
    complete(s3, bucket, upload, [part], Key="empty")
    assert read(s3, bucket, "empty") == b""
