"""One gate for every route: each route with each kind of false credential, and each way to change a signed request.

Nothing here may read, store, or even tell whether a bucket exists (P20; scenarios 74 to 84 of the fault plan).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from sos.s3.target import SELECTORS
from tests.compat.raw import Credentials, Mode, RawClient, RawResponse, Signer, quote
from tests.integration.s3_single import ACCESS_KEY, SECRET_KEY, Endpoint, serve

BUCKET = "guarded"
KEY = "secret"
CONTENT = b"for the owner alone"
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    query: Query = ()

    @property
    def target(self) -> str:
        pairs = "&".join(f"{quote(n)}={quote(v)}" for n, v in self.query)
        return f"{self.path}?{pairs}" if pairs else self.path


def routes(bucket: str) -> list[Route]:
    """Every method on the service, a bucket, an object, and every sub-resource of both."""
    found = [Route(method=m, path="/") for m in METHODS]
    for path in (f"/{bucket}", f"/{bucket}/{KEY}"):
        for method in METHODS:
            found.append(Route(method=method, path=path))
            found += [
                Route(method=method, path=path, query=((name, value),))
                for name, value in [*((s, "") for s in sorted(SELECTORS)), ("no-such", "x")]
            ]
    found.append(Route(method="GET", path=f"/{bucket}", query=(("list-type", "2"),)))
    return found


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serve(tmp_path_factory.mktemp("node")) as endpoint:
        with endpoint.client() as client:
            assert client.request("PUT", f"/{BUCKET}").status == 200
            assert client.request("PUT", f"/{BUCKET}/{KEY}", body=CONTENT).status == 200
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[RawClient]:
    with endpoint.client() as client:
        yield client


def _state(endpoint: Endpoint) -> tuple[object, object]:
    """Nothing proposed, nothing on disk."""
    return endpoint.store.applied(), sorted(endpoint.blob_files())


# --- who asks -------------------------------------------------------------------------------------
Send = Callable[[RawClient, Route], RawResponse]


def _plain(client: RawClient, route: Route, *headers: str) -> RawResponse:
    lines = [f"{route.method} {route.target} HTTP/1.1", f"Host: {client.authority}", *headers]
    client.send(("\r\n".join(lines) + "\r\n\r\n").encode())
    return client.receive(route.method)


def _signed_by(credentials: Credentials, **more: object) -> Send:
    def send(client: RawClient, route: Route) -> RawResponse:
        client.signer = Signer(credentials, **more)  # type: ignore[arg-type]
        return client.request(route.method, route.path, query=route.query)

    return send


def _presigned_by(credentials: Credentials, expires: str = "300", ago_s: float = 0.0) -> Send:
    def send(client: RawClient, route: Route) -> RawResponse:
        signer = Signer(credentials, now=time.time() - ago_s)
        target = signer.presign(
            route.method, client.authority, route.path, query=route.query, expires=expires
        )
        client.send(
            f"{route.method} {target} HTTP/1.1\r\nHost: {client.authority}\r\n\r\n".encode()
        )
        return client.receive(route.method)

    return send


OWNER = Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY)
GUESSED = replace(OWNER, secret_key="guessed")
UNKNOWN = replace(OWNER, access_key="AKIDNOBODY00")
INVENTED = (
    "Authorization: AWS4-HMAC-SHA256 Credential="
    f"{ACCESS_KEY}/{{date}}/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature={{signature}}"
)


def _invented(signature: str) -> Send:
    def send(client: RawClient, route: Route) -> RawResponse:
        stamp = client.signer.stamp()
        line = INVENTED.format(date=stamp[:8], signature=signature)
        payload = "x-amz-content-sha256: UNSIGNED-PAYLOAD"
        return _plain(client, route, f"x-amz-date: {stamp}", payload, line)

    return send


STRANGERS: dict[str, tuple[Send, set[str]]] = {
    "nothing": (_plain, {"AccessDenied"}),
    "wrong secret": (_signed_by(GUESSED), {"SignatureDoesNotMatch"}),
    "empty secret": (_signed_by(replace(OWNER, secret_key="")), {"SignatureDoesNotMatch"}),
    "unknown key": (_signed_by(UNKNOWN), {"InvalidAccessKeyId"}),
    "other region": (
        _signed_by(replace(OWNER, region="eu-west-1")),
        {"AuthorizationHeaderMalformed"},
    ),
    "other service": (_signed_by(OWNER, service="ec2"), {"AuthorizationHeaderMalformed"}),
    "late clock": (_signed_by(OWNER, now=time.time() - 1000), {"RequestTimeTooSkewed"}),
    "early clock": (_signed_by(OWNER, now=time.time() + 1000), {"RequestTimeTooSkewed"}),
    "no signature": (_invented(""), {"AuthorizationHeaderMalformed"}),
    "invented signature": (_invented("0" * 64), {"SignatureDoesNotMatch"}),
    "short signature": (_invented("0" * 8), {"SignatureDoesNotMatch"}),
    "presigned by a guess": (_presigned_by(GUESSED), {"SignatureDoesNotMatch"}),
    "presigned and expired": (_presigned_by(OWNER, "10", ago_s=60), {"AccessDenied"}),
    "presigned for nothing": (_presigned_by(OWNER, "0"), {"AccessDenied"}),
    "presigned for ever": (
        _presigned_by(OWNER, "604801"),
        {"AuthorizationQueryParametersError"},
    ),
    "presigned backwards": (_presigned_by(OWNER, "-1"), {"AuthorizationQueryParametersError"}),
}
# What a request is, is judged before who sent it (s3.md 1.0, step 2): these answers tell nothing of the catalog.
BEFORE_THE_GATE = {"MethodNotAllowed", "PreconditionFailed", "InvalidArgument"}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_no_route_opens_to_a_stranger(endpoint: Endpoint, client: RawClient, stranger: str) -> None:
    """Scenarios 74, 75, 79 to 81: refused on every route, and alike whether the bucket exists or not."""
    send, codes = STRANGERS[stranger]
    before = _state(endpoint)
    for there, absent in zip(routes(BUCKET), routes("no-such-bucket"), strict=True):
        answers = [send(client, route) for route in (there, absent)]
        statuses = [answer.status for answer in answers]
        assert statuses[0] == statuses[1], (there, answers)
        assert statuses[0] in (400, 403, 405, 412), (there, answers[0])
        for answer in answers:
            assert CONTENT not in answer.body
            assert SECRET_KEY.encode() not in answer.body
            assert there.method == "HEAD" or answer.code in codes | BEFORE_THE_GATE, (there, answer)
    assert _state(endpoint) == before


def test_the_gate_opens_to_the_owner(client: RawClient) -> None:
    """The matrix above would also pass on a closed port: with the right key every reading route is past it."""
    for route in routes(BUCKET):
        if route.method in ("GET", "HEAD"):
            for send in (_signed_by(OWNER), _presigned_by(OWNER)):
                answer = send(client, route)
                assert answer.status in (200, 404, 405, 501) or answer.code == "InvalidRequest", (
                    route,
                    answer,
                )


# --- a signed request that was changed on its way -------------------------------------------------
def _swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(head: bytes) -> bytes:
        assert head.count(old) == 1, (old, head)
        return head.replace(old, new)

    return change


def _add(line: bytes) -> Callable[[bytes], bytes]:
    return lambda head: head[:-2] + line + b"\r\n\r\n"


def _drop(name: bytes) -> Callable[[bytes], bytes]:
    return lambda head: b"".join(
        line for line in head.splitlines(keepends=True) if not line.startswith(name + b":")
    )


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "method": _swap(b"PUT /", b"DELETE /"),
    "bucket": _swap(b"PUT /guarded/", b"PUT /guarden/"),
    "key": _swap(b"/secret HTTP", b"/secreu HTTP"),
    "key, encoded otherwise and changed": _swap(b"/secret HTTP", b"/%73ecreu HTTP"),
    "query added": _swap(b"/secret HTTP", b"/secret?acl= HTTP"),
    "signed header changed": _swap(b"x-amz-meta-who: me", b"x-amz-meta-who: you"),
    "signed header doubled": _add(b"x-amz-meta-who: you"),
    "signed header dropped": _drop(b"x-amz-meta-who"),
    "plain signed header changed": _swap(b"content-type: a/b", b"content-type: a/c"),
    "plain signed header dropped": _drop(b"content-type"),
    "copy source added": _add(b"x-amz-copy-source: guarded/secret"),
    "metadata added": _add(b"x-amz-meta-more: x"),
    "acl added": _add(b"x-amz-acl: private"),
    "owner check added": _add(b"x-amz-expected-bucket-owner: x"),
    "security token added": _add(b"x-amz-security-token: x"),
    "date doubled": _add(b"x-amz-date: 20200101T000000Z"),
    "payload hash unsigned": _swap(
        b"x-amz-content-sha256: " + hashlib.sha256(b"new").hexdigest().encode(),
        b"x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ),
    "signature in upper case": lambda head: (
        head[: head.index(b"Signature=")]
        + head[head.index(b"Signature=") :].replace(b"a", b"A").replace(b"b", b"B")
    ),
    "second authorization": _add(b"authorization: AWS4-HMAC-SHA256 x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_request_is_refused(endpoint: Endpoint, client: RawClient, change: str) -> None:
    """Scenario 77: nothing that S3 acts on can be changed, added, dropped or doubled."""
    before = _state(endpoint)
    headers = {"x-amz-meta-who": "me", "content-type": "a/b"}
    head, body = client.build("PUT", f"/{BUCKET}/{KEY}", headers=headers, body=b"new")

    changed = CHANGES[change](head)
    assert changed != head
    client.send(changed + body)

    answer = client.receive("PUT")
    assert answer.status in (400, 403), answer
    assert _state(endpoint) == before


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-meta-who"])
def test_what_must_be_signed_is(endpoint: Endpoint, client: RawClient, name: str) -> None:
    """Scenario 77: a valid signature that leaves the host or an x-amz-* header out proves nothing about it."""
    before = _state(endpoint)
    stamp = client.signer.stamp()
    headers = {
        "host": client.authority,
        "x-amz-date": stamp,
        "x-amz-meta-who": "me",
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
    }
    value, _ = client.signer.authorization(
        *("PUT", f"/{BUCKET}/{KEY}", (), headers, "UNSIGNED-PAYLOAD", stamp),
        signed=[header for header in headers if header != name],
    )
    lines = [f"{header}: {text}" for header, text in headers.items()]
    request = [f"PUT /{BUCKET}/{KEY} HTTP/1.1", *lines, "Content-Length: 3"]
    client.send(("\r\n".join([*request, f"Authorization: {value}"]) + "\r\n\r\n").encode() + b"new")

    answer = client.receive("PUT")

    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.xml().findtext("HeadersNotSigned") == name
    assert _state(endpoint) == before


def test_two_mechanisms_at_once_are_refused(endpoint: Endpoint, client: RawClient) -> None:
    """Scenario 76: credentials in header and query, each valid by itself."""
    target = client.signer.presign("GET", client.authority, f"/{BUCKET}/{KEY}")
    head, _ = client.build("GET", f"/{BUCKET}/{KEY}")
    client.send(head.replace(f"/{BUCKET}/{KEY}".encode(), target.encode(), 1))

    answer = client.receive()

    assert (answer.status, answer.code) == (400, "InvalidArgument")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "POST"])
def test_a_presigned_url_is_good_for_its_method_alone(
    endpoint: Endpoint, client: RawClient, method: str
) -> None:
    """Scenario 81: a link to read is no licence to write, nor for another key."""
    before = _state(endpoint)
    target = client.signer.presign("GET", client.authority, f"/{BUCKET}/{KEY}")
    for changed in (target, target.replace(KEY, "secreu"), target + "&versionId=null"):
        is_same = changed == target
        used = method if is_same else "GET"
        client.send(f"{used} {changed} HTTP/1.1\r\nHost: {client.authority}\r\n\r\n".encode())
        assert client.receive(used).status in (403, 405), changed
    assert _state(endpoint) == before


# --- signed bodies --------------------------------------------------------------------------------
def _chunks(body: bytes) -> list[bytes]:
    """The signed chunks of an aws-chunked body, each with its size line; what ends it last."""
    parts, rest = [], body
    while rest:
        size = int(rest.partition(b";")[0], 16)
        end = rest.index(b"\r\n") + 2 + size + (2 if size else 0)
        parts.append(rest[:end] if size else rest)
        rest = rest[end:] if size else b""
    return parts


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


SPOILS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a byte of the first chunk": lambda c: [_flip(c[0], 200), *c[1:]],
    "a byte of the last chunk": lambda c: [*c[:-2], _flip(c[-2], 200), c[-1]],
    "two chunks swapped": lambda c: [c[1], c[0], *c[2:]],
    "a chunk left out": lambda c: [c[0], *c[2:]],
    "a chunk twice": lambda c: [c[0], *c],
    "the signature of a chunk": lambda c: [_flip(c[0], c[0].index(b"=") + 5), *c[1:]],
    "the end left out": lambda c: c[:-1],
    "the signature of the end": lambda c: [*c[:-1], _flip(c[-1], c[-1].index(b"=") + 5)],
    "no signatures at all": lambda c: [
        *(b"%x\r\n" % 65536 + p[p.index(b"\r\n") + 2 :] for p in c[:-1]),
        b"0\r\n\r\n",
    ],
}


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize("spoil", SPOILS)
def test_spoilt_signed_chunks_store_nothing(endpoint: Endpoint, spoil: str, chunks: int) -> None:
    """Scenario 78: every chunk is bound to its place and to the request."""
    before = _state(endpoint)
    with endpoint.client() as client:
        body = bytes(range(256)) * 256 * chunks
        head, sent = client.build("PUT", f"/{BUCKET}/chunks", body=body, mode=Mode.CHUNKED)
        changed = b"".join(SPOILS[spoil](_chunks(sent)))
        client.send(
            head.replace(
                f"content-length: {len(sent)}".encode(), f"content-length: {len(changed)}".encode()
            )
            + changed
        )
        answer = client.receive("PUT")
    assert answer.status in (400, 403), answer
    assert _state(endpoint) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sent: sent.replace(b"x-amz-checksum-crc32:", b"x-amz-checksum-crc32:A"),
        lambda sent: sent.replace(b"x-amz-checksum-crc32", b"x-amz-checksum-crc33"),
        lambda sent: _flip(sent, sent.index(b"x-amz-trailer-signature:") + 30),
        lambda sent: sent[: sent.index(b"x-amz-trailer-signature:")] + b"\r\n",
        lambda sent: sent[: sent.index(b"x-amz-checksum-crc32:")] + b"\r\n",
    ],
    ids=["value", "name", "signature", "no signature", "no trailer"],
)
def test_spoilt_signed_trailers_store_nothing(
    endpoint: Endpoint, client: RawClient, spoil: Callable[[bytes], bytes]
) -> None:
    """Scenario 78: the trailer is signed as well."""
    before = _state(endpoint)
    head, sent = client.build(
        *("PUT", f"/{BUCKET}/trailer"),
        body=b"x" * 10,
        mode=Mode.CHUNKED_TRAILER,
        trailer=("x-amz-checksum-crc32", "T09L4w=="),
    )
    changed = spoil(sent)
    assert changed != sent
    length = f"content-length: {len(sent)}".encode()
    client.send(head.replace(length, f"content-length: {len(changed)}".encode()) + changed)

    answer = client.receive("PUT")

    assert answer.status in (400, 403), answer
    assert _state(endpoint) == before


# --- one path's signature opens no other ----------------------------------------------------------
ODD_PATHS = (
    *("a%2Fb", "a/b", "a//b", "a%252Fb", "a+b", "a%20b", "a%2Bb", "~", "%7E", "a/../b", "b", "a/./b"),
    *("%C3%BC", "u%CC%88", "a;b", "a%3Bb", "a=b", "a%26b", "a:b", "*", "%2A", "(a)", "a%3Fb"),
)  # fmt: skip


def _botocore(path: str, *, presigned: bool) -> AWSRequest:
    credentials = BotoCredentials(ACCESS_KEY, SECRET_KEY)
    signer = S3SigV4QueryAuth if presigned else S3SigV4Auth
    request = AWSRequest(method="GET", url=f"http://h:1/{BUCKET}/{path}")
    signer(credentials, "s3", "us-east-1").add_auth(request)
    return request


def _target_and_lines(path: str, *, presigned: bool) -> tuple[str, Sequence[str]]:
    request = _botocore(path, presigned=presigned)
    query = request.url.partition("?")[2] if presigned else ""
    lines = [] if presigned else [f"{name}: {value}" for name, value in request.headers.items()]
    return f"?{query}" if query else "", lines


@pytest.mark.parametrize("presigned", [False, True])
def test_the_signature_of_one_path_opens_no_other(endpoint: Endpoint, *, presigned: bool) -> None:
    """Scenario 84: signed by botocore, sent for every other path; only the same key may pass."""
    for signed in ODD_PATHS:
        query, lines = _target_and_lines(signed, presigned=presigned)
        with endpoint.client() as client:
            for sent in ODD_PATHS:
                head = [f"GET /{BUCKET}/{sent}{query} HTTP/1.1", "Host: h:1", *lines]
                client.send(("\r\n".join(head) + "\r\n\r\n").encode())
                answer = client.receive()
                same = _decoded(signed) == _decoded(sent)
                if signed == sent:
                    assert (answer.status, answer.code) == (404, "NoSuchKey"), (signed, answer)
                elif not same:
                    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), (
                        signed,
                        sent,
                        answer,
                    )


def _decoded(path: str) -> bytes:
    return bytes(
        int(piece[:2], 16) if is_escape else ord(piece) for piece, is_escape in _pieces(path)
    )


def _pieces(path: str) -> Iterator[tuple[str, bool]]:
    at = 0
    while at < len(path):
        if path[at] == "%":
            yield path[at + 1 : at + 3], True
            at += 3
        else:
            yield path[at], False
            at += 1
