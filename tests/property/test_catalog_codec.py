"""Decoding is total, and what was encoded comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.catalog.codec import (
    decode_command,
    decode_entry,
    decode_formation,
    decode_members,
    decode_result,
    encode_command,
    encode_entry,
    encode_formation,
    encode_members,
    encode_result,
)
from sos.catalog.model import (
    Checksum,
    ChecksumAlgorithm,
    Operation,
    PutObject,
    RequestId,
    StoredHeaders,
    WriteCondition,
)
from sos.packing import PackingError, pack
from tests.unit.catalog_samples import (
    COMMANDS,
    NODES,
    RESULTS,
    ROOT,
    blob_body,
    formation,
    inline_body,
)

DECODERS: list[Callable[[bytes], object]] = [
    decode_command,
    decode_result,
    decode_entry,
    decode_members,
    decode_formation,
]
OPERATION = Operation(request_id=RequestId(b"r" * 16), first_index=4, command=b"command")
VALID = [
    *[encode_command(command) for command in COMMANDS.values()],
    *[encode_result(result) for result in RESULTS.values()],
    encode_entry([OPERATION, OPERATION]),
    encode_members(formation().members),
    encode_formation(formation()),
]

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(1 << 63), max_value=(1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)
damaged = st.builds(
    lambda data, at, byte, cut: (
        data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :]
    )[: len(data) - cut],
    st.sampled_from(VALID),
    st.integers(min_value=0, max_value=10_000),
    st.integers(min_value=0, max_value=255),
    st.sampled_from([0, 0, 1, 5]),
)
shaped = st.builds(
    lambda tag, version, fields: pack([tag, version, *fields]),
    st.integers(min_value=0, max_value=12),
    st.sampled_from([1, 1, 1, 2]),
    st.lists(plain_values, max_size=14),
)


@pytest.mark.parametrize("prefix", [b"", b"\x01", b"\x02"])
@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=60), damaged, shaped, plain_values.map(pack)))
def test_hostile_bytes_are_a_value_or_the_declared_error(prefix: bytes, data: bytes) -> None:
    """A damaged disk or a hostile socket never raises anything but PackingError (house style, 7)."""
    for decode in DECODERS:
        try:
            decode(prefix + data)
        except PackingError:
            continue


texts = st.text(max_size=8)
puts = st.builds(
    PutObject,
    access_key=st.just(ROOT),
    bucket=st.text(min_size=1, max_size=8),
    key=st.text(min_size=1, max_size=20),
    body=st.none()
    | st.builds(inline_body, st.integers(1, 99), st.binary(max_size=30))
    | st.builds(
        blob_body,
        st.integers(1, 99),
        st.lists(st.sampled_from(NODES)).map(tuple),
        size=st.integers(0, 1 << 46),
    ),
    etag=st.one_of(st.just((b"m" * 16).hex()), st.text(min_size=1, max_size=9)),
    md5=st.just(b"m" * 16),
    modified_ms=st.integers(0, (1 << 63) - 1),
    checksum=st.builds(
        Checksum,
        algorithm=st.sampled_from(ChecksumAlgorithm),
        digest=st.binary(min_size=4, max_size=32),
    ),
    headers=st.builds(
        StoredHeaders,
        content_type=st.none() | texts,
        cache_control=st.none() | texts,
        content_disposition=st.none() | texts,
        content_encoding=st.none() | texts,
        content_language=st.none() | texts,
        expires=st.none() | texts,
        user=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    )
    | st.builds(StoredHeaders, content_type=st.none() | texts),
    condition=st.builds(
        WriteCondition, if_none_match_any=st.booleans(), if_match=st.none() | texts
    ),
)


@settings(max_examples=300, deadline=None)
@given(command=puts)
def test_a_put_comes_back_as_it_was(command: PutObject) -> None:
    """What the gateway proposed is what every node decides on."""
    data = encode_command(command)

    decoded = decode_command(data)

    assert decoded == command
    assert encode_command(decoded) == data
