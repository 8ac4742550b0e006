"""Frames between cores: every kind round trips, everything else is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.catalog import codec as catalog_codec
from sos.limits import FRAME_BYTES_MAX
from sos.packing import pack
from sos.raft.members import Member, MemberList
from sos.raft.messages import (
    App,
    Append,
    AppendReply,
    BarrierAnswer,
    BarrierAsk,
    Message,
    MessageRefused,
    NeedSnapshot,
    NewerTerm,
    PreVote,
    PreVoteOk,
    ReadAnswer,
    ReadAsk,
    RequestVote,
    Transfer,
    Vote,
    decode,
    decode_members,
    encode,
    encode_members,
)

ALL: tuple[Message, ...] = (
    Append(7, 3, 4, 2, [2, 3, 7], [b"\x00\x01a", b"\x01", b"\x00\x02"]),
    Append(7, 3, 4, 7, [7, 7], [b"\x00\x01a", b"\x01"]),
    Append(7, 3, 4, 2, [], []),
    AppendReply(7, 12, True, False),
    NeedSnapshot(7, 100),
    RequestVote(7, 12, 6),
    Vote(7),
    PreVote(7, 12, 6),
    PreVoteOk(7),
    NewerTerm(7),
    ReadAsk(2**60, 7),
    ReadAnswer(2**60, 7, True),
    BarrierAsk(9, 7),
    BarrierAnswer(9, 7, 12),
    Transfer(7),
    App(b"anything \xc1 at all"),
)

A_NODE, A2_NODE, B_NODE = "a@00000000000000aa", "a@00000000000000ab", "b@00000000000000bb"
MEMBERS = MemberList(
    members=(
        Member(node="a@00000000000000aa", address="10.0.0.1:9100", blob_address="10.0.0.1:9101"),
        Member(node="b-1@00000000000000bb", address="[::1]:9100", leaving=True),
    ),
)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    """What a peer gets is what was sent (P10)."""
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x90",
        b"\x05",
        pickle.dumps({"type": "append_entries", "term": 99}),
        pack({"type": "append_entries", "term": 99}),
        pack({"type": "timeout_now", "term": 1}),
        pack(["apply_command", b"x"]),
        pack([99, 1]),
        pack([True, 1]),
        pack([5]),
        pack([5, 1, 2]),
        pack([5, -1]),
        pack([5, 2**63]),
        pack([5, True]),
        pack([5, "1"]),
        pack([2, 1, 2, 1, 0]),
        pack([1, 7, 3, 4, 2, [2], []]),
        pack([1, 7, 3, 4, 2, [3, 2], [b"a", b"b"]]),
        pack([1, 7, 3, 4, 2, [8], [b"a"]]),
        pack([1, 7, 3, 4, 2, 1, [b"a"]]),
        pack([1, 7, 3, 4, 2, 2, [b""]]),
        pack([1, 7, 3, 4, 2, 2, ["a"]]),
        pack([1, 7, 3, 4, 2, 2, [[b"a", 5, 2]]]),
        pack([1, 7, 3, 4, 2, 2, b"a"]),
        pack([1, 7, 3, 4, 2, 2]),
        encode(Vote(7)) + b"\x00",
        encode(Vote(7))[:-1],
        b"\x00" * (FRAME_BYTES_MAX + 1),
    ],
)
def test_anything_else_is_refused(frame: bytes) -> None:
    """P20: no pickle, no message of the library, nothing outside its schema reaches the core (D8)."""
    with pytest.raises(MessageRefused):
        decode(frame)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(frame: bytes) -> None:
    """A parser of hostile bytes raises its declared error only (faults.md 3.2)."""
    try:
        decode(frame)
    except MessageRefused:
        return


@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_a_message(command: bytes, at: int, bit: int) -> None:
    """As above, close to real frames."""
    frame = bytearray(encode(Append(3, 1, 2, 1, [1, 3], [command, b"\x01"])))
    frame[at % len(frame)] ^= 1 << bit
    try:
        decode(bytes(frame))
    except MessageRefused:
        return


def test_a_member_list_keeps_its_form() -> None:
    """The bytes of a list entry are fixed from the first version on (issue 4, 5): golden."""
    payload = encode_members(MEMBERS)

    assert decode_members(payload) == MEMBERS
    assert payload.hex() == (
        "029301019296b2614030303030303030303030303030306161a161ad31302e302e302e313a393130"
        "30ad31302e302e302e313a39313031a0c296b4622d314030303030303030303030303030306262a3"
        "622d31aa5b3a3a315d3a39313030a0a0c3"
    )


def test_the_catalog_reads_the_same_list() -> None:
    """One entry, two readers: Raft when it is appended, the catalog when it is applied."""
    members = catalog_codec.decode_members(encode_members(MEMBERS))

    assert catalog_codec.encode_members(members) == encode_members(MEMBERS)
    assert [(m.node, m.name, m.leaving) for m in members] == [
        (m.node, m.name, m.leaving) for m in MEMBERS.members
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"\x01" + encode_members(MEMBERS)[1:],
        b"\x02" + pack([2, 1, []]),
        b"\x02" + pack([1, 2, []]),
        b"\x02" + pack([1, 1]),
        b"\x02" + pack([1, 1, [None]]),
        b"\x02" + pack([1, 1, [["a", "a", "x", "", "", False]]]),
        b"\x02" + pack([1, 1, [[A_NODE, "b", "x", "", "", False]]]),
        b"\x02" + pack([1, 1, [[A_NODE, "a", "x" * 301, "", "", False]]]),
        b"\x02" + pack([1, 1, [[A_NODE, "a", "x", "", "", 0]]]),
        b"\x02"
        + pack([1, 1, [[B_NODE, "b", "", "", "", False], [A_NODE, "a", "", "", "", False]]]),
        b"\x02"
        + pack([1, 1, [[A_NODE, "a", "", "", "", False], [A2_NODE, "a", "", "", "", False]]]),
    ],
)
def test_a_bad_member_list_is_refused(payload: bytes) -> None:
    """Version, order, one incarnation a name, and sizes are checked before a list can be in force."""
    with pytest.raises(MessageRefused):
        decode_members(payload)
