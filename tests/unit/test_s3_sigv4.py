"""SigV4: proof of who sent a request, judged against botocore's signer."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from sos.s3.errors import S3Error
from sos.s3.head import RequestHead
from sos.s3.sigv4 import (
    Anonymous,
    Claim,
    PayloadMode,
    SigningKeys,
    Verified,
    parse_authorization,
    parse_payload,
    verify,
)
from tests.unit.s3_support import (
    ACCESS_KEY,
    EMPTY_SHA256,
    HOST,
    REGION,
    SECRET_KEY,
    make_head,
    now_ms,
    refusal,
    sent_head,
    sign,
)

URL = f"http://{HOST}"


def claim_of(head: RequestHead, at_ms: int | None = None) -> Claim:
    claim = parse_authorization(head, region=REGION, now_ms=at_ms or now_ms())
    assert isinstance(claim, Claim)
    return claim


def prove(head: RequestHead, secret: str = SECRET_KEY) -> Verified:
    return verify(claim_of(head), secret, head, SigningKeys())


def change(head: RequestHead, **headers: str | None) -> RequestHead:
    """``head`` with some headers set or (``None``) removed; names with underscores."""
    new = dict(head.headers)
    for name, value in headers.items():
        if value is None:
            new.pop(name.replace("_", "-"), None)
        else:
            new[name.replace("_", "-")] = value
    return head._replace(headers=new)


ODD_PATHS = [
    "/",
    "/b",
    "/b/",
    "/b/k",
    "/b//k",
    "/b/a/../b/./c",
    "/b/%20blank%20",
    "/b/a%2Fb",
    "/b/a%252Fb",
    "/b/a+b",
    "/b/%2B",
    "/b/!'()*",
    "/b/%21%27%28%29%2A",
    "/b/~tilde-_.",
    "/b/%E2%9C%93",
    "/b/%00%01%0A",
    "/b/a=b&c;d,e:f@g$h",
    "/b/%e2%9c%93",
]
ODD_QUERIES = [
    "",
    "acl",
    "acl=",
    "list-type=2&prefix=a%2Fb&delimiter=%2F",
    "prefix=%20x%2By",
    "a=2&a=1&a=",
    "b=1&a=2&B=3&a-b=4",
    "x=%21%27%28%29%2A~-_.",
    "k=%E2%9C%93&%E2%9C%93=v",
    "continuation-token=ab%3D%3D",
]
ODD_HEADERS: list[dict[str, str]] = [
    {},
    {"Content-Type": "text/plain; charset=utf-8"},
    {"x-amz-meta-a": "  two  inner   blanks  "},
    {"x-amz-meta-Mixed-Case": "V", "x-amz-acl": "private"},
    {"x-amz-meta-empty": ""},
    {"x-amz-meta-comma": "a,b , c"},
    {"Range": "bytes=0-1", "If-Match": '"x"', "Cache-Control": "no-cache"},
]


@pytest.mark.parametrize("path", ODD_PATHS)
@pytest.mark.parametrize("query", ["", "prefix=a%2Fb&x"])
def test_header_signature_of_odd_paths(path: str, query: str) -> None:
    """Whatever key a client can sign, verifies: the path is taken as sent (SigV4; s3.md 3.1)."""
    head = sign("GET", f"{URL}{path}" + (f"?{query}" if query else ""))
    assert prove(head).access_key == ACCESS_KEY


@pytest.mark.parametrize("query", ODD_QUERIES)
def test_header_signature_of_odd_queries(query: str) -> None:
    """Every pair of the query is signed, re-encoded and sorted (s3.md 3.1)."""
    assert prove(sign("GET", f"{URL}/b?{query}")).access_key == ACCESS_KEY


@pytest.mark.parametrize("headers", ODD_HEADERS)
@pytest.mark.parametrize("expires", [None, 600])
def test_signature_of_odd_headers(headers: dict[str, str], expires: int | None) -> None:
    """Header values are trimmed and folded as the signer does (s3.md 3.1)."""
    assert prove(sign("PUT", f"{URL}/b/k", headers, expires=expires)).access_key == ACCESS_KEY


@pytest.mark.parametrize("path", ODD_PATHS)
def test_presigned_signature_of_odd_paths(path: str) -> None:
    """Presigned URLs follow the same canonical path."""
    verified = prove(sign("GET", f"{URL}{path}", expires=60))
    assert verified.presigned
    assert verified.payload.mode is PayloadMode.UNSIGNED


@pytest.mark.parametrize("query", ODD_QUERIES)
def test_presigned_signature_of_odd_queries(query: str) -> None:
    """Custom parameters of a presigned URL are signed with it."""
    assert prove(sign("GET", f"{URL}/b?{query}", expires=60)).presigned


def sign_by_hand(
    canonical_path: str, sent_path: str, headers: list[tuple[bytes, bytes]], canonical_headers: str
) -> RequestHead:
    """A GET signed over texts of the caller's choice."""
    stamp = "20261125T000000Z"
    names = sorted({name.decode() for name, _ in headers} | {"x-amz-date"})
    canonical = "\n".join(
        ["GET", canonical_path, "", canonical_headers + f"x-amz-date:{stamp}\n", ";".join(names)]
    )
    canonical += f"\n{EMPTY_SHA256}"
    scope = f"20261125/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = SigningKeys().derive(SECRET_KEY, "20261125", REGION)
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = key.sign(text)
    authorization = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope},SignedHeaders={';'.join(names)},Signature={signature}"
    pairs = [
        *headers,
        (b"x-amz-date", stamp.encode()),
        (b"x-amz-content-sha256", EMPTY_SHA256.encode()),
        (b"authorization", authorization.encode()),
    ]
    return sent_head("GET", sent_path, pairs)


MIDNIGHT_MS = 1_795_564_800_000  # 2026-11-25T00:00:00Z


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("/b/a!b'(c)*", "/b/a%21b%27%28c%29%2A"),
        ("/b/a%21b", "/b/a%21b"),
        ("/b/a+b", "/b/a%2Bb"),
        ("/b/a=b", "/b/a%3Db"),
    ],
)
def test_second_canonical_path(sent: str, signed: str) -> None:
    """Clients that sign a stricter encoding than they send are accepted (JS SDK, DuckDB; s3.md 3.1, 10)."""
    head = sign_by_hand(signed, sent, [(b"host", b"h")], "host:h\n")
    claim = claim_of(head, MIDNIGHT_MS)
    assert verify(claim, SECRET_KEY, head, SigningKeys()).access_key == ACCESS_KEY


@pytest.mark.parametrize(
    ("raw", "signed"),
    [
        (b"caf\xc3\xa9", "café"),  # UTF-8 sent and signed
        (b"caf\xe9", "café"),  # Latin-1 sent, UTF-8 signed
        (b"caf\xc3\xa9", "cafÃ©"),  # Latin-1 sent (of mojibake), UTF-8 of it signed
        (b"a  b\tc", "a b c"),
    ],
)
def test_header_values_beyond_ascii(raw: bytes, signed: str) -> None:
    """A value verifies whether the client signs what it sends or the text it meant (s3.md 3.1)."""
    headers = [(b"host", b"h"), (b"x-amz-aa", raw)]
    head = sign_by_hand("/b", "/b", headers, f"host:h\nx-amz-aa:{signed}\n")
    assert verify(claim_of(head, MIDNIGHT_MS), SECRET_KEY, head, SigningKeys())


def test_listed_header_that_is_absent_has_an_empty_value() -> None:
    """A proxy may have removed a listed header; it counts as empty (seen)."""
    headers = [(b"host", b"h"), (b"connection", b"")]
    head = sign_by_hand("/b", "/b", headers, "connection:\nhost:h\n")
    head = change(head, connection=None)
    assert verify(claim_of(head, MIDNIGHT_MS), SECRET_KEY, head, SigningKeys())


def test_repeated_headers_are_joined_with_commas() -> None:
    """Repeats are one line of the canonical request (SigV4)."""
    headers = [(b"host", b"h"), (b"x-amz-aa", b"1"), (b"x-amz-aa", b" 2 ")]
    head = sign_by_hand("/b", "/b", headers, "host:h\nx-amz-aa:1,2\n")
    assert verify(claim_of(head, MIDNIGHT_MS), SECRET_KEY, head, SigningKeys())


def test_date_header_stands_in_for_x_amz_date() -> None:
    """``Date`` counts where ``x-amz-date`` is missing (s3.md 3.1)."""
    head = sign("GET", f"{URL}/b")
    stamp = "Wed, 25 Nov 2026 00:00:00 GMT"
    dated = change(head, x_amz_date=None, date=stamp)
    dated.headers["authorization"] = dated.headers["authorization"].replace(
        head.headers["x-amz-date"][:8], "20261125"
    )
    assert claim_of(dated, MIDNIGHT_MS).timestamp == "20261125T000000Z"


@pytest.mark.parametrize("expires", [None, 60])
@pytest.mark.parametrize(
    "tamper",
    [
        lambda head: head._replace(method="DELETE"),
        lambda head: head._replace(path="/b/other"),
        lambda head: change(head, host="elsewhere"),
        lambda head: head._replace(query=(*head.query, ("acl", ""))),
        lambda head: change(head, content_type="text/html"),
    ],
)
def test_any_change_breaks_the_signature(expires: int | None, tamper: Any) -> None:
    """Method, path, query, host and signed headers are bound together; a GET URL does not serve another method."""
    head = sign("PUT", f"{URL}/b/k", {"Content-Type": "text/plain"}, expires=expires)
    error = refusal(prove, tamper(head))
    assert (error.status, error.code) == (403, "SignatureDoesNotMatch")
    names = [name for name, _ in error.fields]
    assert names == [
        *("AWSAccessKeyId", "StringToSign", "SignatureProvided"),
        *("StringToSignBytes", "CanonicalRequest", "CanonicalRequestBytes"),
    ]


def test_wrong_or_empty_secret() -> None:
    """Nobody gets in with another secret, nor with none (s3.md 3.1)."""
    head = sign("GET", f"{URL}/b")
    assert refusal(prove, head, "other").code == "SignatureDoesNotMatch"
    assert refusal(prove, head, "").code == "InvalidAccessKeyId"


def test_no_error_carries_the_secret() -> None:
    """Secrets and signing keys never leave (s3.md 3.1)."""
    head = sign("GET", f"{URL}/b")
    error = refusal(prove, head._replace(path="/c"))
    assert SECRET_KEY not in repr(error.fields) + str(error)


@pytest.mark.parametrize("expires", [None, 60])
@pytest.mark.parametrize(
    "name", ["x-amz-copy-source", "x-amz-acl", "x-amz-meta-a", "x-amz-decoded-content-length"]
)
def test_unsigned_amz_headers_are_refused(name: str, expires: int | None) -> None:
    """A stranger cannot add ``x-amz-copy-source`` to somebody's presigned PUT (s3.md 3.1)."""
    head = sign("PUT", f"{URL}/b/k", expires=expires)
    head.headers[name] = "v"
    error = refusal(prove, head)
    assert (error.status, error.code) == (403, "AccessDenied")
    assert error.fields == (("HeadersNotSigned", name),)


def test_headers_that_may_stay_unsigned() -> None:
    """``x-amzn-*`` and anything outside ``x-amz-*`` may be added by proxies; an unlisted payload hash is signed anyway."""
    head = sign("GET", f"{URL}/b/k", expires=60)
    assert prove(change(head, x_amzn_trace_id="1", range="bytes=0-1", x_forwarded_for="::1"))
    head = sign_by_hand(
        "/b", "/b", [(b"host", b"h")], "host:h\n"
    )  # does not list x-amz-content-sha256
    assert verify(claim_of(head, MIDNIGHT_MS), SECRET_KEY, head, SigningKeys())


def test_host_must_be_signed() -> None:
    """A signature that leaves the host open would serve any host (s3.md 3.1)."""
    head = sign("GET", f"{URL}/b")
    authorization = head.headers["authorization"].replace("SignedHeaders=host;", "SignedHeaders=")
    error = refusal(prove, change(head, authorization=authorization))
    assert error.fields == (("HeadersNotSigned", "host"),)


# --- payload modes ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (EMPTY_SHA256, PayloadMode.SIGNED),
        (EMPTY_SHA256.upper(), PayloadMode.SIGNED),
        ("UNSIGNED-PAYLOAD", PayloadMode.UNSIGNED),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", PayloadMode.CHUNKED_SIGNED),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", PayloadMode.CHUNKED_SIGNED_TRAILER),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", PayloadMode.CHUNKED_UNSIGNED_TRAILER),
    ],
)
def test_payload_modes(text: str, mode: PayloadMode) -> None:
    """Every mode of s3.md 3.2 verifies and arrives."""
    payload = prove(sign("PUT", f"{URL}/b/k", payload=text)).payload
    assert payload.mode is mode
    assert payload.is_chunked == text.startswith("STREAMING")
    assert payload.sha256 == (bytes.fromhex(EMPTY_SHA256) if mode is PayloadMode.SIGNED else None)


@pytest.mark.parametrize(
    "text",
    ["", "x", EMPTY_SHA256[:-1], "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "unsigned-payload"],
)
def test_unknown_payload_mode(text: str) -> None:
    """What is not in 3.2 is refused: 400 InvalidArgument."""
    error = refusal(parse_payload, text)
    assert (error.status, error.code) == (400, "InvalidArgument")
    assert error.fields[0] == ("ArgumentName", "x-amz-content-sha256")


def test_presigned_payload_counts_only_if_signed() -> None:
    """An unsigned ``x-amz-content-sha256`` on a presigned URL proves nothing (s3.md 3.1)."""
    head = change(sign("PUT", f"{URL}/b/k", expires=60), x_amz_content_sha256=EMPTY_SHA256)
    assert prove(head).payload.mode is PayloadMode.UNSIGNED


# --- failures of 3.4, row by row --------------------------------------------------------------------
def header_head(**changes: str | None) -> RequestHead:
    return change(sign("GET", f"{URL}/b/k"), **changes)


def with_authorization(old: str, new: str) -> RequestHead:
    head = header_head()
    return change(head, authorization=head.headers["authorization"].replace(old, new))


def with_parameter(name: str, value: str | None) -> RequestHead:
    head = sign("GET", f"{URL}/b/k", expires=60)
    query = tuple((n, v if n != name or value is None else value) for n, v in head.query)
    if value is None:
        query = tuple(pair for pair in query if pair[0] != name)
    return head._replace(query=query, params=dict(query))


TODAY = claim_of(sign("GET", f"{URL}/b")).date
HEADER_FAILURES: list[tuple[str, Any, int, str]] = [
    ("unknown scheme", lambda: header_head(authorization="Bearer x"), 400, "InvalidArgument"),
    ("SigV2", lambda: header_head(authorization="AWS AKID:c2ln"), 400, "InvalidRequest"),
    (
        "SigV4A",
        lambda: header_head(authorization="AWS4-ECDSA-P256-SHA256 Credential=x"),
        400,
        "InvalidRequest",
    ),
    (
        "Credential missing",
        lambda: with_authorization("Credential=", "Cred="),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "SignedHeaders missing",
        lambda: with_authorization("SignedHeaders=", "S="),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "Signature missing",
        lambda: with_authorization("Signature=", "S="),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "scope too short",
        lambda: with_authorization("/aws4_request", ""),
        400,
        "AuthorizationHeaderMalformed",
    ),
    ("service", lambda: with_authorization("/s3/", "/sts/"), 400, "AuthorizationHeaderMalformed"),
    (
        "terminator",
        lambda: with_authorization("/aws4_request", "/aws5_request"),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "scope date format",
        lambda: with_authorization(f"/{TODAY}/", "/2026-11-25/"),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "scope date differs",
        lambda: with_authorization(f"/{TODAY}/", "/20200101/"),
        400,
        "AuthorizationHeaderMalformed",
    ),
    (
        "region",
        lambda: with_authorization("/us-east-1/", "/eu-west-1/"),
        400,
        "AuthorizationHeaderMalformed",
    ),
    ("no date", lambda: header_head(x_amz_date=None), 403, "AccessDenied"),
    ("date unreadable", lambda: header_head(x_amz_date="yesterday"), 403, "AccessDenied"),
    ("payload missing", lambda: header_head(x_amz_content_sha256=None), 400, "InvalidRequest"),
    ("payload unknown", lambda: header_head(x_amz_content_sha256="x"), 400, "InvalidArgument"),
    ("session token", lambda: header_head(x_amz_security_token="t"), 400, "InvalidToken"),
]


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [row[1:] for row in HEADER_FAILURES],
    ids=[r[0] for r in HEADER_FAILURES],
)
def test_header_failures(make: Any, status: int, code: str) -> None:
    """Each row of s3.md 3.4 about the header has its own answer."""
    error = refusal(claim_of, make())
    assert (error.status, error.code) == (status, code)


QUERY_FAILURES: list[tuple[str, str, str | None]] = [
    *[
        (f"{name} missing", name, None)
        for name in (
            *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date"),
            *("X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"),
        )
    ],
    ("algorithm", "X-Amz-Algorithm", "AWS4-HMAC-SHA1"),
    ("credential", "X-Amz-Credential", "AKID/20261125"),
    ("region", "X-Amz-Credential", f"AKID/{TODAY}/eu-west-1/s3/aws4_request"),
    ("service", "X-Amz-Credential", f"AKID/{TODAY}/us-east-1/ec2/aws4_request"),
    ("date", "X-Amz-Date", "20261125"),
    ("date differs", "X-Amz-Date", "20200101T000000Z"),
    ("expires text", "X-Amz-Expires", "soon"),
    ("expires negative", "X-Amz-Expires", "-1"),
    ("expires over a week", "X-Amz-Expires", "604801"),
]


@pytest.mark.parametrize(
    ("name", "value"), [row[1:] for row in QUERY_FAILURES], ids=[row[0] for row in QUERY_FAILURES]
)
def test_query_failures(name: str, value: str | None) -> None:
    """A presigned URL with a missing or malformed parameter: 400 AuthorizationQueryParametersError."""
    error = refusal(claim_of, with_parameter(name, value))
    assert (error.status, error.code) == (400, "AuthorizationQueryParametersError")


def test_wrong_region_names_the_right_one() -> None:
    """SDKs retry with the region that the error names (s3.md 3.4)."""
    header = refusal(claim_of, with_authorization("/us-east-1/", "/eu-west-1/"))
    query = refusal(
        claim_of,
        with_parameter("X-Amz-Credential", f"AKID/{TODAY}/eu-west-1/s3/aws4_request"),
    )
    assert header.fields == query.fields == (("Region", REGION),)


def test_clock_off_by_more_than_fifteen_minutes() -> None:
    """Header signatures live 15 minutes either way; the answer tells both clocks (s3.md 3.4)."""
    head = sign("GET", f"{URL}/b")
    sent_ms = now_ms() // 1000 * 1000
    for skew_s in (-890, 890):
        assert claim_of(head, sent_ms + skew_s * 1000)
    for skew_s in (-910, 910):
        error = refusal(claim_of, head, sent_ms + skew_s * 1000)
        assert (error.status, error.code) == (403, "RequestTimeTooSkewed")
        assert [name for name, _ in error.fields] == [
            *("RequestTime", "ServerTime", "MaxAllowedSkewMilliseconds")
        ]
        assert error.fields[2][1] == "900000"


@pytest.mark.parametrize(
    ("expires", "after_s", "message"),
    [
        (60, 0, ""),
        (60, 55, ""),
        (60, 61, "Request has expired"),
        (0, 0, "Request has expired"),
        (604_800, 604_000, ""),
        (60, -890, ""),
        (60, -910, "Request is not yet valid"),
    ],
)
def test_presigned_lifetime(expires: int, after_s: int, message: str) -> None:
    """Valid from Date - 15 min until Date + Expires, exclusive; 0 is always expired (s3.md 3.3)."""
    head = sign("GET", f"{URL}/b/k", expires=expires)
    start_ms = now_ms() // 1000 * 1000
    if not message:
        assert claim_of(head, start_ms + after_s * 1000)
        return
    error = refusal(claim_of, head, start_ms + after_s * 1000)
    assert (error.status, error.code, error.message) == (403, "AccessDenied", message)
    assert [name for name, _ in error.fields] == ["X-Amz-Expires", "Expires", "ServerTime"]


def test_two_mechanisms_at_once() -> None:
    """Header and query together are ambiguous: 400 InvalidArgument (s3.md 3.4)."""
    head = sign("GET", f"{URL}/b/k", expires=60)
    error = refusal(claim_of, change(head, authorization="AWS4-HMAC-SHA256 Credential=x"))
    assert (error.status, error.code) == (400, "InvalidArgument")
    assert error.message.startswith("Only one auth mechanism allowed")


def test_sigv2_query_is_refused() -> None:
    """SigV2 is not accepted in any form (s3.md 3.1)."""
    head = make_head("GET", "/b/k?AWSAccessKeyId=A&Expires=9999999999&Signature=c2ln")
    error = refusal(claim_of, head)
    assert (error.status, error.code) == (400, "InvalidRequest")


def test_anonymous() -> None:
    """Nothing sent is told apart from something wrong; signed chunks need somebody who signs (s3.md 3.4)."""
    assert parse_authorization(make_head("GET", "/b"), region=REGION, now_ms=0) == Anonymous()
    head = make_head("PUT", "/b/k", {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"})
    assert refusal(parse_authorization, head, region=REGION, now_ms=0).code == "InvalidRequest"


def test_order_of_failures() -> None:
    """Parse, region and service, date, (key), headers signed, signature (s3.md 3.4)."""
    head = sign("GET", f"{URL}/b", secret="wrong")
    head.headers["x-amz-acl"] = "private"
    assert refusal(prove, head).fields == (("HeadersNotSigned", "x-amz-acl"),)
    head.headers["x-amz-date"] = "20200101T000000Z"
    assert refusal(prove, head).code == "AuthorizationHeaderMalformed"
    text = head.headers["authorization"].replace("us-east-1", "mars")
    assert refusal(prove, change(head, authorization=text)).fields == (("Region", REGION),)


def test_signing_key_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of access keys cannot grow the cache, and a forgotten key is derived again."""
    monkeypatch.setattr("sos.s3.sigv4.SIGNING_KEYS_MAX", 4)
    keys = SigningKeys()
    first = keys.derive("s", "20261125", REGION)
    for number in range(20):
        keys.derive(f"s{number}", "20261125", REGION)
    assert len(keys._keys) <= 4
    assert keys.derive("s", "20261125", REGION).sign("text") == first.sign("text")


def test_errors_of_hostile_headers() -> None:
    """No header value can make the gate fail in any way but an S3 error."""
    for text in ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 =,=,", "\u00e9", ","):
        assert isinstance(refusal(claim_of, header_head(authorization=text)), S3Error)
    head = header_head()
    text = head.headers["authorization"].rpartition("=")[0] + "=é"
    assert refusal(prove, change(head, authorization=text)).code == "SignatureDoesNotMatch"
