"""Builders of requests for the tests of ``sos.s3``; signing is botocore's, independent of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sos.s3.errors import S3Error
from sos.s3.head import RequestHead, parse_head
from sos.s3.operations import Operation
from sos.s3.parsing import parse_operation
from sos.s3.sigv4 import UNSIGNED, Payload
from sos.s3.target import S3Settings, Target, parse_target
from sos.s3.wire import parse_head as parse_wire_head

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"
SETTINGS = S3Settings()
HOST = "127.0.0.1:9000"
FRAMING = (b"content-length", b"transfer-encoding")
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def make_head(
    method: str, target: str | bytes, headers: Mapping[str, str] | None = None
) -> RequestHead:
    """A head with a ``Host``."""
    pairs = [(b"host", HOST.encode())]
    pairs += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return sent_head(method, target, pairs)


def sent_head(
    method: str, target: str | bytes, pairs: Sequence[tuple[bytes, bytes]]
) -> RequestHead:
    """The head of a request with exactly these headers, also of framing that HTTP would have refused before.

    Raises: WireError, S3Error.
    """
    if isinstance(target, str):
        target = target.encode()
    version = b"HTTP/1.1" if any(name.lower() == b"host" for name, _ in pairs) else b"HTTP/1.0"
    lines = [b"%s %s %s" % (method.encode(), target, version)]
    lines += [b"%s: %s" % pair for pair in pairs if pair[0].lower() not in FRAMING]
    head = parse_head(parse_wire_head(b"\r\n".join(lines)))
    framing = {n.lower().decode(): v.decode() for n, v in pairs if n.lower() in FRAMING}
    return head._replace(headers=head.headers | framing)


def find_target(
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    settings: S3Settings = SETTINGS,
) -> Target:
    """Steps 1 and 2."""
    return parse_target(make_head(method, target, headers), settings)


def find_operation(
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    settings: S3Settings = SETTINGS,
    payload: Payload = UNSIGNED,
    presigned: bool = False,
) -> Operation:
    """Steps 1, 2 and 4."""
    head = make_head(method, target, headers)
    found = parse_target(head, settings)
    return parse_operation(found, head, payload, settings, presigned=presigned)


def refusal(call: Any, *arguments: Any, **named: Any) -> S3Error:
    """The error that a call answers with."""
    with pytest.raises(S3Error) as caught:
        call(*arguments, **named)
    return caught.value


def now_ms() -> int:
    """botocore signs with the machine's clock, so the tests judge by it."""
    return int(datetime.now(UTC).timestamp() * 1000)


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes = b"",
    payload: str | None = None,
    expires: int | None = None,
    region: str = REGION,
    secret: str = SECRET_KEY,
) -> RequestHead:
    """A request signed by botocore, in headers, or presigned where ``expires`` is given."""
    request = AWSRequest(method=method, url=url, headers=dict(headers or {}), data=body)
    if payload is not None:
        request.headers["X-Amz-Content-SHA256"] = payload
        request.context["payload_signing_enabled"] = payload != "UNSIGNED-PAYLOAD"
    credentials = Credentials(ACCESS_KEY, secret)
    if expires is None:
        signer: Any = S3SigV4Auth(credentials, "s3", region)
        if payload is not None:
            signer.payload = lambda _request: payload
    else:
        signer = S3SigV4QueryAuth(credentials, "s3", region, expires=expires)
    signer.add_auth(request)
    return head_of(request)


def head_of(request: AWSRequest) -> RequestHead:
    """The head as it goes over the wire."""
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    pairs = [(b"host", parts.netloc.encode())]
    for name, value in request.headers.items():
        raw = value if isinstance(value, bytes) else value.encode()
        pairs.append((name.lower().encode(), raw))
    return sent_head(request.method, target, pairs)
