"""Rules of the catalog by table: conditions, copies, holders, names, access keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sos.catalog.codec import encode_members
from sos.catalog.model import (
    SOURCE_ALWAYS,
    AccessKeyId,
    BlobId,
    Command,
    CopySourceCondition,
    CreateAccessKey,
    DeleteBucket,
    DeletedMany,
    DeleteEntry,
    DeleteObjects,
    Done,
    NodeId,
    ObjectRecord,
    Position,
    RaiseSweepFloor,
    Rejection,
    ReportHolders,
    Result,
    RevokeAccessKey,
    Stored,
    WriteCondition,
)
from sos.catalog.rules import decide
from sos.catalog.rules.conditions import source_allows, write_refusal
from sos.catalog.store import CatalogStore
from tests.unit.catalog_samples import (
    CHECKSUM,
    COMMANDS,
    MD5,
    NODES,
    ROOT,
    Log,
    blob_body,
    blob_id,
    copy,
    create_bucket,
    delete,
    formation,
    inline_body,
    object_record,
    put,
    run,
)

PRESENT = object_record()
OTHER_MD5 = b"\xff" * 16
IF_MATCH = Rejection.PRECONDITION_FAILED_IF_MATCH
IF_NONE_MATCH = Rejection.PRECONDITION_FAILED_IF_NONE_MATCH


@pytest.mark.parametrize(
    ("condition", "absent", "same", "other"),
    [
        (WriteCondition(), None, None, None),
        (WriteCondition(if_none_match_any=True), None, IF_NONE_MATCH, IF_NONE_MATCH),
        (WriteCondition(if_match=MD5.hex()), Rejection.NO_SUCH_KEY, None, IF_MATCH),
        (WriteCondition(if_match="*"), Rejection.NO_SUCH_KEY, None, None),
    ],
)
def test_conditions_on_writes(
    condition: WriteCondition,
    absent: Rejection | None,
    same: Rejection | None,
    other: Rejection | None,
) -> None:
    """The table of s3.md 4.3; If-Match on an absent key is 404."""
    assert write_refusal(condition, None) == absent
    assert write_refusal(condition, PRESENT) == same
    assert write_refusal(condition, replace(PRESENT, etag="other")) == other


MODIFIED_S = PRESENT.modified_ms // 1000


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        (SOURCE_ALWAYS, True),
        (CopySourceCondition(if_match=(PRESENT.etag,)), True),
        (CopySourceCondition(if_match=("x", "*")), True),
        (CopySourceCondition(if_match=("x",)), False),
        (CopySourceCondition(if_match=("x",), if_unmodified_since_s=MODIFIED_S), False),
        (CopySourceCondition(if_match=(PRESENT.etag,), if_unmodified_since_s=0), True),
        (CopySourceCondition(if_unmodified_since_s=MODIFIED_S), True),
        (CopySourceCondition(if_unmodified_since_s=MODIFIED_S - 1), False),
        (CopySourceCondition(if_none_match=(PRESENT.etag,)), False),
        (CopySourceCondition(if_none_match=("*",)), False),
        (CopySourceCondition(if_none_match=("x",)), True),
        (CopySourceCondition(if_none_match=("x",), if_modified_since_s=MODIFIED_S), True),
        (CopySourceCondition(if_none_match=(PRESENT.etag,), if_modified_since_s=0), False),
        (CopySourceCondition(if_modified_since_s=MODIFIED_S), False),
        (CopySourceCondition(if_modified_since_s=MODIFIED_S - 1), True),
        (CopySourceCondition(if_match=(PRESENT.etag,), if_none_match=(PRESENT.etag,)), False),
    ],
)
def test_conditions_on_copy_sources(condition: CopySourceCondition, allowed: bool) -> None:
    """The steps of s3.md 4.1 with 412 for all of them (4.2), in whole seconds."""
    assert source_allows(condition, PRESENT) == allowed


class Catalog:
    """A store with its log, for tests that read like a session."""

    def __init__(self, path: Path, members: int = 3) -> None:
        self.log = Log()
        self.store = CatalogStore.create(path, formation(members))
        self.do(create_bucket())

    def do(self, command: Command) -> Result:
        return run(self.store, self.log, command)[0]

    def object(self, key: str) -> ObjectRecord | None:
        with self.store.view() as view:
            bucket = view.bucket("bucket")
            assert bucket is not None
            return view.object(bucket.bucket_id, key)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog")


@pytest.mark.parametrize(
    ("members", "holders", "enough"),
    [
        (1, NODES[:1], True),
        (1, NODES[1:2], False),
        (2, NODES[:1], False),
        (2, NODES[:2], True),
        (3, NODES[:1], False),
        (3, NODES[1:3], True),
        (3, (NODES[0], NODES[3]), False),
        (3, (NODES[0], NodeId("n2@00000000000000ff")), False),
        (3, (NODES[0], NODES[0]), False),
        (4, NODES[:2], False),
        (4, NODES[:3], True),
        (3, (), False),
    ],
)
def test_holders_are_counted_among_the_voters_at_apply(
    tmp_path: Path, members: int, holders: tuple[NodeId, ...], enough: bool
) -> None:
    """P12: a write counts only if its blob is on a majority of the members in force (protocols.md 4.2)."""
    catalog = Catalog(tmp_path / "catalog", members)

    result = catalog.do(put("big", blob_body(1, holders)))

    if enough:
        assert isinstance(result, Stored)
    else:
        assert result is Rejection.HOLDERS_TOO_FEW
        assert catalog.object("big") is None


@pytest.mark.parametrize(
    ("members", "holders", "enough"),
    [
        (3, NODES[:2], True),
        (3, (NODES[0], NODES[2]), False),
        (3, NODES[1:3], False),
        (2, NODES[:1], True),
        (2, NODES[1:2], False),
        (4, NODES[:3], True),
        (4, NODES[1:4], False),
    ],
)
def test_a_leaving_member_counts_for_no_blob_quorum(
    tmp_path: Path, members: int, holders: tuple[NodeId, ...], enough: bool
) -> None:
    """Else replacing one member after the other loses what lay on them (protocols.md 3.6). The last one leaves."""
    catalog = Catalog(tmp_path / "catalog", members)
    *staying, last = formation(members).members
    payload = encode_members([*staying, replace(last, leaving=True)])
    catalog.store.apply([catalog.log.payload(payload)])

    result = catalog.do(put("big", blob_body(1, holders)))

    assert isinstance(result, Stored) == enough
    assert enough or result is Rejection.HOLDERS_TOO_FEW


def test_a_blob_is_named_once(catalog: Catalog) -> None:
    """A blob once forgotten is never named again: its files may be going (protocols.md 4.3)."""
    named = catalog.do(put("a", blob_body(1)))
    while_there = catalog.do(put("b", blob_body(1)))
    catalog.do(delete("a"))
    after = catalog.do(put("b", blob_body(1)))

    assert isinstance(named, Stored)
    assert while_there is Rejection.BLOB_ALREADY_NAMED
    assert after is Rejection.BLOB_ALREADY_NAMED


def test_a_blob_below_the_floor_is_not_named(catalog: Catalog) -> None:
    """What the sweep may take away must not be named, also after its tombstone went (protocols.md 4.4)."""
    catalog.do(put("a", blob_body(1)))
    catalog.do(delete("a"))
    catalog.do(RaiseSweepFloor(floor_index=2))

    assert catalog.do(put("a", blob_body(1))) is Rejection.BLOB_BELOW_FLOOR
    assert catalog.do(put("a", blob_body(2))) is Rejection.BLOB_BELOW_FLOOR
    with catalog.store.view() as view:
        assert not view.was_forgotten(blob_id(1))
        assert view.sweep_floor() == 2


def test_the_floor_never_passes_the_log(catalog: Catalog) -> None:
    """A floor of the future would refuse every upload."""
    result = catalog.do(RaiseSweepFloor(floor_index=1 << 60))

    assert result == Done()
    with catalog.store.view() as view:
        assert view.sweep_floor() == catalog.log.index


def test_copies_share_a_blob_and_the_last_reference_forgets_it(catalog: Catalog) -> None:
    """Only a count of zero forgets a blob (design 8)."""
    catalog.do(put("a", blob_body(1)))
    catalog.do(copy("a", "b"))
    catalog.do(put("a", None))
    with catalog.store.view() as view:
        shared = view.blob(blob_id(1))
    catalog.do(delete("b"))

    assert shared is not None
    assert shared.reference_count == 1
    with catalog.store.view() as view:
        assert view.blob(blob_id(1)) is None
        assert [row.blob for row in view.forgotten()] == [blob_id(1)]


def test_a_copy_onto_itself_keeps_the_blob(catalog: Catalog) -> None:
    """Replacing the metadata of a key by a self-copy must not lose its bytes (s3.md 1.1.6)."""
    catalog.do(put("a", inline_body(1)))

    replaced = catalog.do(copy("a", "a"))
    refused = catalog.do(replace(copy("a", "a"), changes_something=False))

    assert isinstance(replaced, Stored)
    assert refused is Rejection.SELF_COPY_WITHOUT_CHANGE
    with catalog.store.view() as view:
        assert view.inline_body(blob_id(1)) == b"inline"


def test_a_copy_of_bytes_read_before_needs_the_same_source_version(catalog: Catalog) -> None:
    """Bytes read beforehand count only if apply still finds that source version (s3.md 1.1.6)."""
    first = catalog.do(put("a", inline_body(1)))
    assert isinstance(first, Stored)
    recomputed = replace(copy("a", "b"), expect_commit_index=first.commit_index, checksum=CHECKSUM)

    same = catalog.do(recomputed)
    catalog.do(put("a", inline_body(2)))
    changed = catalog.do(recomputed)

    assert isinstance(same, Stored)
    assert changed is Rejection.SOURCE_CHANGED


def test_refusals_of_copies_in_their_order(catalog: Catalog) -> None:
    """The source is judged before the destination's conditions (s3.md 4.2)."""
    catalog.do(put("a", inline_body(1)))
    conditional = replace(
        copy("a", "a"),
        source_condition=CopySourceCondition(if_match=("x",)),
        condition=WriteCondition(if_none_match_any=True),
    )

    assert catalog.do(copy("a", "b", bucket="no")) is Rejection.NO_SUCH_BUCKET
    assert catalog.do(copy("a", "b", source_bucket="no")) is Rejection.NO_SUCH_SOURCE_BUCKET
    assert catalog.do(copy("no", "b")) is Rejection.NO_SUCH_SOURCE_KEY
    assert catalog.do(conditional) is Rejection.SOURCE_PRECONDITION_FAILED
    assert catalog.do(replace(conditional, source_condition=SOURCE_ALWAYS)) is IF_NONE_MATCH


def test_delete_objects_judges_each_key_alone(catalog: Catalog) -> None:
    """Batch delete is atomic per key and tells the truth per key (s3.md 1.1.7)."""
    for number, key in enumerate(("a", "b", "c"), 1):
        catalog.do(put(key, inline_body(number)))
    catalog.do(copy("c", "d"))
    command = DeleteObjects(
        access_key=ROOT,
        bucket="bucket",
        entries=(
            DeleteEntry(key="a"),
            DeleteEntry(key="a"),
            DeleteEntry(key="a", etag=MD5.hex()),
            DeleteEntry(key="absent"),
            DeleteEntry(key="b", etag=OTHER_MD5.hex()),
            DeleteEntry(key="b", version_id="made-up"),
            DeleteEntry(key="c", version_id="null"),
            DeleteEntry(key="d", etag=MD5.hex()),
        ),
    )

    result = catalog.do(command)

    assert result == DeletedMany(
        outcomes=(
            None,
            None,
            Rejection.NO_SUCH_KEY,
            None,
            IF_MATCH,
            Rejection.NO_SUCH_VERSION,
            None,
            None,
        )
    )
    with catalog.store.view() as view:
        bucket = view.bucket("bucket")
        assert bucket is not None
        assert (bucket.object_count, bucket.size_bytes) == (1, 6)
        assert view.inline_body(blob_id(3)) is None


def test_a_revoked_key_changes_nothing_any_more(catalog: Catalog) -> None:
    """P2: after a key's deletion is acknowledged, no request signed with it succeeds (faults.md 2.3)."""
    other = AccessKeyId("OTHER")
    catalog.do(CreateAccessKey(access_key=other, secret_key="s", created_ms=1))

    before = catalog.do(put("a", None, access_key=other))
    revoked = [catalog.do(RevokeAccessKey(access_key=other)) for _ in range(2)]
    after = catalog.do(put("a", None, access_key=other))
    again = catalog.do(CreateAccessKey(access_key=other, secret_key="new", created_ms=2))

    assert isinstance(before, Stored)
    assert revoked == [Done(), Done(existed=False)]
    assert after is Rejection.INVALID_ACCESS_KEY
    assert again is Rejection.ACCESS_KEY_EXISTS
    assert (
        catalog.do(RevokeAccessKey(access_key=AccessKeyId("NEVER"))) is Rejection.INVALID_ACCESS_KEY
    )


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"report_holders", "raise_sweep_floor", "create_access_key"})
)
def test_every_command_of_an_unknown_key_is_refused(catalog: Catalog, name: str) -> None:
    """P20: every write names its access key, and apply checks it (design 5.1)."""
    command = COMMANDS[name]
    assert not isinstance(command, ReportHolders | RaiseSweepFloor | CreateAccessKey)

    result = catalog.do(replace(command, access_key=AccessKeyId("UNKNOWN")))

    assert result is Rejection.INVALID_ACCESS_KEY


def test_a_late_report_of_a_node_changes_nothing(catalog: Catalog) -> None:
    """A late report must not resurrect a lost copy (protocols.md 4.1)."""
    catalog.do(put("a", blob_body(1)))
    node = NODES[0]

    lost = catalog.do(ReportHolders(node=node, sequence=2, gained=(), lost=(blob_id(1),)))
    late = catalog.do(ReportHolders(node=node, sequence=1, gained=(blob_id(1),), lost=()))

    assert (lost, late) == (Done(), Done(existed=False))
    with catalog.store.view() as view:
        assert view.holders(blob_id(1)) == NODES[1:3]
        assert [row.blob for row in view.owed(node)] == [blob_id(1)]


def test_a_reported_copy_is_owed_no_more_and_a_lost_one_again(catalog: Catalog) -> None:
    """What a member owes is state in the catalog, kept by its own reports (design 5.5)."""
    catalog.do(put("a", blob_body(1, NODES[:2])))
    node = NODES[2]

    def owed() -> tuple[list[BlobId], int, int]:
        with catalog.store.view() as view:
            copies = view.member_copies(node)
            assert copies is not None
            return [row.blob for row in view.owed(node)], copies.blobs_owed, copies.bytes_owed

    named = owed()
    catalog.do(ReportHolders(node=node, sequence=1, gained=(blob_id(1), blob_id(99)), lost=()))
    gained = owed()
    catalog.do(ReportHolders(node=node, sequence=2, gained=(blob_id(1),), lost=(blob_id(1),)))
    lost = owed()

    assert named == lost == ([blob_id(1)], 1, 100_000)
    assert gained == ([], 0, 0)


def test_a_bucket_made_again_is_empty_and_new(catalog: Catalog) -> None:
    """Keys of a deleted bucket belong to nobody: two buckets of one name, also in one entry, have other ids."""
    with catalog.store.view() as view:
        before = view.bucket("bucket")

    results = run(
        catalog.store,
        catalog.log,
        DeleteBucket(access_key=ROOT, bucket="bucket"),
        create_bucket("x"),
        create_bucket(),
        create_bucket(),
    )

    with catalog.store.view() as view:
        after, other = view.bucket("bucket"), view.bucket("x")
    assert results == [
        Done(),
        Done(existed=False),
        Done(existed=False),
        Rejection.BUCKET_ALREADY_OWNED_BY_YOU,
    ]
    assert before is not None
    assert after is not None
    assert other is not None
    assert len({before.bucket_id, after.bucket_id, other.bucket_id}) == 3


def test_a_bucket_with_objects_stays(catalog: Catalog) -> None:
    """Any object blocks DeleteBucket (s3.md 1.1.4)."""
    catalog.do(put("a", None))
    command = DeleteBucket(access_key=ROOT, bucket="bucket")

    assert catalog.do(command) is Rejection.BUCKET_NOT_EMPTY
    assert catalog.do(delete("a")) == Done()
    assert catalog.do(command) == Done()
    assert catalog.do(command) is Rejection.NO_SUCH_BUCKET


def test_rules_run_on_a_read_view_before_a_command_is_proposed(catalog: Catalog) -> None:
    """The service decides on its own view first, so what would raise never enters the log (house style, 7)."""
    command = put("a", blob_body(1))

    with catalog.store.view() as view:
        decision = decide(view, command, Position(index=view.applied_index + 1, ordinal=0))

    assert decision.result == catalog.do(command)


def test_equal_state_and_command_give_equal_writes(catalog: Catalog) -> None:
    """``decide`` is deterministic: the same decision every time it is asked (house style, 7)."""
    catalog.do(put("a", blob_body(1, NODES[:2])))
    commands: list[Command] = [
        delete("a"),
        copy("a", "b"),
        put("a", inline_body(3)),
        create_bucket("new"),
    ]

    with catalog.store.view() as view:
        position = Position(index=view.applied_index + 1, ordinal=0)
        for command in commands:
            first, second = (decide(view, command, position) for _ in range(2))
            assert (first.result, list(first.writes)) == (second.result, list(second.writes))
            assert first.writes
