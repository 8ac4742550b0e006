"""Listing versions: keys as in a listing of objects, and below each key its versions, the newest first (s3.md 6.5).

Most keys have no noncurrent version: the page of their current ones is read as a listing of objects reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sos.catalog import keys
from sos.catalog.environment import Transaction
from sos.catalog.model import (
    NULL_VERSION,
    ListedObject,
    VersionPage,
    VersionPosition,
)
from sos.catalog.pages import first_target, rows_from
from sos.catalog.records import decode_listed, decode_object

__all__ = ["list_versions"]

_Row = tuple[bytes, bytes, bytes]
_ORDER_MAX = (1 << 64) - 1


def list_versions(
    transaction: Transaction,
    bucket_id: int,
    *,
    prefix: str,
    delimiter: str,
    after: VersionPosition | None,
    limit: int,
) -> VersionPage:
    """The first ``limit`` versions and common prefixes behind ``after``."""
    page = _Page(limit)
    start, cut = prefix.encode(), delimiter.encode()
    if limit > 0 and after is not None and after.version is not None:
        key = after.key.encode()
        grouped = cut and key.startswith(start) and key.find(cut, len(start)) >= 0
        if key.startswith(start) and not grouped:
            _rest_of_key(transaction, bucket_id, after, page)
    target = first_target(start, cut, after.key.encode() if after is not None else b"")
    while target is not None and not page.is_full():
        rows = rows_from(transaction, bucket_id, target)
        target = None
        block: list[_Row] = []
        common: bytes | None = None
        for row in rows:
            key = row[0]
            if not key.startswith(start):
                break
            if cut and (end := key.find(cut, len(start))) >= 0:
                common = key[: end + len(cut)]
                break
            block.append(row)
            if len(block) > page.room():
                break
        _add_block(transaction, bucket_id, block, page)
        if common is not None:
            page.add_prefix(common.decode())
            target = keys.successor(common)
    return page.finish()


def _add_block(transaction: Transaction, bucket_id: int, block: list[_Row], page: _Page) -> None:
    entries = decode_listed(block)
    if not any(entry.older for entry in entries):
        page.add_latest(entries)
        return
    for row, entry in zip(block, entries, strict=True):
        if page.is_full():
            return
        page.add(entry, is_latest=True)
        if entry.older:
            _add_older(transaction, bucket_id, row[0], _ORDER_MAX, page)


def _add_older(
    transaction: Transaction, bucket_id: int, key: bytes, below: int, page: _Page
) -> None:
    """The noncurrent versions with orders below ``below``."""
    rows = [
        (key, *row)
        for row in islice(_older_rows(transaction, bucket_id, key, below), page.room() + 1)
    ]
    for entry in decode_listed(rows):
        page.add(entry, is_latest=False)


def _older_rows(
    transaction: Transaction, bucket_id: int, key: bytes, below: int
) -> Iterator[tuple[bytes, bytes]]:
    table = keys.version_prefix(bucket_id, key)
    cursor = transaction.cursor()
    if not cursor.set_range(keys.version_key(bucket_id, key, below - 1)):
        return
    for row_key, value in cursor.iternext(keys=True, values=True):
        if not row_key.startswith(table):
            return
        yield row_key, value


def _rest_of_key(
    transaction: Transaction, bucket_id: int, after: VersionPosition, page: _Page
) -> None:
    """What the key of the position has behind it."""
    key = after.key.encode()
    row_key = keys.object_key(bucket_id, key)
    value = transaction.get(row_key)
    if value is None:
        return
    current = decode_object(row_key, value)
    order = after.version or after.order
    if not order:  # a null version: where it is, if it still is
        order = current.order if current.is_null else current.null_order
    if not order:
        return
    if current.order < order:
        page.add(decode_listed([(key, row_key, value)])[0], is_latest=True)
    if current.older:
        _add_older(transaction, bucket_id, key, order, page)


class _Page:
    """Takes entries until it is full; one more shows that it is truncated."""

    def __init__(self, limit: int) -> None:
        self._left = max(limit, 0)
        self._versions: list[ListedObject] = []
        self._is_latest: list[bool] = []
        self._prefixes: list[str] = []
        self._last_prefix: str | None = None  # if the last entry is one
        self._is_truncated = False
        self._wants_nothing = limit <= 0

    def room(self) -> int:
        return self._left

    def is_full(self) -> bool:
        """Whether it is known that more follow, or nothing was asked for."""
        return self._is_truncated or self._wants_nothing

    def add(self, entry: ListedObject, *, is_latest: bool) -> None:
        if self._take():
            self._versions.append(entry)
            self._is_latest.append(is_latest)
            self._last_prefix = None

    def add_latest(self, entries: list[ListedObject]) -> None:
        """Current versions without older ones, many at once: nearly all keys of nearly all buckets."""
        room = self._left
        if len(entries) > room:
            self._is_truncated = True
            entries = entries[:room]
        if entries:
            self._versions += entries
            self._is_latest += [True] * len(entries)
            self._left = room - len(entries)
            self._last_prefix = None

    def add_prefix(self, prefix: str) -> None:
        if self._take():
            self._prefixes.append(prefix)
            self._last_prefix = prefix

    def _take(self) -> bool:
        if not self._left:
            self._is_truncated = True
            return False
        self._left -= 1
        return True

    def finish(self) -> VersionPage:
        return VersionPage(
            versions=self._versions,
            is_latest=self._is_latest,
            common_prefixes=self._prefixes,
            last=self._position(),
            truncated=self._is_truncated,
        )

    def _position(self) -> VersionPosition | None:
        """Of the last entry."""
        if self._last_prefix is not None:
            return VersionPosition(key=self._last_prefix)
        if not self._versions:
            return None
        entry = self._versions[-1]
        has_more = entry.older or not self._is_latest[-1]
        order = entry.number if has_more and entry.version == NULL_VERSION else 0
        return VersionPosition(key=entry.key, version=entry.version, order=order)
