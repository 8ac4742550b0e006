"""`sos recover` on the engine: the survivors of a lost majority, with every log that they may have (protocols.md 3.7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sos.raft.members import MemberList
from sos.raft.messages import encode_members
from sos.raft.node import RaftNode
from tests.sim.bed import Bed, BedSettings, Host

EPOCH = 1 << 32 | 7


def _raft(host: Host) -> RaftNode:
    assert host.raft is not None
    return host.raft


def _recover(bed: Bed, survivors: list[Host]) -> MemberList:
    """What the command leaves on each stopped survivor; the others never come back."""
    names = {host.name for host in survivors}
    bed.is_static = False
    rows = tuple(member for member in bed.members.members if member.node in names)
    members = MemberList(members=rows, epoch=EPOCH)
    for host in bed.hosts.values():
        if host.is_up:
            host.kill()
        if host.name not in names:
            bed.network.isolate(host.name)
    for host in survivors:
        host.recovered = members
    return members


def _record(bed: Bed, leader: Host) -> None:
    """What the core does on each report."""

    def propose(raft: RaftNode) -> None:
        members = raft.list_to_record
        assert members is not None
        raft.propose(encode_members(members), lambda _: None)

    assert bed.world.wait_for(lambda: _raft(leader).list_to_record is not None, 5.0)
    leader.run(propose)
    assert bed.world.wait_for(lambda: not _raft(leader).is_recovering, 5.0)
    bed.world.run_for(1.0)


@pytest.mark.parametrize("seed", range(6))
def test_an_entry_that_one_survivor_has_alone_is_kept(seed: int) -> None:
    """P1: three of five hold it, two of them are lost; the two that lack it elect nobody without the third."""
    bed = Bed(seed, BedSettings(nodes=5))
    leader = bed.wait_leader()
    bed.world.run_for(0.5)
    first, second, *behind = [host for host in bed.hosts.values() if host is not leader]
    for host in behind:
        bed.network.isolate(host.name)
    for _ in range(5):
        bed.write(leader)
        bed.world.run_for(0.1)
    acked = bed.checker.acked_max
    assert acked > _raft(behind[0]).applied_index
    members = _recover(bed, [second, *behind])
    bed.network.heal()
    for lost in (leader, first):
        bed.network.isolate(lost.name)

    for host in behind:
        host.start()
    bed.world.run_for(15.0)
    assert bed.leader() is None
    second.start()
    new = bed.wait_leader()

    assert new is second
    _record(bed, new)
    bed.write(new)
    bed.settle(hosts=[second, *behind])
    assert new.machine.index > acked
    assert all(host.machine.members == members for host in (second, *behind))
    bed.check()


def test_once_recorded_a_majority_is_enough_and_lists_go_on() -> None:
    """3.7, 3.1: after the survivors' list is in the log the rules are the ordinary ones, in the new epoch."""
    bed = Bed(3, BedSettings(nodes=5))
    leader = bed.wait_leader()
    bed.write(leader)
    bed.world.run_for(1.0)
    survivors = list(bed.hosts.values())[:3]
    members = _recover(bed, survivors)
    for host in survivors:
        host.start()
    new = bed.wait_leader()
    early = replace(members.without(next(h.name for h in survivors if h is not new)))
    outcomes: list[object] = []
    new.run(lambda raft: raft.propose(encode_members(early), outcomes.append))
    bed.world.run_for(1.0)
    assert "MEMBERS_RULE" in repr(outcomes)
    _record(bed, new)

    new.kill()
    rest = [host for host in survivors if host is not new]
    assert bed.world.wait_for(lambda: bed.leader() in rest, 10.0)
    new.start()
    last = bed.wait_leader()
    bed.world.run_for(1.0)
    smaller = members.without(next(host.name for host in survivors if host is not last))
    old = replace(smaller, epoch=0)
    for proposed in (old, smaller):
        last.run(lambda raft, p=proposed: raft.propose(encode_members(p), lambda _: None))  # type: ignore[misc]
        bed.world.run_for(1.0)

    assert _raft(last).members == smaller
    bed.check()


def test_the_only_survivor_of_three_goes_on() -> None:
    """3.7: also over a list that was never committed, and after another crash."""
    bed = Bed(5)
    leader = bed.wait_leader()
    bed.write(leader)
    bed.world.run_for(1.0)
    bed.network.isolate(leader.name)
    without = bed.members.without(next(name for name in bed.names if name != leader.name))
    leader.run(lambda raft: raft.propose(encode_members(without), lambda _: None))
    bed.world.run_for(0.5)
    assert _raft(leader).members == without
    members = _recover(bed, [leader])

    leader.start()
    assert bed.wait_leader() is leader
    leader.kill(power=True)
    leader.start()
    assert bed.wait_leader() is leader
    _record(bed, leader)
    bed.write(leader)
    bed.world.run_for(1.0)

    assert leader.machine.members == members
    assert bed.checker.acked_max > 0
    bed.check()
