"""Each hook is needed: the same schedule breaks a promise without it, and none with it.

Where a defect of the bare library has a number (D1-D13), the schedule is the one that showed it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sos.raft.messages import Append, AppendReply, RequestVote, decode, encode, encode_members
from tests.sim.bed import Bed, BedSettings, Host
from tests.sim.checks import Violation
from tests.sim.schedule import run_seed
from tests.sim.switches import SWITCHES

SEEDS = 30  # a random schedule must show the violation within these


# --- schedules: each takes a bed and ends with what its promise says -----------------------------------
def _three(bed: Bed) -> tuple[Host, Host, Host]:
    """The leader, which committed in its own term, and the two followers."""
    leader = bed.wait_leader()
    bed.world.run_for(0.5)
    one, two = [host for host in bed.hosts.values() if host is not leader]
    return leader, one, two


def _raft(host: Host) -> Any:
    assert host.raft is not None
    return host.raft


def _write(bed: Bed, host: Host, count: int, seconds: float = 0.5, padding: int = 0) -> None:
    for _ in range(count):
        bed.write(host, padding=padding)
    bed.world.run_for(seconds)


def _cut_off(bed: Bed, host: Host) -> None:
    """Isolate ``host`` for so long that nothing of its old connections will arrive after a heal."""
    bed.network.isolate(host.name)
    bed.world.run_for(3.0)


def power_cut_after_acks(bed: Bed) -> None:
    """All lose power after a write was acknowledged (D1)."""
    leader, _, _ = _three(bed)
    _write(bed, leader, 10)
    assert bed.checker.acked_max > 0
    bed.power_cut_everywhere()
    bed.heal()
    bed.settle()


def two_requests_in_one_term(bed: Bed) -> None:
    """A voter dies between the requests of two candidates of one term."""
    _, voter, _ = _three(bed)
    one, two = [name for name in bed.names if name != voter.name]
    bed.network.isolate(voter.name)
    request = encode(RequestVote(50, 10_000, 49))
    voter.frame(one, request)
    bed.world.run_for(0.05)
    voter.kill(power=True)
    voter.start()
    bed.world.run_for(0.05)
    voter.link_up(two)
    voter.frame(two, request)
    bed.world.run_for(0.05)


def wiped_voter(bed: Bed) -> None:
    """A voter is wiped after it voted; the other candidate of that term asks it again (protocols.md 1.1, S1)."""
    voter, one, two = _three(bed)
    _cut_off(bed, two)
    one.campaign()
    assert bed.world.wait_for(lambda: bool(_raft(one).is_leader), 1.0)
    bed.network.isolate(one.name)
    bed.network.cut -= {pair for pair in bed.network.cut if one.name not in pair}
    new = bed.wipe(voter)
    assert bed.world.wait_for(lambda: _raft(two)._core.is_connected(new.name), 5.0)
    assert _raft(two).term + 1 == bed.checker_term(one)
    two.campaign()
    bed.world.run_for(0.5)


def late_append(bed: Bed) -> None:
    """An append of an old connection comes late, then the leader dies (D4)."""
    leader, near, far = _three(bed)
    _cut_off(bed, far)
    appends: list[bytes] = []
    bed.may_stop = lambda *_: True  # looked at in the end: what was lost comes first

    def keep(source: str, target: str, data: bytes) -> bool:
        if (source, target) == (leader.name, near.name):
            message = decode(data)
            if isinstance(message, Append) and message.terms:
                appends.append(data)
        return False

    bed.network.drop = keep
    for _ in range(4):
        _write(bed, leader, 3, 0.1)
    bed.network.drop = None
    near.frame(leader.name, appends[0])
    bed.world.run_for(1e-6)
    leader.kill(power=True)
    bed.network.heal()
    _two_go_on(bed, near, far)
    if bed.stops:
        bed.checker.fail("stop", bed.stops[0])


def _two_go_on(bed: Bed, one: Host, two: Host) -> None:
    """Without the third, these two elect, write and agree."""
    for host in (one, two):
        if not host.is_up:
            host.start()
    bed.check()
    assert bed.world.wait_for(lambda: bed.leader() in (one, two), 20.0)
    bed.world.run_for(1.0)
    leader = bed.leader()
    if leader is not None:
        _write(bed, leader, 3, 1.0)
    bed.settle(hosts=[one, two])


def late_reply(bed: Bed) -> None:
    """An acknowledgement of an earlier term comes late, for an index that is another entry now."""
    leader, one, _ = _three(bed)
    bed.network.isolate(leader.name)
    _write(bed, leader, 3, 0.01)
    last = leader.journal.last_index if leader.journal is not None else 0
    leader.frame(one.name, encode(AppendReply(_raft(leader).term - 1, last + 1, False, True)))
    bed.world.run_for(0.05)


def votes_come_twice(bed: Bed) -> None:
    """Two of five elect nobody, however often one of them votes."""
    first = bed.wait_leader()
    bed.world.run_for(0.5)
    small = [host for host in bed.hosts.values() if host is not first][:2]
    large = [host for host in bed.hosts.values() if host not in small]
    for one in small:
        for two in large:
            bed.network.cut |= {(one.name, two.name), (two.name, one.name)}

    def twice(source: str, target: str, data: bytes) -> bool:
        if data[1] == 5:
            bed.hosts[target].frame(source, data)
        return False

    bed.network.drop = twice
    small[0].campaign()
    other = next(host for host in large if host is not first)
    other.campaign()
    bed.world.run_for(1.0)
    assert _raft(other).is_leader


def back_with_a_higher_term(bed: Bed) -> None:
    """A node that campaigned alone comes back with a higher term, and is not locked out."""
    leader, one, _ = _three(bed)
    _cut_off(bed, one)
    one.campaign()
    one.campaign()
    _write(bed, leader, 3)
    bed.network.heal()
    _write(bed, leader, 3, 5.0)
    bed.settle()


def one_broken_link(bed: Bed) -> None:
    """A node that lost only its link to the leader disturbs nobody (1.6)."""
    leader, one, _ = _three(bed)
    term = _raft(leader).term
    bed.network.cut |= {(leader.name, one.name), (one.name, leader.name)}
    bed.world.run_for(15.0)
    if _raft(leader).term != term or not _raft(leader).is_leader:
        bed.checker.fail("P17", "a healthy leader was deposed")


def restart(bed: Bed) -> None:
    """A restarted node goes on where its state machine is (1.8)."""
    leader, one, _ = _three(bed)
    _write(bed, leader, 5)
    one.machine.sync()
    one.kill()
    one.start()
    bed.settle()


def snapshot_of_the_past(bed: Bed) -> None:
    """A snapshot comes to a log that holds its entry and acknowledged ones behind it (1.3, last lines)."""
    leader, near, far = _three(bed)
    _cut_off(bed, far)
    bed.network.delay_s = (0.003, 0.0031)
    bed.world.run_for(0.5)
    start = _raft(leader).applied_index
    _write(bed, leader, 5, 0.001)
    _write(bed, leader, 5, 0.0)
    assert bed.world.wait_for(lambda: bool(_raft(leader).applied_index > start), 1.0, 1e-5)
    point = _raft(leader).snapshot_point()
    state, members = leader.machine.copy_at(point), leader.machine.members
    bed.network.cut_off(leader.name, near.name)
    assert bed.world.wait_for(lambda: bool(_raft(leader).applied_index == start + 10), 1.0, 1e-4)
    assert _raft(near).commit_index < point.index
    near.run(lambda raft: raft.install(point, members, lambda: near.machine.swap(state)))
    leader.kill(power=True)
    bed.network.heal()
    _two_go_on(bed, near, far)


def snapshot_of_a_term_not_heard_of(bed: Bed) -> None:
    """A snapshot's source follows a leader that its receiver cannot hear (protocols.md 6)."""
    leader, near, far = _three(bed)
    _cut_off(bed, far)
    near.campaign()
    _write(bed, near, 5, 1.0)
    point = _raft(leader).snapshot_point()
    assert point.term > _raft(far).term
    state, members = leader.machine.copy_at(point), leader.machine.members
    far.run(lambda raft: raft.install(point, members, lambda: far.machine.swap(state)))
    far.kill(power=True)
    far.start()
    bed.check()
    bed.heal()
    bed.settle()


def isolated_leader_changes_members(bed: Bed) -> None:
    """A cut-off leader removes both others, one after the other (D5)."""
    leader, one, two = _three(bed)
    bed.network.isolate(leader.name)
    without_one = bed.members.without(one.name)
    for members in (without_one, without_one.without(two.name)):
        leader.run(lambda raft, m=members: raft.propose(encode_members(m), lambda _: None))  # type: ignore[misc]
        bed.world.run_for(0.1)
    _write(bed, leader, 3)
    assert bed.world.wait_for(lambda: _raft(one).is_leader or _raft(two).is_leader, 10.0)
    bed.world.run_for(0.5)
    _write(bed, one if _raft(one).is_leader else two, 3)
    bed.network.heal()
    bed.settle()


def cut_off_leader_with_a_tail(bed: Bed) -> None:
    """A cut-off leader's own entries meet the commit index of the next one (D3)."""
    leader, one, two = _three(bed)
    others = [one, two]
    bed.network.isolate(leader.name)
    _write(bed, leader, 10, 4.0)
    new = next(host for host in others if _raft(host).is_leader)
    _write(bed, new, 20)
    bed.network.heal()
    bed.settle()


def read_at_a_cut_off_leader(bed: Bed) -> None:
    """A leader that does not know yet that there is another is asked for a barrier (D6)."""
    leader, one, two = _three(bed)
    bed.network.isolate(leader.name)
    assert bed.world.wait_for(lambda: _raft(one).is_leader or _raft(two).is_leader, 1.4)
    _write(bed, one if _raft(one).is_leader else two, 1, 0.05)
    assert bed.checker.acked_max > _raft(leader).commit_index
    assert _raft(leader).is_leader
    bed.read(leader)
    bed.world.run_for(0.1)


def read_at_a_new_leader(bed: Bed) -> None:
    """A new leader holds acknowledged entries, and does not know yet that they are (protocols.md 3.2)."""
    leader, one, two = _three(bed)
    _write(bed, leader, 3)
    acked = bed.checker.acked_max
    bed.write(leader)
    assert bed.world.wait_for(
        lambda: bed.checker.acked_max > acked, 1.0, 1e-5
    )  # the followers have the entry, and no word yet of its commit
    bed.network.isolate(leader.name)

    def no_appends(source: str, target: str, data: bytes) -> bool:
        return data[1] == 1

    bed.network.drop = no_appends
    assert bed.world.wait_for(lambda: _raft(one).is_leader or _raft(two).is_leader, 5.0)
    bed.read(one if _raft(one).is_leader else two)
    bed.world.run_for(0.3)


def one_write_alone(bed: Bed) -> None:
    """A write that comes alone does not wait for a heartbeat (11)."""
    leader, _, _ = _three(bed)
    answered: list[float] = []
    asked = bed.world.now
    bed.write(leader, then=lambda _: answered.append(bed.world.now - asked))
    bed.world.run_for(1.0)
    if answered[0] > 0.03:
        bed.checker.fail("P17", f"a write took {answered[0]:.3f} s")


def slow_peer(bed: Bed) -> None:
    """A peer that takes nothing does not fill memory with what was sent to it (16)."""
    leader, one, _ = _three(bed)
    one.paused = True
    for _ in range(20):
        _write(bed, leader, 3, 0.05, padding=200)
    peak = _raft(leader).unacked_bytes_peak
    if peak > bed.settings.raft.unacked_bytes_max:
        bed.checker.fail("P18", f"{peak} bytes were on the way to one peer")
    one.resume()
    bed.settle()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A directed schedule, on how many nodes it plays, and how long their catalogs gather for a commit."""

    play: Callable[[Bed], None]
    nodes: int = 3
    apply_gather_s: float = 0.04


DIRECTED = {
    "vote_in_memory": Case(play=two_requests_in_one_term),
    "no_fsync": Case(play=power_cut_after_acks),
    "counted_by_name": Case(play=wiped_voter),
    "cut_always": Case(play=late_append),
    "commit_unmatched": Case(play=cut_off_leader_with_a_tail),
    "replies_of_any_term": Case(play=late_reply),
    "votes_counted_twice": Case(play=votes_come_twice, nodes=5),
    "newer_term_unheard": Case(play=back_with_a_higher_term),
    "no_pre_vote": Case(play=one_broken_link),
    "apply_again": Case(play=restart),
    # its copy is taken between two commits of the state machine a few milliseconds apart
    "install_over_log": Case(play=snapshot_of_the_past, apply_gather_s=0.0),
    "install_before_term": Case(play=snapshot_of_a_term_not_heard_of),
    "barrier_without_majority": Case(play=read_at_a_cut_off_leader),
    "barrier_before_own_term": Case(play=read_at_a_new_leader),
    "lists_unguarded": Case(play=isolated_leader_changes_members),
    "no_prompt_send": Case(play=one_write_alone),
    "no_window": Case(play=slow_peer),
}


def _promises(case: Case) -> set[str]:
    settings = BedSettings(nodes=case.nodes)
    settings = replace(settings, raft=replace(settings.raft, apply_gather_s=case.apply_gather_s))
    bed = Bed(1, settings)
    with suppress(Violation):
        case.play(bed)
    return {violation.promise for violation in bed.checker.violations}


def test_without_the_barriers_majority_a_read_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: a cut-off leader answers a barrier from the past (issue 4, "Shown by")."""
    SWITCHES["barrier_without_majority"].turn_off(monkeypatch)

    assert "P8" in _promises(Case(play=read_at_a_cut_off_leader))


def test_without_the_journals_fsync_a_write_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: power fails everywhere after an acknowledgement (issue 4, "Shown by")."""
    SWITCHES["no_fsync"].turn_off(monkeypatch)

    assert "P1" in _promises(Case(play=power_cut_after_acks))


@pytest.mark.parametrize("name", DIRECTED)
def test_a_directed_schedule_needs_its_hook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch's own promise (faults.md 1) is kept with the hook, and reported broken without it."""
    assert _promises(DIRECTED[name]) == set()

    SWITCHES[name].turn_off(monkeypatch)

    assert SWITCHES[name].promise in _promises(DIRECTED[name])


@pytest.mark.parametrize("name", [name for name in SWITCHES if name not in DIRECTED])
def test_a_random_schedule_needs_its_hook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the first seeds breaks the switch's promise; the same seed is clean with the hook."""
    with monkeypatch.context() as patch:
        SWITCHES[name].turn_off(patch)
        promise = SWITCHES[name].promise
        seed = next(seed for seed in range(SEEDS) if promise in run_seed(seed).promises)

    assert run_seed(seed).violations == ()


def test_every_point_has_a_switch() -> None:
    """Points 3 to 13 and 16 of the hook list, each with a schedule (issue 4, "What must be there", 5)."""
    assert {switch.point for switch in SWITCHES.values()} == {*range(3, 14), 16}
