"""Every parser of bytes that a client sends, as a function of bytes: what it says, or an error that it declares.

A row returns something that may be compared (parsers that are fed in pieces: the same for any pieces) and raises
``S3Error`` or ``WireError`` alone. Whatever else rises would be a 500, or a connection that dies.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from sos.s3.conditional import parse_read_conditions
from sos.s3.cors import pack_cors, parse_cors, render_cors, unpack_cors
from sos.s3.dates import parse_amz_date, parse_http_date
from sos.s3.errors import S3Error
from sos.s3.form import FormParser, parse_boundary
from sos.s3.head import RequestHead, parse_head, parse_query, printable
from sos.s3.listing import (
    open_token,
    parse_list_parameters,
    parse_max_buckets,
    parse_upload_marker,
    parse_version_marker,
)
from sos.s3.multipart_xml import parse_complete
from sos.s3.parsing import parse_operation
from sos.s3.post_policy import check_policy, parse_policy
from sos.s3.sigv4 import parse_authorization, parse_payload
from sos.s3.tagging import pack_tags, parse_tagging, parse_tagging_header, unpack_tags
from sos.s3.target import Kind, S3Settings, parse_target
from sos.s3.version_ids import parse_place_id, parse_version_id
from sos.s3.wire import TransferDecoder, WireError
from sos.s3.wire import parse_head as parse_wire
from sos.s3.xml import parse_create_bucket, parse_delete, parse_versioning, render_error
from tests.unit.s3_chunks import TRAILER, decode

NOW_MS: Final = 1_790_000_000_000
SECRET: Final = bytes(range(32))
SETTINGS: Final = S3Settings(domains=("s3.example.com",))
DECODED_BYTES: Final = 16
BOUNDARY: Final = b"edge"
_WITHOUT_OPERATION: Final = frozenset({Kind.POST_OBJECT, Kind.PREFLIGHT})


def verdict(parser: Callable[[bytes], object], data: bytes) -> str:
    """What became of ``data``, in a word: ``read`` or the error's code. A refusal must fit in an error document."""
    try:
        parser(data)
    except S3Error as error:
        render_error(error, resource="/b/k", request_id="1", host_id="2")
        return error.code
    except WireError:
        return "WireError"
    return "read"


# --- heads ------------------------------------------------------------------------------------------
def _head(data: bytes) -> RequestHead:
    return parse_head(parse_wire(data))


def _operation(data: bytes) -> object:
    head = _head(data)
    target = parse_target(head, SETTINGS)
    if target.kind in _WITHOUT_OPERATION:
        return target
    payload = parse_payload(head.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD"))
    for presigned in (False, True):
        parse_operation(target, head, payload, SETTINGS, presigned=presigned)
    return target


def _authorization(data: bytes) -> object:
    return parse_authorization(_head(data), region="us-east-1", now_ms=NOW_MS)


def _query(data: bytes) -> object:
    """A query of a listing: a parameter that is refused does not keep the others from being read."""
    params = dict(parse_query(data.decode("utf-8", "surrogateescape")))
    readers: tuple[Callable[[dict[str, str]], object], ...] = (
        parse_list_parameters,
        parse_max_buckets,
        parse_upload_marker,
        parse_version_marker,
    )
    refused = None
    for reader in readers:
        try:
            reader(params)
        except S3Error as error:
            refused = error
    if refused is not None:
        raise refused
    return params


def _range(data: bytes) -> object:
    text = data.decode("latin-1")
    headers = {"range": text, "if-range": text, "if-modified-since": text, "if-none-match": text}
    conditions = parse_read_conditions({"range": text}, {})
    parse_read_conditions(headers, {})
    return conditions.range


def _dates(data: bytes) -> object:
    text = data.decode("latin-1")
    return parse_http_date(text), parse_amz_date(text)


def _ids(data: bytes) -> object:
    text = data.decode("latin-1")
    parse_place_id(SECRET, text)
    try:
        parse_version_id(SECRET, text)
    except S3Error:
        return open_token(SECRET, text)
    return text


# --- bodies -----------------------------------------------------------------------------------------
def _tagging_header(data: bytes) -> object:
    return parse_tagging_header(data.decode("latin-1"))


def _tagging(data: bytes) -> object:
    tags = parse_tagging(data, 10)
    assert unpack_tags(pack_tags(tags)) == tags
    return tags


def _cors(data: bytes) -> object:
    rules = parse_cors(data)
    assert unpack_cors(pack_cors(rules)) == rules
    assert parse_cors(render_cors(rules)) == rules
    return rules


def _policy(data: bytes) -> object:
    """The text of a policy; its form holds nothing but a key."""

    policy = parse_policy(b64encode(data).decode())
    check_policy(policy, {"key": "k"}, bucket="b", now_ms=NOW_MS)
    return policy


def _policy_field(data: bytes) -> object:
    return parse_policy(data.decode("utf-8", "replace"))


# --- bodies that come in pieces ------------------------------------------------------------------------
def _pieces(data: bytes) -> list[list[bytes]]:
    """``data`` whole, byte by byte, and in three."""
    edges = sorted({0, len(data) // 3, len(data) // 3 * 2, len(data)})
    return [
        [data],
        [data[at : at + 1] for at in range(len(data))],
        [data[start:stop] for start, stop in pairwise(edges)],
    ]


def _the_same_for_any_pieces(read: Callable[[list[bytes]], object], data: bytes) -> object:
    outcomes: list[object] = []
    refusals: list[S3Error | WireError] = []
    for pieces in _pieces(data):
        try:
            outcomes.append(read(pieces))
        except (S3Error, WireError) as error:
            refusals.append(error)
            outcomes.append(error.code if isinstance(error, S3Error) else "WireError")
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    if refusals:
        raise refusals[0]
    return outcomes[0]


def _chunks(data: bytes) -> object:
    def read(pieces: list[bytes]) -> object:
        return decode(pieces, decoded_bytes=DECODED_BYTES, signed=False)

    return _the_same_for_any_pieces(read, data)


def _signed_chunks(data: bytes) -> object:
    def read(pieces: list[bytes]) -> object:
        return decode(pieces, decoded_bytes=DECODED_BYTES, signed=True, trailer_name=TRAILER)

    return _the_same_for_any_pieces(read, data)


def _trailers(data: bytes) -> object:
    def read(pieces: list[bytes]) -> object:
        start = b"10\r\n" + b"d" * DECODED_BYTES + b"\r\n0\r\n"
        return decode(
            [start, *pieces], decoded_bytes=DECODED_BYTES, signed=False, trailer_name=TRAILER
        )

    return _the_same_for_any_pieces(read, data)


def _transfer(data: bytes) -> object:
    def read(pieces: list[bytes]) -> object:
        decoder, body = TransferDecoder(), b""
        for piece in pieces:
            taken, _ = decoder.feed(piece)
            body += b"".join(taken)
        return body, decoder.finished

    return _the_same_for_any_pieces(read, data)


def _form(data: bytes) -> object:
    def read(pieces: list[bytes]) -> object:
        form = FormParser(BOUNDARY)
        content = b"".join(b"".join(form.feed(piece)) for piece in pieces)
        form.finish()
        return form.fields, form.file_name, content

    return _the_same_for_any_pieces(read, data)


def _boundary(data: bytes) -> object:
    return parse_boundary(printable(data.decode("utf-8", "surrogateescape")))


PARSERS: Final[dict[str, Callable[[bytes], object]]] = {
    "authorization": _authorization,
    "boundary": _boundary,
    "chunks": _chunks,
    "complete": parse_complete,
    "cors": _cors,
    "create_bucket": parse_create_bucket,
    "dates": _dates,
    "delete": parse_delete,
    "form": _form,
    "ids": _ids,
    "operation": _operation,
    "policy": _policy,
    "policy_field": _policy_field,
    "query": _query,
    "range": _range,
    "signed_chunks": _signed_chunks,
    "tagging": _tagging,
    "tagging_header": _tagging_header,
    "trailers": _trailers,
    "transfer": _transfer,
    "versioning": parse_versioning,
}
