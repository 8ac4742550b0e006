"""Two releases side by side: versions of files, records, messages and handshakes, and the feature level (issue 5, 7).

The release after this one is played by a command that only it knows, of level 3.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sos import levels
from sos.blob.wire import Hello, NoCommonVersion, WireError, decode_hello, encode_hello
from sos.catalog import keys
from sos.catalog.codec import command_level, encode_command, encode_entry
from sos.catalog.commands import COMMAND_LEVELS
from sos.catalog.environment import DATA_FILE, begin, open_writer
from sos.catalog.model import CreateBucket, NodeId, Operation
from sos.catalog.probe import probe
from sos.catalog.records import encode_number_and_bytes, seal
from sos.catalog.store import CatalogStore, verify_snapshot
from sos.clock import ManualClock, ManualIds
from sos.core import messages
from sos.core.admission import Situation, Wait, learners, next_step
from sos.core.gossip import Peers
from sos.core.messages import AppKind, AppRefused, NodeReport, UnknownKind
from sos.core.newcomers import Newcomer
from sos.core.proposer import Proposer
from sos.errors import EXIT_USAGE, MadeByNewer, NotYet, OutcomeUnknown
from sos.levels import FIRST, SECOND, UNKNOWN
from sos.link.protocol import Answer, answer_of
from sos.link.waiting import Operations
from sos.packing import pack
from sos.raft import quarantine, small_files
from sos.raft.boots import decode_boots, encode_boots
from sos.raft.handshake import (
    MESSAGE_BYTES,
    NONCE_BYTES,
    Handshake,
    HandshakeFailed,
    RefusalCode,
)
from sos.raft.identity import DataDirectory, read_identity
from sos.raft.journal_format import (
    Progress,
    SegmentHeader,
    Vote,
    encode_header,
    encode_progress,
    encode_vote,
    parse_header,
    parse_progress,
    parse_vote,
)
from sos.raft.members import Member, MemberList
from sos.raft.messages import decode_members
from tests.faults.simdisk import SimDisk
from tests.unit.catalog_samples import (
    COMMANDS,
    ROOT,
    SECOND_COMMANDS,
    Entry,
    Log,
    create_bucket,
    formation,
)
from tests.unit.test_core import FakeConsensus, FakeOrigin

N1, N2 = NodeId("n1@0000000000000001"), NodeId("n2@0000000000000002")
NEW = pack((99, 1, "bucket"))  # the command of the next release
INCARNATION = "ab" * 8


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the release after this one."""
    monkeypatch.setattr(levels, "LEVEL", 3)
    monkeypatch.setitem(COMMAND_LEVELS, (99, 1), 3)

    def decode(fields: list[str]) -> CreateBucket:
        return CreateBucket(access_key=ROOT, bucket=fields[0], created_ms=1)

    monkeypatch.setattr("sos.catalog.commands._COMMANDS", {(99, 1): decode})


# --- commands -------------------------------------------------------------------------------------
def test_every_command_has_the_level_of_its_release() -> None:
    """A command without a level would enter the log of a cluster that cannot apply it."""
    assert {command_level(encode_command(command)) for command in COMMANDS.values()} == {FIRST}
    assert {command_level(encode_command(command)) for command in SECOND_COMMANDS.values()} == {
        SECOND
    }
    assert max(COMMAND_LEVELS.values()) <= levels.LEVEL
    assert command_level(NEW) == UNKNOWN
    assert command_level(pack((3, 9, *range(20)))) == UNKNOWN, "more than 15 fields"
    for garbage in (b"", b"\xc1", pack(5), pack([1]), pack(["a", 1]), b"\x9d\x03"):
        assert command_level(garbage) == FIRST, "no release calls this a command: refused in apply"


@pytest.mark.parametrize("lowest", [1, 2, UNKNOWN - 1])
def test_a_leader_that_does_not_know_a_command_proposes_none(lowest: int) -> None:
    """Issue 5, 7: refused before it is proposed, definitely; the others of the same message go on."""

    async def scenario() -> None:
        raft, origin = FakeConsensus(), FakeOrigin()
        proposer = Proposer(raft, clock=ManualClock(), lowest_level=lambda: lowest)
        proposer.submit([(b"a" * 16, 1, NEW), (b"b" * 16, 1, b"other")], origin)
        await asyncio.sleep(0)
        assert origin.answers == {b"a" * 16: (Answer.NOT_YET, b"")}
        assert len(raft.entries) == 1
        assert proposer.level == FIRST

    asyncio.run(scenario())


@pytest.mark.usefixtures("next_release")
def test_the_leader_waits_for_the_last_member() -> None:
    """Issue 5, 7: what the oldest member cannot apply is refused before it is proposed."""

    async def scenario() -> None:
        raft, lowest = FakeConsensus(), 1
        proposer = Proposer(raft, clock=ManualClock(), lowest_level=lambda: lowest)
        early, late = FakeOrigin(), FakeOrigin()
        proposer.submit([(b"a" * 16, 1, NEW)], early)
        lowest = 3
        proposer.submit([(b"a" * 16, 1, NEW)], late)
        await asyncio.sleep(0)
        assert early.answers == {b"a" * 16: (Answer.NOT_YET, b"")}
        assert late.answers == {}
        assert len(raft.entries) == 1
        assert proposer.level == 3

    asyncio.run(scenario())


def test_the_lowest_level_is_what_members_said_last() -> None:
    """An old member that is away comes back as old as it was; one that never spoke is as the catalog demands."""
    peers = Peers(clock=ManualClock())
    assert peers.lowest_level([N1, N2], active=1) == 1
    for node, level in ((N1, 3), (N2, 2)):
        peers.take_report(node, _report(level), commit_index=1)
    assert peers.lowest_level([N1, N2], active=1) == 2
    peers.forget(N2)
    assert peers.lowest_level([N1, N2], active=1) == 2
    assert peers.lowest_level([N1], active=1) == 3, "no member any more"
    assert peers.lowest_level([N1, NodeId("n3@0000000000000003")], active=2) == 2
    peers.take_report(N2, _report(1), commit_index=1)
    assert peers.lowest_level([N1, N2], active=1) == 1, "it was taken back"


def test_a_gateway_is_told_for_certain() -> None:
    """House style 6: certainly not applied, unless an earlier attempt may have been."""

    async def scenario() -> None:
        operations = Operations(clock=ManualClock(), session=b"s" * 8)
        first = operations.add(NEW, 1, 5.0, lambda: None)
        second = operations.add(NEW, 1, 5.0, lambda: None)
        ids = [row[0] for batch in operations.take_batches() for row in batch]
        assert operations.answer([(ids[1], Answer.UNKNOWN, b"")])
        operations.take_batches()
        operations.answer([(request_id, Answer.NOT_YET, b"") for request_id in ids])
        with pytest.raises(NotYet, match="every node at version"):
            await first
        assert not second.done()
        operations.end_all()
        with pytest.raises(OutcomeUnknown):
            await second

    asyncio.run(scenario())
    assert answer_of(4) is Answer.NOT_YET
    assert answer_of(200) is Answer.UNKNOWN, "an answer of a later release says nothing for certain"


# --- the catalog ----------------------------------------------------------------------------------
def _entry(log: Log, command: bytes) -> Entry:
    operation = Operation(request_id=log.request_id(), first_index=1, command=command)
    return log.payload(encode_entry([operation]))


def test_a_catalog_keeps_its_level(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back is possible until the first command of the new level; from then on the old release does not start on it."""
    log = Log()
    store = CatalogStore.create(tmp_path / "catalog", formation())
    store.apply([_entry(log, encode_command(create_bucket("old")))])
    request.getfixturevalue("next_release")
    with store.view() as view:
        assert view.level() == 1
    store.apply([_entry(log, NEW)])
    with store.view() as view:
        assert view.level() == 3
        assert view.bucket("bucket") is not None
        assert view.scan_digest() == view.digests().record_sum
    store.copy_snapshot(tmp_path / "copy")
    store.close()
    probe(tmp_path / "catalog")

    monkeypatch.setattr(levels, "LEVEL", 2)
    for start in (
        lambda: probe(tmp_path / "catalog"),
        lambda: CatalogStore.open(tmp_path / "catalog"),
        lambda: verify_snapshot(tmp_path / "copy"),
    ):
        with pytest.raises(MadeByNewer, match=r"newer sos \(feature level 3\)") as refused:
            start()
        assert refused.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("payload", [None, b"\x07anything"])
def test_no_replica_steps_over_what_others_apply(tmp_path: Path, payload: bytes | None) -> None:
    """P22: a node of the old release that gets such an entry ends, and its catalog stays at the entry before."""
    log = Log()
    store = CatalogStore.create(tmp_path / "catalog", formation())
    entry = _entry(log, NEW) if payload is None else log.payload(payload)
    with pytest.raises(MadeByNewer, match="log entry 2 was made by a newer sos"):
        store.apply([entry])
    store.close()
    again = CatalogStore.open(tmp_path / "catalog")
    assert again.applied()[0] == 1
    again.close()


def test_a_list_of_a_newer_release_is_no_damage() -> None:
    """A member list of a version above the own one comes from a leader that this node cannot follow."""
    with pytest.raises(MadeByNewer):
        decode_members(b"\x02" + pack((1, 3, 0, [], "more")))


def test_a_catalog_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    """Issue 5, 7: one line and exit code 2, never taken for damage."""
    CatalogStore.create(tmp_path / "catalog", formation()).close()
    environment = open_writer(tmp_path / "catalog" / "1")
    transaction = begin(environment, write=True)
    row = seal(keys.FORMAT_KEY, encode_number_and_bytes(2, b""))
    transaction.put(keys.FORMAT_KEY, row)
    transaction.commit()
    environment.close()
    before = (tmp_path / "catalog" / "1" / DATA_FILE).read_bytes()
    with pytest.raises(MadeByNewer, match="the catalog was made by a newer sos"):
        probe(tmp_path / "catalog")
    assert (tmp_path / "catalog" / "1" / DATA_FILE).read_bytes() == before


# --- files ----------------------------------------------------------------------------------------
def _newer_json(data: bytes) -> bytes:
    """The same file with version 9 and a right checksum."""
    document = json.loads(data.partition(b"\n")[0]) | {"version": 9}
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    return body + f"{zlib.crc32(body):08x}\n".encode()


def _newer_sector(data: bytes) -> bytes:
    """The same bytes with version 9 behind the magic and a right CRC at the end."""
    body = data[:8] + struct.pack("<I", 9) + data[12:-4]
    return body + struct.pack("<I", zlib.crc32(body))


HEADER = SegmentHeader(
    segment_id=1,
    first_index=1,
    allocated_bytes=4096,
    filled_bytes=512,
    base=False,
    incarnation=INCARNATION,
)
PROGRESS = Progress(commit_index=1, segment_id=1, durable_offset=512)


@pytest.mark.parametrize(
    ("data", "parse"),
    [
        (_newer_json(encode_boots({N1: 3})), decode_boots),
        (_newer_sector(encode_header(HEADER)), parse_header),
        (
            _newer_sector(encode_vote(Vote(term=3, voted_for=None), INCARNATION)),
            lambda data: parse_vote(data, INCARNATION),
        ),
        (
            _newer_sector(encode_progress(PROGRESS, INCARNATION)),
            lambda data: parse_progress(data, INCARNATION),
        ),
    ],
    ids=["peers", "segment", "vote", "progress"],
)
def test_a_file_of_a_newer_release_is_no_damage(
    data: bytes, parse: Callable[[bytes], object]
) -> None:
    """Issue 5, 7: told apart from damage by its checksum; a flipped bit in the version is damage as ever."""
    with pytest.raises(MadeByNewer, match=r"version 9.*use that version"):
        parse(data)
    flipped = data[:8] + bytes([data[8] ^ 1]) + data[9:]
    assert parse(flipped) is None


def test_a_directory_of_a_newer_release_is_left_alone() -> None:
    """Issue 5, 7: neither started, nor renewed, nor quarantined; the same for the note in it."""
    disk = SimDisk()
    disk.mkdir("/n1")
    disk.fsync_directory("/")
    identity = DataDirectory.create(disk, "/n1", name="n1", ids=ManualIds()).identity
    quarantine.leave_note(
        disk, "/n1", quarantine.Note(incarnation=identity.incarnation, why="test")
    )
    for name, read in (
        ("damaged", lambda: quarantine.read_note(disk, "/n1")),
        ("identity", lambda: read_identity(disk, "/n1")),
    ):
        data = small_files.read_file(disk, f"/n1/{name}")
        assert data is not None
        newer = _newer_json(data)
        small_files.write_file(disk, "/n1", name, newer)
        with pytest.raises(MadeByNewer, match="version 9") as refused:
            read()
        assert refused.value.exit_code == EXIT_USAGE
    changes: tuple[Callable[[], object], ...] = (
        lambda: DataDirectory.load(disk, "/n1", name="n1"),
        lambda: DataDirectory.renew(
            disk, "/n1", name="n1", ids=ManualIds(), wall_ms=1, why="damage"
        ),
    )
    for change in changes:
        with pytest.raises(MadeByNewer):
            change()
    assert small_files.read_file(disk, "/n1/identity") == newer
    assert not disk.exists("/n1/quarantine")


# --- messages -------------------------------------------------------------------------------------
def _report(level: int = FIRST) -> NodeReport:
    return NodeReport(
        applied_index=1,
        digests=(),
        is_disk_low=False,
        has_gateway=True,
        version="1",
        free_bytes=1,
        doubt=1,
        level=level,
    )


def _newcomer(level: int = FIRST) -> Newcomer:
    return Newcomer(
        node=NodeId("c@0000000000000002"),
        address="c:9300",
        blob_address="c:9301",
        s3_address="c:9000",
        asks=True,
        version="0.0.9",
        level=level,
    )


def test_messages_of_another_release_are_understood() -> None:
    """A rolling upgrade: fields at the end are ignored or taken for granted, unknown kinds are ignored."""
    kind, fields = messages.decode_app(messages.encode_report(_report(2)))
    assert kind is AppKind.REPORT
    assert messages.check_report([*fields, "more", {}]) == _report(2)
    _, first = messages.decode_app(messages.encode_report(_report(FIRST)))
    assert first == fields[:-1], "as the first release says and reads it"
    assert messages.check_report(first) == _report(FIRST)
    with pytest.raises(AppRefused):
        messages.check_report(fields[:-2])
    with pytest.raises(AppRefused):
        messages.check_report([*fields[:-1], "no level"])

    _, fields = messages.decode_app(messages.encode_join(_newcomer(2)))
    node = _newcomer().node
    assert messages.check_join(node, [*fields, "more"]) == _newcomer(2)
    assert messages.check_join(node, fields[:-1]) == _newcomer(FIRST)

    members = [Member(node=N1, address="a:1"), Member(node=N2, address="b:1")]
    _, (rows,) = messages.decode_app(messages.encode_members(members))
    longer = [[*row, "more"] for row in rows]
    assert messages.check_members([longer, "more"]) == tuple(members)

    with pytest.raises(UnknownKind):
        messages.decode_app(pack([120, "of a later release"]))
    with pytest.raises(AppRefused) as garbage:
        messages.decode_app(pack("garbage"))
    assert not isinstance(garbage.value, UnknownKind)


def test_a_newcomer_that_is_too_old_is_not_admitted() -> None:
    """Issue 5, 7: it could not start on what it would get; the reason names its version, and it is not even fed."""
    old, new = _newcomer(1), _newcomer(2)
    listed = tuple(Member(node=f"{name}@{1:016x}", address=f"{name}:9300") for name in "ab")
    situation = Situation(
        leader=NodeId(listed[0].node),
        members=MemberList(members=listed),
        may_change=True,
        commit_index=9,
        connected=frozenset({old.node, *(NodeId(member.node) for member in listed)}),
        newcomers={old.node: old},
        learners=frozenset({old.node}),
        match_index={old.node: 9},
        level=2,
    )
    step = next_step(situation)
    assert isinstance(step, Wait)
    assert "c runs sos 0.0.9" in step.reason
    assert learners(situation) == frozenset()
    wiped = replace(
        situation,
        members=MemberList(members=(*listed, Member(node=f"c@{1:016x}", address="c:9300"))),
    )
    step = next_step(wiped)
    assert isinstance(step, Wait)
    assert "c runs sos 0.0.9" in step.reason
    assert learners(wiped) == frozenset()
    upgraded = replace(situation, newcomers={new.node: new})
    assert not isinstance(next_step(upgraded), Wait)
    assert learners(upgraded) == {new.node}


# --- handshakes -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("highest", "lowest", "common"),
    [(1, 1, 1), (1, 0, 1), (3, 1, 1), (3, 2, None), (9, 0, None), (0, 0, None)],
)
def test_the_highest_common_version_of_the_node_protocol(
    highest: int, lowest: int, common: int | None
) -> None:
    """Issue 5, 7: a range on both sides; none in common is refused with a line that names both."""
    acceptor = Handshake(dialing=False, key=b"key", nonce=b"a" * NONCE_BYTES)
    hello = bytearray(Handshake(dialing=True, key=b"key", nonce=b"d" * NONCE_BYTES).hello())
    hello[4:6] = highest, lowest
    if common is not None:
        acceptor.take_hello(bytes(hello))
        assert acceptor.version == common
        return
    with pytest.raises(HandshakeFailed) as refused:
        acceptor.take_hello(bytes(hello))
    assert refused.value.code is RefusalCode.OTHER_VERSION
    theirs = f"{highest}" if lowest in (0, highest) else f"{lowest} to {highest}"
    assert f"speaks version {theirs} of the node protocol, this node version 1" in str(
        refused.value
    )


def test_a_refusal_for_a_reason_of_a_later_release_is_one() -> None:
    """A code that this release does not know still ends the attempt in words."""
    dialer = Handshake(dialing=True, key=b"key", nonce=b"d" * NONCE_BYTES)
    acceptor = Handshake(dialing=False, key=b"key", nonce=b"a" * NONCE_BYTES)
    acceptor.take_hello(dialer.hello())
    dialer.take_hello(acceptor.hello())
    body = struct.pack(">BBQ", 2, 250, 0).ljust(MESSAGE_BYTES - 32, b"\0")
    sealed = _sealed(acceptor, body)
    refusal = dialer.open(sealed)
    assert getattr(refusal, "code", None) is RefusalCode.NO_KNOWN_REASON


def _sealed(side: Handshake, body: bytes) -> bytes:
    seal_body: Callable[[bytes], bytes] = vars(Handshake)["_seal"].__get__(side)
    return seal_body(body)


@pytest.mark.parametrize(
    ("versions", "is_common"), [((1,), True), ((1, 1), True), ((3, 1), True), ((3, 2), False)]
)
def test_the_versions_of_the_blob_port(versions: tuple[int, ...], is_common: bool) -> None:
    """The same for the blob port; fields at the end are ignored."""
    hello = Hello(nonce=b"n" * 16, cluster_id=b"c" * 16, sender=N1, receiver=N2)
    highest, *lowest = versions
    data = pack([highest, b"n" * 16, b"c" * 16, N1, N2, *lowest, *(["more"] if lowest else [])])
    assert decode_hello(encode_hello(hello)) == hello
    if is_common:
        assert decode_hello(data) == hello
        return
    with pytest.raises(NoCommonVersion, match="2 to 3 over there, 1 to 1 here"):
        decode_hello(data)
    assert issubclass(NoCommonVersion, WireError)
