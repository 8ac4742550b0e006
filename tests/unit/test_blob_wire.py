"""Frames and proofs of the blob port (design 7; faults 28, 56, 85, 86)."""

from __future__ import annotations

import pytest

from sos.blob.wire import (
    HEAD_BYTES_MAX,
    AnswerHead,
    Frame,
    Hello,
    Proofs,
    RequestHead,
    Seal,
    Status,
    WireError,
    decode_answer,
    decode_end,
    decode_hello,
    decode_request,
    encode_answer,
    encode_end,
    encode_hello,
    encode_request,
    length_max,
)
from sos.catalog.model import NodeId
from sos.limits import MIB
from sos.packing import pack

HELLO = Hello(
    nonce=b"n" * 16,
    cluster_id=b"c" * 16,
    sender=NodeId("n1@0000000000000001"),
    receiver=NodeId("n2@0000000000000002"),
)


def test_heads_round_trip() -> None:
    """Both ends mean the same by the same bytes."""
    request = RequestHead(method="GET", target="/blob/00?start=0", has_body=False)
    answer = AnswerHead(
        status=Status.OK, text="t", size_bytes=5 << 30, crc64=2**64 - 1, has_body=True
    )
    assert decode_hello(encode_hello(HELLO)) == HELLO
    assert decode_request(encode_request(request)) == request
    assert decode_answer(encode_answer(answer)) == answer
    assert decode_end(encode_end(7, 2**64 - 1)) == (7, 2**64 - 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [2, b"n" * 16, b"c" * 16, "a", "b"],
        [1, b"n" * 15, b"c" * 16, "a", "b"],
        [1, b"n" * 16, b"c" * 16, "a" * 65, "b"],
        [1, b"n" * 16, b"c" * 16, b"a", "b"],
        [1, "n" * 16, b"c" * 16, "a", "b", 1],
    ],
)
def test_malformed_hello(value: object) -> None:
    """Fault 86: what a stranger sends raises the one declared error."""
    with pytest.raises(WireError):
        decode_hello(pack(value))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01", b"\xdd\xff\xff\xff\xff", b"\x80" * 20])
def test_hostile_bytes(data: bytes) -> None:
    """Fault 86: bombs and garbage raise the one declared error, in every decoder."""
    for decode in (decode_hello, decode_request, decode_answer, decode_end):
        with pytest.raises(WireError):
            decode(data)


@pytest.mark.parametrize(
    "value", [[201, "", 0, 0, False], [200, "", -1, 0, False], [200, "", 0, -1, False]]
)
def test_answers_out_of_range(value: object) -> None:
    """Fault 87: an authenticated peer that lies is not believed."""
    with pytest.raises(WireError):
        decode_answer(pack(value))


def test_caps() -> None:
    """Fault 86: only DATA may be long, and no longer than a block."""
    assert length_max(Frame.DATA) == MIB + 8
    assert all(length_max(kind) == HEAD_BYTES_MAX for kind in Frame if kind is not Frame.DATA)


def test_proofs_bind_everything() -> None:
    """Design 7: key, cluster, both incarnations and both nonces are under the proof, and the two sides' proofs differ."""
    hello = encode_hello(HELLO)
    base = Proofs(b"key", hello, b"s" * 16)
    others = [
        Proofs(b"kez", hello, b"s" * 16),
        Proofs(b"key", hello, b"t" * 16),
        Proofs(
            b"key",
            encode_hello(
                Hello(
                    nonce=HELLO.nonce,
                    cluster_id=HELLO.cluster_id,
                    sender=NodeId("n1@0000000000000009"),
                    receiver=HELLO.receiver,
                )
            ),
            b"s" * 16,
        ),
    ]
    assert base.server() != base.client()
    for other in others:
        assert other.client() != base.client()
        assert other.server() != base.server()


def test_seal_binds_order() -> None:
    """Fault 28: a recorded frame is refused in any other place, under any other type, and in the other direction."""
    proofs = Proofs(b"key", encode_hello(HELLO), b"s" * 16)
    sender = proofs.client_seal()
    first = sender.wrap(Frame.REQUEST, b"content")
    second = sender.wrap(Frame.REQUEST, b"content")

    receiver = proofs.client_seal()
    assert receiver.unwrap(Frame.REQUEST, first) == b"content"
    assert first != second
    with pytest.raises(WireError):
        receiver.unwrap(Frame.REQUEST, first)
    with pytest.raises(WireError):
        proofs.client_seal().unwrap(Frame.END, first)
    with pytest.raises(WireError):
        proofs.server_seal().unwrap(Frame.REQUEST, first)


def test_seal_is_over_the_content() -> None:
    """Fault 85: a changed byte or a cut MAC is refused."""
    good = Seal(b"k").wrap(Frame.REQUEST, b"content")
    for bad in (good[:-1] + b"x", b"", good[:15], bytes(16) + b"content"):
        with pytest.raises(WireError):
            Seal(b"k").unwrap(Frame.REQUEST, bad)
