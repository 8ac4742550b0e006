"""The catalog's database: one transaction per batch, remembered results, digests, snapshots, damage."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from sos.catalog import keys
from sos.catalog.codec import decode_result, encode_command, encode_entry, encode_members
from sos.catalog.environment import READERS_MAX, read_pointer
from sos.catalog.model import (
    BucketRecord,
    Command,
    CreateBucket,
    ForgottenBlob,
    MemberList,
    NodeId,
    Operation,
    OwedBlob,
    Rejection,
    Removal,
    ReportHolders,
    Stored,
)
from sos.catalog.probe import probe
from sos.catalog.reader import CatalogReader, ViewBehind
from sos.catalog.store import CatalogStore, verify_snapshot
from sos.catalog.views import View
from sos.errors import EXIT_BUG, EXIT_DAMAGE, EXIT_DISK, Corruption, FatalStop, Unavailable
from sos.packing import pack
from tests.faults import tmpfs
from tests.unit.catalog_samples import (
    NODES,
    ROOT,
    Entry,
    Log,
    blob_body,
    blob_id,
    create_bucket,
    delete,
    formation,
    inline_body,
    member,
    put,
    run,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog"


def bucket_of(view: View) -> BucketRecord:
    bucket = view.bucket("bucket")
    assert bucket is not None
    return bucket


def flip(path: Path, needle: bytes) -> None:
    """Change one byte of the database file inside the last occurrence of ``needle``."""
    data = bytearray(path.read_bytes())
    at = data.rfind(needle)
    assert at >= 0
    data[at] ^= 0x20
    path.write_bytes(data)


# --- formation and opening ------------------------------------------------------------------------
def test_a_new_catalog_is_the_formation_record_at_index_1(path: Path) -> None:
    """Every first member starts from the same state, so equal digests mean equal histories (P11)."""
    one = CatalogStore.create(path, formation())
    other = CatalogStore.create(path.with_name("other"), formation())

    with one.view() as view, other.view() as other_view:
        assert one.applied() == (1, 0)
        assert view.formation() == formation()
        assert one.members() == MemberList(index=1, members=formation().members)
        root = view.access_key(ROOT)
        assert root is not None
        assert (root.secret_key, root.root, root.enabled) == ("root-secret", True, True)
        assert view.digests() == other_view.digests()
        assert view.scan_digest() == view.digests().record_sum


def test_a_catalog_is_never_created_over_another(path: Path) -> None:
    """A second formation must not empty a catalog."""
    CatalogStore.create(path, formation()).close()

    with pytest.raises(FileExistsError):
        CatalogStore.create(path, formation())


def test_files_are_private(path: Path) -> None:
    """Secrets lie in the catalog: files 0600, directories 0700 (design 11)."""
    store = CatalogStore.create(path, formation())
    run(store, Log(), create_bucket())
    store.copy_snapshot(path / "copy")

    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.rglob("*")}
    assert modes == {
        "1": 0o700,
        "current": 0o600,
        "copy": 0o600,
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_lock_file_is_allocated_before_it_is_mapped(path: Path) -> None:
    """On a full disk a hole in the mapped lock file would be SIGBUS (faults.md 7)."""
    CatalogStore.create(path, formation())

    assert (path / "1" / "lock.mdb").stat().st_blocks * 512 >= READERS_MAX * 64


def test_reopening_gives_what_was_applied(path: Path) -> None:
    """P22: the applied index is in the transaction of its effects."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    run(store, log, put("a", inline_body(1)))
    with store.view() as view:
        digests = view.digests()
    store.close()

    store = CatalogStore.open(path)

    assert store.applied() == (log.index, 1)
    with store.view() as view:
        assert view.digests() == digests
    assert run(store, log, delete("a"))


# --- applying -------------------------------------------------------------------------------------
def test_a_batch_that_fails_changes_nothing_and_ends_the_store(path: Path) -> None:
    """A failed batch leaves no part of itself, and nothing is acknowledged after it (P19, P22)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    with store.view() as view:
        before = view.digests()
    good, bad = log.entry(put("a", inline_body(1))), log.payload(b"\x01 not an entry")

    with pytest.raises(FatalStop) as caught:
        store.apply([good, bad])

    assert caught.value.exit_code == EXIT_BUG
    with pytest.raises(FatalStop):
        store.apply([good])
    store.close()
    store = CatalogStore.open(path)
    with store.view() as view:
        assert view.digests() == before
        assert view.object(bucket_of(view).bucket_id, "a") is None
    assert len(store.apply([good])) == 1


@tmpfs.needs_tmpfs
def test_room_that_is_kept_outlasts_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Scenario 38: between the question for room and the commit a foreign file takes the last byte."""
    with tmpfs.small_disk(tmp_path, 8 << 20):
        store, log = CatalogStore.create(tmp_path / "catalog", formation()), Log()
        store.apply([log.entry(create_bucket())])
        assert store.keep_room(1 << 20)
        tmpfs.fill(tmp_path)

        for number in range(10):  # 200 KiB of bodies, in pages of their own
            assert store.keep_room(100 << 10)
            store.apply([log.entry(put(f"key-{number}", inline_body(number, bytes(20_000))))])
        assert not store.keep_room(4 << 20), "the disk is full"

        tmpfs.free(tmp_path)
        assert store.keep_room(4 << 20)
        store.close()
        again = CatalogStore.open(tmp_path / "catalog")
        with again.view() as view:
            assert view.object(bucket_of(view).bucket_id, "key-9") is not None
        again.close()


def test_what_is_held_shows_with_its_commit_alone(tmp_path: Path, path: Path) -> None:
    """P8, P22: a reader never sees held entries without their index, and a crash brings the same results again."""
    store, log = CatalogStore.create(path, formation()), Log()
    twin = CatalogStore.create(path.with_name("twin"), formation())
    commands = (create_bucket(), put("a"), put("b", inline_body(7, b"b")))
    entries = [log.entry(command) for command in commands]
    results = [*store.apply(entries[:2], hold=True), *store.apply(entries[2:], hold=True)]

    assert store.applied() == (1, 0)
    with store.view() as view:
        assert view.bucket("bucket") is None
    assert store.copy_snapshot(tmp_path / "copy").index == 1
    store.sync()
    assert store.durable_index == 1

    store.commit()

    assert store.applied() == (4, 1)
    assert store.durable_index == 1  # a power cut may take back the last commit
    assert twin.apply(entries) == results
    with store.view() as view, twin.view() as other:
        assert bucket_of(view).object_count == 2
        assert view.digests() == other.digests()
    twin.apply([log.payload(b"")], hold=True)
    twin.close()
    assert CatalogStore.open(path.with_name("twin")).applied() == (5, 1)
    store.close()


def test_an_entry_out_of_order_stops_the_process(path: Path) -> None:
    """P22: entries apply in order, each once."""
    log = Log()
    store = CatalogStore.create(path, formation())
    first, second = log.entry(create_bucket()), log.entry(create_bucket())

    with pytest.raises(FatalStop):
        store.apply([second])
    store = reopened(store, path)
    store.apply([first])
    with pytest.raises(FatalStop):
        store.apply([first])


def reopened(store: CatalogStore, path: Path) -> CatalogStore:
    store.close()
    return CatalogStore.open(path)


def test_a_full_map_stops_the_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the database, whichever, is the disk's exit code and no acknowledgement (P19)."""
    monkeypatch.setattr("sos.catalog.environment.MAP_BYTES", 256 * 1024)
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())

    entries = [
        log.entry(put(f"key-{number}", inline_body(number, b"x" * 16_000))) for number in range(100)
    ]

    with pytest.raises(FatalStop) as caught:
        store.apply(entries)

    assert caught.value.exit_code == EXIT_DISK


def test_entries_of_no_operations_move_the_index_alone(path: Path) -> None:
    """NO_OPs of new leaders count in the log."""
    store = CatalogStore.create(path, formation())

    assert store.apply(
        [Entry(index=2, term=4, payload=b""), Entry(index=3, term=5, payload=b"")]
    ) == [
        None,
        None,
    ]
    assert store.applied() == (3, 5)
    assert store.apply([]) == []


def test_a_command_that_is_none_is_refused_and_remembered(path: Path) -> None:
    """Bytes that no release calls a command never stop the cluster (model.Rejection)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    operation = Operation(request_id=log.request_id(), first_index=1, command=pack([1, 1]))

    (results,) = store.apply([log.payload(encode_entry([operation]))])

    assert results is not None
    assert decode_result(results[0]) is Rejection.UNKNOWN_COMMAND


# --- remembered results ---------------------------------------------------------------------------
def resend(log: Log, operation: Operation) -> Entry:
    return log.payload(encode_entry([operation]))


@pytest.mark.parametrize(
    "command", [put("a", inline_body(1)), create_bucket(), put("a", None, bucket="absent")]
)
def test_a_resend_gets_the_first_answer_and_changes_nothing(path: Path, command: Command) -> None:
    """P4: one request id takes effect at most once; refusals are remembered too (protocols.md 5.1)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    operation = log.operation(command)
    first = store.apply([resend(log, operation)])
    run(store, log, delete("a"))
    run(store, log, create_bucket("absent"))

    again = store.apply([resend(log, operation), log.payload(encode_entry([operation, operation]))])

    assert again == [first[0], [*(first[0] or []), *(first[0] or [])]]
    with store.view() as view:
        assert view.object(bucket_of(view).bucket_id, "a") is None
        assert view.stored_result(operation.request_id) == (first[0] or [])[0]


def test_results_are_forgotten_by_index_and_late_resends_refused(path: Path) -> None:
    """Forgetting is deterministic and bounded; what may have been forgotten is not applied again (design 5)."""
    log = Log()
    store = CatalogStore.create(path, formation(), dedupe_entries=5)
    run(store, log, create_bucket())
    early = log.operation(put("a", None))
    never_sent = log.operation(put("b", None))
    first = store.apply([resend(log, early)])
    index = log.index
    while log.index < index + 4:
        store.apply([log.payload(b"")])

    remembered = store.apply([resend(log, early)])
    forgotten = store.apply([resend(log, early)])
    late = store.apply([resend(log, never_sent)])

    assert remembered == first
    assert [decode_result(result[0]) for result in (forgotten[0], late[0]) if result] == [
        Rejection.TOO_OLD_TO_REMEMBER
    ] * 2
    with store.view() as view:
        assert view.stored_result(early.request_id) is None
        assert view.object(bucket_of(view).bucket_id, "b") is None
        assert view.scan_digest() == view.digests().record_sum


# --- digests --------------------------------------------------------------------------------------
def test_the_chain_is_kept_at_the_last_64_indexes_divisible_by_1024(path: Path) -> None:
    """Members compare chains at equal index (design 8)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    while log.index < 67 * 1024:
        store.apply([log.payload(b"") for _ in range(1021)])

    with store.view() as view:
        kept = view.digests().kept
        assert view.scan_digest() == view.digests().record_sum

    last = log.index // 1024
    assert [index for index, _ in kept] == [1024 * at for at in range(last - 63, last + 1)]
    assert len({chain for _, chain in kept}) == 64


def test_the_chain_finds_another_decision_at_once(path: Path) -> None:
    """P11: nodes that decided differently have different chains, though rows may be equal again later."""
    one = CatalogStore.create(path, formation())
    other = CatalogStore.create(path.with_name("other"), formation())
    for store, key in ((one, "a"), (other, "b")):
        log = Log()
        run(store, log, create_bucket())
        run(store, log, put(key, None))
        run(store, log, delete("a"))
        run(store, log, delete("b"))

    with one.view() as view, other.view() as other_view:
        assert view.digests().chain != other_view.digests().chain


# --- members, owed and forgotten blobs ------------------------------------------------------------
def test_members_entries_put_a_list_in_force(path: Path) -> None:
    """P12: blobs are counted against the members at apply; a removed member owes nothing (protocols.md 4)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    run(store, log, put("a", blob_body(1, NODES[:2])))
    members = tuple(member(node) for node in (NODES[0], NODES[1], NODES[3]))

    store.apply([log.payload(encode_members(members))])

    assert store.members() == MemberList(index=log.index, members=members)
    assert run(store, log, put("b", blob_body(2, (NODES[0], NODES[2])))) == [
        Rejection.HOLDERS_TOO_FEW
    ]
    run(store, log, put("c", blob_body(3, NODES[:2])))
    with store.view() as view:
        assert view.owed(NODES[2]) == []
        assert view.member_copies(NODES[2]) is None
        copies = view.member_copies(NODES[3])
        assert copies is not None
        assert (copies.since_index, copies.blobs_owed, copies.bytes_owed) == (4, 1, 100_000)
        assert view.scan_digest() == view.digests().record_sum


def test_a_learner_reports_copies_before_it_is_a_member(path: Path) -> None:
    """A newcomer collects its copies before it votes, and they count once it does (protocols.md 3)."""
    log = Log()
    store = CatalogStore.create(path, formation(2))
    run(store, log, create_bucket())
    run(store, log, put("a", blob_body(1, NODES[:2])))

    run(store, log, ReportHolders(node=NODES[2], sequence=1, gained=(blob_id(1),), lost=()))
    store.apply([log.payload(encode_members(formation(3).members))])

    with store.view() as view:
        assert view.holders(blob_id(1)) == NODES[:3]
        assert view.report_sequence(NODES[2]) == 1


def test_who_was_removed_is_remembered(path: Path) -> None:
    """protocols.md 1.4, 3.3: a removed incarnation never comes back; its name does, if no operator took it out."""
    log = Log()
    store = CatalogStore.create(path, formation(3))
    first, second, third = formation(3).members
    with store.view() as view:
        assert view.removals() == ()

    store.apply([log.payload(encode_members((first, second)))])
    store.apply([log.payload(encode_members((first, replace(second, leaving=True))))])
    store.apply([log.payload(encode_members((first,)))])

    expected = (
        Removal(node=third.node, leaving=False),
        Removal(node=second.node, leaving=True),
    )
    with store.view() as view:
        assert view.removals() == expected
        assert view.scan_digest() == view.digests().record_sum
    entries = []
    for number in range(1000):
        extra = member(NodeId(f"n9@{number:016x}"))
        for members in ((first, extra), (first,)):
            entries.append(log.payload(encode_members(members)))
    store.apply(entries)
    with store.view() as view:
        assert len(view.removals()) == 1000  # bounded: the oldest two are forgotten
        assert view.removals()[0].node == NodeId(f"n9@{0:016x}")


def test_a_long_owed_list_goes_by_and_by(path: Path) -> None:
    """P17: removing a member that owes a million blobs stops nobody; the same rows go at the same index everywhere."""
    log, count = Log(), 700
    one = CatalogStore.create(path, formation(3))
    other = CatalogStore.create(path.with_name("other"), formation(3))
    commands = [put(f"k{number}", blob_body(number, NODES[:2])) for number in range(1, count + 1)]
    entries = [log.entry(create_bucket()), log.entry(*commands)]
    members = formation(3).members
    entries += [
        log.payload(encode_members(members[:2])),
        # a late word of the removed one, about a blob that it still stands listed as owing
        log.entry(ReportHolders(node=NODES[2], sequence=1, gained=(blob_id(count),), lost=())),
    ]
    for entry in entries:
        one.apply([entry])
    other.apply(entries)  # however entries fall into transactions

    with one.view() as view:
        left = len(view.owed(NODES[2], limit=count))
        assert 0 < left < count - 256
    entries = [log.entry(put(f"l{number}", inline_body(count + number))) for number in range(1, 4)]
    for entry in entries:
        one.apply([entry])
    other.apply(entries)
    with one.view() as view, other.view() as other_view:
        assert view.owed(NODES[2]) == []
        assert view.digests() == other_view.digests()
        assert view.scan_digest() == view.digests().record_sum


def test_owed_and_forgotten_blobs_are_read_in_pages(path: Path) -> None:
    """Resync and upkeep page through lists of any length and end (design 10)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    numbers = range(1, 8)
    run(store, log, *[put(f"k{number}", blob_body(number, NODES[:2])) for number in numbers])

    with store.view() as view:
        owed: list[OwedBlob] = []
        while page := view.owed(NODES[2], owed[-1].blob if owed else b"", 3):
            owed += page
        blobs = view.blobs(limit=4)
        blobs += view.blobs(blobs[-1].blob, limit=4)
        assert view.blobs(blobs[-1].blob) == []
        assert view.owed(NODES[0]) == []
    run(store, log, *[delete(f"k{number}") for number in numbers])
    with store.view() as view:
        forgotten: list[ForgottenBlob] = []
        while rows := view.forgotten(forgotten[-1] if forgotten else None, 3):
            forgotten += rows
        assert view.owed(NODES[2]) == []

    assert [row.blob for row in owed] == [blob_id(number) for number in numbers]
    assert [record.blob for record in blobs] == [blob_id(number) for number in numbers]
    assert [row.blob for row in forgotten] == [blob_id(number) for number in numbers]


def test_old_forgotten_rows_go_with_new_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of forgotten blobs does not grow for ever; every node drops the same rows."""
    monkeypatch.setattr("sos.catalog.writer.FORGOTTEN_ENTRIES", 3)
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    for number in range(1, 9):
        run(store, log, put("a", blob_body(number)))

    with store.view() as view:
        rows = view.forgotten()
        assert view.counters().forgotten_count == len(rows)
        assert all(row.index >= log.index - 3 for row in rows)
        assert view.scan_digest() == view.digests().record_sum


# --- damage ---------------------------------------------------------------------------------------
def test_a_damaged_record_is_never_returned(path: Path) -> None:
    """P7, P11: LMDB has no checksums; ours name table and key, and the core stops (issue, 6)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    run(store, log, put("a", inline_body(1, b"precious bytes")), put("b", inline_body(2)))
    store.close()
    flip(path / "1" / "data.mdb", b"precious")
    store = CatalogStore.open(path)

    with store.view() as view:
        with pytest.raises(Corruption, match="inline_bodies, key 0000000000000001"):
            view.inline_body(blob_id(1))
        assert view.inline_body(blob_id(2)) == b"inline"
        with pytest.raises(Corruption):
            view.scan_digest()


def test_a_damaged_record_stops_apply_with_its_exit_code(path: Path) -> None:
    """A record that fails its checksum stops the core as an I/O error does (issue, 6)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    run(store, log, put("precious-key", inline_body(1)))
    store.close()
    flip(path / "1" / "data.mdb", b"text/plain")
    store = CatalogStore.open(path)

    with pytest.raises(FatalStop) as caught:
        run(store, log, delete("precious-key"))

    assert caught.value.exit_code == EXIT_DAMAGE


def run_probe(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sos.catalog.probe", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_probe_passes_a_good_catalog_and_changes_nothing(path: Path) -> None:
    """The first open after a start happens in a child process (faults.md 7)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    store.close()

    result = run_probe(path)

    assert (result.returncode, result.stderr) == (0, "")
    with CatalogStore.open(path).view() as view:
        assert view.applied_index == log.index
        assert view.scan_digest() == view.digests().record_sum


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "missing", "pointer"])
def test_the_probe_finds_damage_in_a_child(path: Path, damage: str) -> None:
    """On damaged pages LMDB may die of a signal: that must be a child's death, not the core's (faults.md 7)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    run(store, log, *[put(f"{number}", inline_body(number, b"x" * 9000)) for number in range(50)])
    store.close()
    data = path / "1" / "data.mdb"
    match damage:
        case "truncated":
            os.truncate(data, data.stat().st_size // 8)
        case "zeroed":
            data.write_bytes(bytes(data.stat().st_size))
        case "missing":
            data.unlink()
        case "pointer":
            (path / "current").write_bytes(b"x")

    code = run_probe(path).returncode

    assert code == EXIT_DAMAGE or -code in (signal.SIGBUS, signal.SIGABRT, signal.SIGSEGV)


# --- snapshots and readers ------------------------------------------------------------------------
def test_a_snapshot_is_the_catalog_and_becomes_a_new_generation(tmp_path: Path, path: Path) -> None:
    """P11, P22: a copy has the state, the digests and the remembered results of its index (protocols.md 6)."""
    log = Log()
    leader = CatalogStore.create(path, formation())
    run(leader, log, create_bucket())
    operation = log.operation(put("a", inline_body(1)))
    first = leader.apply([resend(log, operation)])
    point = leader.copy_snapshot(tmp_path / "copy")
    behind = CatalogStore.create(tmp_path / "behind", formation())
    old_view = behind.view()

    installed = behind.install_snapshot(tmp_path / "copy", b"boundary entries")

    assert installed == point
    assert (point.index, point.term) == leader.applied() == behind.applied()
    assert (behind.generation, behind.boundary()) == (2, b"boundary entries")
    assert old_view.applied_index == 1
    assert old_view.formation() == formation()
    old_view.close()
    with leader.view() as view, behind.view() as other:
        assert view.digests() == other.digests()
    assert behind.apply([resend(log, operation)]) == first
    behind.close()
    behind = CatalogStore.open(tmp_path / "behind")
    assert behind.generation == 2
    assert sorted(item.name for item in (tmp_path / "behind").iterdir()) == ["2", "current"]


def test_a_damaged_snapshot_is_refused_and_the_old_generation_stays(
    tmp_path: Path, path: Path
) -> None:
    """A snapshot that fails to load must not be half installed (house style, 8)."""
    store = CatalogStore.create(path, formation())
    store.copy_snapshot(tmp_path / "copy")
    os.truncate(tmp_path / "copy", 2 * 4096 + 100)
    (tmp_path / "empty").write_bytes(b"")

    for name in ("copy", "empty", "absent"):
        with pytest.raises(Corruption):
            store.install_snapshot(tmp_path / name)

    assert (store.generation, read_pointer(path), store.applied()) == (1, 1, (1, 0))
    assert len(store.apply([Entry(index=2, term=1, payload=b"")])) == 1


def test_a_crash_before_the_pointer_leaves_the_old_generation(tmp_path: Path, path: Path) -> None:
    """An install that did not reach the pointer is undone by the next open (protocols.md 6)."""
    store = CatalogStore.create(path, formation())
    store.copy_snapshot(tmp_path / "copy")
    (path / "2").mkdir()
    os.rename(tmp_path / "copy", path / "2" / "data.mdb")
    store.close()

    store = CatalogStore.open(path)

    assert (store.generation, (path / "2").exists()) == (1, False)


def test_a_rotten_snapshot_fails_its_scan(tmp_path: Path, path: Path) -> None:
    """A copy is scanned before it is installed: each record, and the sum over all of them (P11)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket(), put("a", inline_body(1, b"precious bytes")))
    point = store.copy_snapshot(tmp_path / "copy")

    assert verify_snapshot(tmp_path / "copy") == point
    flip(tmp_path / "copy", b"precious")
    with pytest.raises(Corruption):
        verify_snapshot(tmp_path / "copy")


READER = """
import sys
from sos.catalog.reader import CatalogReader, ViewBehind
reader = CatalogReader(sys.argv[1])
for line in sys.stdin:
    index, generation = map(int, line.split())
    try:
        with reader.view(index, generation) as view:
            print(view.generation, view.applied_index, view.counters().object_count, flush=True)
    except ViewBehind:
        print("behind", flush=True)
"""


def test_a_reader_in_another_process_follows_the_writer(tmp_path: Path, path: Path) -> None:
    """P8: a view holds at least what was asked for, over a replaced environment too (protocols.md 5.4)."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:

        def ask(index: int, generation: int = 0) -> str:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdin.write(f"{index} {generation}\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        answers = [ask(2), ask(3)]
        run(store, log, put("a", None))
        answers.append(ask(3))
        store.copy_snapshot(tmp_path / "copy")
        run(store, log, put("b", None))
        answers.append(ask(0))
        store.install_snapshot(tmp_path / "copy")
        store.remove_old_generations()
        answers += [ask(3, 1), ask(3, 2), ask(4, 2)]
        assert reader.stdin is not None
        reader.stdin.close()
        assert reader.wait(10) == 0

    assert answers == ["1 2 0", "behind", "1 3 1", "1 4 2", "1 4 2", "2 3 1", "behind"]
    assert store.clear_stale_readers() == 0


def test_the_slot_of_a_killed_reader_is_freed(path: Path) -> None:
    """A killed reader pins old pages until its slot is cleared (faults.md 7, M54)."""
    store = CatalogStore.create(path, formation())
    script = (
        "import sys; from sos.catalog.reader import CatalogReader;"
        "view = CatalogReader(sys.argv[1]).view(); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        reader.kill()
        reader.wait(10)

        assert store.clear_stale_readers() == 1
        assert store.clear_stale_readers() == 0


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (lmdb.CorruptedError, Corruption),
        (lmdb.PageNotFoundError, Corruption),
        (lmdb.BadRslotError, Corruption),
        (lmdb.DiskError, Unavailable),  # ENOSPC
        (lmdb.ReadersFullError, Unavailable),
        (lmdb.BadValsizeError, lmdb.BadValsizeError),
    ],
)
def test_what_lmdb_tells_a_reader(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[lmdb.Error],
    expected: type[Exception],
) -> None:
    """Issue 4, item 6: damage stops the node, a full table of readers passes, and no request of a client is damage."""
    CatalogStore.create(path, formation()).close()
    reader = CatalogReader(path)

    with pytest.raises(expected), reader.view():
        raise raised("in a query")

    def fail(*_: object, **__: object) -> None:
        raise raised("at its start")

    monkeypatch.setattr("sos.catalog.reader.begin", fail)
    with pytest.raises(expected):
        reader.view()
    monkeypatch.setattr("sos.catalog.reader.open_reader", fail)
    with pytest.raises(expected):
        CatalogReader(path)
    reader.close()


def test_a_reader_of_no_catalog_says_so(path: Path) -> None:
    """A gateway that starts before the formation gets a plain error."""
    path.mkdir()

    with pytest.raises(FileNotFoundError):
        CatalogReader(path)
    with pytest.raises(FileNotFoundError):
        probe(path)


def test_a_map_that_another_process_enlarged_is_adopted(path: Path) -> None:
    """Readers of a map that grew go on (faults.md 7, scenario 95)."""
    CatalogStore.create(path, formation()).close()
    script = (
        "import sys, lmdb\n"
        "from sos.catalog import environment\n"
        "environment.MAP_BYTES = 1 << 20\n"
        "from sos.catalog.reader import CatalogReader\n"
        "reader = CatalogReader(sys.argv[1]); print('open', flush=True); sys.stdin.readline()\n"
        "with reader.view(2) as view: print(view.applied_index, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        store, log = CatalogStore.open(path), Log()
        run(store, log, create_bucket())
        for number in range(40):
            run(store, log, put(f"{number}", inline_body(number, b"x" * 30_000)))
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == f"{log.index}\n"
        reader.stdin.close()


# --- sharp edges ----------------------------------------------------------------------------------
def test_set_range_trap_is_as_we_know_it(tmp_path: Path) -> None:
    """Pinned: after a failed set_range the library iterates from the first key (house style, 8)."""
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"1")
        cursor = transaction.cursor()

        assert not cursor.set_range(b"b")
        assert [bytes(key) for key in cursor.iternext(values=False)] == [b"a"]
        assert environment.max_key_size() == 511


def test_pages_at_the_end_of_the_database_end(path: Path) -> None:
    """No pager of ours starts again at the first row (faults.md 7)."""
    store = CatalogStore.create(path, formation())

    with store.view() as view:
        assert view.blobs(b"\xff" * 16) == []
        assert view.owed(NODES[2], b"\xff" * 16) == []
        assert view.forgotten(ForgottenBlob(index=2**63, blob=blob_id(1))) == []
        assert view.list_keys(2**63, limit=10).objects == []
        assert view.digests().kept == ()


def test_describe_names_table_and_key() -> None:
    """A person must find the damaged record."""
    assert keys.describe(keys.blob_key(blob_id(5))) == (
        "catalog table blobs, key 00000000000000010000000000000005"
    )
    assert keys.describe(b"") == "catalog table unknown, key "


def test_a_create_bucket_command_has_one_encoding() -> None:
    """The encoding is canonical: equal values, equal bytes (house style, 7)."""
    command = CreateBucket(access_key=ROOT, bucket="b", created_ms=1)

    assert encode_command(command) == encode_command(
        CreateBucket(access_key=ROOT, bucket="b", created_ms=1)
    )


def test_stored_results_carry_their_index(path: Path) -> None:
    """The commit index of an answer is the log index of its entry."""
    log = Log()
    store = CatalogStore.create(path, formation())
    run(store, log, create_bucket())

    (result,) = run(store, log, put("a", None))

    assert isinstance(result, Stored)
    assert result.commit_index == log.index


def test_a_reader_never_answers_from_less(path: Path) -> None:
    """A view that is behind is an error, not an old answer (design 6)."""
    CatalogStore.create(path, formation()).close()
    reader = CatalogReader(path)

    with reader.view(1) as view:
        assert view.applied_index == 1
    with pytest.raises(ViewBehind):
        reader.view(2)
    with pytest.raises(ViewBehind):
        reader.view(1, 2)
