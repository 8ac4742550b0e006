"""An attacker with a socket at the S3 port: one request gets one answer, whatever a proxy might read in it.

Framing that two readers could understand differently is refused and the connection closed (scenario 67); who is
slow, silent or endless holds little and not for long (65, 66); documents cost no more than their size (69).
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import random
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sos.limits import (
    CLIENT_BYTES_S_MIN,
    CLIENT_SLOW_S_MAX,
    DELETE_KEYS_MAX,
    MIB,
    STREAMED_BYTES_MAX,
    XML_BYTES_MAX,
)
from sos.s3.request_body import BodyIdle, RequestBody
from sos.s3.wire import WireHead
from tests.compat.raw import Mode, RawClient, RawResponse, unsigned_chunks
from tests.integration.s3_single import Endpoint, serve

BUCKET = "hostile"
VICTIM = f"/{BUCKET}/victim"
CONTENT = b"0123456789"
SMUGGLED = f"GET {VICTIM} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
LENGTH = b"content-length: 10"
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serve(tmp_path_factory.mktemp("node")) as endpoint:
        with endpoint.client() as client:
            assert client.request("PUT", f"/{BUCKET}").status == 200
            assert client.request("PUT", VICTIM, body=CONTENT).status == 200
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[RawClient]:
    with endpoint.client() as client:
        yield client


def answers(client: RawClient) -> list[RawResponse]:
    """Every answer up to the end of the connection, which the server must bring about."""
    connection = client.connect()
    received = b""
    while piece := connection.recv(64 * 1024):
        received += piece
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = tuple(
            (n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)
        )
        _, status, reason = status_line.split(" ", 2)
        length = int(dict(headers)["content-length"])
        found.append(
            RawResponse(status=int(status), reason=reason, headers=headers, body=rest[:length])
        )
        received = rest[length:]
    return found


# --- framing --------------------------------------------------------------------------------------
# In place of the Content-Length of a valid, signed PUT of ten bytes; what follows the head may look like a request.
AMBIGUOUS = {
    "length and coding": LENGTH + b"\r\n" + CHUNKED,
    "coding and length": CHUNKED + b"\r\n" + LENGTH,
    "two codings": CHUNKED + b"\r\nTransfer-Encoding: identity",
    "coding twice": CHUNKED + b"\r\n" + CHUNKED,
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "identity": b"Transfer-Encoding: identity",
    "nearly chunked": b"Transfer-Encoding: xchunked",
    "vertical tab": b"Transfer-Encoding: \x0bchunked",
    "blank before the colon": b"Transfer-Encoding : chunked",
    "same length twice": LENGTH + b"\r\n" + LENGTH,
    "two lengths": LENGTH + b"\r\ncontent-length: 0",
    "list of lengths": b"content-length: 10, 10",
    "plus": b"content-length: +10",
    "minus": b"content-length: -10",
    "hexadecimal": b"content-length: 0xa",
    "underscore": b"content-length: 1_0",
    "exponent": b"content-length: 1e1",
    "two numbers": b"content-length: 1 0",
    "arabic digits": "content-length: ١٠".encode(),
    "superscript": b"content-length: 1\xb2",
    "beyond any number": b"content-length: " + b"9" * 30,
    "beyond python's numbers": b"content-length: " + b"9" * 5000,
    "folded": LENGTH + b"\r\nx-a: b\r\n c",
    "bare line feed": LENGTH + b"\r\nx-a: b\nx-b: c",
    "bare carriage return": LENGTH + b"\r\nx-a: b\rx-b: c",
    "NUL in a value": LENGTH + b"\r\nx-a: b\0",
    "NUL in a name": LENGTH + b"\r\nx\0a: b",
    "blank in a name": LENGTH + b"\r\nx a: b",
    "no name": LENGTH + b"\r\n: b",
    "name beyond ASCII": LENGTH + "\r\nxü: b".encode(),
    "no colon": LENGTH + b"\r\nx",
    "two hosts": LENGTH + b"\r\nHost: other",
}


@pytest.mark.parametrize("lines", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_framing_is_refused_and_closed(
    endpoint: Endpoint, client: RawClient, lines: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Scenario 67: 400, the end of the connection, one answer; nothing stored, no traceback."""
    before = endpoint.store.applied()
    head, body = client.build("PUT", f"/{BUCKET}/new", body=b"x" * 10)
    assert head.count(LENGTH) == 1

    client.send(head.replace(LENGTH, lines) + b"0\r\n\r\n" + body + SMUGGLED)

    (answer,) = answers(client)
    assert (answer.status, answer.code, answer.closes) == (400, "BadRequest", True)
    assert endpoint.store.applied() == before
    assert capfd.readouterr().err == ""


NO_REQUESTS = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 by name": b"GET / HTTP/0.9\r\nHost: h\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\nHost: h\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case": b"GET / http/1.1\r\nHost: h\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "tabs": b"GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n",
    "blank at the end": b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n",
    "method with a control character": b"G\x01T / HTTP/1.1\r\nHost: h\r\n\r\n",
    "coding in HTTP/1.0": b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # These never end a head: no client waits ten seconds for that.
    "line feeds alone": b"GET / HTTP/1.1\nHost: h\n\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a frame of zeros": bytes(64),
}


@pytest.mark.parametrize("data", NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
def test_what_is_no_request_is_refused_at_once(client: RawClient, data: bytes) -> None:
    """Scenario 67: other versions and other protocols; not only when a deadline has passed."""
    client.timeout_s = 5.0

    client.send(data)
    if data.startswith(b"SSH"):
        client.send(b"\r\n")

    (answer,) = answers(client)
    assert (answer.status, answer.code, answer.closes) == (400, "BadRequest", True)


BROKEN_CHUNKS = {
    "overflow": b"f" * 17 + b"\r\n",
    "overflow of 64 bits": b"f" * 16 + b"\r\n",
    "minus": b"-1\r\n",
    "plus": b"+5\r\n",
    "0x": b"0x5\r\n",
    "blank": b" 5\r\n",
    "nothing": b"\r\n",
    "line feed alone": b"5\n01234\n0\n\n",
    "extension": b"5;a=b\r\n01234\r\n0\r\n\r\n",
    "extension of the last chunk": b"0;a\r\n\r\n",
    "blank after the size": b"5 \r\n01234\r\n0\r\n\r\n",
    "line feed in an extension": b"5;a=b\nc\r\n",
    "endless extension": b"5;" + b"a" * 5000 + b"\r\n",
    "more than its size": b"5\r\n01234XX0\r\n\r\n",
    "endless trailer": b"0\r\nx: " + b"a" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("framing", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
def test_broken_transfer_chunks_store_nothing_and_close(
    endpoint: Endpoint, client: RawClient, framing: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Scenario 67: overflow, extensions, signs: 400 and the end of the connection."""
    before = endpoint.store.applied()
    head, _ = client.build(
        *("PUT", f"/{BUCKET}/new"),
        body=CONTENT,
        mode=Mode.UNSIGNED_TRAILER,
        transfer_chunked=True,
    )

    client.send(head + framing + SMUGGLED)

    (answer,) = answers(client)
    assert (answer.status, answer.code, answer.closes) == (400, "IncompleteBody", True)
    assert endpoint.store.applied() == before
    assert capfd.readouterr().err == ""


def test_what_looks_like_a_request_inside_a_body_is_body(
    endpoint: Endpoint, client: RawClient
) -> None:
    """One request, one answer: with either framing, on every method, also where the body is not wanted."""
    inner = unsigned_chunks(SMUGGLED, None)
    for method, status in (("PUT", 200), ("GET", 200), ("HEAD", 200), ("DELETE", 204)):
        head, body = client.build(method, f"/{BUCKET}/inside", body=SMUGGLED)
        if method == "PUT":
            client.send(head + body)
        else:
            client.send(head + body if b"content-length" in head else head)
        assert client.receive(method).status == status, method
    head, _ = client.build(
        *("PUT", f"/{BUCKET}/inside"),
        body=SMUGGLED,
        mode=Mode.UNSIGNED_TRAILER,
        transfer_chunked=True,
    )
    client.send(head + b"%x\r\n%s\r\n0\r\nContent-Length: 9\r\nx: y\r\n\r\n" % (len(inner), inner))
    assert client.receive("PUT").status == 200
    assert client.request("GET", f"/{BUCKET}/inside").body == SMUGGLED
    client.send(f"GET {VICTIM} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert client.receive().status == 403
    assert client.request("GET", VICTIM).body == CONTENT


def test_a_thousand_requests_at_once_get_a_thousand_answers(client: RawClient) -> None:
    """Scenario 67: pipelining, in order, good and refused ones mixed."""
    good, _ = client.build("GET", VICTIM)
    absent, _ = client.build("GET", f"/{BUCKET}/absent")
    client.connect()
    sender = threading.Thread(target=client.send, args=((good + absent + SMUGGLED) * 334,))
    sender.start()
    statuses = [client.receive().status for _ in range(1002)]
    sender.join()
    assert statuses == [200, 404, 403] * 334


# --- sizes and slowness ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lines", "code", "closes"),
    [
        ([f"a{n}: b" for n in range(10_000)], "RequestHeaderSectionTooLarge", True),
        (["a: " + "x" * 9_000], "RequestHeaderSectionTooLarge", False),
        (["x-amz-meta-a: " + "x" * MIB], "RequestHeaderSectionTooLarge", True),
    ],
    ids=["ten thousand", "9 KiB", "1 MiB of metadata"],
)
def test_huge_headers(client: RawClient, lines: list[str], code: str, closes: bool) -> None:
    """Scenario 66: the right 4xx, before anything is looked up."""
    head = "\r\n".join(["GET / HTTP/1.1", "Host: h", *lines]) + "\r\n\r\n"

    client.send(head.encode())
    answer = client.receive()

    assert (answer.status, answer.code, answer.closes) == (400, code, closes)


@pytest.mark.parametrize(
    ("target_bytes", "code"),
    [(15_000, "KeyTooLongError"), (17_000, "RequestHeaderSectionTooLarge")],
)
def test_huge_targets(client: RawClient, target_bytes: int, code: str) -> None:
    """Scenario 66: a URL that no key can need."""
    client.send(f"GET /{BUCKET}/{'x' * target_bytes} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    answer = client.receive()
    assert (answer.status, answer.code) == (400, code)


def test_a_thousand_silent_connections_hinder_nobody(endpoint: Endpoint) -> None:
    """Scenario 65: idle ones and half heads cost their sockets only, and go when their time is over."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    silent = [endpoint.client() for _ in range(1000)]
    try:
        for number, client in enumerate(silent):
            client.connect()
            if number % 2:
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        with endpoint.client() as other:
            for _ in range(20):
                assert other.request("GET", VICTIM).body == CONTENT
        _eventually(lambda: sum(c.is_reading_head for c in endpoint.server.connections()) == 500)
        endpoint.expire_deadlines()
        assert silent[1].receive().code == "RequestTimeout"
        assert silent[0].is_closed_by_server()
        _eventually(lambda: len(endpoint.server.connections()) < 500)
    finally:
        for client in silent:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _eventually(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.02)


class _Source:
    """A connection whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loop = self  # of an event loop, only these two are used
        self.deadline: float | None = None

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def write(self, data: bytes) -> None:
        raise AssertionError(data)

    def body_consumed(self, queued_bytes: int) -> None:
        return


def _trickled(bytes_a_second: int, seconds: int) -> int:
    """Seconds that a body lived to which so much came every second."""

    async def read(body: RequestBody) -> None:
        while await body.read():
            pass

    async def trickle() -> int:
        source = _Source()
        head = WireHead(
            method="PUT", target=b"/b/k", headers={}, raw_headers=[], head_bytes=0,
            content_length=10**9, chunked=False, keep_alive=True, expects_continue=False,
        )  # fmt: skip
        body = RequestBody(head, source, 0.0)  # type: ignore[arg-type]
        reader = asyncio.ensure_future(read(body))
        for second in range(seconds):
            await asyncio.sleep(0)
            if reader.done():
                assert isinstance(reader.exception(), BodyIdle)
                return second
            source.now += 1
            body.feed(bytes(bytes_a_second))
            await asyncio.sleep(0)
        reader.cancel()
        return seconds

    return asyncio.run(trickle())


def test_a_body_that_trickles_is_given_up() -> None:
    """Scenario 65: below 1 KiB/s for 30 s; a slow line that is faster goes on."""
    assert _trickled(10, 100) <= CLIENT_SLOW_S_MAX + 1
    assert _trickled(CLIENT_BYTES_S_MIN * 2, 1000) == 1000


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_clients_that_do_not_read_hold_little(endpoint: Endpoint) -> None:
    """Scenario 65, P18, P17, P7: a hundred of them cost a budget, not some MiB each; who reads is served, late ones get right bytes."""
    content = random.Random(65).randbytes(16 * MIB)
    with endpoint.client() as client:
        assert client.request("PUT", f"/{BUCKET}/large", body=content).status == 200
        assert client.request("GET", f"/{BUCKET}/large").body == content
    before = _resident_bytes()
    silent = [endpoint.client() for _ in range(100)]
    try:
        for each in silent:
            each.connect().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            each.send(each.build("GET", f"/{BUCKET}/large")[0])
        for each in silent:
            assert each.connect().recv(1, socket.MSG_PEEK)
        grown = _resident_bytes() - before
        with endpoint.client() as client:
            assert client.request("GET", f"/{BUCKET}/large").body == content
        for each in (silent[0], silent[50], silent[99]):
            assert each.receive().body == content
    finally:
        for each in silent:
            each.close()
    # the allocator keeps some of what the readers and this test itself used; without a budget it is 400 MiB
    assert grown < STREAMED_BYTES_MAX + 128 * MIB


# --- documents ------------------------------------------------------------------------------------
def _delete(client: RawClient, document: bytes) -> RawResponse:
    md5 = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
    return client.request(
        "POST", f"/{BUCKET}", query=[("delete", "")], headers={"content-md5": md5}, body=document
    )


def _objects(count: int) -> bytes:
    return b"<Delete>" + b"<Object><Key>k</Key></Object>" * count + b"</Delete>"


_ENTITIES = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10))
BOMBS = {
    "a billion laughs": b'<!DOCTYPE d [<!ENTITY a0 "ha">'
    + _ENTITIES
    + b"]><Delete><Object><Key>&a9;</Key></Object></Delete>",
    "a file": b'<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    b"<Delete><Object><Key>&f;</Key></Object></Delete>",
    "a parameter entity": b'<!DOCTYPE d [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x"> %p;]>'
    + _objects(1),
    "an unknown entity": b"<Delete><Object><Key>&nbsp;</Key></Object></Delete>",
    "a million elements": b"<Delete>" + b"<x/>" * 1_000_000 + b"</Delete>",
    "a hundred thousand deep": b"<Delete>" + b"<x>" * 100_000 + b"</x>" * 100_000 + b"</Delete>",
    "a hundred thousand attributes": b"<Delete "
    + b" ".join(b'a%d=""' % n for n in range(100_000))
    + b"/>",
    "one key too many": _objects(DELETE_KEYS_MAX + 1),
    "no key": b"<Delete><Object></Object></Delete>",
    "a claim of another encoding": b'<?xml version="1.0" encoding="UTF-16"?>' + _objects(1),
    "bytes of no encoding": b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>",
    "unclosed": b"<Delete><Object>",
    "nothing": b"",
    "XInclude": b'<Delete xmlns:i="http://www.w3.org/2001/XInclude"><i:include href="/etc/passwd"/></Delete>',
}


@pytest.mark.parametrize("document", BOMBS.values(), ids=BOMBS.keys())
def test_hostile_documents_are_refused_cheaply(
    endpoint: Endpoint, client: RawClient, document: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Scenario 69: 4xx, time and memory of the document's own size, nothing fetched, nothing deleted."""
    assert len(document) <= XML_BYTES_MAX
    before = endpoint.store.applied(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answer = _delete(client, document)

    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1]
    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert b"root:" not in answer.body
    assert endpoint.store.applied() == before[0]
    assert grown_kib < 128 * 1024  # the client's own copies of 4 MB documents are in it
    assert capfd.readouterr().err == ""


def test_compressed_bodies_are_stored_as_sent(client: RawClient) -> None:
    """Scenario 70: no one here inflates anything: what came is what is kept, counted and given back."""
    bomb = gzip.compress(bytes(16 * MIB))
    for name in ("gzip", "deflate", "br"):
        headers = {"content-encoding": name}
        assert client.request("PUT", f"/{BUCKET}/z", headers=headers, body=bomb).status == 200
        got = client.request("GET", f"/{BUCKET}/z")
        assert (got.body, got.header("content-encoding")) == (bomb, name)
    compressed = gzip.compress(_objects(1))
    md5 = base64.b64encode(hashlib.md5(compressed, usedforsecurity=False).digest()).decode()
    answer = client.request(
        *("POST", f"/{BUCKET}"),
        query=[("delete", "")],
        headers={"content-md5": md5, "content-encoding": "gzip"},
        body=compressed,
    )
    assert (answer.status, answer.code) == (400, "MalformedXML")


def test_errors_quote_nothing_unescaped(client: RawClient) -> None:
    """Scenario 88: what a stranger wrote comes back as text, never as markup or as a header."""
    client.send(b"GET /b/<script>&\"' HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = client.receive()
    assert b"<script>" not in answer.body
    assert answer.xml().findtext("Resource") == "/b/<script>&\"'"
    for value in ("a\r\nSet-Cookie: x", "a\nb", "a\0b"):
        query = [("response-content-type", value)]
        answer = client.request("GET", VICTIM, query=query)
        assert (answer.status, answer.code) == (400, "InvalidArgument")
        assert answer.header("set-cookie") is None
