"""What a handler sees of a request, and what it answers. Nothing here knows the HTTP server below."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sos.catalog.model import AccessKeyId, AccessKeyRecord
    from sos.clock import IdSource
    from sos.s3.head import RequestHead
    from sos.s3.sigv4 import Verified
    from sos.s3.target import Target

XML = ("Content-Type", "application/xml")


class ByteStream(Protocol):
    """A body that is sent piece by piece; closed whatever happens."""

    def __aiter__(self) -> AsyncIterator[memoryview]: ...

    async def restart(self, position: int) -> None:
        """Let go of what is in memory; the next piece begins ``position`` bytes after the first one's start."""
        ...

    async def aclose(self) -> None: ...


class RawBody(Protocol):
    """A request's body as it arrives, transfer coding removed."""

    async def read(self) -> bytes:
        """The next piece, empty at the end."""
        ...


class Exchange(NamedTuple):
    """One authenticated request. Only the gate makes one, so no handler is reached around it."""

    head: RequestHead
    target: Target
    verified: Verified
    access_key: AccessKeyId
    key: AccessKeyRecord
    raw_body: RawBody


class Response(NamedTuple):
    """An answer; a named tuple: one per request, on the hot path. ``content_length`` is needed for a stream, and tells a HEAD what GET would send."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: ByteStream | None = None
    content_length: int | None = None


def xml_response(document: bytes | str, headers: list[tuple[str, str]] | None = None) -> Response:
    """A 200 with a result document."""
    body = document.encode() if isinstance(document, str) else document
    return Response(headers=[XML, *(headers or ())], body=body)


class RequestIds:
    """``x-amz-request-id`` (16 of ``[0-9A-F]``) and ``x-amz-id-2`` of each request (s3.md 1.0)."""

    def __init__(self, ids: IdSource) -> None:
        self._session = ids.random_bytes(4).hex().upper()
        self._host = base64.b64encode(ids.random_bytes(33)).decode("ascii")  # 44 characters, no "="
        self._count = 0

    def next(self) -> str:
        """A new request id."""
        self._count = (self._count + 1) & 0xFFFFFFFF
        return f"{self._session}{self._count:08X}"

    def host_id(self, request_id: str) -> str:
        """``x-amz-id-2`` for a request id: base64 in form, 60 characters."""
        return self._host + request_id
