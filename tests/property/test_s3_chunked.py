"""The chunk decoder gives the same bytes and the same verdict for any split of the input."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sos.s3.errors import S3Error
from tests.unit.s3_chunks import TRAILER, decode, encode

CHUNKS = st.lists(st.integers(8192, 9000).map(lambda size: b"d" * size), max_size=3)


def verdict(
    pieces: list[bytes], decoded_bytes: int, *, signed: bool, trailer_name: str | None
) -> tuple[bytes, str | None] | str:
    try:
        return decode(pieces, decoded_bytes=decoded_bytes, signed=signed, trailer_name=trailer_name)
    except S3Error as error:
        return error.code


def split(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:stop] for start, stop in pairwise(edges)]


@given(
    chunks=CHUNKS,
    last=st.binary(max_size=20),
    signed=st.booleans(),
    trailer=st.sampled_from([None, "AAAAAA=="]),
    cuts=st.lists(st.integers(0, 40_000), max_size=12),
    damage=st.none() | st.tuples(st.integers(0, 40_000), st.integers(1, 255)),
    off_by=st.sampled_from([0, 0, 0, 1, -1]),
)
def test_any_split_gives_the_same(
    chunks: list[bytes],
    last: bytes,
    signed: bool,
    trailer: str | None,
    cuts: list[int],
    damage: tuple[int, int] | None,
    off_by: int,
) -> None:
    """s3.md 3.2: the decoder gives the same events for any split, of good and of damaged bodies."""
    parts = [*chunks, last] if last else chunks
    body = encode(parts, signed=signed, trailer=trailer)
    if damage is not None:
        at = damage[0] % len(body)
        body = body[:at] + bytes([body[at] ^ damage[1]]) + body[at + 1 :]
    size = max(0, len(b"".join(parts)) + off_by)
    name = TRAILER if trailer else None
    whole = verdict([body], size, signed=signed, trailer_name=name)
    assert verdict(split(body, cuts), size, signed=signed, trailer_name=name) == whole
    if damage is None and off_by == 0:
        assert whole == (b"".join(parts), trailer)
    elif signed and damage is not None:
        assert isinstance(whole, str) or whole[0] == b"".join(parts)


@given(junk=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10))
def test_junk_fails_the_same_way(junk: bytes, cuts: list[int]) -> None:
    """Hostile bytes never give anything but bytes or an S3 error, however they arrive."""
    whole = verdict([junk], 5, signed=False, trailer_name=None)
    bytewise = [junk[i : i + 1] for i in range(len(junk))]
    assert verdict(split(junk, cuts), 5, signed=False, trailer_name=None) == whole
    assert verdict(bytewise, 5, signed=False, trailer_name=None) == whole
