"""Object keys of any length and bytes keep their order in the database, and pages cut any listing right."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sos.catalog.environment import Cursor
from sos.catalog.keys import (
    BLOB,
    OBJECT,
    PIECE,
    POINTER_BYTES,
    object_key,
    pointer_keys,
    root_node,
    successor,
)
from sos.catalog.model import KeyPage, ListedObject
from sos.catalog.pages import list_keys, rows_from
from sos.catalog.records import encode_object, seal
from tests.unit.catalog_samples import object_record

BUCKET_ID = 7 << 16
LENGTHS = [0, 1, 399, 400, 401, 511, 799, 800, 801, 1022, 1023, 1024]
LMDB_KEY_MAX = 511


@dataclass
class FakeCursor:
    """A cursor over sorted rows that behaves like LMDB's, its trap included."""

    rows: list[tuple[bytes, bytes]]
    at: int = 0
    seeks: list[bytes] | None = None

    def set_range(self, key: bytes, /) -> bool:
        self.at = bisect_left(self.rows, (key, b""))
        if self.seeks is not None:
            self.seeks.append(key)
        if self.at < len(self.rows):
            return True
        self.at = 0  # LMDB: iteration after a failed set_range starts at the first key
        return False

    def key(self) -> bytes:
        return self.rows[self.at][0]

    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        yield from self.rows[self.at :]


@dataclass
class FakeTransaction:
    """Rows of one bucket made by the key functions alone, between rows of other tables."""

    rows: list[tuple[bytes, bytes]]
    seeks: list[bytes]

    def cursor(self) -> Cursor:
        return FakeCursor(self.rows, seeks=self.seeks)

    def get(self, key: bytes, /) -> bytes | None:
        raise NotImplementedError

    def put(self, key: bytes, value: bytes, dupdata: bool = True, overwrite: bool = True) -> bool:
        raise NotImplementedError

    def pop(self, key: bytes, /) -> bytes | None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


def transaction_of(keys: set[bytes], *, last_table: bool = False) -> FakeTransaction:
    body = encode_object(object_record())
    rows: dict[bytes, bytes] = {b"\x01first": b""}
    if not last_table:
        rows[BLOB + b"another table"] = b""
        rows[root_node(BUCKET_ID + 1) + b"another bucket"] = b""
    for key in keys:
        row_key = object_key(BUCKET_ID, key)
        assert len(row_key) <= LMDB_KEY_MAX
        rows[row_key] = seal(row_key, body)
        for pointer in pointer_keys(BUCKET_ID, key):
            assert len(pointer) <= LMDB_KEY_MAX
            rows[pointer] = b"pointer"
    return FakeTransaction(sorted(rows.items()), [])


# Few letters and shared stems, so that keys meet inside each piece.
_stems = st.sampled_from(
    [b"", b"a" * 399, b"a" * 400, b"a" * 401, b"a" * 799, b"a" * 800, b"\xff" * 400, b"\x00" * 400]
)
_tails = st.text(alphabet="\x00/a", max_size=4).map(str.encode)
_odd = st.sampled_from(
    [b"\x00", b"\xff", b"\xff\xff", "é".encode(), "\U0010ffff".encode(), b"a\x00"]
)
raw_keys = st.one_of(
    st.builds(
        lambda stem, tail, odd: (stem + tail + odd)[:1024], _stems, _tails, _odd | st.just(b"")
    ),
    st.builds(
        lambda length, letter: letter * length,
        st.sampled_from(LENGTHS),
        st.sampled_from([b"a", b"\x00", b"\xff"]),
    ),
    st.binary(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(keys=st.sets(raw_keys, max_size=25), target=raw_keys)
@example(keys={b"a" * 400, b"a" * 401, b"a" * 399 + b"b"}, target=b"a" * 400 + b"\x00")
@example(keys={b"a" * 400 + b"\x00"}, target=b"")
@example(keys=set(), target=b"\xff" * 1024)
def test_walk_gives_the_keys_in_byte_order(keys: set[bytes], target: bytes) -> None:
    """A listing is in UTF-8 byte order, whatever the lengths and bytes of its keys (s3.md 2.2, 6.1)."""
    transaction = transaction_of(keys)

    walked = [key for key, _, _ in rows_from(transaction, BUCKET_ID, target)]

    assert walked == sorted(key for key in keys if key >= target)


def test_walk_beyond_the_last_row_of_the_database_is_empty() -> None:
    """After a failed set_range LMDB iterates from the first key: a pager would never end (faults.md 7)."""
    transaction = transaction_of({b"a"}, last_table=True)

    assert list(rows_from(transaction, BUCKET_ID, b"b")) == []


@given(key=raw_keys)
def test_database_keys_are_short_and_pointers_tell_themselves_apart(key: bytes) -> None:
    """LMDB keys end at 511 bytes; a row of PIECE + 1 bytes in a node is a pointer and nothing else."""
    row_key, pointers = object_key(BUCKET_ID, key), pointer_keys(BUCKET_ID, key)

    assert len(row_key) <= LMDB_KEY_MAX
    assert len(pointers) == max(0, (len(key) - 1) // PIECE)
    assert all(len(pointer) <= LMDB_KEY_MAX for pointer in pointers)
    if row_key.startswith(OBJECT):
        assert len(row_key) - len(root_node(BUCKET_ID)) < POINTER_BYTES


@given(left=st.binary(max_size=6), right=st.binary(max_size=6))
def test_successor_is_the_end_of_a_prefix(left: bytes, right: bytes) -> None:
    """Seeking past a common prefix skips all of it and nothing else (s3.md 6.1)."""
    end = successor(left)

    assert right.startswith(left) == (right >= left and (end is None or right < end))


# --- pages ----------------------------------------------------------------------------------------
text_keys = st.one_of(
    st.builds(
        lambda stem, tail, odd: stem + tail + odd,
        st.sampled_from(
            ["", "a" * 399, "a" * 400, "a" * 401, "a" * 798 + "/", "é" * 200, "a/" * 200]
        ),
        st.text(alphabet="\x00/a-", max_size=5),
        st.sampled_from(["", "é", "\U0010ffff", "\x7f", "//"]),
    ),
    st.sampled_from([letter * length for length in LENGTHS[1:] for letter in "a/"]),
).filter(bool)  # S3 has no empty key, and the codec refuses one
prefixes = st.one_of(
    st.just(""),
    text_keys,
    st.builds(
        lambda key, cut: key[:cut], text_keys, st.sampled_from([1, 2, 399, 400, 401, 799, 801])
    ),
)
delimiters = st.sampled_from(["", "", "/", "a", "//", "a/a", "\x00", "é", "a" * 401, "-"])


def reference_page(
    keys: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[tuple[str, bool]], bool]:
    """Rule 6.1 as it reads: roll up, drop what is not greater than the position, cut."""
    entries: dict[bytes, bool] = {}
    start, cut = prefix.encode(), delimiter.encode()
    for key in sorted(text.encode() for text in keys):
        if not key.startswith(start):
            continue
        end = key.find(cut, len(start)) if cut else -1
        if end >= 0:
            entries[key[: end + len(cut)]] = True
        else:
            entries[key] = False
    rest = [
        (entry.decode(), rolled)
        for entry, rolled in sorted(entries.items())
        if entry > after.encode()
    ]
    return rest[:limit], limit > 0 and len(rest) > limit


def entries_of(page: KeyPage) -> list[tuple[str, bool]]:
    both = [(entry.key, False) for entry in page.objects]
    both += [(prefix, True) for prefix in page.common_prefixes]
    return sorted(both, key=lambda entry: entry[0].encode())


@settings(max_examples=400, deadline=None)
@given(
    keys=st.sets(text_keys, max_size=20),
    prefix=prefixes,
    delimiter=delimiters,
    after=st.one_of(st.just(""), prefixes),
    limit=st.integers(min_value=0, max_value=6),
)
@example(keys={"a/b", "a/c", "b"}, prefix="", delimiter="/", after="a/", limit=2)
@example(keys={"a/b", "a/c", "b"}, prefix="", delimiter="/", after="a/b", limit=2)
@example(
    keys={"a" * 401 + "/x", "a" * 401 + "/y", "b"},
    prefix="a" * 400,
    delimiter="/",
    after="",
    limit=1,
)
def test_a_page_is_rule_6_1(
    keys: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    """A page is the first entries greater than the position, common prefixes included (s3.md 6.1)."""
    transaction = transaction_of({key.encode() for key in keys})

    page = list_keys(
        transaction, BUCKET_ID, prefix=prefix, delimiter=delimiter, after=after, limit=limit
    )

    expected, truncated = reference_page(keys, prefix, delimiter, after, limit)
    assert entries_of(page) == expected
    assert page.truncated == truncated
    assert page.last == (expected[-1][0] if expected else None)


@settings(max_examples=200, deadline=None)
@given(
    keys=st.sets(text_keys, max_size=20),
    prefix=prefixes,
    delimiter=delimiters,
    limit=st.integers(min_value=1, max_value=4),
)
def test_pages_joined_equal_one_listing(
    keys: set[str], prefix: str, delimiter: str, limit: int
) -> None:
    """Paging loses and doubles nothing, ends, and has no empty last page (s3.md 6.4)."""
    transaction = transaction_of({key.encode() for key in keys})

    joined: list[tuple[str, bool]] = []
    after, truncated = "", True
    while truncated:
        page = list_keys(
            transaction, BUCKET_ID, prefix=prefix, delimiter=delimiter, after=after, limit=limit
        )
        assert not page.truncated or (page.last or "").encode() > after.encode(), (
            "pages must ascend"
        )
        joined += entries_of(page)
        after, truncated = page.last or "", page.truncated

    assert joined == reference_page(keys, prefix, delimiter, "", 1000)[0]


@pytest.mark.parametrize("group_keys", [10, 1000])
def test_a_common_prefix_costs_one_seek(group_keys: int) -> None:
    """The cost follows what is returned, not what is skipped (s3.md 6.1)."""
    keys = {f"{group:03}/{key}".encode() for group in range(5) for key in range(group_keys)}
    transaction = transaction_of(keys)

    page = list_keys(transaction, BUCKET_ID, prefix="", delimiter="/", after="", limit=1000)

    assert len(page.common_prefixes) == 5
    assert len(transaction.seeks) <= 6


def test_a_listed_entry_shows_what_its_record_says() -> None:
    """Size, ETag, time and checksum algorithm of a listing are those of the object (s3.md 6.2)."""
    record = object_record()

    page = list_keys(
        transaction_of({b"key"}), BUCKET_ID, prefix="", delimiter="", after="", limit=1
    )

    assert page.objects == [
        ListedObject("key", 6, record.etag, record.modified_ms, record.checksum.algorithm)
    ]
