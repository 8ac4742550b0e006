"""Order-preserving database keys. Pure.

Every key starts with table (1 byte), Raft group (1) and store epoch (2), so that several groups can share an
environment later. Numbers are big-endian, so byte order is number order.

**Object keys.** An S3 key has up to 1,024 bytes, any of them NUL or 0xFF, and an LMDB key ends at 511. A key of
at most ``PIECE`` bytes is one row of the bucket's root node. A longer one is cut into pieces of ``PIECE``; its
last piece (1 to ``PIECE`` bytes) is a row of the node that belongs to all pieces before it. A node's id is a hash
of bucket and those pieces, so a point lookup computes its row and never walks. So that a listing finds them, each
piece before the last has a *pointer* row in its own node: ``PIECE`` bytes and one NUL more. Rows of a node have at
most ``PIECE`` bytes otherwise, so the extra byte tells pointers apart, and it puts a pointer directly after the
key that equals its piece and before every other key: depth-first order is byte order. A pointer's value counts
the rows of its node; at zero it goes.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

from sos.catalog.model import AccessKeyId, BlobId, BucketSetting, NodeId, RequestId, UploadId

PIECE: Final = 400
POINTER_BYTES: Final = PIECE + 1

_SCOPE: Final = b"\x00\x00\x01"  # Raft group 0, store epoch 1
_U64: Final = struct.Struct(">Q")
_POINTER_END: Final = b"\x00"
# 24 bytes: nobody finds two long keys whose nodes collide, also on purpose (2 ** 96 tries).
NODE_BYTES: Final = 24

# Free: 0x42-0x44 keys and accounts.
META: Final = b"\x01" + _SCOPE
BUCKET: Final = b"\x10" + _SCOPE
SETTING: Final = b"\x11" + _SCOPE
OBJECT: Final = b"\x20" + _SCOPE
OBJECT_DEEP: Final = b"\x21" + _SCOPE
VERSION: Final = b"\x22" + _SCOPE
BLOB: Final = b"\x30" + _SCOPE
INLINE: Final = b"\x31" + _SCOPE
OWED: Final = b"\x32" + _SCOPE
FORGOTTEN: Final = b"\x33" + _SCOPE
TOMBSTONE: Final = b"\x34" + _SCOPE
MEMBER: Final = b"\x40" + _SCOPE
ACCESS_KEY: Final = b"\x41" + _SCOPE
REQUEST: Final = b"\x50" + _SCOPE
REQUESTS_OF: Final = b"\x51" + _SCOPE
DIGEST: Final = b"\x52" + _SCOPE
UPLOAD: Final = b"\x60" + _SCOPE
UPLOADS_OF: Final = b"\x61" + _SCOPE
UPLOADS_OF_DEEP: Final = b"\x62" + _SCOPE
PART: Final = b"\x63" + _SCOPE
MANIFEST: Final = b"\x64" + _SCOPE
FINISHED_UPLOAD: Final = b"\x65" + _SCOPE
RELEASING: Final = b"\x66" + _SCOPE
PREFIX_BYTES: Final = len(META)


class Tree(NamedTuple):
    """Two tables that together hold rows by S3 key: of short keys, and of what is below the first piece of long ones."""

    root: bytes
    deep: bytes


OBJECTS: Final = Tree(OBJECT, OBJECT_DEEP)
UPLOADS: Final = Tree(UPLOADS_OF, UPLOADS_OF_DEEP)

STATE_KEY: Final = META + b"state"  # the only row outside the record sum: it holds the sum
FORMAT_KEY: Final = META + b"format"
FORMATION_KEY: Final = META + b"formation"
MEMBERS_KEY: Final = META + b"members"
REMOVED_KEY: Final = META + b"removed"
DROPPING_KEY: Final = META + b"dropping"
LEVEL_KEY: Final = META + b"level"  # only once it is above the first

TABLES: Final = {
    META[0]: "meta",
    BUCKET[0]: "buckets",
    SETTING[0]: "bucket_settings",
    OBJECT[0]: "objects",
    OBJECT_DEEP[0]: "objects_deep",
    VERSION[0]: "versions",
    BLOB[0]: "blobs",
    INLINE[0]: "inline_bodies",
    OWED[0]: "owed",
    FORGOTTEN[0]: "forgotten",
    TOMBSTONE[0]: "tombstones",
    MEMBER[0]: "members",
    ACCESS_KEY[0]: "access_keys",
    REQUEST[0]: "requests",
    REQUESTS_OF[0]: "requests_of_entry",
    DIGEST[0]: "digests",
    UPLOAD[0]: "uploads",
    UPLOADS_OF[0]: "uploads_of",
    UPLOADS_OF_DEEP[0]: "uploads_of_deep",
    PART[0]: "parts",
    MANIFEST[0]: "manifests",
    FINISHED_UPLOAD[0]: "finished_uploads",
    RELEASING[0]: "releasing",
}


def describe(row_key: bytes) -> str:
    """Table and key for a message to a person."""
    table = TABLES.get(row_key[0], "unknown") if row_key else "unknown"
    return f"catalog table {table}, key {row_key[PREFIX_BYTES:].hex()}"


def successor(prefix: bytes) -> bytes | None:
    """The smallest bytes greater than everything that starts with ``prefix``; None if there are none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


# --- objects --------------------------------------------------------------------------------------
def root_node(bucket_id: int, tree: Tree = OBJECTS) -> bytes:
    """What the rows of a bucket's short keys start with."""
    return tree.root + _U64.pack(bucket_id)


def deep_node(bucket_id: int, lead: bytes, tree: Tree = OBJECTS) -> bytes:
    """What the rows below ``lead`` start with; ``lead`` is one or more whole pieces."""
    return tree.deep + hashlib.blake2b(_U64.pack(bucket_id) + lead, digest_size=NODE_BYTES).digest()


def object_key(bucket_id: int, key: bytes) -> bytes:
    """The row of an object."""
    if len(key) <= PIECE:
        return OBJECT + _U64.pack(bucket_id) + key
    return tree_key(OBJECTS, bucket_id, key)


def tree_key(tree: Tree, bucket_id: int, key: bytes) -> bytes:
    """The row of ``key``."""
    if len(key) <= PIECE:
        return tree.root + _U64.pack(bucket_id) + key
    cut = (len(key) - 1) // PIECE * PIECE
    return deep_node(bucket_id, key[:cut], tree) + key[cut:]


def pointer_keys(bucket_id: int, key: bytes, tree: Tree = OBJECTS) -> list[bytes]:
    """The pointer rows that lead to a long ``key``, the deepest first."""
    pointers = []
    for cut in range((len(key) - 1) // PIECE * PIECE, 0, -PIECE):
        start = cut - PIECE
        node = deep_node(bucket_id, key[:start], tree) if start else root_node(bucket_id, tree)
        pointers.append(node + key[start:cut] + _POINTER_END)
    return pointers


def version_prefix(bucket_id: int, key: bytes) -> bytes:
    """What the rows of a key's noncurrent versions start with."""
    digest = hashlib.blake2b(key, digest_size=NODE_BYTES).digest()
    return VERSION + _U64.pack(bucket_id) + digest


def version_key(bucket_id: int, key: bytes, order: int) -> bytes:
    """The row of a noncurrent version; greater orders come first."""
    return version_prefix(bucket_id, key) + _U64.pack(_ORDER_MAX - order)


_ORDER_MAX: Final = (1 << 64) - 1


def seek_key(node: bytes, rest: bytes) -> bytes:
    """Where a walk of ``node`` starts that wants what is not less than ``rest``."""
    return node + (rest if len(rest) <= PIECE else rest[:PIECE] + _POINTER_END)


# --- the other tables -----------------------------------------------------------------------------
def bucket_key(name: str) -> bytes:
    return BUCKET + name.encode()


def setting_key(bucket_id: int, setting: BucketSetting) -> bytes:
    return SETTING + _U64.pack(bucket_id) + bytes([setting.value])


def blob_key(blob: BlobId) -> bytes:
    return BLOB + blob


def inline_key(blob: BlobId) -> bytes:
    return INLINE + blob


def owed_prefix(node: NodeId) -> bytes:
    """A node id holds no NUL, so no node's list runs into another's."""
    return OWED + node.encode() + b"\x00"


def owed_key(node: NodeId, blob: BlobId) -> bytes:
    return owed_prefix(node) + blob


def forgotten_key(index: int, blob: BlobId) -> bytes:
    return FORGOTTEN + _U64.pack(index) + blob


def tombstone_key(blob: BlobId) -> bytes:
    return TOMBSTONE + blob


def member_key(node: NodeId) -> bytes:
    return MEMBER + node.encode()


def access_key_key(access_key: AccessKeyId) -> bytes:
    return ACCESS_KEY + access_key.encode()


def request_key(request_id: RequestId) -> bytes:
    return REQUEST + request_id


def requests_of_key(index: int) -> bytes:
    return REQUESTS_OF + _U64.pack(index)


def digest_key(index: int) -> bytes:
    return DIGEST + _U64.pack(index)


def upload_key(upload: UploadId) -> bytes:
    return UPLOAD + upload


def part_prefix(upload: UploadId) -> bytes:
    return PART + upload


def part_key(upload: UploadId, number: int) -> bytes:
    return PART + upload + number.to_bytes(2, "big")


def manifest_key(upload: UploadId) -> bytes:
    return MANIFEST + upload


def finished_upload_key(upload: UploadId) -> bytes:
    return FINISHED_UPLOAD + upload


def releasing_key(upload: UploadId) -> bytes:
    return RELEASING + upload


def first_index_of(blob: BlobId) -> int:
    """The applied index at which the blob's upload began."""
    return int.from_bytes(blob[:8], "big")
