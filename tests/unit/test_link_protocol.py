"""Frames of the link: any cut of the stream, and hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.catalog.model import NodeId
from sos.limits import LINK_FRAME_BYTES_MAX
from sos.link.protocol import (
    FrameBuffer,
    Kind,
    MemberState,
    NodeState,
    ProtocolError,
    check_operations,
    decode_state,
    encode_frame,
    encode_state,
)


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 200), min_size=1))
def test_frames_survive_any_cut_of_the_stream(bodies: list[bytes], cuts: list[int]) -> None:
    """A stream socket cuts anywhere: the frames come out whole, once, in order."""
    stream = b"".join(encode_frame(Kind.RESULTS, body) for body in bodies)
    buffer = FrameBuffer()
    frames: list[list[object]] = []

    position = step = 0
    while position < len(stream):
        size = cuts[step % len(cuts)]
        frames += buffer.feed(stream[position : position + size])
        position += size
        step += 1

    assert frames == [[int(Kind.RESULTS), body] for body in bodies]


def test_a_length_over_the_cap_is_refused_before_its_body() -> None:
    """Faults 3.6: no allocation for an announced length."""
    with pytest.raises(ProtocolError):
        FrameBuffer().feed((LINK_FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x01", b"\x90", b"\x91\xa1x", b"\xdd\xff\xff\xff\xff"]
)
def test_bytes_that_are_no_frame_are_refused(body: bytes) -> None:
    """One declared error, whatever the bytes."""
    with pytest.raises(ProtocolError):
        FrameBuffer().feed(len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [[b"x" * 16, 0]],
        [[b"x" * 15, 0, b"c"]],
        [[b"x" * 16, -1, b"c"]],
        [[b"x" * 16, 0, b""]],
    ],
)
def test_operations_are_checked(rows: object) -> None:
    """A core takes only well-formed operations."""
    with pytest.raises(ProtocolError):
        check_operations(rows)


def test_state_round_trip() -> None:
    """What the core pushes is what a gateway sees."""
    member = MemberState(
        node=NodeId("n1@0123456789abcdef"),
        name="n1",
        address="a:1",
        blob_address="a:2",
        s3_address="a:3",
        is_reachable=True,
        is_voter=False,
    )
    state = NodeState(
        node=member.node,
        cluster_id=b"c" * 16,
        is_formed=True,
        generation=3,
        applied_index=7,
        leader=None,
        is_leader=False,
        members=(member,),
        write_quorum=2,
        is_disk_low=True,
    )

    (frame,) = FrameBuffer().feed(encode_state(state))

    assert decode_state(frame[1:]) == state
    with pytest.raises(ProtocolError):
        decode_state(frame[1:-1])
