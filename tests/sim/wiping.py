"""Disks that are lost under faults: each comes back empty and is admitted by the core's own rules.

The bed has engines only; this is what a core does beside them for the member list: every leader looks twice a
second and asks ``sos.core.admission``. One disk at a time, as is promised (protocols.md 3.7): the next one is lost
when the last has been admitted again.
"""

from __future__ import annotations

from sos.catalog.model import NodeId, Removal
from sos.core import admission
from sos.core.admission import ProposeList, Situation
from sos.core.newcomers import Newcomer
from sos.raft.messages import encode_members
from sos.raft.node import RaftNode
from tests.sim.bed import Bed, BedSettings, Host
from tests.sim.checks import Violation
from tests.sim.schedule import Chaos

_LOOK_S = 0.5
_AWAY_S_MIN = 2.0  # 10 s in a core: here all times are short
_HEALED_S = 90.0


class Healing:
    """The cores of a bed, as far as the member list goes."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self._addresses = {member.name: member.address for member in bed.members.members}
        self._lost: list[str] = []  # incarnations
        self._away: dict[tuple[str, int], dict[NodeId, float]] = {}  # per process
        self._look()

    def _look(self) -> None:
        self.bed.world.at(_LOOK_S, self._look)
        for host in list(self.bed.hosts.values()):
            if host.is_running:
                host.run(lambda raft, host=host: self._drive(host, raft))  # type: ignore[misc]

    def _drive(self, host: Host, raft: RaftNode) -> None:
        now = self.bed.world.now
        connected = self._connected(host, raft)
        before = self._away.get((host.name, host.life), {})
        away = {
            NodeId(node): before.get(NodeId(node), now) for node in raft.members.nodes - connected
        }
        self._away[host.name, host.life] = away
        if not raft.is_leader:
            return
        situation = self._situation(host, raft, connected, {n: now - t for n, t in away.items()})
        raft.set_learners(admission.learners(situation))
        step = admission.next_step(situation)
        if isinstance(step, ProposeList):
            self.bed.world.count("list_proposed")
            raft.propose(encode_members(step.members), lambda _: None)

    def _connected(self, host: Host, raft: RaftNode) -> frozenset[NodeId]:
        core = raft._core
        return frozenset(
            NodeId(name) for name in self.bed.names if name == host.name or core.is_connected(name)
        )

    def _situation(
        self,
        host: Host,
        raft: RaftNode,
        connected: frozenset[NodeId],
        unreachable_s: dict[NodeId, float],
    ) -> Situation:
        peers = raft.peers()
        return Situation(
            leader=NodeId(host.name),
            members=raft.members,
            may_change=raft.may_change_members,
            commit_index=raft.commit_index,
            connected=connected,
            unreachable_s=unreachable_s,
            away_s_min=_AWAY_S_MIN,
            newcomers={
                node: self._newcomer(node) for node in sorted(connected - raft.members.nodes)
            },
            learners=frozenset(NodeId(peer.node) for peer in peers if peer.learner),
            match_index={NodeId(peer.node): peer.match_index or 0 for peer in peers},
            removals=tuple(
                Removal(node=NodeId(node), leaving=False)
                for node in self._lost
                if node not in raft.members.nodes
            ),
        )

    def _newcomer(self, node: NodeId) -> Newcomer:
        return Newcomer(
            node=node,
            address=self._addresses[node.partition("@")[0]],
            blob_address="",
            s3_address="",
            asks=False,
            version="",
        )

    # --- disks ------------------------------------------------------------------------------------
    def is_whole(self) -> bool:
        """Whether a leader's committed list names every incarnation that is there."""
        leader = self.bed.leader()
        return leader is not None and leader.machine.members.nodes == set(self.bed.names)

    def lose_disk(self) -> None:
        """Somebody's, often the leader's."""
        bed = self.bed
        if not self.is_whole():
            return
        leader = bed.leader()
        name = bed.world.schedule.choice(bed.names)
        if leader is not None and bed.world.schedule.random() < 0.4:
            name = leader.name
        new = bed.wipe(bed.hosts[name])
        bed.names[bed.names.index(name)] = new.name
        self._lost.append(name)
        bed.world.count("disk_lost")


def run_wiping_seed(seed: int, *, nodes: int = 3, seconds: float = 30.0) -> Bed:
    """Run ``seed``: faults and lost disks, then peace until all are members again. Violations are in the checker."""
    bed = Bed(seed, BedSettings(nodes=nodes))
    bed.is_static = False
    bed.checker.remembers = False
    healing = Healing(bed)
    chaos = Chaos(bed, members=False)
    chaos.kinds.append(("lose_disk", healing.lose_disk))
    chaos.weights.append(3.0)
    try:
        chaos.run(seconds)
        bed.check()
        chaos.is_on = False
        bed.heal()
        if not bed.world.wait_for(healing.is_whole, _HEALED_S, step_s=0.5):
            bed.checker.fail("P16", f"not whole: {bed.names}")
        bed.settle()
        bed.power_cut_everywhere()
        bed.heal()
        bed.settle()
        bed.check()
    except Violation:
        assert bed.checker.violations
    finally:
        bed.remove()
    return bed
