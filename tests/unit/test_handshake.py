"""The handshake of two cores and the frames after it, as pure functions over bytes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from sos.raft.frames import CHANNEL_RAFT, FrameError, FrameReader, FrameWriter
from sos.raft.handshake import (
    HELLO_BYTES,
    MESSAGE_BYTES,
    NONCE_BYTES,
    Acceptance,
    Acquaintances,
    Claim,
    Handshake,
    HandshakeFailed,
    LiveLink,
    LocalIdentity,
    Refusal,
    RefusalCode,
    SessionKeys,
    judge,
)

KEY = b"key"
CLUSTER = b"c" * 16
WALL_MS = 1_760_000_000_000


def _node(name: str, incarnation: int = 0) -> str:
    return f"{name}@{incarnation:016x}"


def _claim(name: str = "n2", **changes: object) -> Claim:
    claim = Claim(
        node=_node(name),
        boot=3,
        cluster_id=CLUSTER,
        epoch=1,
        session=b"s" * 8,
        wall_ms=WALL_MS,
        connection=7,
        wanted="n1",
    )
    return replace(claim, **changes)  # type: ignore[arg-type]


def _sides(dialer_key: bytes = KEY, acceptor_key: bytes = KEY) -> tuple[Handshake, Handshake]:
    """Both, after their hellos."""
    dialer = Handshake(dialing=True, key=dialer_key, nonce=b"d" * NONCE_BYTES)
    acceptor = Handshake(dialing=False, key=acceptor_key, nonce=b"a" * NONCE_BYTES)
    acceptor.take_hello(dialer.hello())
    dialer.take_hello(acceptor.hello())
    return dialer, acceptor


def _session() -> tuple[SessionKeys, SessionKeys]:
    dialer, acceptor = _sides()
    acceptor.open(dialer.claim(_claim()))
    dialer.open(acceptor.claim(_claim("n1", wanted="")))
    keys = dialer.session_keys(), acceptor.session_keys()
    assert acceptor.open(dialer.acceptance()) == Acceptance()
    return keys


def test_both_sides_learn_the_others_claim_and_share_keys() -> None:
    """Design 7: the handshake binds cluster id, name and incarnation; each direction has its own key."""
    dialer, acceptor = _sides()
    sent, answered = _claim(), _claim("n1", wanted="", cluster_id=None)
    assert acceptor.open(dialer.claim(sent)) == sent
    assert dialer.open(acceptor.claim(answered)) == answered
    ours, theirs = dialer.session_keys(), acceptor.session_keys()
    assert (ours.send, ours.receive) == (theirs.receive, theirs.send)
    assert ours.send != ours.receive


def test_messages_have_one_size() -> None:
    """faults.md 85: nothing is parsed before authentication beyond fixed-size messages."""
    dialer, _ = _sides()
    sizes = {
        len(dialer.claim(_claim())),
        len(dialer.refusal(Refusal(code=RefusalCode.SELF))),
        len(dialer.acceptance()),
    }
    assert sizes == {MESSAGE_BYTES}
    assert len(dialer.hello()) == HELLO_BYTES


def test_another_key_is_refused_on_both_sides() -> None:
    """Design 10: a node with another key is refused with a clear message on both sides."""
    dialer, acceptor = _sides(dialer_key=b"another")
    with pytest.raises(HandshakeFailed) as at_acceptor:
        acceptor.open(dialer.claim(_claim()))
    refusal = acceptor.refusal(Refusal(code=RefusalCode.OTHER_KEY))
    with pytest.raises(HandshakeFailed) as at_dialer:
        dialer.open(refusal)
    assert at_acceptor.value.code is at_dialer.value.code is RefusalCode.OTHER_KEY
    assert "SOS_CLUSTER_KEY" in str(at_dialer.value)


def test_a_refusal_arrives_with_its_detail() -> None:
    """A stale dialer learns which number its next attempt has to exceed."""
    dialer, acceptor = _sides()
    acceptor.open(dialer.claim(_claim()))
    refusal = Refusal(code=RefusalCode.STALE_CONNECTION, detail=9)
    assert dialer.open(acceptor.refusal(refusal)) == refusal


def test_a_recorded_claim_is_worth_nothing_under_a_fresh_nonce() -> None:
    """faults.md 28: recorded traffic, replayed by a third host, is not accepted."""
    dialer, acceptor = _sides()
    recorded = dialer.claim(_claim())
    acceptor.open(recorded)
    later = Handshake(dialing=False, key=KEY, nonce=b"b" * NONCE_BYTES)
    later.take_hello(dialer.hello())
    with pytest.raises(HandshakeFailed):
        later.open(recorded)


def test_a_reflected_claim_proves_nothing() -> None:
    """Design 7: who sends a node's own claim back to it has not proved the key."""
    dialer, acceptor = _sides()
    claim = dialer.claim(_claim())
    acceptor.open(claim)
    with pytest.raises(HandshakeFailed):
        dialer.open(claim)


@pytest.mark.parametrize("at", [0, 1, 20, 100, MESSAGE_BYTES - 1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    """Design 7: everything that a claim says is under the MAC."""
    dialer, acceptor = _sides()
    claim = bytearray(dialer.claim(_claim()))
    claim[at] ^= 1
    with pytest.raises(HandshakeFailed) as failure:
        acceptor.open(bytes(claim))
    assert failure.value.code is RefusalCode.OTHER_KEY


def test_other_protocols_and_versions_are_told_apart() -> None:
    """A clear reason for whatever else connects to the node port."""
    acceptor = Handshake(dialing=False, key=KEY, nonce=b"a" * NONCE_BYTES)
    with pytest.raises(HandshakeFailed) as garbage:
        acceptor.take_hello(b"GET / HTTP/1.1\r\n".ljust(HELLO_BYTES, b"x"))
    hello = bytearray(acceptor.hello())
    hello[4] = hello[5] = 9
    with pytest.raises(HandshakeFailed) as version:
        acceptor.take_hello(bytes(hello))
    assert garbage.value.code is RefusalCode.NOT_A_NODE
    assert version.value.code is RefusalCode.OTHER_VERSION


LOCAL = LocalIdentity(node=_node("n1"), boot=1, cluster_id=CLUSTER, epoch=1)
SKEWED_MS = WALL_MS + 16 * 60 * 1000


def _verdict(
    claim: Claim,
    *,
    local: LocalIdentity = LOCAL,
    wanted: str | None = None,
    known: Acquaintances = Acquaintances(),  # noqa: B008  frozen
) -> RefusalCode | None:
    refusal = judge(local, b"own-sess", claim, wanted=wanted, wall_ms=WALL_MS, known=known)
    return refusal.code if refusal is not None else None


def _live(node: str, *, boot: int = 3, session: bytes = b"s" * 8, connection: int = 6) -> LiveLink:
    return LiveLink(node=node, boot=boot, session=session, connection=connection)


UNFORMED = replace(LOCAL, cluster_id=None)
VERDICTS = [
    ("a peer of the cluster", _claim(), {}, None),
    ("an unknown incarnation (model S5)", _claim(node=_node("n9", 9)), {}, None),
    ("an unformed peer", _claim(cluster_id=None, epoch=0), {}, None),
    ("itself", _claim("n1", session=b"own-sess"), {}, RefusalCode.SELF),
    ("a copy of itself", _claim("n1"), {}, RefusalCode.DUPLICATE_IDENTITY),
    ("its own name", _claim(node=_node("n1", 5)), {}, RefusalCode.SAME_NAME),
    ("somebody else was dialed", _claim(), {"wanted": "n3"}, RefusalCode.OTHER_NAME),
    ("somebody else is wanted", _claim(wanted="n3"), {}, RefusalCode.OTHER_NAME),
    ("another cluster", _claim(cluster_id=b"d" * 16), {}, RefusalCode.OTHER_CLUSTER),
    ("an old epoch", _claim(epoch=0), {}, RefusalCode.OLD_EPOCH),
    ("a new epoch", _claim(epoch=2), {}, RefusalCode.NEW_EPOCH),
    ("skew among formed nodes", _claim(wall_ms=SKEWED_MS), {}, None),
    (
        "skew of an unformed node",
        _claim(wall_ms=SKEWED_MS),
        {"local": UNFORMED},
        RefusalCode.CLOCK_SKEW,
    ),
    (
        "skew of an unformed peer",
        _claim(wall_ms=SKEWED_MS, cluster_id=None),
        {},
        RefusalCode.CLOCK_SKEW,
    ),
    (
        "a removed incarnation",
        _claim(),
        {"known": Acquaintances(removed=[_node("n2")])},
        RefusalCode.REMOVED,
    ),
    (
        "a lower boot number",
        _claim(),
        {"known": Acquaintances(boots={_node("n2"): 4})},
        RefusalCode.OLD_BOOT,
    ),
    ("a newer connection", _claim(), {"known": Acquaintances(live=[_live(_node("n2"))])}, None),
    (
        "an older connection",
        _claim(),
        {"known": Acquaintances(live=[_live(_node("n2"), connection=7)])},
        RefusalCode.STALE_CONNECTION,
    ),
    (
        "a restarted peer",
        _claim(boot=4, session=b"t" * 8, connection=1),
        {"known": Acquaintances(live=[_live(_node("n2"))])},
        None,
    ),
    (
        "a second process of one identity",
        _claim(session=b"t" * 8),
        {"known": Acquaintances(live=[_live(_node("n2"))])},
        RefusalCode.DUPLICATE_IDENTITY,
    ),
    (
        "a second node of one name",
        _claim(node=_node("n2", 5)),
        {"known": Acquaintances(live=[_live(_node("n2"))])},
        RefusalCode.NAME_TAKEN,
    ),
    (
        "a member that takes its name back from a stranger",
        _claim(),
        {"known": Acquaintances(members=[_node("n2")], live=[_live(_node("n2", 5))])},
        None,
    ),
]


@pytest.mark.parametrize(
    ("claim", "circumstances", "expected"),
    [case[1:] for case in VERDICTS],
    ids=[case[0] for case in VERDICTS],
)
def test_verdicts(
    claim: Claim, circumstances: dict[str, object], expected: RefusalCode | None
) -> None:
    """protocols.md 1.3, 1.4, 1.6: who is refused, and that merely unknown is not."""
    assert _verdict(claim, **circumstances) is expected  # type: ignore[arg-type]


def _feed(reader: FrameReader, data: bytes, step: int) -> list[bytes]:
    frames = []
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        while piece:
            space = reader.space()
            count = min(len(space), len(piece))
            space[:count] = piece[:count]
            reader.filled(count)
            piece = piece[count:]
            while (frame := reader.take()) is not None:
                assert reader.channel == CHANNEL_RAFT
                frames.append(frame)
    return frames


def _sealed(writer: FrameWriter, payloads: list[bytes]) -> bytes:
    parts: list[bytes] = []
    size = sum(writer.seal_into(parts, CHANNEL_RAFT, payload) for payload in payloads)
    data = b"".join(parts)
    assert len(data) == size
    return data


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_frames_arrive_whole_whatever_the_pieces(step: int) -> None:
    """Frames of every size, also around the choice of MAC and of buffers, come out as they went in."""
    dialer, acceptor = _session()
    sizes = [0, 1, 100, 16 * 1024 - 14, 16 * 1024, 70_000]
    if step > 7:
        sizes += [127 * 1024, 128 * 1024, 129 * 1024, 3 << 20, 5, 300_000, 300_000]
    payloads = [os.urandom(size) for size in sizes]
    data = _sealed(FrameWriter(dialer.send), payloads)
    assert _feed(FrameReader(acceptor.receive), data, step) == payloads


def test_a_frame_beyond_the_cap_is_refused_before_it_is_allocated() -> None:
    """faults.md 86: a length of 2 GiB ends the connection, nothing is allocated for it."""
    _, acceptor = _session()
    with pytest.raises(FrameError, match="2147483648"):
        _feed(FrameReader(acceptor.receive), (2**31).to_bytes(4, "big") + b"x" * 20, 24)


@pytest.mark.parametrize("change", ["flip", "repeat", "skip", "swap", "other direction"])
def test_what_is_not_the_next_frame_ends_the_connection(change: str) -> None:
    """faults.md 28: changed, repeated, lost, swapped and reflected frames are refused."""
    dialer, acceptor = _session()
    writer = FrameWriter(dialer.send)
    first, second = _sealed(writer, [b"first"]), _sealed(writer, [b"second"])
    flipped = bytearray(first)
    flipped[14] ^= 1
    data = {
        "flip": bytes(flipped),
        "repeat": first + first,
        "skip": second,
        "swap": second + first,
        "other direction": _sealed(FrameWriter(acceptor.send), [b"x"]),
    }[change]
    with pytest.raises(FrameError):
        _feed(FrameReader(acceptor.receive), data, len(data))


def test_a_large_frame_does_not_keep_its_memory() -> None:
    """P18: memory returns to idle after a large frame."""
    dialer, acceptor = _session()
    reader = FrameReader(acceptor.receive)
    _feed(reader, _sealed(FrameWriter(dialer.send), [bytes(4 << 20)]), 1 << 20)
    assert len(reader.space()) > 1 << 20
    reader.shrink()
    assert len(reader.space()) <= 128 * 1024
