"""What the engine does in named situations: one schedule each, on the bed."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from sos.errors import EXIT_DISK, FatalStop
from sos.raft.api import (
    Applied,
    LogDetached,
    LogEntry,
    ProposeOutcome,
    Refused,
    RefusedReason,
    Unknown,
)
from sos.raft.journal import open_journal
from sos.raft.members import Member
from sos.raft.messages import (
    BarrierAnswer,
    BarrierAsk,
    MessageRefused,
    ReadAsk,
    Transfer,
    decode,
    encode,
    encode_members,
)
from sos.raft.node import RaftNode
from tests.faults.simdisk import SimDisk
from tests.sim.bed import JOURNAL, Bed, BedSettings, Crash, Host
from tests.sim.schedule import take_all_back


def _raft(host: Host) -> RaftNode:
    assert host.raft is not None
    return host.raft


def _ready(nodes: int = 3, seed: int = 1) -> tuple[Bed, Host, list[Host]]:
    bed = Bed(seed, BedSettings(nodes=nodes))
    leader = bed.wait_leader()
    bed.world.run_for(0.5)
    return bed, leader, [host for host in bed.hosts.values() if host is not leader]


def _propose(bed: Bed, host: Host, payload: bytes, seconds: float = 1.0) -> list[ProposeOutcome]:
    outcomes: list[ProposeOutcome] = []
    host.run(lambda raft: raft.propose(payload, outcomes.append))
    bed.world.run_for(seconds)
    return outcomes


def _wiped(bed: Bed, host: Host) -> Host:
    """A fresh node in the place of ``host``; its catalog is that of the formation."""
    new = bed.wipe(host)
    bed.world.run_for(1.0)
    return new


def test_a_killed_leader_is_replaced_with_one_election() -> None:
    """P17, D11: also after ten idle seconds; the bare library needs two elections then."""
    for seed in range(5):
        bed, leader, others = _ready(seed=seed)
        bed.world.run_for(10.0)
        term, start = _raft(leader).term, bed.world.now

        leader.kill()
        assert bed.world.wait_for(lambda b=bed, o=others: b.leader() in o, 4.0)  # type: ignore[misc]

        assert bed.world.now - start < 1.0
        assert max(bed.checker.leaders) == term + 1
        assert {term for _, term in bed.checker.votes} <= {*range(1, term + 2)}
        bed.check()


def test_a_silent_leader_is_replaced_within_the_timeouts() -> None:
    """P17: a paused or cut-off leader closes no connection."""
    bed, leader, others = _ready()
    start = bed.world.now

    leader.paused = True
    assert bed.world.wait_for(lambda: bed.leader() in others, 4.0)

    assert bed.world.now - start < 2.0
    leader.resume()
    bed.settle()


def test_a_long_wrong_tail_is_replaced_in_one_step() -> None:
    """P17: the bare library backs off one entry a heartbeat, 110 s for a thousand (1.6)."""
    bed, leader, _ = _ready()
    for host in bed.hosts.values():
        assert host.journal is not None
    bed.network.isolate(leader.name)
    for _ in range(20):
        for _ in range(50):
            bed.write(leader)
        bed.world.run_for(0.03)
    assert leader.journal is not None
    assert leader.journal.last_index > 900
    bed.world.run_for(4.0)
    new = bed.wait_leader()
    assert new is not leader

    start = bed.world.now
    bed.network.heal()
    bed.write(new)
    bed.settle()

    assert bed.world.now - start < 3.0
    assert bed.world.counts["truncation"] == 1


def test_every_proposal_ends() -> None:
    """P17, D9: a cut-off leader's proposals are unknown at their deadline, never silent."""
    bed, leader, _ = _ready()
    bed.network.isolate(leader.name)
    outcomes: list[ProposeOutcome] = []
    for _ in range(5):
        bed.write(leader, then=outcomes.append)

    bed.world.run_for(bed.settings.raft.commit_s_max + 0.5)

    assert outcomes == [Unknown()] * 5
    bed.network.heal()
    bed.settle()


def test_barriers_end_too() -> None:
    """P15: without a majority no barrier is answered, and each ends at its deadline."""
    bed, leader, others = _ready()
    for host in bed.hosts.values():
        bed.network.isolate(host.name)
    answers: list[int | None] = []
    for host in (leader, *others):
        bed.read(host, then=answers.append)

    bed.world.run_for(bed.settings.raft.barrier_s_max + 0.5)

    assert answers == [None] * 3


def test_an_answer_does_not_wait_for_the_catalogs_commit_but_a_read_does() -> None:
    """P8, P22: results are final once their entry is committed; what a read may see rises with the state machine."""
    bed, leader, _ = _ready()
    bed.world.run_for(0.2)
    acked: list[ProposeOutcome] = []
    bed.write(leader, then=acked.append)
    assert bed.world.wait_for(lambda: bool(acked), 1.0, 1e-4)
    outcome = acked[0]
    assert isinstance(outcome, Applied)
    assert _raft(leader).applied_index == leader.machine.index < outcome.index
    index: list[int | None] = []
    start = bed.world.now

    bed.read(leader, then=index.append)
    assert bed.world.wait_for(lambda: _raft(leader).applied_index >= outcome.index, 1.0, 1e-4)

    assert bed.world.now - start < bed.settings.raft.apply_gather_s / 2
    assert bed.world.wait_for(lambda: index == [outcome.index], 1.0, 1e-4)
    assert leader.machine.index == outcome.index
    bed.check()


def test_a_follower_may_read_at_once() -> None:
    """P8, and quickly: the barrier's answer also tells the follower what is committed."""
    bed, leader, others = _ready()
    acked: list[ProposeOutcome] = []
    bed.write(leader, then=acked.append)
    assert bed.world.wait_for(lambda: bool(acked), 1.0, 1e-4)
    outcome = acked[0]
    assert isinstance(outcome, Applied)
    index: list[int | None] = []
    start = bed.world.now

    bed.read(others[0], then=index.append)
    assert bed.world.wait_for(lambda: _raft(others[0]).applied_index >= outcome.index, 1.0, 1e-4)

    assert bed.world.now - start < 0.02
    assert bed.world.wait_for(lambda: index == [outcome.index], 1.0, 1e-4)
    bed.check()


@pytest.mark.parametrize(
    ("nodes", "behind", "asks_others"), [(3, 0, False), (3, 1, True), (5, 0, True)]
)
def test_a_question_in_the_leaders_term_counts_as_a_confirmation(
    nodes: int, behind: int, asks_others: bool
) -> None:
    """P8: with three voters asker and leader are the majority; an asker of another term, or of five, is not enough."""
    bed, leader, others = _ready(nodes)
    frames: list[object] = []

    def keep(source: str, target: str, data: bytes) -> bool:
        if source == leader.name:
            frames.append(decode(data))
        return False

    bed.network.drop = keep
    ask = encode(BarrierAsk(7, _raft(leader).term - behind))
    leader.frame(others[0].name, ask)
    bed.world.run_for(0.05)

    assert [frame.seq for frame in frames if isinstance(frame, BarrierAnswer)] == [7]
    assert any(isinstance(frame, ReadAsk) for frame in frames) == asks_others


def test_only_the_leader_takes_proposals() -> None:
    """P3: elsewhere they are refused, and certainly have no effect."""
    bed, _, others = _ready()

    assert _propose(bed, others[0], b"\x01\x93\x01\x01\xc4\x00") == [
        Refused(reason=RefusedReason.NOT_LEADER)
    ]


def test_leadership_is_handed_over() -> None:
    """P17: a planned stop costs no election timeout, and no proposal."""
    bed, leader, others = _ready()
    outcomes: list[ProposeOutcome] = []
    for _ in range(10):
        bed.write(leader, then=outcomes.append)
    start = bed.world.now

    leader.run(lambda raft: raft.transfer_leadership())
    assert bed.world.wait_for(lambda: bed.leader() in others, 2.0)

    assert bed.world.now - start < 0.1
    bed.settle()
    assert len(outcomes) == 10
    assert not any(isinstance(outcome, Unknown) for outcome in outcomes)


def test_a_hand_over_of_an_old_term_starts_no_election() -> None:
    """P17: what a former leader asked for, and could not be done then, disturbs nobody later."""
    bed, leader, others = _ready()
    raft = _raft(others[0])
    raft._candidacy._now_term = raft.term - 1

    bed.world.run_for(2.0)

    assert bed.leader() is leader
    assert raft.term == _raft(leader).term
    bed.settle()


def test_an_apply_that_raises_stops_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """P19, D10: the entry is not retried for ever and not skipped; nothing is acknowledged."""
    bed, leader, _ = _ready()
    stops: list[FatalStop] = []

    def note(host: Host, stop: FatalStop) -> bool:
        stops.append(stop)
        return True

    bed.may_stop = note

    def explode(entries: list[LogEntry]) -> list[object]:
        raise ZeroDivisionError

    monkeypatch.setattr(leader.machine, "apply", explode)
    acked = bed.checker.acked_max
    bed.write(leader)
    bed.world.run_for(0.5)

    assert [stop.exit_code for stop in stops] == [70]
    assert bed.checker.acked_max == acked


def test_an_error_of_the_disk_stops_the_process() -> None:
    """P19: nothing is acknowledged after a failed sync."""
    bed, _, others = _ready()
    codes: list[int] = []

    def note(host: Host, stop: FatalStop) -> bool:
        codes.append(stop.exit_code)
        return host is others[0]

    bed.may_stop = note
    others[0].disk.fail("fdatasync", 1, "eio")
    leader = bed.leader()
    assert leader is not None
    bed.write(leader)
    bed.world.run_for(0.5)

    assert codes == [74]
    assert not others[0].is_up
    bed.check()


def test_a_foreign_frame_reaches_nothing() -> None:
    """P20, D8: the declared error, so that the links close the connection."""
    _, leader, others = _ready()

    with pytest.raises(MessageRefused):
        _raft(leader).on_frame(others[0].name, b"\x80\x02}q\x00.")

    assert _raft(leader).is_leader


def test_a_cluster_of_one_works() -> None:
    """It elects itself, commits and answers barriers without peers."""
    bed = Bed(3, BedSettings(nodes=1))
    leader = bed.wait_leader()
    answers: list[int | None] = []
    bed.write(leader)
    bed.read(leader, then=answers.append)
    bed.world.run_for(0.5)

    assert bed.checker.acked_max == 3
    assert answers[0] is not None
    leader.kill(power=True)
    bed.heal()
    bed.settle()


# --- members ------------------------------------------------------------------------------------------
def test_a_wiped_member_is_admitted_by_two_entries() -> None:
    """P16: unlisted it counts for nothing; then the old incarnation goes, then the new one comes (3.3)."""
    bed, leader, others = _ready()
    old, other = others
    new = _wiped(bed, old)
    last = leader.journal.last_index if leader.journal is not None else 0

    # unknown: connected, and not fed
    assert new.name not in [peer.node for peer in _raft(leader).peers()]
    assert _raft(new).applied_index == 1

    # a learner: fed, and not counted
    leader.run(lambda raft: raft.set_learners([new.name]))
    bed.write(leader)
    bed.world.run_for(1.0)
    assert _raft(new).applied_index == last + 1
    other.paused = True
    acked = bed.checker.acked_max
    bed.write(leader)
    bed.world.run_for(0.5)
    assert bed.checker.acked_max == acked
    other.resume()
    bed.world.run_for(1.0)

    # a voter, in two steps
    swap = bed.members.without(old.name).with_member(Member(node=new.name, address="x"))
    refused = Refused(reason=RefusedReason.MEMBERS_RULE)
    assert _propose(bed, leader, encode_members(swap)) == [refused]
    for members in (bed.members.without(old.name), swap):
        (outcome,) = _propose(bed, leader, encode_members(members))
        assert isinstance(outcome, Applied)
        assert outcome.result == members
    assert new.name in _raft(new).members.nodes
    other.paused = True
    acked = bed.checker.acked_max
    bed.write(leader)
    bed.world.run_for(0.5)
    assert bed.checker.acked_max > acked


def test_a_removed_member_learns_it_and_disturbs_nobody() -> None:
    """P17, 3.4: it gets the list that removes it once that is committed, nothing after it, and never campaigns."""
    bed, leader, others = _ready()
    gone = others[0]
    without = bed.members.without(gone.name)

    (outcome,) = _propose(bed, leader, encode_members(without))
    assert isinstance(outcome, Applied)
    for _ in range(3):
        bed.write(leader)
        bed.world.run_for(0.5)
    term = _raft(leader).term
    bed.world.run_for(10.0)

    assert gone.journal is not None
    assert gone.journal.last_index == outcome.index
    assert gone.name not in _raft(gone).members.nodes
    assert (_raft(leader).is_leader, _raft(leader).term) == (True, term)


def test_a_cut_off_list_is_taken_back() -> None:
    """P10, 3.1: a list in force that a new leader cuts away gives its place to the one before."""
    bed, leader, others = _ready()
    bed.network.isolate(leader.name)
    without = bed.members.without(others[0].name)
    leader.run(lambda raft: raft.propose(encode_members(without), lambda _: None))
    bed.world.run_for(5.0)
    assert _raft(leader).members == without

    bed.network.heal()
    bed.settle()

    assert _raft(leader).members == bed.members
    assert leader.name in _raft(leader).members.nodes


def test_the_list_in_force_survives_a_restart() -> None:
    """3.1: also one that is in the log and not applied yet."""
    bed, leader, others = _ready()
    without = bed.members.without(others[0].name)
    for host in others:
        bed.network.cut_off(host.name, leader.name)  # no acknowledgement comes back
    leader.run(lambda raft: raft.propose(encode_members(without), lambda _: None))
    bed.world.run_for(0.3)
    assert _raft(others[1]).members == without

    others[1].kill(power=True)
    others[1].start()

    assert _raft(others[1]).members == without
    assert others[1].machine.members == bed.members


def test_a_removal_that_waits_in_the_queue_is_taken_back_too() -> None:
    """P17: proposed before all was healed, in the log only after a hand-over came to nothing (seed 1000010)."""
    bed, leader, others = _ready()
    bed.is_static = False
    bed.network.drop = lambda source, target, data: isinstance(decode(data), Transfer)
    removed: list[ProposeOutcome] = []
    without = encode_members(bed.members.without(others[0].name))
    leader.run(lambda raft: raft.transfer_leadership())
    leader.run(lambda raft: raft.propose(without, removed.append))
    assert _raft(leader).members == bed.members

    bed.heal()
    take_all_back(bed)
    bed.settle()

    assert [type(outcome) for outcome in removed] == [Applied]
    assert {host.machine.members for host in bed.hosts.values()} == {bed.members}


# --- starts -------------------------------------------------------------------------------------------
def test_a_lost_journal_is_noticed() -> None:
    """P16: a catalog ahead of its log means that this node forgot acknowledgements (protocols.md 1.2)."""
    bed, leader, others = _ready()
    for _ in range(5):
        bed.write(leader)
    bed.world.run_for(1.0)
    host, other = others
    state = host.machine
    host.kill()
    fresh = Bed(9, BedSettings(nodes=1)).hosts[f"n1@{1:016x}"]
    assert fresh.journal is not None

    class Machine:
        def applied(self) -> tuple[int, int]:
            return state.index, state.term

        def apply(self, entries: object, /, *, hold: bool = False) -> list[object]:
            raise AssertionError

        def commit(self) -> None:
            raise AssertionError

    with pytest.raises(LogDetached):
        RaftNode(
            self_id=host.name,
            members=state.members,
            journal=fresh.journal,
            machine=Machine(),
            links=other,
            clock=host.clock,
            ids=host.ids,
        )


@pytest.mark.parametrize("effects", range(1, 12))
def test_an_install_survives_a_crash_at_each_step(
    effects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P22: between the new catalog and the journal's reset, and inside it (protocols.md 6)."""
    bed, leader, others = _ready()
    bed.sync_every = 1
    host = others[0]
    host.kill()
    for _ in range(60):
        for _ in range(5):
            bed.write(leader, padding=300)
        bed.world.run_for(0.1)
    bed.fetch_s_max = 0.06
    host.start()
    fired: list[int] = []
    plain: Any = host.machine.swap

    def swap(state: Any) -> None:
        fired.append(effects)
        plain(state)
        host.crash_in = effects

    monkeypatch.setattr(host.machine, "swap", swap)
    assert bed.world.wait_for(lambda: bool(fired) and not host.is_up, 5.0) or host.is_up
    assert fired
    host.crash_in = None
    if not host.is_up:
        host.start()
    bed.settle()
    bed.check()


@pytest.mark.parametrize("crash", ["nowhere", "before the swap", "before the reset"])
def test_a_copy_of_a_newer_term_makes_that_term_durable_first(crash: str) -> None:
    """P1, P9, protocols.md 6: its source follows a leader that we never heard; else the next start is damage.

    Without it the journal holds entries of a term that the vote file has never seen.
    """
    bed, leader, others = _ready()
    near, far = others
    bed.network.isolate(far.name)
    bed.world.run_for(3.0)
    near.campaign()
    assert bed.world.wait_for(lambda: _raft(near).is_leader, 2.0)
    for _ in range(5):
        bed.write(near)
    bed.world.run_for(1.0)
    point = _raft(leader).snapshot_point()
    assert point is not None
    state, members = leader.machine.copy_at(point), leader.machine.members
    assert point.term > _raft(far).term

    def swap() -> None:
        if crash == "before the swap":
            raise Crash
        far.machine.swap(state)
        if crash == "before the reset":
            raise Crash

    far.run(lambda raft: raft.install(point, members, swap))
    assert far.is_up == (crash == "nowhere")
    if far.is_up:
        assert _raft(far).term == point.term
        far.kill(power=True)
    for _ in range(2):  # the first may finish an install, the second reads what that left
        far.start()
        bed.check()
        assert _raft(far).term >= point.term
        far.kill(power=True)
    bed.heal()
    bed.settle()


def test_a_lost_journal_is_no_cut_install() -> None:
    """P16: an empty journal beside an installed catalog lost its vote too; its reset is not finished."""
    bed, leader, others = _ready()
    for _ in range(5):
        bed.write(leader)
    bed.world.run_for(1.0)
    point = _raft(leader).snapshot_point()
    assert point is not None
    installed = (point.index, point.term)
    fresh = SimDisk()
    fresh.mkdir(JOURNAL)
    fresh.fsync_directory("/")
    journal = open_journal(fresh, JOURNAL, incarnation="0" * 16)

    class Machine:
        def applied(self) -> tuple[int, int]:
            return installed

        def apply(self, entries: object, /, *, hold: bool = False) -> list[object]:
            raise AssertionError

        def commit(self) -> None:
            raise AssertionError

    with pytest.raises(LogDetached):
        RaftNode(
            self_id=others[0].name,
            members=bed.members,
            journal=journal,
            machine=Machine(),
            links=others[0],
            clock=others[0].clock,
            ids=others[0].ids,
            installed_at=point,
        )


# --- disk errors outside a turn -----------------------------------------------------------------------
def _with_old_segments() -> tuple[Bed, Host]:
    bed, leader, _ = _ready()
    bed.sync_every = 10**9  # nothing is compacted meanwhile
    for _ in range(40):
        for _ in range(5):
            bed.write(leader, padding=300)
        bed.world.run_for(0.1)
    leader.machine.sync()
    return bed, leader


def test_an_io_error_of_compaction_stops_the_process() -> None:
    """P19: the loop only warns of an OSError, taking it for a socket's; raft must say that it is the disk's."""
    _, leader = _with_old_segments()
    leader.disk.fail("unlink", 2, "eio")

    with pytest.raises(FatalStop) as stop:
        _raft(leader).compact(leader.machine.durable_index)

    assert stop.value.exit_code == EXIT_DISK


def test_an_io_error_of_an_install_stops_the_process() -> None:
    """P19: whichever of its steps fails."""
    bed, leader, others = _ready()
    far = others[0]
    bed.network.isolate(far.name)
    for _ in range(5):
        bed.write(leader)
    bed.world.run_for(1.0)
    point = _raft(leader).snapshot_point()
    assert point is not None

    def swap() -> None:
        raise OSError(errno.EIO, "simulated")

    with pytest.raises(FatalStop) as stop:
        _raft(far).install(point, bed.members, swap)

    assert stop.value.exit_code == EXIT_DISK


def test_an_io_error_at_the_close_stops_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """P19: also the last writes of a process that ends anyway."""
    _, leader, _ = _ready()

    def fail() -> None:
        raise OSError(errno.EIO, "simulated")

    assert leader.journal is not None
    monkeypatch.setattr(leader.journal, "close", fail)
    with pytest.raises(FatalStop) as stop:
        _raft(leader).close()

    assert stop.value.exit_code == EXIT_DISK


def test_a_member_without_room_takes_no_entries_and_catches_up_when_it_has_some() -> None:
    """Scenario 37: it hears its leader and votes, the others go on, and nothing ends it."""
    bed, leader, others = _ready()
    full = others[0]
    raft = _raft(full)
    raft._settings = replace(raft._settings, entry_room_bytes=100, vote_room_bytes=10)
    raft.room_bytes = lambda: 50
    before = raft._log.last_index

    outcomes: list[ProposeOutcome] = []
    for _ in range(50):
        bed.write(leader, then=outcomes.append)
        bed.world.run_for(0.1)
    assert [type(outcome) for outcome in outcomes] == [Applied] * 50
    assert raft._log.last_index == before
    assert (raft.leader, bed.leader()) == (leader.name, leader), "no election for that"

    raft.room_bytes = lambda: 200
    bed.world.run_for(1.0)
    assert raft.applied_index == _raft(leader).applied_index
    bed.settle()


def test_a_leader_without_room_refuses_and_can_hand_over() -> None:
    """Scenario 38: what it refuses certainly has no effect; a chosen heir and nobody else takes over."""
    bed, leader, others = _ready()
    raft, heir = _raft(leader), others[1]
    raft._settings = replace(raft._settings, entry_room_bytes=100, vote_room_bytes=10)
    raft.room_bytes = lambda: 50

    outcomes: list[ProposeOutcome] = []
    bed.write(leader, then=outcomes.append)
    bed.world.run_for(1.0)
    assert outcomes == [Refused(reason=RefusedReason.QUEUE_FULL)]
    assert raft.transfer_leadership(heir.name)
    leader.run(RaftNode.tick)
    assert bed.world.wait_for(lambda: bed.leader() is heir, 2.0)
    assert not raft.transfer_leadership(heir.name), "it leads no more"

    raft.room_bytes = lambda: 200
    bed.world.run_for(1.0)
    assert raft.applied_index == _raft(heir).applied_index
    bed.settle()
