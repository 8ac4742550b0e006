"""The canonical request: the text that a SigV4 signature is made over. Pure.

Source: s3.md 3.1 (SigV4: create-signed-request). Everything is taken as sent; where clients are known to sign something
else than they send, there is one more form to try.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sos.s3.head import RequestHead

_ODD_IN_PATH: Final = re.compile(r"[^A-Za-z0-9\-._~/]")
_BLANKS: Final = re.compile(r"[ \t]{2,}|\t")


def canonical_requests(
    head: RequestHead, signed_headers: tuple[str, ...], payload: str
) -> Iterator[bytes]:
    """The canonical request in every form that clients are known to sign, the likeliest first.

    ``signed_headers``: lower case, in order; ``payload``: the value of ``x-amz-content-sha256``.
    """
    path = head.path.encode("utf-8", "surrogateescape")
    query = _canonical_query(head).encode()
    signed = ";".join(signed_headers).encode()
    method = head.method.encode()
    tail = payload.encode()
    paths = [path]
    if _ODD_IN_PATH.search(head.path):  # clients differ on what they encode beyond these
        encoded = quote(unquote_to_bytes(path), safe="/-._~").encode()
        if encoded != path:
            paths.append(encoded)
    for headers in _canonical_headers(head, signed_headers):
        for path in paths:
            yield b"\n".join((method, path, query, headers, signed, tail))


def _canonical_query(head: RequestHead) -> str:
    """Every pair but the signature, re-encoded, in order of encoded name, then value."""
    if not head.query:
        return ""
    pairs = sorted(
        (_encode(name), _encode(value)) for name, value in head.query if name != "X-Amz-Signature"
    )
    return "&".join([f"{name}={value}" for name, value in pairs])


def _encode(text: str) -> str:
    if _ODD_IN_PATH.search(text) is None and "/" not in text:
        return text
    return quote(text, safe="-._~")


def _canonical_headers(head: RequestHead, signed_headers: tuple[str, ...]) -> Iterator[bytes]:
    """``name:value`` lines. Values that are not ASCII are signed as sent, or as UTF-8 of Latin-1 (s3.md 3.1)."""
    headers = head.headers
    lines = []
    for name in signed_headers:
        value = headers.get(name, "")
        if "  " in value or "\t" in value:
            value = _BLANKS.sub(" ", value)
        lines.append(f"{name}:{value}\n")
    text = "".join(lines)
    yield text.encode("utf-8", "replace")
    if text.isascii():
        return
    # The client may have sent Latin-1 and signed that, or sent Latin-1 and signed UTF-8.
    raw: dict[str, list[bytes]] = {}
    for name, raw_value in head.raw_headers:
        raw.setdefault(name, []).append(b" ".join(raw_value.split()))
    as_sent = [(name, b",".join(raw.get(name, []))) for name in signed_headers]
    yield b"".join([b"%s:%s\n" % (name.encode(), value) for name, value in as_sent])
    as_utf8 = [(name, value.decode("latin-1").encode()) for name, value in as_sent]
    yield b"".join([b"%s:%s\n" % (name.encode(), value) for name, value in as_utf8])
