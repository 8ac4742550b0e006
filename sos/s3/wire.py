"""HTTP/1.1 on the wire: strict request heads, transfer chunks, response heads. Pure: bytes in, values out.

Written here and not taken from the HTTP library, because ``s3.md`` 2.6 and 11 fix the answer to every
malformed request, signatures need header and target bytes exactly as sent, and a request costs a
third of what it costs through the library (see docs/decisions). Rules: RFC 9112; where it leaves a
choice, the strict one, so that no proxy in front can read a message differently.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sos.limits import HEADER_BYTES_MAX, KIB, REQUEST_LINE_BYTES_MAX

# A head over HEADER_BYTES_MAX is still read to its end, so that the refusal leaves the connection
# usable; beyond this it is not.
HEAD_BYTES_MAX: Final = REQUEST_LINE_BYTES_MAX + 8 * HEADER_BYTES_MAX
CHUNK_LINE_BYTES_MAX: Final = 4 * KIB  # a size, or one line of the trailer, of a chunked transfer
TRAILER_BYTES_MAX: Final = 8 * KIB  # trailer section of a chunked transfer
_LENGTH_DIGITS_MAX: Final = 19  # below 2**63

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code != 9)  # every control but HTAB
_CONTROL_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET_FORBIDDEN: Final = bytes((*range(33), 127))
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_NAMES_MAX: Final = 512  # bounded: a peer that invents names must not grow it
_names: dict[bytes, str] = {}  # a header name as sent -> lower case; holds only valid names

REASONS: Final = {
    100: "Continue",
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    303: "See Other",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    416: "Requested Range Not Satisfiable",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class WireError(Exception):
    """The peer broke HTTP: answer 400 and close. ``too_large``: a size limit, else the syntax."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class WireHead(NamedTuple):
    """One request's line and headers; as bytes, too: signatures are made over what was sent."""

    method: str
    target: bytes  # as sent, undecoded
    headers: dict[str, str]  # names in lower case; UTF-8, else Latin-1 (s3.md 3.1); repeats joined
    raw_headers: list[tuple[str, bytes]]  # values trimmed, otherwise as sent, in order
    head_bytes: int
    content_length: int | None
    chunked: bool
    keep_alive: bool  # never for HTTP/1.0: its clients gain nothing here
    expects_continue: bool

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)


def parse_head(head: bytes) -> WireHead:
    """Parse a head without its final blank line.

    Raises: WireError for anything RFC 9112 does not allow, and for what it lets a server refuse:
    obsolete folding, a bare CR or LF, blanks before the colon, both length headers, repeated lengths.
    """
    lines = head.split(b"\r\n")
    if len(head.translate(None, _CONTROLS)) != len(head) - 2 * (len(lines) - 1):
        raise WireError("the head holds a control character")
    method, target, is_1_1 = _parse_request_line(lines[0])
    headers: dict[str, str] = {}
    raw_headers: list[tuple[str, bytes]] = []
    length: int | None = None
    host_count = 0
    chunked = expects_continue = False
    keep_alive = is_1_1
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        lower = _names.get(name) or _learn_name(name)
        if not colon:
            raise WireError("a header line has no colon")
        value = value.strip(b" \t")
        raw_headers.append((lower, value))
        try:
            text = value.decode().strip()
        except UnicodeDecodeError:
            text = value.decode("latin-1").strip()
        headers[lower] = f"{headers[lower]},{text}" if lower in headers else text
        if lower not in _FRAMING:
            continue
        # Framing is judged by the bytes: what only looks like a digit or a letter in Unicode is none.
        if lower == "host":
            host_count += 1
        elif lower == "content-length":
            if length is not None:
                raise WireError("Content-Length is repeated")
            length = _parse_length(value)
        elif lower == "transfer-encoding":
            if chunked or not is_1_1 or value.lower() != b"chunked":
                raise WireError("Transfer-Encoding is not a single chunked")
            chunked = True
        elif lower == "connection":
            keep_alive = keep_alive and not _asks_to_close(value)
        else:
            expects_continue = expects_continue or value.lower() == b"100-continue"
    if host_count != 1 and (is_1_1 or host_count):
        raise WireError("a request needs exactly one Host header")
    if chunked and length is not None:
        raise WireError("Content-Length and Transfer-Encoding together")
    return WireHead(
        method=method,
        target=target,
        headers=headers,
        raw_headers=raw_headers,
        head_bytes=len(head),
        content_length=length,
        chunked=chunked,
        keep_alive=keep_alive,
        expects_continue=expects_continue and is_1_1,
    )


def is_no_head(start: bytes | bytearray) -> bool:
    """Whether what began to arrive can never become a head: another protocol, or lines that end in LF alone.

    Who sends such a thing waits for an answer to it, not for the deadline of an unfinished head.
    """
    if not start or start.startswith(b"\r"):
        return False
    newline = start.find(b"\n", 0, REQUEST_LINE_BYTES_MAX)
    return _TOKEN.match(start) is None or newline == 0 or (newline > 0 and start[newline - 1] != 13)


_FRAMING: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})


def _parse_request_line(line: bytes) -> tuple[str, bytes, bool]:
    """Method, target, whether it is 1.1, of ``METHOD SP target SP HTTP/1.x`` (RFC 9112, 3)."""
    if len(line) > REQUEST_LINE_BYTES_MAX:
        raise WireError("the request line is too long", too_large=True)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise WireError("the request line is not: method, target, version")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise WireError("not HTTP/1.x")
    if _TOKEN.fullmatch(method) is None:
        raise WireError("the method is not a token")
    if not target or len(target.translate(None, _TARGET_FORBIDDEN)) != len(target):
        raise WireError("the request target holds a control character")
    return method.decode("ascii"), target, version == b"HTTP/1.1"


def _learn_name(name: bytes) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise WireError("a header name is not a token")
    lower = name.decode("ascii").lower()
    if len(name) <= 64:
        if len(_names) >= _NAMES_MAX:
            _names.clear()
        _names[name] = lower
    return lower


def _parse_length(value: bytes) -> int:
    if not (value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX):
        raise WireError("Content-Length is not a number")
    return int(value)


def _asks_to_close(value: bytes) -> bool:
    return b"close" in {token.strip(b" \t").lower() for token in value.split(b",")}


class TransferDecoder:
    """Peels ``Transfer-Encoding: chunked`` (RFC 9112, 7.1) from a stream fed in any pieces."""

    __slots__ = ("_line", "_remaining", "_state", "_trailer_bytes", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._state = "size"
        self._line = b""  # a line that has not ended yet
        self._remaining = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The body bytes in ``data``, and what follows the message (only when ``finished``).

        Raises: WireError when the framing is broken.
        """
        out: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and not self.finished:
            if self._state == "data":
                piece = data[position : position + self._remaining]
                out.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = "end"
                continue
            position = self._feed_line(data, position)
        return out, data[position:]

    def _feed_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > CHUNK_LINE_BYTES_MAX:
            raise WireError("a chunk line is too long")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise WireError("a chunk line does not end in CRLF")
            self._on_line(line[:-2])
        return stop

    def _on_line(self, line: bytes) -> None:
        if self._state == "size":
            # Extensions and blanks are refused, too: no client of S3 sends them, and proxies disagree where they end.
            if _CHUNK_SIZE.fullmatch(line) is None:
                raise WireError("a chunk size is not just a hexadecimal number")
            self._remaining = int(line, 16)
            self._state = "data" if self._remaining else "trailer"
        elif self._state == "end":
            if line:
                raise WireError("a chunk is longer than its size")
            self._state = "size"
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > TRAILER_BYTES_MAX:
                raise WireError("the trailer section is too long")
            self.finished = not line


def render_head(status: int, headers: list[tuple[str, str]], own_lines: str = "") -> bytes:
    """A response head. Values are checked for line breaks: no stored header can split a response.

    ``own_lines``: headers that hold nothing from outside, as they go out, each with its CRLF.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    flat = "".join(lines)
    # isprintable() is one fast pass and true for nearly every head; the exact test is for the rest.
    if not flat.isprintable() and _CONTROL_TEXT.search(flat) is not None:
        raise ValueError("a response header holds a control character")
    status_line = f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n"
    text = "\r\n".join([*lines, "\r\n"])
    return f"{status_line}{own_lines}{text}".encode("utf-8", "replace")
