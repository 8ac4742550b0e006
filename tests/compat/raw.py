"""A small S3 client of our own for tests: signs by hand, speaks bytes over a socket, hides nothing.

Written from the SigV4 pages alone and sharing no code with ``sos``, so that a mistake in the server's
signature code cannot hide in the client. It can also send what no SDK would: broken framing, cut bodies,
wrong signatures. Every payload mode of s3.md 3.2, over HTTP and TLS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import socket
import ssl
import time
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self
from xml.etree import ElementTree

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
S3_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
CHUNK_BYTES = 64 * 1024


class Mode(Enum):
    """How a body travels (SigV4: sigv4-streaming and its trailer form)."""

    SIGNED = "signed"
    UNSIGNED = "UNSIGNED-PAYLOAD"
    CHUNKED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    CHUNKED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawResponse:
    """One answer as it came."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    def header(self, name: str) -> str | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def closes(self) -> bool:
        return (self.header("connection") or "").lower() == "close"

    def xml(self) -> ElementTree.Element:
        """The document, with namespaces cut off."""
        root = ElementTree.fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.removeprefix(S3_NAMESPACE)
        return root

    @property
    def code(self) -> str:
        """The error code, or an empty text."""
        if self.status < 400 or not self.body:
            return ""
        return self.xml().findtext("Code") or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def quote(text: str | bytes, safe: str = "-._~") -> str:
    return urllib.parse.quote(text, safe=safe)


def canonical_query(query: Iterable[tuple[str, str]]) -> str:
    pairs = sorted((quote(name), quote(value)) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)


def crc32_base64(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@dataclass
class Signer:
    """SigV4 for one set of credentials."""

    credentials: Credentials
    now: float | None = None  # a fixed clock, for tests of skew and expiry
    service: str = "s3"

    def stamp(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now or time.time()))

    def scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.credentials.region}/{self.service}/aws4_request"

    def key(self, stamp: str) -> bytes:
        key = b"AWS4" + self.credentials.secret_key.encode()
        for part in (stamp[:8], self.credentials.region, self.service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key

    def sign(self, stamp: str, canonical: str) -> str:
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{self.scope(stamp)}\n{digest}"
        return hmac.new(self.key(stamp), text.encode(), hashlib.sha256).hexdigest()

    def canonical(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        signed: Sequence[str],
        payload: str,
    ) -> str:
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed)
        return "\n".join((method, path, canonical_query(query), lines, ";".join(signed), payload))

    def authorization(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        payload: str,
        stamp: str,
        signed: Sequence[str] | None = None,
    ) -> tuple[str, str]:
        """The header's value and the signature in it; signs every header unless told which."""
        names = sorted(headers) if signed is None else sorted(signed)
        signature = self.sign(stamp, self.canonical(method, path, query, headers, names, payload))
        value = (
            f"AWS4-HMAC-SHA256 Credential={self.credentials.access_key}/{self.scope(stamp)}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return value, signature

    def presign(
        self,
        method: str,
        host: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        expires: str = "300",
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Path and query of a presigned URL."""
        stamp = self.stamp()
        signed_headers = {"host": host, **(headers or {})}
        pairs = [
            *query,
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.credentials.access_key}/{self.scope(stamp)}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", expires),
            ("X-Amz-SignedHeaders", ";".join(sorted(signed_headers))),
        ]
        canonical = self.canonical(
            method, path, pairs, signed_headers, sorted(signed_headers), "UNSIGNED-PAYLOAD"
        )
        pairs.append(("X-Amz-Signature", self.sign(stamp, canonical)))
        return f"{path}?{canonical_query(pairs)}"

    def chunked(
        self,
        data: bytes,
        stamp: str,
        seed: str,
        trailer: tuple[str, str] | None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> bytes:
        """An aws-chunked body with signed chunks and, if given, a signed trailer."""
        previous = seed
        out = []
        pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
        for piece in [*pieces, b""]:
            digest = hashlib.sha256(piece).hexdigest()
            previous = self.chain("PAYLOAD", stamp, previous, f"{EMPTY_SHA256}\n{digest}")
            out.append(b"%x;chunk-signature=%s\r\n" % (len(piece), previous.encode()))
            if piece:
                out.append(piece + b"\r\n")
        if trailer is not None:
            name, value = trailer
            digest = hashlib.sha256(f"{name}:{value}\n".encode()).hexdigest()
            last = self.chain("TRAILER", stamp, previous, digest)
            out.append(f"{name}:{value}\r\nx-amz-trailer-signature:{last}\r\n".encode())
        out.append(b"\r\n")
        return b"".join(out)

    def chain(self, kind: str, stamp: str, previous: str, digests: str) -> str:
        text = f"AWS4-HMAC-SHA256-{kind}\n{stamp}\n{self.scope(stamp)}\n{previous}\n{digests}"
        return hmac.new(self.key(stamp), text.encode(), hashlib.sha256).hexdigest()


def unsigned_chunks(
    data: bytes, trailer: tuple[str, str] | None, chunk_bytes: int = CHUNK_BYTES
) -> bytes:
    """An aws-chunked body without signatures."""
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    out = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    out.append(b"0\r\n")
    if trailer is not None:
        out.append(f"{trailer[0]}:{trailer[1]}\r\n".encode())
    out.append(b"\r\n")
    return b"".join(out)


def transfer_chunks(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """HTTP's own chunking around a body."""
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@dataclass
class RawClient:
    """One keep-alive connection to an S3 endpoint."""

    host: str
    port: int
    credentials: Credentials
    tls: ssl.SSLContext | None = None
    timeout_s: float = 30.0
    signer: Signer = field(init=False)
    _socket: socket.socket | None = None
    _received: bytes = b""

    def __post_init__(self) -> None:
        self.signer = Signer(self.credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received = b""

    # --- requests as S3 wants them ----------------------------------------------------------------
    def build(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        mode: Mode = Mode.SIGNED,
        trailer: tuple[str, str] | None = None,
        transfer_chunked: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
        target: str | None = None,
        content_length: bool = True,
    ) -> tuple[bytes, bytes]:
        """Head and body of a signed request. ``path`` is sent, and signed, exactly as given."""
        stamp = self.signer.stamp()
        all_headers = {"host": self.authority, "x-amz-date": stamp}
        payload = hashlib.sha256(body).hexdigest() if mode is Mode.SIGNED else mode.value
        all_headers["x-amz-content-sha256"] = payload
        is_chunked = mode not in (Mode.SIGNED, Mode.UNSIGNED)
        if is_chunked:
            all_headers["x-amz-decoded-content-length"] = str(len(body))
            all_headers["content-encoding"] = "aws-chunked"
        if trailer is not None:
            all_headers["x-amz-trailer"] = trailer[0]
        all_headers.update({name.lower(): value for name, value in (headers or {}).items()})
        value, seed = self.signer.authorization(method, path, query, all_headers, payload, stamp)
        all_headers["authorization"] = value
        sent = body
        if mode in (Mode.CHUNKED, Mode.CHUNKED_TRAILER):
            sent = self.signer.chunked(body, stamp, seed, trailer, chunk_bytes)
        elif mode is Mode.UNSIGNED_TRAILER:
            sent = unsigned_chunks(body, trailer, chunk_bytes)
        if transfer_chunked:
            all_headers["transfer-encoding"] = "chunked"
            sent = transfer_chunks(sent)
        elif content_length and (sent or method in ("PUT", "POST")):
            all_headers.setdefault("content-length", str(len(sent)))
        if target is None:
            pairs = canonical_query(query)
            target = f"{path}?{pairs}" if pairs else path
        lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in all_headers.items())]
        return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n", sent

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        mode: Mode = Mode.SIGNED,
        trailer: tuple[str, str] | None = None,
        transfer_chunked: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
        target: str | None = None,
        content_length: bool = True,
    ) -> RawResponse:
        """Send one signed request and read its answer."""
        head, sent = self.build(
            method,
            path,
            query=query,
            headers=headers,
            body=body,
            mode=mode,
            trailer=trailer,
            transfer_chunked=transfer_chunked,
            chunk_bytes=chunk_bytes,
            target=target,
            content_length=content_length,
        )
        self.send(head + sent)
        return self.receive(method)

    # --- bytes ------------------------------------------------------------------------------------
    def connect(self) -> socket.socket:
        if self._socket is None:
            plain = socket.create_connection((self.host, self.port), self.timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                plain = self.tls.wrap_socket(plain, server_hostname=self.host)
            self._socket = plain
        return self._socket

    def send(self, data: bytes) -> None:
        """Send bytes as they are. A server that closed early is no error here: the answer tells."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connect().sendall(data)

    def end_sending(self) -> None:
        self.connect().shutdown(socket.SHUT_WR)

    def receive(self, method: str = "GET") -> RawResponse:
        """The next answer; a 100 is an answer too. Raises: EOFError when the server closed."""
        head = self._read_until(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        _, status_text, reason = lines[0].split(" ", 2)
        status = int(status_text)
        pairs = [line.partition(":") for line in lines[1:] if line]
        headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        lengths = [int(value) for name, value in headers if name == "content-length"]
        has_body = method != "HEAD" and status >= 200 and status not in (204, 304)
        body = self._read_exactly(lengths[0]) if has_body and lengths else b""
        response = RawResponse(status=status, reason=reason, headers=headers, body=body)
        if response.closes:
            self.close()
        return response

    def is_closed_by_server(self) -> bool:
        """Whether the server ends the connection now (waits for it)."""
        if self._socket is None:
            return True
        try:
            return self._socket.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True

    def _fill(self) -> None:
        data = self.connect().recv(256 * 1024)
        if not data:
            self.close()
            raise EOFError("the server closed the connection")
        self._received += data

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._fill()
        head, _, self._received = self._received.partition(mark)
        return head

    def _read_exactly(self, count: int) -> bytes:
        pieces = [self._received]
        have = len(self._received)
        self._received = b""
        while have < count:
            data = self.connect().recv(1024 * 1024)
            if not data:
                self.close()
                raise EOFError(f"the body ended after {have} of {count} bytes")
            pieces.append(data)
            have += len(data)
        whole = b"".join(pieces)
        self._received = whole[count:]
        return whole[:count]
