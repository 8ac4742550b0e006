"""A form in any pieces, and its limits (s3.md 3.5)."""

from __future__ import annotations

import pytest

from sos.s3.errors import (
    InvalidArgument,
    InvalidPolicyDocument,
    MaxPostPreDataLengthExceededError,
)
from sos.s3.form import FIELD_BYTES_MAX, FormParser
from sos.s3.post_policy import parse_policy


def part(name: str, value: bytes) -> bytes:
    return (
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


def read(data: bytes, step: int) -> tuple[dict[str, str], bytes]:
    form = FormParser(b"edge")
    content = b"".join(
        b"".join(form.feed(data[at : at + step])) for at in range(0, len(data), step)
    )
    form.finish()
    return form.fields, content


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_fields_then_the_file(step: int) -> None:
    """Names without case; what follows the file is ignored, however long."""
    late = part("late", b"\r\n--edg" * 4000)
    data = part("Key", b"k") + part("file", b"a\r\n--edgb") + late + b"--edge--\r\nafter"
    assert read(data, step) == ({"key": "k"}, b"a\r\n--edgb")


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_second_file_is_refused(step: int) -> None:
    """Also behind other fields."""
    data = part("file", b"a") + part("x", b"y") + part("file", b"b") + b"--edge--"
    with pytest.raises(InvalidArgument):
        read(data, step)


@pytest.mark.parametrize("step", [501, 100_000])
@pytest.mark.parametrize("fields", [part("x", b"y" * FIELD_BYTES_MAX), part("x" * 21_000, b"")])
def test_fields_are_capped(step: int, fields: bytes) -> None:
    """A long value and a long head alike, in any pieces."""
    with pytest.raises(MaxPostPreDataLengthExceededError):
        read(fields + part("file", b"a") + b"--edge--", step)


@pytest.mark.parametrize("text", ["", "!", "e30=", "W10=", "W" * 4000])
def test_what_is_no_policy(text: str) -> None:
    """Refused by name."""
    with pytest.raises(InvalidPolicyDocument):
        parse_policy(text)
