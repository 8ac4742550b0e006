"""One keep-alive connection that signs and sends requests and reads whole answers.

The signer is independent of ``sos.s3.sigv4`` (SigV4: sig-v4-header-based-auth), so that both cannot share a mistake.
Retries are off: every attempt is one operation of a history.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"


class ConnectionLost(Exception):
    """``sent``: whether a byte of the request may have left; if not, the operation certainly had no effect."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``body`` is empty where it was asked to be only counted (``body_bytes`` tells its length)."""

    status: int
    headers: dict[str, str]
    body: bytes
    body_bytes: int


@lru_cache(maxsize=64)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def encode_key(key: str) -> str:
    """A key as it stands in a request path."""
    return quote(key, safe="/-_.~")


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = sorted(part if "=" in part else part + "=" for part in query.split("&"))
    return "&".join(pairs)


def signed_head(
    credentials: Credentials,
    *,
    method: str,
    host: str,
    path: str,
    query: str = "",
    headers: tuple[tuple[str, str], ...] = (),
    payload: str = EMPTY_SHA256,
    content_length: int | None = None,
) -> bytes:
    """Request line and headers, signed. ``path`` and ``query`` are percent-encoded; header names lower-case."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    date = stamp[:8]
    signed = sorted(
        [("host", host), ("x-amz-content-sha256", payload), ("x-amz-date", stamp), *headers]
    )
    names = ";".join(name for name, _ in signed)
    block = "".join(f"{name}:{value}\n" for name, value in signed)
    canonical = f"{method}\n{path}\n{_canonical_query(query)}\n{block}\n{names}\n{payload}"
    scope = f"{date}/{credentials.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = _signing_key(credentials.secret_key, date, credentials.region)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    target = f"{path}?{query}" if query else path
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in signed]
    lines.append(
        f"authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    if content_length is not None:
        lines.append(f"content-length: {content_length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection(asyncio.Protocol):
    """One request at a time over one socket; reconnects on the next request after a loss."""

    def __init__(self, host: str, port: int, credentials: Credentials, *, tag: str = "") -> None:
        self._address = (host, port)
        self._credentials = credentials
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str], int] | None = None  # status, headers, body length
        self._received = 0
        self._keep_body = True
        self._bodiless = False
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self.tag = tag or f"{host}:{port}"

    # --- asyncio.Protocol ---
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writable.set()
        self._fail(ConnectionLost(f"connection lost: {exc}", sent=True))

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._buffer += data
            if not self._parse_head():
                return
        elif self._keep_body:
            self._buffer += data
            self._received += len(data)
        else:
            self._received += len(data)
        assert self._head is not None
        status, headers, length = self._head
        if self._received >= length:
            body = bytes(self._buffer[:length]) if self._keep_body else b""
            self._reset()
            if headers.get("connection") == "close":
                self.close()
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(
                    Answer(status=status, headers=headers, body=body, body_bytes=length)
                )

    # --- parsing ---
    def _parse_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        del self._buffer[: end + 4]
        if status == 100:
            return bool(self._buffer) and self._parse_head()
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        bodiless = self._bodiless or status in (204, 304)
        self._head = (status, headers, 0 if bodiless else int(headers.get("content-length", "0")))
        self._received = len(self._buffer)
        if not self._keep_body:
            self._buffer.clear()
        return True

    def _reset(self) -> None:
        self._head = None
        self._received = 0
        self._buffer.clear()

    def _fail(self, error: Exception) -> None:
        self._reset()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def close(self) -> None:
        """Drop the socket; the next request makes a new one."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # --- use ---
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | memoryview = b"",
        repeat: tuple[bytes, int] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        payload: str | None = None,
        keep_body: bool = True,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send one signed request and read its answer. Raises: ConnectionLost, TimeoutError.

        ``repeat``: (piece, count) instead of ``body``: a body too large for memory, sent unsigned.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            try:
                async with asyncio.timeout(min(timeout_s, 5.0)):
                    await loop.create_connection(lambda: self, *self._address)
            except (OSError, TimeoutError) as error:
                raise ConnectionLost(f"cannot connect: {error}", sent=False) from error
            if self._transport is None:
                raise ConnectionLost("closed as soon as it was open", sent=False)
        if repeat is not None:
            payload = UNSIGNED
        if payload is None:
            payload = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        length = len(body) if repeat is None else len(repeat[0]) * repeat[1]
        has_body = bool(length) or method in ("PUT", "POST")
        head = signed_head(
            self._credentials,
            method=method,
            host=f"{self._address[0]}:{self._address[1]}",
            path=path,
            query=query,
            headers=headers,
            payload=payload,
            content_length=length if has_body else None,
        )
        self._keep_body = keep_body
        self._bodiless = method == "HEAD"
        self._waiter = loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                if length <= 65_536:
                    self._transport.write(head + bytes(body))
                elif repeat is None:
                    view = memoryview(body)
                    pieces = range(0, length, 1 << 20)
                    await self._send_pieces(head, (view[at : at + (1 << 20)] for at in pieces))
                else:
                    await self._send_pieces(head, (repeat[0] for _ in range(repeat[1])))
                return await self._waiter
        except TimeoutError:
            self.close()
            raise
        finally:
            self._waiter = None

    async def _send_pieces(self, head: bytes, pieces: Iterable[bytes | memoryview]) -> None:
        assert self._transport is not None
        self._transport.write(head)
        for piece in pieces:
            if self._transport is None:
                return  # the waiter holds the reason, or an early answer
            self._transport.write(piece)
            await self._writable.wait()
