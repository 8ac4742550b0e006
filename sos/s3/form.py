"""A browser form on its way in (``multipart/form-data``): its fields first, then the bytes of its file. Pure.

Source: s3.md 3.5 (S3 API: RESTObjectPOST; RFC 7578; RFC 2046, 5.1.1). The file is the last field that counts; what
follows it is read and ignored, unless it is another file. Fed with any split of the input, it gives the same fields and bytes.
"""

from __future__ import annotations

import re
from typing import Final

from sos.s3.errors import (
    InvalidArgument,
    MalformedPOSTRequest,
    MaxPostPreDataLengthExceededError,
)

FIELD_BYTES_MAX: Final = 20 * 1024  # of all fields before the file, with their headers
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def parse_boundary(content_type: str) -> bytes:
    """The boundary in a ``Content-Type``. Raises: MalformedPOSTRequest."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise MalformedPOSTRequest
    return (found[1] or found[2]).encode()


class FormParser:
    """``fields``: by name in lower case, whole once ``in_file`` is true; ``file_name``: as the browser says it."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.in_file = False
        self.file_ended = False
        self._start = b"--" + boundary
        self._end = b"\r\n--" + boundary
        self._buffer = b""
        self._taken = 0  # bytes of fields
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; the bytes of the file in it.

        Raises: MalformedPOSTRequest, MaxPostPreDataLengthExceededError, InvalidArgument.
        """
        if self.file_ended:
            self._skip(data)
            return []
        self._buffer += data
        while not self.in_file:
            if not self._take_field():
                if self._taken + len(self._buffer) > FIELD_BYTES_MAX + len(self._end):
                    raise MaxPostPreDataLengthExceededError
                return []
        return self._take_file()

    def finish(self) -> None:
        """The body ended. Raises: InvalidArgument (no file), MalformedPOSTRequest (cut in the middle)."""
        if self.file_ended:
            return
        if self.in_file or not self._begun:
            raise MalformedPOSTRequest
        if self._buffer.startswith(b"--"):
            raise _not_one_file("0")
        raise MalformedPOSTRequest

    def _take_field(self) -> bool:
        """Whether one more part was read from the buffer."""
        if not self._begun:
            if len(self._buffer) < len(self._start):
                return False
            if not self._buffer.startswith(self._start):
                raise MalformedPOSTRequest
            self._buffer = self._buffer[len(self._start) :]
            self._begun = True
        if self._buffer.startswith(b"--"):
            return False  # the end, without a file
        head, mark, rest = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return False
        if self._taken + len(head) > FIELD_BYTES_MAX:
            raise MaxPostPreDataLengthExceededError
        name, file_name = _parse_disposition(head)
        if name == "file":
            self.file_name = file_name or ""
            self.in_file = True
            self._buffer = rest
            return True
        value, mark, rest = rest.partition(self._end)
        if not mark:
            return False
        self._taken += len(self._buffer) - len(rest)
        if self._taken > FIELD_BYTES_MAX:
            raise MaxPostPreDataLengthExceededError
        try:
            self.fields.setdefault(name, value.decode())
        except UnicodeDecodeError as error:
            raise MalformedPOSTRequest from error
        self._buffer = rest
        return True

    def _take_file(self) -> list[bytes]:
        """What is certainly of the file: the end may hide in the last bytes."""
        content, mark, rest = self._buffer.partition(self._end)
        if mark:
            self.file_ended = True
            self._buffer = b""
            self._skip(self._end + rest)
            return [content] if content else []
        kept = len(self._end) - 1
        if len(self._buffer) <= kept:
            return []
        piece, self._buffer = self._buffer[:-kept], self._buffer[-kept:]
        return [piece]

    def _skip(self, data: bytes) -> None:
        """Look through what follows the file, of which a part's head is all that is kept. Raises: InvalidArgument."""
        self._buffer += data
        while True:
            _, mark, after = self._buffer.partition(self._end)
            if not mark:
                self._buffer = self._buffer[-(len(self._end) - 1) :]
                return
            if after.startswith(b"--"):
                self._buffer = mark + b"--"
                return
            head, blank, _ = after[:FIELD_BYTES_MAX].partition(b"\r\n\r\n")
            if not blank and len(after) < FIELD_BYTES_MAX:
                self._buffer = mark + after
                return
            if _is_file(head):
                raise _not_one_file("2")
            self._buffer = after


def _not_one_file(count: str) -> InvalidArgument:
    return InvalidArgument(
        "file", count, message="POST requires exactly one file upload per request."
    )


def _is_file(head: bytes) -> bool:
    try:
        return _parse_disposition(head)[0] == "file"
    except MalformedPOSTRequest:
        return False


def _parse_disposition(head: bytes) -> tuple[str, str | None]:
    """Name (in lower case) and file name of a part. Raises: MalformedPOSTRequest."""
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise MalformedPOSTRequest from error
    if lines[0]:  # the boundary's line ends here
        raise MalformedPOSTRequest
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == "content-disposition":
            found = {key.lower(): text for key, text in _PARAMETER.findall(value)}
            if "name" in found:
                return found["name"].lower(), found.get("filename")
    raise MalformedPOSTRequest
