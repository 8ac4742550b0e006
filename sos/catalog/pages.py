"""Listing keys: one walk over sorted rows that seeks past each common prefix.

The cost follows what is returned, not what is skipped (s3.md 6.1). Works on any transaction with sorted cursors.
"""

from __future__ import annotations

from collections.abc import Iterator

from sos.catalog.environment import Transaction
from sos.catalog.keys import OBJECTS, PIECE, Tree, deep_node, root_node, seek_key, successor
from sos.catalog.model import KeyPage
from sos.catalog.records import decode_listed, is_marker_row


def rows_from(
    transaction: Transaction, bucket_id: int, target: bytes, tree: Tree = OBJECTS
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(S3 key, database key, value) of every row of ``tree`` whose key is not less than ``target``, in byte order."""
    return _walk(transaction, tree, bucket_id, root_node(bucket_id, tree), b"", target)


def _walk(
    transaction: Transaction, tree: Tree, bucket_id: int, node: bytes, lead: bytes, rest: bytes
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The rows of one node and, depth first, of those it points to; ``lead`` is the key up to this node."""
    cursor = transaction.cursor()
    # After a set_range that finds nothing, iteration would start at the first key of all: a pager without end.
    if not cursor.set_range(seek_key(node, rest)):
        return
    node_bytes = len(node)
    for row_key, value in cursor.iternext(keys=True, values=True):
        if not row_key.startswith(node):
            return
        piece = row_key[node_bytes:]
        if len(piece) <= PIECE:
            yield lead + piece, row_key, value
            continue
        below = lead + piece[:PIECE]
        in_target = rest.startswith(piece[:PIECE])
        yield from _walk(
            transaction,
            tree,
            bucket_id,
            deep_node(bucket_id, below, tree),
            below,
            rest[PIECE:] if in_target else b"",
        )


def list_keys(
    transaction: Transaction,
    bucket_id: int,
    *,
    prefix: str,
    delimiter: str,
    after: str,
    limit: int,
) -> KeyPage:
    """The first ``limit`` entries greater than ``after``: keys, and common prefixes in place of what they hold.

    Keys whose current version is a delete marker do not count, for a common prefix neither.
    """
    found: list[tuple[bytes, bytes, bytes]] = []
    common_prefixes: list[str] = []
    if limit <= 0:
        return KeyPage(objects=[], common_prefixes=[], last=None, truncated=False)
    start, cut = prefix.encode(), delimiter.encode()
    target = first_target(start, cut, after.encode())
    last: bytes | None = None
    truncated = False
    left = limit
    while target is not None:
        rows = rows_from(transaction, bucket_id, target)
        target = None
        for row in rows:
            key = row[0]
            if not key.startswith(start):
                break
            if is_marker_row(row[2]):
                continue
            if not left:
                truncated = True
                break
            left -= 1
            if cut and (end := key.find(cut, len(start))) >= 0:
                last = key[: end + len(cut)]
                common_prefixes.append(last.decode())
                target = successor(last)
                break
            last = key
            found.append(row)
    return KeyPage(
        objects=decode_listed(found),
        common_prefixes=common_prefixes,
        last=None if last is None else last.decode(),
        truncated=truncated,
    )


def first_target(prefix: bytes, delimiter: bytes, after: bytes) -> bytes | None:
    """Where the walk starts: past ``after``, and past its whole group when a common prefix holds it."""
    if not after or after < prefix:
        return prefix
    if delimiter and after.startswith(prefix):
        end = after.find(delimiter, len(prefix))
        if end >= 0:
            return successor(after[: end + len(delimiter)])
    return after + b"\x00"
