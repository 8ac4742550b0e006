"""Frames of the blob port and the proofs in them. Pure.

A frame is ``type (1) | length (4) | payload``. A connection begins with a mutual handshake under the cluster key::

    HELLO      versions, client nonce, cluster id, sender, receiver     ->
               <-   CHALLENGE  server nonce, proof of the server           (or REFUSED with a reason, then closed)
    PROOF      proof of the client                                      ->
               <-   READY                                                  (or REFUSED)

HELLO names the highest and, at its end, the lowest version that the client speaks; the server takes the highest that both do.
Fields are only ever added at the end of a frame, where an older reader ignores them.

Both nonces are fresh, so a recorded connection is worth nothing, and both proofs cover the whole HELLO, so they bind cluster id and
both ``name@incarnation``. From these each direction gets a key of its own; REQUEST, ANSWER and END carry a MAC under it over
their place in the connection, which makes a nonce per request needless: a replayed, dropped or reordered frame has a wrong place.
DATA carries a checksum only: a blob's bytes are checked against their block table and the catalog anyway.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sos.catalog.model import NodeId
from sos.limits import BLOCK_BYTES, KIB
from sos.packing import PackingError, pack, unpack

VERSION: Final = 1  # the highest that this release speaks
VERSION_LOWEST: Final = 1
NONCE_BYTES: Final = 16
CLUSTER_ID_BYTES: Final = 16
PROOF_BYTES: Final = 32
MAC_BYTES: Final = 16
FRAME_HEAD: Final = struct.Struct(">BI")
CRC: Final = struct.Struct(">Q")
_END: Final = struct.Struct(">QQ")
HEAD_BYTES_MAX: Final = (
    8 * KIB
)  # of every frame but DATA; also all that a stranger may make us hold
DATA_BYTES_MAX: Final = BLOCK_BYTES
_NODE_BYTES_MAX: Final = 64


class WireError(ValueError):
    """The other side does not speak this protocol; the connection is of no more use."""


class NoCommonVersion(WireError):
    """It speaks other versions of it; the text names both."""


class Frame(IntEnum):
    """Frame types. Never reuse a number."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    READY = 4
    REFUSED = 5  # text; unauthenticated
    REQUEST = 6
    ANSWER = 7
    DATA = 8
    END = 9
    ABORT = 10  # the body of an answer is void: the holder found its copy bad in the middle


class Status(IntEnum):
    """Outcomes, in HTTP's numbers."""

    ACCEPTED = 100  # go on and send the body
    OK = 200
    BAD_REQUEST = 400
    NOT_HERE = 404
    REFUSED = 409
    DAMAGED = 410
    FAILED = 500
    UNAVAILABLE = 503
    NO_SPACE = 507


FRAME_KINDS: Final = frozenset(int(kind) for kind in Frame)
_STATUSES: Final = frozenset(int(status) for status in Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who calls whom."""

    nonce: bytes
    cluster_id: bytes
    sender: NodeId
    receiver: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """``target``: path with query, as in ``/blob/00ff?start=0&stop=5``."""

    method: str
    target: str
    has_body: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """``size_bytes`` and ``crc64`` are those of the blob or file the answer is about."""

    status: Status
    text: str = ""
    size_bytes: int = 0
    crc64: int = 0
    has_body: bool = False


def length_max(kind: int) -> int:
    """The longest payload that a frame of this type may announce."""
    return CRC.size + DATA_BYTES_MAX if kind == Frame.DATA else HEAD_BYTES_MAX


# --- handshake ------------------------------------------------------------------------------------
def encode_hello(hello: Hello) -> bytes:
    # One version alone is told by the first field: the first release refuses a longer hello.
    lowest = (VERSION_LOWEST,) if VERSION_LOWEST < VERSION else ()
    return pack([VERSION, hello.nonce, hello.cluster_id, hello.sender, hello.receiver, *lowest])


def decode_hello(payload: bytes) -> Hello:
    """Raises: WireError, NoCommonVersion."""
    match _unpack(payload):
        case [int(highest), bytes(nonce), bytes(cluster_id), str(sender), str(receiver), *more]:
            lowest = more[0] if more and isinstance(more[0], int) else highest
            if min(highest, VERSION) < max(lowest, VERSION_LOWEST):
                raise NoCommonVersion(
                    f"blob protocol versions {lowest} to {highest} over there, {VERSION_LOWEST} to {VERSION} here"
                )
            if len(nonce) != NONCE_BYTES or len(cluster_id) != CLUSTER_ID_BYTES:
                raise WireError("malformed hello")
            if max(len(sender), len(receiver)) > _NODE_BYTES_MAX:
                raise WireError("malformed hello")
            return Hello(
                nonce=nonce,
                cluster_id=cluster_id,
                sender=NodeId(sender),
                receiver=NodeId(receiver),
            )
    raise WireError("malformed hello")


class Proofs:
    """What both sides derive from the cluster key, the HELLO and the server's nonce."""

    __slots__ = ("_key", "_transcript")

    def __init__(self, cluster_key: bytes, hello: bytes, server_nonce: bytes) -> None:
        self._key = cluster_key
        self._transcript = hello + server_nonce  # the nonce has a fixed length: no ambiguity

    def server(self) -> bytes:
        return self._derive(b"sos-blob-1 server proof")

    def client(self) -> bytes:
        return self._derive(b"sos-blob-1 client proof")

    def server_seal(self) -> Seal:
        return Seal(self._derive(b"sos-blob-1 server frames"))

    def client_seal(self) -> Seal:
        return Seal(self._derive(b"sos-blob-1 client frames"))

    def _derive(self, label: bytes) -> bytes:
        return hmac.digest(self._key, label + b"\0" + self._transcript, "sha256")


class Seal:
    """MACs of one direction of a connection, in order."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counter = 0

    def wrap(self, kind: Frame, content: bytes) -> bytes:
        """The payload of the next sealed frame."""
        return self._next(kind, content) + content

    def unwrap(self, kind: Frame, payload: bytes) -> bytes:
        """The content of the next sealed frame. Raises: WireError."""
        content = payload[MAC_BYTES:]
        if not hmac.compare_digest(self._next(kind, content), payload[:MAC_BYTES]):
            raise WireError("a frame is not authentic")
        return content

    def _next(self, kind: Frame, content: bytes) -> bytes:
        place = struct.pack(">QB", self._counter, kind)
        self._counter += 1
        return hmac.digest(self._key, place + content, "sha256")[:MAC_BYTES]


# --- requests and answers -------------------------------------------------------------------------
def encode_request(head: RequestHead) -> bytes:
    return pack([head.method, head.target, head.has_body])


def decode_request(content: bytes) -> RequestHead:
    """Raises: WireError."""
    match _unpack(content):
        case [str(method), str(target), bool(has_body), *_]:
            return RequestHead(method=method, target=target, has_body=has_body)
    raise WireError("malformed request")


def encode_answer(head: AnswerHead) -> bytes:
    return pack([int(head.status), head.text, head.size_bytes, head.crc64, head.has_body])


def decode_answer(content: bytes) -> AnswerHead:
    """Raises: WireError."""
    match _unpack(content):
        case [int(status), str(text), int(size_bytes), int(crc64), bool(has_body), *_]:
            if status not in _STATUSES or size_bytes < 0 or not 0 <= crc64 < 1 << 64:
                raise WireError("malformed answer")
            return AnswerHead(
                status=Status(status),
                text=text,
                size_bytes=size_bytes,
                crc64=crc64,
                has_body=has_body,
            )
    raise WireError("malformed answer")


def encode_end(size_bytes: int, crc64: int) -> bytes:
    """The end of a body: its length and CRC64NVME."""
    return _END.pack(size_bytes, crc64)


def decode_end(content: bytes) -> tuple[int, int]:
    """Raises: WireError."""
    if len(content) != _END.size:
        raise WireError("malformed end")
    size_bytes, crc64 = _END.unpack(content)
    return size_bytes, crc64


def _unpack(payload: bytes) -> object:
    try:
        return unpack(payload)
    except PackingError as error:
        raise WireError("malformed frame") from error
