"""How the body of a request is to be read: length, framing, digests, caps. Pure.

Source: s3.md 2.6 (body length), 3.2, 11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sos.limits import OBJECT_BYTES_MAX
from sos.s3.checksums import parse_digests
from sos.s3.errors import (
    EntityTooLarge,
    FeatureNotImplemented,
    MaxMessageLengthExceeded,
    MissingContentLength,
)
from sos.s3.operations import BodyPlan
from sos.s3.sigv4 import Payload
from sos.s3.target import S3Settings

_DIGITS: Final = re.compile(r"\d{1,19}", re.ASCII)


def has_body(headers: Mapping[str, str]) -> bool:
    """Whether a body was announced; no length at all means none."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def plan_object(headers: Mapping[str, str], payload: Payload, settings: S3Settings) -> BodyPlan:
    """How to read the body of a PutObject (s3.md 2.6). Raises: MissingContentLength, NotImplemented, EntityTooLarge."""
    if payload.is_chunked:
        size_bytes: int | None = _parse_length(headers.get("x-amz-decoded-content-length", ""))
    else:
        size_bytes = _plain_length(headers, settings)
    if size_bytes is not None and size_bytes > OBJECT_BYTES_MAX:
        raise EntityTooLarge(str(size_bytes), str(OBJECT_BYTES_MAX))
    return BodyPlan(
        payload=payload,
        digests=parse_digests(headers, payload),
        size_bytes=size_bytes,
        bytes_max=OBJECT_BYTES_MAX,
        is_chunked=payload.is_chunked,
    )


def plan_document(
    headers: Mapping[str, str], payload: Payload, settings: S3Settings, bytes_max: int
) -> BodyPlan:
    """How to read a request document. Raises: MissingContentLength, NotImplemented, MaxMessageLengthExceeded."""
    size_bytes = _plain_length(headers, settings)
    if size_bytes is not None and size_bytes > bytes_max:
        raise MaxMessageLengthExceeded()
    return BodyPlan(
        payload=payload,
        digests=parse_digests(headers, payload),
        size_bytes=size_bytes,
        bytes_max=bytes_max,
        is_chunked=False,
    )


def _plain_length(headers: Mapping[str, str], settings: S3Settings) -> int | None:
    if "transfer-encoding" in headers:
        if not settings.superset:
            raise FeatureNotImplemented("Transfer-Encoding")
        return None
    return _parse_length(headers.get("content-length", ""))


def _parse_length(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise MissingContentLength()
    return int(text)
