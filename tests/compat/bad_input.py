"""The table of bad input (docs: S3 compatibility, "Bad input, exact answer"): every row by its text, with the
requests that make it and the exact answer. ``LATER`` rows belong to operations that are not offered yet.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.compat.raw import Mode, RawClient, RawResponse, crc32_base64

Send = Callable[["Context"], RawResponse]
LATER = "later"
CONTENT = b"0123456789"
KEY = "there"


@dataclass
class Context:
    """What a case works on: a connection, a bucket that holds ``KEY`` with ``CONTENT``."""

    client: RawClient
    bucket: str

    def url(self, key: str = "new") -> str:
        return f"/{self.bucket}/{key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request and its exact answer. ``element``: a code inside a 200 document.

    ``half_closes``: the client ends its stream and still reads, which TLS cannot do: no answer is due there.
    """

    name: str
    send: Send
    status: int
    code: str = ""
    closes: bool = False
    element: str = ""
    half_closes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table, by the text of its first column."""

    text: str
    cases: tuple[Case, ...] = ()
    later: str = ""  # of the row, what belongs to operations that are not offered yet


def md5_base64(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


# --- ways to send ---------------------------------------------------------------------------------
def raw(lines: str, body: bytes = b"") -> Send:
    """Bytes as they are; nothing here is signed, so it must be refused before authentication."""

    def send(context: Context) -> RawResponse:
        context.client.send(lines.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        return context.client.receive()

    return send


def ask(
    method: str,
    key: str = "new",
    *,
    on_bucket: bool = False,
    query: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    mode: Mode = Mode.SIGNED,
    trailer: tuple[str, str] | None = None,
    transfer_chunked: bool = False,
    content_length: bool = True,
) -> Send:
    """A signed request on the bucket or on a key of it."""

    def send(context: Context) -> RawResponse:
        path = f"/{context.bucket}" if on_bucket else context.url(key)
        filled = {
            name: value.replace("{b}", context.bucket) for name, value in (headers or {}).items()
        }
        return context.client.request(
            method,
            path,
            query=query,
            headers=filled,
            body=body,
            mode=mode,
            trailer=trailer,
            transfer_chunked=transfer_chunked,
            content_length=content_length,
        )

    return send


_ANY = "<AllowedOrigin>*</AllowedOrigin>"
_GET = "<AllowedMethod>GET</AllowedMethod>"


def in_upload(
    method: str,
    *,
    key: str = "new",
    query: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    mode: Mode = Mode.SIGNED,
) -> Send:
    """A request about an upload that was begun into the key ``new``."""

    def send(context: Context) -> RawResponse:
        begun = context.client.request("POST", context.url(), query=(("uploads", ""),))
        upload = begun.xml().findtext("UploadId") or ""
        asked = ask(
            method, key, query=(*query, ("uploadId", upload)), headers=headers, body=body, mode=mode
        )
        return asked(context)

    return send


def complete_document(number: str, etag: str) -> bytes:
    part = f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
    return f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()


def tagging_document(tags: Sequence[tuple[str, str]]) -> bytes:
    rows = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<Tagging><TagSet>{rows}</TagSet></Tagging>".encode()


def _enable_versioning(context: Context) -> None:
    document = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    answer = context.client.request(
        "PUT", f"/{context.bucket}", query=(("versioning", ""),), body=document
    )
    assert answer.status == 200, answer


def gone_version(method: str) -> Send:
    """A request for a version that was there, and was deleted for good."""

    def send(context: Context) -> RawResponse:
        _enable_versioning(context)
        url = context.url("versions")
        made = context.client.request("PUT", url, body=b"x")
        version = (("versionId", made.header("x-amz-version-id") or ""),)
        context.client.request("PUT", url, body=b"y")
        context.client.request("DELETE", url, query=version)
        return context.client.request(method, url, query=version)

    return send


def copy_of_a_marker(*, by_version: bool) -> Send:
    """A copy whose source is a delete marker."""

    def send(context: Context) -> RawResponse:
        _enable_versioning(context)
        marker = context.client.request("DELETE", context.url("marked"))
        source = f"/{context.bucket}/marked"
        if by_version:
            source += f"?versionId={marker.header('x-amz-version-id')}"
        return context.client.request("PUT", context.url(), headers={"x-amz-copy-source": source})

    return send


def path(method: str, text: str) -> Send:
    """A signed request for an absolute path."""
    return lambda context: context.client.request(method, text.replace("{b}", context.bucket))


def put(headers: Mapping[str, str] | None = None, body: bytes = CONTENT) -> Send:
    return ask("PUT", headers=headers, body=body)


def stream(
    change: Callable[[bytes], bytes],
    *,
    data: bytes = CONTENT,
    mode: Mode = Mode.UNSIGNED_TRAILER,
    trailer: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    chunk_bytes: int = 64 * 1024,
) -> Send:
    """A PUT with an aws-chunked body that is changed on its way."""

    def send(context: Context) -> RawResponse:
        head, sent = context.client.build(
            "PUT",
            context.url(),
            body=data,
            mode=mode,
            trailer=trailer,
            headers=headers,
            content_length=False,
            chunk_bytes=chunk_bytes,
        )
        changed = change(sent)
        length = f"\r\ncontent-length: {len(changed)}\r\n\r\n".encode()
        context.client.send(head.removesuffix(b"\r\n\r\n") + length + changed)
        return context.client.receive()

    return send


def cut_off(announced: int, body: bytes) -> Send:
    """A PUT whose sender stops half-way and then waits for the answer."""

    def send(context: Context) -> RawResponse:
        head, _ = context.client.build(
            "PUT",
            context.url(),
            headers={"content-length": str(announced)},
            mode=Mode.UNSIGNED,
        )
        context.client.send(head + body)
        context.client.end_sending()
        return context.client.receive()

    return send


def delete_many(
    document: bytes, headers: Mapping[str, str] | None = None, mode: Mode = Mode.SIGNED
) -> Send:
    if headers is None:
        headers = {"content-md5": md5_base64(document)}
    return ask(
        "POST", on_bucket=True, query=[("delete", "")], headers=headers, body=document, mode=mode
    )


def same(data: bytes) -> bytes:
    return data


BIG = b"x" * 20_000
TOO_LONG_KEY = "k" * 1025
CRC_TRAILER = ("x-amz-checksum-crc32", crc32_base64(CONTENT))
ONE_KEY = b"<Delete><Object><Key>none</Key></Object></Delete>"
MANY_KEYS = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>"

ROWS: tuple[Row, ...] = (
    Row(
        text="not HTTP/1.x, broken request line or header line; Content-Length and Transfer-Encoding together;"
        " two different Content-Length; negative, empty or non-digit Content-Length",
        cases=(
            Case(name="version", send=raw("GET / HTTP/2.0\nHost: h"), status=400, closes=True),
            Case(name="request line", send=raw("GET /"), status=400, closes=True),
            Case(
                name="header line",
                send=raw("GET / HTTP/1.1\nHost: h\nno colon"),
                status=400,
                closes=True,
            ),
            Case(
                name="both lengths",
                send=raw(
                    "PUT /b/k HTTP/1.1\nHost: h\nContent-Length: 1\nTransfer-Encoding: chunked",
                    b"0\r\n\r\n",
                ),
                status=400,
                closes=True,
            ),
            Case(
                name="two lengths",
                send=raw("PUT /b/k HTTP/1.1\nHost: h\nContent-Length: 1\nContent-Length: 2", b"ab"),
                status=400,
                closes=True,
            ),
            Case(
                name="negative",
                send=raw("PUT /b/k HTTP/1.1\nHost: h\nContent-Length: -1"),
                status=400,
                closes=True,
            ),
            Case(
                name="empty",
                send=raw("PUT /b/k HTTP/1.1\nHost: h\nContent-Length:"),
                status=400,
                closes=True,
            ),
            Case(
                name="not digits",
                send=raw("PUT /b/k HTTP/1.1\nHost: h\nContent-Length: 0x1"),
                status=400,
                closes=True,
            ),
        ),
    ),
    Row(
        text="headers over 8 KiB; path with bad percent-encoding or bytes not UTF-8; key over 1,024 bytes",
        cases=(
            Case(
                name="headers",
                send=ask("GET", KEY, headers={"x-filler": "f" * 8200}),
                status=400,
                code="RequestHeaderSectionTooLarge",
            ),
            Case(name="percent", send=path("GET", "/{b}/a%zz"), status=400, code="InvalidURI"),
            Case(name="percent cut", send=path("GET", "/{b}/a%4"), status=400, code="InvalidURI"),
            Case(name="not UTF-8", send=path("GET", "/{b}/a%ff"), status=400, code="InvalidURI"),
            Case(
                name="surrogate", send=path("GET", "/{b}/%ed%a0%80"), status=400, code="InvalidURI"
            ),
            Case(
                name="long key GET",
                send=ask("GET", TOO_LONG_KEY),
                status=400,
                code="KeyTooLongError",
            ),
            Case(
                name="long key PUT",
                send=ask("PUT", TOO_LONG_KEY, body=CONTENT),
                status=400,
                code="KeyTooLongError",
            ),
        ),
    ),
    Row(
        text="empty bucket segment (`//k`); bucket name that cannot exist",
        cases=(
            Case(
                name="empty segment", send=path("GET", "//k"), status=400, code="InvalidBucketName"
            ),
            Case(name="create", send=path("PUT", "/No_Such"), status=400, code="InvalidBucketName"),
            Case(
                name="create IPv4",
                send=path("PUT", "/10.0.0.1"),
                status=400,
                code="InvalidBucketName",
            ),
            Case(name="others", send=path("GET", "/No_Such/k"), status=404, code="NoSuchBucket"),
        ),
    ),
    Row(
        text="unknown query parameter or header; bucket selector on a key path (`/b/k?location`)",
        cases=(
            Case(
                name="unknown",
                send=ask("GET", KEY, query=[("x-id", "GetObject")], headers={"x-unknown": "1"}),
                status=200,
            ),
            Case(
                name="location on a key", send=ask("GET", KEY, query=[("location", "")]), status=200
            ),
        ),
    ),
    Row(
        text="two selectors; a selector of 1.4 with PUT; HEAD with a selector; PATCH; POST on an object without"
        " a known selector; POST on a bucket, not a form",
        cases=(
            Case(
                name="two selectors",
                send=ask("GET", on_bucket=True, query=[("acl", ""), ("policy", "")]),
                status=400,
                code="InvalidArgument",
            ),
            Case(
                name="PUT of a selector",
                send=ask("PUT", on_bucket=True, query=[("website", "")], body=b"<x/>"),
                status=501,
                code="NotImplemented",
            ),
            Case(
                name="HEAD of a selector",
                send=ask("HEAD", on_bucket=True, query=[("acl", "")]),
                status=405,
            ),
            Case(name="PATCH", send=ask("PATCH", KEY), status=405, code="MethodNotAllowed"),
            Case(name="POST object", send=ask("POST", KEY), status=405, code="MethodNotAllowed"),
            Case(
                name="POST bucket",
                send=ask("POST", on_bucket=True),
                status=412,
                code="PreconditionFailed",
            ),
        ),
    ),
    Row(
        text="PUT without length; aws-chunked without or with a bad decoded length; plain chunked",
        cases=(
            Case(
                name="no length",
                send=ask("PUT", content_length=False),
                status=411,
                code="MissingContentLength",
            ),
            Case(
                name="no decoded length",
                send=ask(
                    "PUT",
                    body=CONTENT,
                    headers={"x-amz-content-sha256": Mode.UNSIGNED_TRAILER.value},
                    mode=Mode.UNSIGNED,
                ),
                status=403,  # the client signed another payload mode: authentication comes first
                code="SignatureDoesNotMatch",
            ),
            Case(
                name="bad decoded length",
                send=stream(same, headers={"x-amz-decoded-content-length": "ten"}),
                status=411,
                code="MissingContentLength",
            ),
            Case(
                name="empty decoded length",
                send=stream(same, headers={"x-amz-decoded-content-length": ""}),
                status=411,
                code="MissingContentLength",
            ),
            Case(
                name="plain chunked",
                send=ask("PUT", body=CONTENT, transfer_chunked=True),
                status=501,
                code="NotImplemented",
            ),
        ),
    ),
    Row(
        text="object, part or plain copy over 5 GiB",
        cases=(
            Case(
                name="object",
                send=ask(
                    "PUT", headers={"content-length": str(5 * 1024**3 + 1)}, mode=Mode.UNSIGNED
                ),
                status=400,
                code="EntityTooLarge",
                closes=True,
            ),
            Case(
                name="part",
                send=in_upload(
                    "PUT",
                    query=(("partNumber", "1"),),
                    headers={"content-length": str(5 * 1024**3 + 1)},
                    mode=Mode.UNSIGNED,
                ),
                status=400,
                code="EntityTooLarge",
                closes=True,
            ),
        ),
        later="a copy of a larger source needs more than 5 GiB in the test: tests/unit/test_catalog_rules.py has it",
    ),
    Row(
        text="body shorter than its length, or cut; aws-chunked framing broken; decoded length not met or exceeded",
        cases=(
            Case(
                name="cut",
                send=cut_off(100, b"short"),
                status=400,
                code="IncompleteBody",
                closes=True,
                half_closes=True,
            ),
            Case(
                name="framing",
                send=stream(lambda sent: sent.replace(b"\r\n0123", b"\r\n012")),
                status=400,
                code="IncompleteBody",
            ),
            Case(
                name="no last chunk",
                send=stream(lambda sent: sent.removesuffix(b"0\r\n\r\n")),
                status=400,
                code="IncompleteBody",
            ),
            Case(
                name="not met",
                send=stream(same, headers={"x-amz-decoded-content-length": "11"}),
                status=400,
                code="IncompleteBody",
            ),
            Case(
                name="exceeded",
                send=stream(same, headers={"x-amz-decoded-content-length": "9"}),
                status=400,
                code="IncompleteBody",
            ),
        ),
    ),
    Row(
        text="a chunk under 8 KiB that is not the last; chunk-size line too long or not hex",
        cases=(
            Case(
                name="small chunk",
                send=stream(same, data=BIG, chunk_bytes=8191),
                status=403,
                code="InvalidChunkSizeError",
            ),
            Case(
                name="small signed chunk",
                send=stream(same, data=BIG, chunk_bytes=8191, mode=Mode.CHUNKED),
                status=403,
                code="InvalidChunkSizeError",
            ),
            Case(
                name="long line",
                send=stream(lambda sent: b"0" * 200 + sent),
                status=400,
                code="IncompleteBody",
            ),
            Case(
                name="not hex",
                send=stream(lambda sent: b"xyz" + sent),
                status=400,
                code="IncompleteBody",
            ),
        ),
    ),
    Row(
        text="trailer malformed, missing though announced, present though not announced, or another name;"
        " `x-amz-trailer` missing with the signed trailer token",
        cases=(
            Case(
                name="malformed",
                send=stream(lambda sent: sent.replace(b"crc32:", b"crc32 "), trailer=CRC_TRAILER),
                status=400,
                code="MalformedTrailerError",
            ),
            Case(
                name="missing",
                send=stream(
                    lambda sent: sent[: sent.index(b"x-amz-checksum")] + b"\r\n",
                    trailer=CRC_TRAILER,
                ),
                status=400,
                code="MalformedTrailerError",
            ),
            Case(
                name="not announced",
                send=stream(
                    lambda sent: (
                        sent.removesuffix(b"\r\n") + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"
                    )
                ),
                status=400,
                code="MalformedTrailerError",
            ),
            Case(
                name="another name",
                send=stream(
                    lambda sent: sent.replace(b"checksum-crc32:", b"checksum-crc32c:"),
                    trailer=CRC_TRAILER,
                ),
                status=400,
                code="MalformedTrailerError",
            ),
            Case(
                name="signed token alone",
                send=stream(same, mode=Mode.CHUNKED_TRAILER),
                status=400,
                code="MalformedTrailerError",
            ),
        ),
    ),
    Row(
        text="unsigned trailer token, no `x-amz-trailer`, no trailer",
        cases=(Case(name="accepted", send=stream(same), status=200),),
    ),
    Row(
        text="`x-amz-trailer` with an unknown name; streaming token on a configuration PUT, Complete or DeleteObjects",
        cases=(
            Case(
                name="unknown trailer",
                send=stream(same, trailer=("x-amz-checksum-crc16", "AAA=")),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="streaming DeleteObjects",
                send=delete_many(ONE_KEY, headers={}, mode=Mode.UNSIGNED_TRAILER),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="streaming Complete",
                send=in_upload("POST", body=b"x" * 9000, mode=Mode.UNSIGNED_TRAILER),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="streaming configuration",
                send=ask(
                    "PUT",
                    on_bucket=True,
                    query=(("versioning", ""),),
                    body=b"x" * 9000,
                    mode=Mode.UNSIGNED_TRAILER,
                ),
                status=400,
                code="InvalidRequest",
            ),
        ),
    ),
    Row(
        text="body and signed SHA-256 differ; Content-MD5 not base64 of 16 bytes, or empty; right form, wrong value",
        cases=(
            Case(
                name="SHA-256",
                send=lambda context: _send_other_body(context),
                status=400,
                code="XAmzContentSHA256Mismatch",
            ),
            Case(
                name="MD5 form", send=put({"content-md5": "AAAA"}), status=400, code="InvalidDigest"
            ),
            Case(name="MD5 empty", send=put({"content-md5": ""}), status=400, code="InvalidDigest"),
            Case(
                name="MD5 value",
                send=put({"content-md5": md5_base64(b"other")}),
                status=400,
                code="BadDigest",
            ),
        ),
    ),
    Row(
        text="`x-amz-checksum-*` not base64 or wrong length / wrong value",
        cases=(
            Case(
                name="not base64",
                send=put({"x-amz-checksum-crc32": "!!!!"}),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="length",
                send=put({"x-amz-checksum-crc32": "AAAA"}),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="value",
                send=put({"x-amz-checksum-crc32": crc32_base64(b"other")}),
                status=400,
                code="BadDigest",
            ),
            Case(
                name="value in a trailer",
                send=stream(same, trailer=("x-amz-checksum-crc32", crc32_base64(b"other"))),
                status=400,
                code="BadDigest",
            ),
        ),
    ),
    Row(
        text="two checksum headers (even empty), or one and a trailer; unknown checksum algorithm;"
        " DeleteObjects without MD5 and checksum",
        cases=(
            Case(
                name="two",
                send=put(
                    {"x-amz-checksum-crc32": crc32_base64(CONTENT), "x-amz-checksum-sha1": ""}
                ),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="header and trailer",
                send=stream(
                    same,
                    trailer=CRC_TRAILER,
                    headers={"x-amz-checksum-crc32": crc32_base64(CONTENT)},
                ),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="unknown algorithm",
                send=put({"x-amz-checksum-md4": "AAAA"}),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="DeleteObjects",
                send=delete_many(ONE_KEY, headers={}),
                status=400,
                code="InvalidRequest",
            ),
        ),
    ),
    Row(
        text="DeleteObjects with 0 or over 1,000 objects, or an empty Key; XML with a DOCTYPE, unclosed, or another root",
        cases=tuple(
            Case(name=name, send=delete_many(document), status=400, code="MalformedXML")
            for name, document in (
                ("none", b"<Delete></Delete>"),
                ("over 1,000", MANY_KEYS),
                ("empty key", b"<Delete><Object><Key></Key></Object></Delete>"),
                ("DOCTYPE", b'<!DOCTYPE x [<!ENTITY e "k">]>' + ONE_KEY),
                ("unclosed", ONE_KEY[:-3]),
                ("root", b"<Remove><Object><Key>k</Key></Object></Remove>"),
            )
        ),
    ),
    Row(
        text="XML larger than its cap; user metadata over 2 KiB",
        cases=(
            Case(
                name="XML",
                send=ask(
                    "PUT", on_bucket=True, headers={"content-length": "1048577"}, mode=Mode.UNSIGNED
                ),
                status=400,
                code="MaxMessageLengthExceeded",
                closes=True,
            ),
            Case(
                name="metadata",
                send=put({"x-amz-meta-a": "m" * 2048}),
                status=400,
                code="MetadataTooLarge",
            ),
        ),
    ),
    Row(
        text="metadata or header value with CR, LF or NUL",
        cases=tuple(
            Case(
                name=name,
                send=raw(f"PUT /b/k HTTP/1.1\nHost: h\nx-amz-meta-a: a{character}b"),
                status=400,
                closes=True,
            )
            for name, character in (("CR", "\r"), ("NUL", "\0"))
        ),
    ),
    Row(
        text='`If-Match: *` or `If-None-Match: "x"` on a write; both; date conditions on a write',
        cases=tuple(
            Case(name=name, send=put(headers), status=501, code="NotImplemented")
            for name, headers in (
                ("If-Match any", {"if-match": "*"}),
                ("If-None-Match a tag", {"if-none-match": '"x"'}),
                ("both", {"if-match": '"x"', "if-none-match": "*"}),
                ("date", {"if-unmodified-since": "Wed, 21 Oct 2015 07:28:00 GMT"}),
            )
        ),
    ),
    Row(
        text="unreadable date in a read condition; `Range` of another form; unsatisfiable; with partNumber",
        cases=(
            Case(
                name="date", send=ask("GET", KEY, headers={"if-modified-since": "soon"}), status=200
            ),
            Case(
                name="range form", send=ask("GET", KEY, headers={"range": "bytes=3-1"}), status=200
            ),
            Case(
                name="range unit", send=ask("GET", KEY, headers={"range": "lines=1-2"}), status=200
            ),
            Case(
                name="two ranges",
                send=ask("GET", KEY, headers={"range": "bytes=0-1,3-4"}),
                status=200,
            ),
            Case(
                name="unsatisfiable",
                send=ask("GET", KEY, headers={"range": "bytes=10-"}),
                status=416,
                code="InvalidRange",
            ),
            Case(
                name="with partNumber",
                send=ask("GET", KEY, query=[("partNumber", "1")], headers={"range": "bytes=0-1"}),
                status=400,
                code="InvalidRequest",
            ),
        ),
    ),
    Row(
        text="`partNumber` 0, 10001, `x`",
        cases=tuple(
            Case(
                name=text,
                send=ask("GET", KEY, query=[("partNumber", text)]),
                status=400,
                code="InvalidArgument",
            )
            for text in ("0", "10001", "x")
        ),
    ),
    Row(
        text="`versionId` empty (unsure); not `null` on an unversioned bucket; not ours; ours, gone",
        cases=(
            Case(
                name="empty",
                send=ask("GET", KEY, query=[("versionId", "")]),
                status=400,
                code="InvalidArgument",
            ),
            Case(
                name="not null",
                send=ask("GET", KEY, query=[("versionId", "v1")]),
                status=400,
                code="InvalidArgument",
            ),
            Case(
                name="DELETE not ours",
                send=ask("DELETE", KEY, query=[("versionId", "v1")]),
                status=400,
                code="InvalidArgument",
            ),
            Case(
                name="DeleteObjects",
                send=delete_many(
                    b"<Delete><Object><Key>k</Key><VersionId>v1</VersionId></Object></Delete>"
                ),
                status=200,
                element="NoSuchVersion",
            ),
            Case(name="gone, read", send=gone_version("GET"), status=404, code="NoSuchVersion"),
            Case(name="gone, deleted", send=gone_version("DELETE"), status=204),
        ),
    ),
    Row(
        text="copy source without `/`, without key, undecodable, bad version",
        cases=tuple(
            Case(
                name=name,
                send=ask("PUT", headers={"x-amz-copy-source": source}),
                status=400,
                code="InvalidArgument",
            )
            for name, source in (
                ("no slash", "nothing"),
                ("no key", "/{b}/"),
                ("undecodable", "/{b}/%zz"),
                ("version", "/{b}/there?versionId=v1"),
            )
        ),
    ),
    Row(
        text="copy source by version that is a delete marker / current marker",
        cases=(
            Case(
                name="by version",
                send=copy_of_a_marker(by_version=True),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="current",
                send=copy_of_a_marker(by_version=False),
                status=404,
                code="NoSuchKey",
            ),
        ),
    ),
    Row(
        text="copy onto itself, nothing changed; copy with a body (unsure) / unknown directive;"
        " copy range malformed or beyond the source",
        cases=(
            Case(
                name="onto itself",
                send=ask("PUT", KEY, headers={"x-amz-copy-source": "/{b}/there"}),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="with a body",
                send=ask("PUT", headers={"x-amz-copy-source": "/{b}/there"}, body=b"body"),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="directive",
                send=ask(
                    "PUT",
                    headers={"x-amz-copy-source": "/{b}/there", "x-amz-metadata-directive": "MOVE"},
                ),
                status=400,
                code="InvalidArgument",
            ),
            *(
                Case(
                    name=f"range {value}",
                    send=in_upload(
                        "PUT",
                        query=(("partNumber", "1"),),
                        headers={
                            "x-amz-copy-source": "/{b}/there",
                            "x-amz-copy-source-range": value,
                        },
                    ),
                    status=400,
                    code="InvalidArgument",
                )
                for value in ("bytes=1-", "0-1", "bytes=2-1", "bytes=0-999999")
            ),
        ),
    ),
    Row(
        text="max-keys / max-uploads / max-parts not int32, negative; encoding-type other than url; bad token",
        cases=tuple(
            Case(
                name=f"{name}={value}",
                send=ask("GET", on_bucket=True, query=[("list-type", "2"), (name, value)]),
                status=400,
                code="InvalidArgument",
            )
            for name, value in (
                ("max-keys", "2147483648"),
                ("max-keys", "-1"),
                ("max-keys", "ten"),
                ("encoding-type", "base64"),
                ("continuation-token", "abc"),
                ("continuation-token", ""),
            )
        )
        + tuple(
            Case(
                name=f"max-parts={value}",
                send=in_upload("GET", query=(("max-parts", value),)),
                status=400,
                code="InvalidArgument",
            )
            for value in ("2147483648", "-1", "ten")
        ),
    ),
    Row(
        text="Complete; upload id of another key, or made up",
        cases=(
            Case(name="no body", send=in_upload("POST"), status=400, code="MalformedXML"),
            Case(
                name="no part",
                send=in_upload("POST", body=b"<CompleteMultipartUpload/>"),
                status=400,
                code="InvalidRequest",
            ),
            Case(
                name="another root",
                send=in_upload("POST", body=b"<Complete/>"),
                status=400,
                code="MalformedXML",
            ),
            Case(
                name="part that is not there",
                send=in_upload("POST", body=complete_document("1", "0" * 32)),
                status=400,
                code="InvalidPart",
            ),
            Case(
                name="number that is none",
                send=in_upload("POST", body=complete_document("one", "0" * 32)),
                status=400,
                code="MalformedXML",
            ),
            Case(
                name="another key",
                send=in_upload("PUT", key="other", query=(("partNumber", "1"),), body=b"x"),
                status=404,
                code="NoSuchUpload",
            ),
            Case(
                name="made up",
                send=ask("GET", query=(("uploadId", "made-up"),)),
                status=404,
                code="NoSuchUpload",
            ),
        ),
    ),
    Row(
        text="`x-amz-object-attributes` missing or empty / unknown name",
        cases=tuple(
            Case(
                name=name,
                send=ask("GET", KEY, query=(("attributes", ""),), headers=headers),
                status=400,
                code=code,
            )
            for name, headers, code in (
                ("missing", {}, "InvalidRequest"),
                ("empty", {"x-amz-object-attributes": ""}, "InvalidRequest"),
                ("unknown", {"x-amz-object-attributes": "Color"}, "InvalidArgument"),
            )
        ),
    ),
    Row(
        text="over 10 tags; key empty, over 128, `aws:`; bad character; duplicate; `x-amz-tagging` not parseable",
        cases=(
            *tuple(
                Case(
                    name=name,
                    send=ask("PUT", KEY, query=(("tagging", ""),), body=tagging_document(tags)),
                    status=400,
                    code=code,
                )
                for name, tags, code in (
                    ("eleven", [(f"k{n}", "v") for n in range(11)], "BadRequest"),
                    ("empty key", [("", "v")], "InvalidTag"),
                    ("long key", [("k" * 129, "v")], "InvalidTag"),
                    ("reserved", [("aws:k", "v")], "InvalidTag"),
                    ("character", [("k", "a{b")], "InvalidTag"),
                    ("duplicate", [("k", "1"), ("k", "2")], "InvalidTag"),
                )
            ),
            Case(
                name="header",
                send=put({"x-amz-tagging": "%zz"}),
                status=400,
                code="InvalidArgument",
            ),
        ),
    ),
    Row(
        text="unknown canned ACL; unknown storage class; any SSE header",
        cases=(
            Case(name="ACL", send=put({"x-amz-acl": "secret"}), status=400, code="InvalidArgument"),
            Case(
                name="storage class",
                send=put({"x-amz-storage-class": "GLACIER"}),
                status=400,
                code="InvalidStorageClass",
            ),
            Case(
                name="SSE",
                send=put({"x-amz-server-side-encryption": "AES256"}),
                status=501,
                code="NotImplemented",
            ),
        ),
    ),
    Row(
        text="unknown `Status` in versioning, lifecycle, lock; both or no Status where one is due",
        cases=tuple(
            Case(
                name=f"versioning: {name}",
                send=ask(
                    "PUT",
                    on_bucket=True,
                    query=(("versioning", ""),),
                    body=f"<VersioningConfiguration>{status}</VersioningConfiguration>".encode(),
                ),
                status=400,
                code="MalformedXML",
            )
            for name, status in (("unknown", "<Status>On</Status>"), ("none", ""))
        ),
        later="lifecycle, object lock",
    ),
    Row(
        text="lifecycle: same id twice, id over 255, Days < 1, Date not at midnight UTC",
        later="lifecycle",
    ),
    Row(
        text="CORS: unsupported method, two `*` in an origin / no origin or no method element",
        cases=tuple(
            Case(
                name=name,
                send=ask(
                    "PUT",
                    on_bucket=True,
                    query=(("cors", ""),),
                    body=f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>".encode(),
                ),
                status=400,
                code=code,
            )
            for name, rule, code in (
                ("method", f"{_ANY}<AllowedMethod>PATCH</AllowedMethod>", "InvalidRequest"),
                ("two *", f"<AllowedOrigin>*.*</AllowedOrigin>{_GET}", "InvalidRequest"),
                ("no origin", _GET, "MalformedXML"),
                ("no method", _ANY, "MalformedXML"),
            )
        ),
    ),
    Row(
        text="policy: not JSON, no `{` first, bad version, effect, action, resource, principal, condition; over 20 KiB",
        later="policies",
    ),
    Row(
        text="lock header: unknown mode, hold not ON or OFF, date past, mode without date;"
        " bypass header without lock / bucket has no lock",
        later="object lock",
    ),
    Row(
        text="OPTIONS without Origin / no matching rule; `x-amz-expected-bucket-owner` of another account",
        cases=(
            Case(
                name="no Origin",
                send=raw("OPTIONS /b/k HTTP/1.1\nHost: h"),
                status=400,
                code="BadRequest",
            ),
            Case(
                name="no rule",
                send=raw(
                    "OPTIONS /b/k HTTP/1.1\nHost: h\nOrigin: http://a\nAccess-Control-Request-Method: GET"
                ),
                status=403,
                code="AccessForbidden",
            ),
            Case(
                name="owner",
                send=ask("GET", KEY, headers={"x-amz-expected-bucket-owner": "1" * 64}),
                status=403,
                code="AccessDenied",
            ),
        ),
    ),
)


def _send_other_body(context: Context) -> RawResponse:
    head, sent = context.client.build("PUT", context.url(), body=CONTENT)
    context.client.send(head + sent[::-1])
    return context.client.receive()


# Rows that need to reach into the cluster; tested in test_bad_days.py.
ELSEWHERE = (
    "bucket deleted while the body arrives; leader lost, no majority, disk full",
    # tests/compat/test_post_form.py
    "POST form: no `key`; policy without its signature fields, or the reverse; no or two files (seen)"
    " / fields over 20 KiB / form unreadable",
    "POST policy: not base64 or JSON, no expiration, no conditions / expired, a condition fails,"
    " an unlisted field / file too small, too large",
)
