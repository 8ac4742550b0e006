"""One seed, one run: a drawn mix of faults under load, then liveness with a majority, then heal and compare."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sos.raft.api import Applied, ProposeOutcome
from tests.sim.bed import SYNC_S, Bed, BedSettings, Host
from tests.sim.catalog_machine import CatalogMachine
from tests.sim.checks import Violation
from tests.sim.world import START_S

LIVENESS_S: Final = 12.0  # dead connections (2 s), an election or two, back-off
SLOW_SYNC_S: Final = (0.05, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a seed."""

    seed: int
    nodes: int
    catalog: bool
    members: bool
    virtual_s: float
    digest: str
    counts: Counter[str] = field(default_factory=Counter)
    violations: tuple[Violation, ...] = ()

    @property
    def promises(self) -> set[str]:
        """The promises that were broken."""
        return {violation.promise for violation in self.violations}

    @property
    def replay(self) -> str:
        mode = " --catalog" * self.catalog + " --members" * self.members
        return f"scripts/simulate.py --seeds {self.seed}:{self.seed + 1} --nodes {self.nodes}{mode}"


class Chaos:
    """Load and faults on a bed. Each kind of fault has a rate of its own, drawn; some are zero."""

    def __init__(self, bed: Bed, *, members: bool) -> None:
        self.bed = bed
        self.world = bed.world
        self.is_on = True
        draw = bed.world.schedule
        self.kinds: list[tuple[str, Callable[[], None]]] = [
            ("cut_one_way", self._cut_one_way),
            ("cut_link", self._cut_link),
            ("isolate", self._isolate),
            ("isolate_leader", self._isolate_leader),
            ("see_one", self._see_one),
            ("stall", self._stall),
            ("reset", self._reset),
            ("heal", bed.network.heal),
            ("pause", self._pause),
            ("kill", self._kill),
            ("power", self._power),
            ("crash_inside", self._crash_inside),
            ("power_in_write", self._power_in_write),
            ("blackout", self._blackout),
            ("slow_disk", self._slow_disk),
            ("clock_rate", self._clock_rate),
            ("transfer", self._transfer),
        ]
        self.weights = [draw.choice([0.0, 0.3, 1.0]) for _ in self.kinds]
        for at, (name, _) in enumerate(self.kinds):
            if name == "blackout":
                self.weights[at] *= 0.2  # the whole cluster loses power
            if name == "heal":
                self.weights[at] = 2.0
        if members:
            self.kinds.append(("members", self._change_members))
            self.weights.append(3.0)
        self.mean_s = draw.choice([0.2, 0.6, 1.5])
        self.write_s = draw.choice([0.02, 0.05, 0.2])
        self.padding = draw.choice([0, 40, 300])
        bed.network.late_share = draw.choice([0.0, 0.5])
        bed.network.delay_s = draw.choice([(0.0001, 0.001), (0.001, 0.03)])
        bed.sync_every = draw.choice([1, 10, 60])
        bed.fetch_s_max = draw.choice([0.1, 1.0, 3.0])
        self.slow_copies = draw.choice([0.0, 0.7])
        bed.copy_starts_in_s = self._copy_starts_in_s

    def run(self, seconds: float) -> None:
        self._load()
        self._next_fault()
        self.world.run_for(seconds)

    # --- load -------------------------------------------------------------------------------------
    def _load(self) -> None:
        if not self.is_on:
            return
        load = self.world.load
        self.world.at(load.expovariate(1 / self.write_s), self._load)
        hosts = [host for host in self.bed.hosts.values() if host.is_running]
        if not hosts:
            return
        leaders = [host for host in hosts if host.raft is not None and host.raft.is_leader]
        target = load.choice(leaders) if leaders and load.random() < 0.9 else load.choice(hosts)
        for _ in range(load.choice([1, 1, 3, 8])):
            self.bed.write(target, padding=load.randint(0, self.padding))
        self.bed.read(load.choice(hosts))

    # --- faults -----------------------------------------------------------------------------------
    def _next_fault(self) -> None:
        if not self.is_on:
            return
        draw = self.world.schedule
        self.world.at(draw.expovariate(1 / self.mean_s), self._next_fault)
        name, act = draw.choices(self.kinds, self.weights)[0]
        self.world.note(f"fault {name}")
        self.world.count(f"fault_{name}")
        act()

    def _host(self) -> Host:
        """Often the leader: that is where it hurts."""
        leader = self.bed.leader()
        if leader is not None and self.world.schedule.random() < 0.4:
            return leader
        return self.bed.hosts[self.world.schedule.choice(self.bed.names)]

    def _cut_one_way(self) -> None:
        source, target = self.world.schedule.sample(self.bed.names, 2)
        self.bed.network.cut_off(source, target)

    def _cut_link(self) -> None:
        one, two = self.world.schedule.sample(self.bed.names, 2)
        self.bed.network.cut_off(one, two)
        self.bed.network.cut_off(two, one)

    def _isolate(self) -> None:
        self.bed.network.isolate(self._host().name)

    def _isolate_leader(self) -> None:
        leader = self.bed.leader()
        if leader is not None:
            self.bed.network.isolate(leader.name)

    def _see_one(self) -> None:
        host, one = self.world.schedule.sample(self.bed.names, 2)
        self._sees_only(host, one)

    def _sees_only(self, host: str, one: str) -> None:
        """What happens elsewhere ``host`` learns from ``one`` or not at all."""
        self.bed.network.isolate(host)
        self.bed.network.heal_between([host, one])

    def _copy_starts_in_s(self, host: Host, source: Host) -> float:
        """At times so late that the copy's source may follow a leader that its receiver never heard."""
        draw = self.world.process
        if not self.is_on or draw.random() >= self.slow_copies:
            return draw.uniform(0.0, 0.05)
        if draw.random() < 0.3:
            return draw.uniform(0.0, 8.0)
        self._sees_only(host.name, source.name)
        self.world.at(draw.uniform(0.0, 0.3), self._transfer)
        return draw.uniform(0.3, 2.0)

    def _stall(self) -> None:
        """A link holds everything back for less than makes it dead."""
        source, target = self.world.schedule.sample(self.bed.names, 2)
        self.bed.network.cut_off(source, target)
        self.world.at(self.world.schedule.uniform(0.1, 1.5), self.bed.network.heal)

    def _reset(self) -> None:
        one, two = self.world.schedule.sample(self.bed.names, 2)
        self.bed.network.reset(one, two)

    def _pause(self) -> None:
        host = self._host()
        host.paused = True
        self.world.at(self.world.schedule.uniform(0.05, 4.0), host.resume)

    def _kill(self, *, power: bool = False) -> None:
        host = self._host()
        host.kill(power=power)
        self._restart_later(host)

    def _power(self) -> None:
        self._kill(power=True)

    def _crash_inside(self) -> None:
        host = self._host()
        if host.is_up:
            host.crash_in = self.world.process.randint(1, self.world.process.choice([4, 40]))
            self._restart_later(host)

    def _power_in_write(self) -> None:
        host = self._host()
        if host.is_up:
            host.power_fails_at_write = True
            self._restart_later(host)

    def _blackout(self) -> None:
        self.bed.power_cut_everywhere()
        for host in self.bed.hosts.values():
            self._restart_later(host)

    def _restart_later(self, host: Host) -> None:
        def restart() -> None:
            if self.bed.hosts.get(host.name) is not host:
                return  # its disk was lost meanwhile
            if not host.is_up:
                host.start()
            elif self.is_on and (host.crash_in is not None or host.power_fails_at_write):
                self.world.at(1.0, restart)

        self.world.at(self.world.process.uniform(0.05, 3.0), restart)

    def _slow_disk(self) -> None:
        host = self._host()
        host.sync_s = SLOW_SYNC_S

        def fast() -> None:
            host.sync_s = SYNC_S

        self.world.at(self.world.disk.uniform(0.5, 4.0), fast)

    def _clock_rate(self) -> None:
        self._host().clock.set_rate(self.world.clock.choice([0.5, 0.9, 1.0, 1.1, 2.0]))

    def _transfer(self) -> None:
        leader = self.bed.leader()
        if leader is not None:
            leader.run(lambda raft: self._count_transfer(raft.transfer_leadership()))

    def _change_members(self) -> None:
        """Remove somebody, or take somebody back."""
        leader = self.bed.leader()
        if leader is not None and leader.raft is not None:
            current = leader.raft.members
            away = [name for name in self.bed.names if name not in current.nodes]
            others = [member.node for member in current.members if member.node != leader.name]
            if away and (not others or self.world.schedule.random() < 0.5):
                self.bed.change_members(leader, self.world.schedule.choice(away), add=True)
            elif others:
                self.bed.change_members(leader, self.world.schedule.choice(others), add=False)

    def _count_transfer(self, started: bool) -> None:
        if started:
            self.world.count("transfer_started")


def run_seed(
    seed: int,
    *,
    nodes: int | None = None,
    seconds: float = 15.0,
    catalog: bool = False,
    members: bool = False,
    prepare: Callable[[Bed], None] | None = None,
) -> Report:
    """Run ``seed``; violations are in the report, not raised. ``prepare``: break the bed on purpose."""
    count = nodes or random.Random(f"{seed}/nodes").choice([3, 3, 5])
    bed = Bed(seed, _settings(count, catalog=catalog))
    if prepare is not None:
        prepare(bed)
    try:
        _phases(bed, seconds, members=members)
    except Violation:
        assert bed.checker.violations  # that one, and perhaps more
    finally:
        bed.remove()
    return Report(
        seed=seed,
        nodes=count,
        catalog=catalog,
        members=members,
        virtual_s=bed.world.now - START_S,
        digest=bed.world.digest,
        counts=bed.world.counts,
        violations=tuple(bed.checker.violations),
    )


def _settings(nodes: int, *, catalog: bool) -> BedSettings:
    if not catalog:
        return BedSettings(nodes=nodes)
    return BedSettings(
        nodes=nodes,
        machine=lambda bed: CatalogMachine(bed.members, bed.world.disk),
        kept_bytes=20_000,
    )


def _phases(bed: Bed, seconds: float, *, members: bool) -> None:
    chaos = Chaos(bed, members=members)
    bed.is_static = not members
    bed.resends = bed.checker.remembers
    chaos.run(seconds)
    bed.check()
    chaos.is_on = bed.resends = False
    if members:
        bed.heal()
        take_all_back(bed)
    else:
        _liveness(bed)
    bed.check()
    bed.heal()
    bed.settle()
    bed.power_cut_everywhere()
    bed.heal()
    bed.settle()
    # a proposal that was never answered when its process died is unknown; a live one must be answered
    bed.world.run_for(bed.settings.raft.commit_s_max + 1.0)
    bed.check()


def take_all_back(bed: Bed) -> None:
    """With all faults over, everybody becomes a member again, one after the other."""
    outcomes: list[ProposeOutcome] = []

    def is_written() -> bool:
        leader = bed.leader()
        if leader is not None:
            bed.write(leader, then=outcomes.append)
        return any(isinstance(outcome, Applied) for outcome in outcomes)

    def is_complete() -> bool:
        leader = bed.leader()
        if leader is None or leader.raft is None:
            return False
        away = [name for name in bed.names if name not in leader.raft.members.nodes]
        if away:
            bed.change_members(leader, away[0], add=True)
        # in force is not enough: what is not committed may be cut away
        return not away and leader.machine.members.nodes == set(bed.names)

    # a removal from before may still wait in the leader's queue, or in a log that a new leader commits:
    # it comes before this write, or never
    if not bed.world.wait_for(is_written, 60.0, step_s=0.3):
        bed.checker.fail("P17", "no write after all faults were over")
    elif not bed.world.wait_for(is_complete, 60.0, step_s=0.3):
        bed.checker.fail("P17", "the members could not be taken back")


def _liveness(bed: Bed) -> None:
    """A healthy connected majority serves writes, whatever the rest does."""
    majority = bed.world.schedule.sample(bed.names, len(bed.names) // 2 + 1)
    bed.network.heal_between(majority)
    for name in majority:
        host = bed.hosts[name]
        host.crash_in = None
        host.power_fails_at_write = False
        host.sync_s = SYNC_S
        host.clock.set_rate(1.0)
        host.resume()
        if not host.is_up:
            host.start()
    acked = bed.checker.acked_max

    def written() -> bool:
        leader = bed.leader()
        if leader is not None:
            bed.write(leader)
        return bed.checker.acked_max > acked

    if not bed.world.wait_for(written, LIVENESS_S, step_s=0.1):
        bed.checker.fail("P17", f"no write in {LIVENESS_S} s through {majority}")
