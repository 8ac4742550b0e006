"""The head of one request, read once: raw target, decoded query, headers by lower-case name. Pure.

Works on the raw request target and raw header bytes only: an HTTP library's decoded path has lost ``%2F``,
and signatures are made over what was sent (s3.md 2.2, 3.1).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from sos.limits import HEADER_BYTES_MAX
from sos.s3.errors import InvalidArgument, InvalidURI, RequestHeaderSectionTooLarge
from sos.s3.wire import WireHead

_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2
_LINE_OVERHEAD_BYTES: Final = 4  # ": " and CRLF
# Headers of most requests that ask for no feature of S3: loops over headers skip them by one look-up.
PLAIN_NAMES: Final = frozenset(
    {
        *("accept", "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request"),
        *("authorization", "connection", "content-length", "content-type", "date", "expect"),
        *("host", "user-agent", "x-amz-content-sha256", "x-amz-date", "x-amz-user-agent"),
    }
)
_SIGNATURE_PARAMETERS: Final = frozenset(
    {
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-signedheaders",
        "x-amz-signature",
        "x-amz-security-token",
        "x-amz-content-sha256",
    }
)


class RequestHead(NamedTuple):
    """What a client sent before the body. A named tuple: one per request, on the hot path.

    ``path`` and ``raw_query`` are as sent; bytes that are not UTF-8 stand as surrogates. ``query`` holds every
    pair, percent-decoded; ``params`` the first value of each name. ``headers``: trimmed, repeats joined by ``,``.
    """

    method: str
    path: str
    raw_query: str
    query: tuple[tuple[str, str], ...]
    params: dict[str, str]
    headers: dict[str, str]
    raw_headers: list[tuple[str, bytes]]


def parse_head(wire: WireHead) -> RequestHead:
    """Read what HTTP left of a request head. Raises: RequestHeaderSectionTooLarge, InvalidURI."""
    _check_size(wire)
    target = wire.target.decode("utf-8", "surrogateescape")
    if not target.startswith("/"):
        target = _origin_form(wire.method, target)
    path, _, raw_query = target.partition("?")
    query = parse_query(raw_query) if raw_query else ()
    params: dict[str, str] = {}
    for name, value in query:
        params.setdefault(name, value)
    return RequestHead(
        method=wire.method,
        path=path,
        raw_query=raw_query,
        query=query,
        params=params,
        headers=wire.headers,
        raw_headers=wire.raw_headers,
    )


def _check_size(wire: WireHead) -> None:
    """Raises: RequestHeaderSectionTooLarge. Nearly every head is small enough as a whole: no need to count."""
    pairs = wire.raw_headers
    if wire.head_bytes + _LINE_OVERHEAD_BYTES * len(pairs) <= HEADER_BYTES_MAX:
        return
    if sum([len(n) + len(v) + _LINE_OVERHEAD_BYTES for n, v in pairs]) > HEADER_BYTES_MAX:
        raise RequestHeaderSectionTooLarge(str(HEADER_BYTES_MAX))


def _origin_form(method: str, target: str) -> str:
    """Drop scheme and authority of an absolute-form target (RFC 9112, 3.2.2)."""
    if target == "*" and method == "OPTIONS":
        return "/"
    found = _ABSOLUTE_FORM.match(target)
    if found is None:
        raise InvalidURI(printable(target))
    rest = target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def parse_query(raw: str) -> tuple[tuple[str, str], ...]:
    """All pairs in order: split at ``&``, then the first ``=``; ``+`` is a space (s3.md 2.3)."""
    pairs = []
    for piece in raw.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            pairs.append((_decode_parameter(name), _decode_parameter(value)))
    return tuple(pairs)


def _decode_parameter(text: str) -> str:
    return percent_decode(text.replace("+", " ") if "+" in text else text)


def percent_decode(text: str) -> str:
    """Decode ``%xx`` once, as UTF-8; ``+`` stays. Raises: InvalidURI."""
    if text.isascii():
        if "%" not in text:
            return text
        if _BAD_PERCENT.search(text):
            raise InvalidURI(printable(text))
        try:
            return unquote_to_bytes(text).decode()
        except UnicodeDecodeError as error:
            raise InvalidURI(printable(text)) from error
    try:
        raw = text.encode("utf-8", "surrogateescape")
        if _BAD_PERCENT.search(text):
            raise InvalidURI(printable(text))
        return unquote_to_bytes(raw).decode()
    except UnicodeError as error:
        raise InvalidURI(printable(text)) from error


def printable(text: str) -> str:
    """``text`` with undecodable bytes replaced, fit for an error document."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def with_query_headers(head: RequestHead) -> RequestHead:
    """The head of a **presigned** request, whose ``x-amz-*`` parameters act as headers (s3.md 2.3).

    A header that is sent as well wins. Raises: InvalidArgument for control characters, which a header could not hold.
    """
    added: dict[str, str] = {}
    for name, value in head.query:
        lower = name.lower()
        if lower.startswith("x-amz-") and lower not in _SIGNATURE_PARAMETERS:
            check_header(name, value)
            added.setdefault(lower, value.strip())
    return head._replace(headers=added | head.headers) if added else head


def check_header(name: str, value: str) -> None:
    """Refuse what did not come as a header and could be none. Raises: InvalidArgument."""
    if not _TOKEN.fullmatch(name):
        raise InvalidArgument(name, message="This is no name of a header.")
    check_header_value(name, value)


def check_header_value(name: str, value: str) -> None:
    """Refuse a query value that would break the response header it is to become. Raises: InvalidArgument."""
    if _CONTROL.search(value):
        raise InvalidArgument(name, message="Header values cannot hold control characters.")
