"""A cluster of real engines on simulated edges, and the handles that tests and schedules use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sos.errors import FatalStop, StartRefused
from sos.raft import messages as m
from sos.raft.api import (
    Applied,
    LogEntry,
    ProposeOutcome,
    RaftSettings,
    Refused,
)
from sos.raft.journal import FileJournal, open_journal
from sos.raft.members import Member, MemberList
from sos.raft.node import RaftNode
from sos.raft.snapshot import InstallDecision
from tests.faults.simdisk import SimDisk
from tests.sim.checks import Checker
from tests.sim.machine import KEYS, Machine, MapMachine
from tests.sim.network import Network
from tests.sim.world import SimClock, SimIds, World

TICK_S = 0.02
SYNC_S = (0.0001, 0.001)
JOURNAL = "/journal"


class Crash(BaseException):
    """The process dies here, in the middle of whatever it does. No handler may catch it."""


class PowerCut(Crash):
    """The machine dies here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BedSettings:
    """Tiny limits: rare branches must be common here."""

    nodes: int = 3
    machine: Callable[[Bed], Machine] = lambda bed: MapMachine(bed.members)
    segment_bytes: int = 4096
    kept_bytes: int = 6000
    cache_bytes: int = 1500
    raft: RaftSettings = field(
        default_factory=lambda: RaftSettings(
            batch_bytes=700,
            unacked_bytes_max=2500,
            apply_entries_max=7,
            proposals_max=64,
            commit_s_max=4.0,
            barrier_s_max=1.5,
            apply_gather_s=0.04,
        )
    )


class Host:
    """One node: a machine with disks, and at times a process on it."""

    def __init__(self, bed: Bed, name: str) -> None:
        self.bed = bed
        self.name = name
        self.world = bed.world
        self.clock = SimClock(bed.world)
        self.ids = SimIds(bed.world.process)
        self.disk = SimDisk()
        self.disk.mkdir(JOURNAL)
        self.disk.fsync_directory("/")
        self.machine: Machine = bed.settings.machine(bed)
        self.raft: RaftNode | None = None
        self.journal: FileJournal | None = None
        self.paused = False
        self.busy_until = 0.0
        self.sync_s = SYNC_S
        self.crash_in: int | None = None  # disk changes and sends until the process dies
        self.power_fails_at_write = False  # between the next write and its sync
        self.life = 0
        self.recovered: MemberList | None = None  # what `sos recover` wrote into the identity
        self._inbox: deque[Callable[[RaftNode], None]] = deque()
        self._tick_due = False
        self._fetching = False
        self._applies = 0
        self._was_leader = False

    # --- process ----------------------------------------------------------------------------------
    @property
    def is_up(self) -> bool:
        return self.raft is not None

    @property
    def is_running(self) -> bool:
        return self.raft is not None and not self.paused

    def start(self) -> None:
        assert self.raft is None
        self.life += 1
        self.paused = False
        self._inbox.clear()
        self._tick_due = self._fetching = self._was_leader = False
        settings = self.bed.settings
        self.world.note(f"{self.name} starts")
        try:
            self.machine.open(self._observe)
            self._guard()
            self.journal = open_journal(
                self.disk,
                JOURNAL,
                incarnation=self.name.partition("@")[2],
                segment_bytes=settings.segment_bytes,
                kept_bytes_min=settings.kept_bytes,
                kept_bytes_max=8 * settings.kept_bytes,
                cache_bytes=settings.cache_bytes,
            )
            if self.journal.recovered.torn_tail:
                self.world.count("torn_tail")
            raft = RaftNode(
                self_id=self.name,
                members=self.machine.members,
                journal=self.journal,
                machine=self.machine,
                links=self,
                clock=self.clock,
                ids=self.ids,
                settings=settings.raft,
                installed_at=self.machine.installed_at,
                recovered=self.recovered,
            )
        except Crash as crash:
            self._died(power=isinstance(crash, PowerCut))
            return
        except (StartRefused, FatalStop) as refused:
            self.bed.checker.fail("P1", f"{self.name} cannot start: {refused}")
            return
        raft.wake = self._wake
        raft.on_need_snapshot = self._need_snapshot
        self.raft = raft
        life = self.life
        self.world.at(TICK_S, lambda: self._beat(life))

    def kill(self, *, power: bool = False) -> None:
        """kill -9, or with ``power`` the whole machine: what was not synced is lost or torn."""
        if self.raft is not None:
            self._died(power=power)
        elif power:
            self._lose_power()

    def resume(self) -> None:
        """End a pause."""
        if self.paused:
            self.paused = False
            self._pump_soon(0.0)

    def _died(self, *, power: bool) -> None:
        self.world.note(f"{self.name} dies {power=}")
        self.world.count("power_loss" if power else "crash")
        self.raft = None
        self.life += 1
        self.crash_in = None
        self.power_fails_at_write = False
        self.disk.on_change = None
        self.clock.spent_s = 0.0
        self._inbox.clear()
        self.bed.network.died(self.name, silently=power)
        if power:
            self._lose_power()
        else:
            self.disk.crash()
            self.machine.died(power=False)

    def _lose_power(self) -> None:
        self.disk.power_loss(self.world.disk)
        self.machine.died(power=True)

    # --- links of the engine, endpoint of the network ---------------------------------------------
    def send(self, peer: str, frame: bytes, /) -> bool:
        self._step()
        self._look_at(peer, frame)
        return self.bed.network.send(self.name, peer, frame, self.clock.spent_s)

    def flush(self) -> None:
        """Frames leave at once here."""

    def frame(self, peer: str, data: bytes) -> None:
        self._inbox.append(lambda raft: raft.on_frame(peer, data))
        self._pump_soon(0.0)

    def link_up(self, peer: str) -> None:
        self._inbox.append(lambda raft: raft.on_connected(peer))
        self._pump_soon(0.0)

    def link_down(self, peer: str) -> None:
        self._inbox.append(lambda raft: raft.on_disconnected(peer))
        self._pump_soon(0.0)

    # --- turns ------------------------------------------------------------------------------------
    def _beat(self, life: int) -> None:
        if life == self.life and self.raft is not None:
            self.world.at(TICK_S, lambda: self._beat(life))
            self._tick_due = True
            self._pump()

    def _wake(self) -> None:
        self._tick_due = True
        self._pump_soon(self.world.process.uniform(0.00002, 0.0002))

    def _pump_soon(self, delay_s: float) -> None:
        life = self.life

        def pump() -> None:
            if life == self.life:
                self._pump()

        self.world.at(delay_s, pump)

    def _pump(self) -> None:
        """Do what is due, unless the process is busy, paused or dead."""
        if self.raft is None or self.paused:
            return
        if self.world.now < self.busy_until:
            if self._inbox or self._tick_due:
                self._pump_soon(self.busy_until - self.world.now)
            return
        while self._inbox:
            self.run(self._inbox.popleft())
        if self._tick_due:
            self._tick_due = False
            self.run(lambda raft: raft.tick())
            self._after_tick()

    def run(self, action: Callable[[RaftNode], object]) -> None:
        """Let the process do something, which may be its last."""
        raft = self.raft
        if raft is None:
            return
        self._guard()
        last_before = self.journal.last_index if self.journal is not None else 0
        try:
            action(raft)
            if self.journal is not None and self.journal.last_index < last_before:
                self.world.count("truncation")
        except PowerCut:
            self._died(power=True)
            return
        except Crash:
            self._died(power=False)
            return
        except FatalStop as stop:
            self.bed.stopped(self, stop)
            self._died(power=False)
            return
        self.busy_until = self.world.now + self.clock.spent_s
        self.clock.spent_s = 0.0

    def _after_tick(self) -> None:
        raft = self.raft
        if raft is None:
            return
        if raft.is_leader:
            self.bed.checker.leads(self.name, raft.term)
            if not self._was_leader:
                self.world.note(f"{self.name} leads {raft.term}")
                self.world.count("leader_change")
        self._was_leader = raft.is_leader
        log = self.journal
        if log is not None and log.term_at(log.last_index) > log.getCurrentTerm():
            self.bed.checker.fail(
                "P1", f"{self.name} would not start: its log is newer than its vote"
            )
        self._applies += 1
        if self._applies % self.bed.sync_every == 0:
            self.machine.sync()
            self.run(lambda raft: raft.compact(self.machine.durable_index))

    def _guard(self) -> None:
        """Count disk changes and sends: each is a point to die at."""
        self._syncs_seen = self.disk.calls["fsync"] + self.disk.calls["fdatasync"]
        self._writes_seen = self.disk.calls["pwrite"]
        self.disk.on_change = self._step

    def _step(self) -> None:
        syncs = self.disk.calls["fsync"] + self.disk.calls["fdatasync"]
        if syncs != self._syncs_seen:
            self._syncs_seen = syncs
            self.clock.spent_s += self.world.disk.uniform(*self.sync_s)
        elif self.power_fails_at_write and self.disk.calls["pwrite"] != self._writes_seen:
            self.world.count("power_cut_in_write")
            raise PowerCut
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.world.count("crash_inside")
                raise PowerCut if self.world.process.random() < 0.5 else Crash

    # --- what the checks see ----------------------------------------------------------------------
    def _observe(self, entry: LogEntry, digest: object) -> None:
        self.world.note(f"{self.name} applies {entry.index} {digest!r}")
        if self.bed.checker.applied(self.name, entry, digest):
            self.bed.check_durable(entry)

    def _look_at(self, peer: str, frame: bytes) -> None:
        kind = frame[1] if frame[:1] != m.APP_BYTE else 0
        if kind == 5:  # a vote leaves: it must be the only one of its term, in all lives
            message = m.decode(frame)
            assert isinstance(message, m.Vote)
            self.bed.checker.voted(self.name, message.term, peer)
        elif kind == 4:
            message = m.decode(frame)
            assert isinstance(message, m.RequestVote)
            self.bed.checker.voted(self.name, message.term, self.name)
            self.world.count("election")

    def holds_durably(self, index: int, term: int) -> bool:
        """Whether the disk, as the journal sees it, has the entry; a dead node's journal still tells."""
        if self.machine.durable_index >= index:
            return True
        journal = self.journal
        if journal is None or index > journal.synced_index:
            return False
        return index < journal.first_index or journal.term_at(index) == term

    def campaign(self) -> None:
        """Start an election at once, as if the leader had handed over."""
        assert self.raft is not None
        self.raft._candidacy._now_term = self.raft.term
        self.run(RaftNode.tick)

    # --- snapshots --------------------------------------------------------------------------------
    def _need_snapshot(self, leader: str, index: int) -> None:
        source = self.bed.hosts.get(leader)  # None: its last words arrive after it lost its disk
        if self._fetching or source is None:
            return
        self._fetching = True
        life = self.life
        self.world.count("snapshot_wanted")

        def copied() -> None:
            if life == self.life:
                self._fetching = False

        def fetch() -> None:
            point = source.raft.snapshot_point() if source.is_running and source.raft else None
            if point is None or self.bed.network.cut & {(leader, self.name), (self.name, leader)}:
                copied()
                return
            state, members = source.machine.copy_at(point), source.machine.members

            def arrive() -> None:
                copied()
                if life == self.life:
                    self.run(lambda raft: use(raft))

            def use(raft: RaftNode) -> None:
                def swap() -> None:
                    self._step()
                    self.machine.swap(state)
                    self._step()

                decision = raft.install(point, members, swap)
                self.world.note(f"{self.name} snapshot {point.index} {decision.value}")
                self.world.count(f"snapshot_{decision.value}")
                if decision is InstallDecision.INSTALL:
                    self._step()

            if life == self.life and self.raft is not None and point.term > self.raft.term:
                self.world.count("snapshot_newer_term")
            self.world.at(self.world.process.uniform(0.05, self.bed.fetch_s_max), arrive)

        self.world.at(self.bed.copy_starts_in_s(self, source), fetch)


class Bed:
    """A cluster."""

    def __init__(self, seed: int, settings: BedSettings | None = None) -> None:
        self.settings = settings or BedSettings()
        self.world = World(seed)
        count = self.settings.nodes
        self.names = [f"n{i}@{i:016x}" for i in range(1, count + 1)]
        self.members: MemberList = MemberList(
            members=tuple(
                Member(node=name, address=f"{i}:1") for i, name in enumerate(self.names, 1)
            )
        )
        self.checker = Checker()
        self.resends = False
        self.is_static = True  # the members stay the same: only then are majorities of them checked
        self.network = Network(self.world, self.names)
        self.sync_every = 20
        self.fetch_s_max = 1.0
        self.copy_starts_in_s: Callable[[Host, Host], float] = lambda host, source: (
            self.world.process.uniform(0.0, 0.05)
        )
        self._operations = 0
        self.hosts = {name: Host(self, name) for name in self.names}
        self.network.nodes.update(self.hosts)
        machine = next(iter(self.hosts.values())).machine
        self.checker.number_of, self.checker.remembers = machine.number_of, machine.remembers
        self.stops: list[str] = []
        self.may_stop: Callable[[Host, FatalStop], bool] | None = None
        for host in self.hosts.values():
            host.start()

    # --- handles ----------------------------------------------------------------------------------
    def leader(self) -> Host | None:
        """The running leader of the highest term."""
        leaders = [h for h in self.hosts.values() if h.is_running and h.raft and h.raft.is_leader]
        return max(leaders, key=lambda h: h.raft.term if h.raft else 0) if leaders else None

    def wait_leader(self, seconds: float = 10.0) -> Host:
        assert self.world.wait_for(lambda: self.leader() is not None, seconds), "no leader"
        leader = self.leader()
        assert leader is not None
        return leader

    def write(
        self,
        host: Host,
        *,
        padding: int = 0,
        then: Callable[[ProposeOutcome], None] | None = None,
    ) -> int:
        """Propose one operation at ``host``; its outcome is checked."""
        self._operations += 1
        number = self._operations
        self._propose(host, number, host.machine.encode(number, padding), then)
        return number

    def _propose(
        self,
        host: Host,
        number: int,
        payload: bytes,
        then: Callable[[ProposeOutcome], None] | None,
    ) -> None:
        sent_at = self.world.now

        def done(outcome: ProposeOutcome) -> None:
            self.world.note(f"operation {number} {type(outcome).__name__}")
            self.world.count(f"write_{type(outcome).__name__.lower()}")
            if isinstance(outcome, Applied):
                self.checker.acknowledged(number, outcome.index, outcome.result)
                self.check_majority(host, sent_at, f"operation {number}")
            elif isinstance(outcome, Refused):
                self.world.count(f"refused_{outcome.reason.value}")
                self.checker.was_refused(number)
            else:
                self.checker.was_unknown(number)
                if self.resends:
                    self.world.at(0.3, lambda: self._resend(number, payload))
            if then is not None:
                then(outcome)

        host.run(lambda raft: raft.propose(payload, done))

    def _resend(self, number: int, payload: bytes) -> None:
        """The same request again, as a gateway does that has no answer."""
        leader = self.leader()
        if leader is not None and self.resends:
            self.world.count("resend")
            self._propose(leader, number, payload, None)

    def read(self, host: Host, then: Callable[[int | None], None] | None = None) -> None:
        """A barrier at ``host`` and then, at that index, the value of one key; both are checked."""
        acked_before = self.checker.acked_max
        key = acked_before % KEYS
        written_before = self.checker.written.get(key, 0)
        asked_at = self.world.now
        life = host.life

        def look(index: int) -> None:
            if host.life != life or host.raft is None:
                return
            if host.machine.index < index:
                self.world.at(TICK_S, lambda: look(index))
                return
            written = host.machine.written_at(key)
            if written is not None:
                self.world.count("read")
                self.checker.read(host.name, key, written, written_before)

        def done(index: int | None) -> None:
            self.world.note(f"barrier {index}")
            if index is None:
                self.world.count("barrier_refused")
            else:
                self.world.count("barrier_ok")
                self.checker.barrier(host.name, index, acked_before)
                self.check_majority(host, asked_at, "barrier")
                look(index)
            if then is not None:
                then(index)

        host.run(lambda raft: raft.barrier(done))

    def change_members(self, leader: Host, node: str, *, add: bool) -> None:
        """Propose the list with, or without, ``node``."""
        raft = leader.raft
        assert raft is not None
        member = next(member for member in self.members.members if member.node == node)
        members = raft.members.with_member(member) if add else raft.members.without(node)

        def done(outcome: ProposeOutcome) -> None:
            self.world.note(f"members {sorted(members.nodes)} {type(outcome).__name__}")
            if isinstance(outcome, Applied):
                self.world.count("member_added" if add else "member_removed")

        leader.run(lambda raft: raft.propose(m.encode_members(members), done))

    # --- checks that see the whole cluster --------------------------------------------------------
    def check_majority(self, host: Host, since: float, what: str) -> None:
        """P15: who answers has heard, since the question, from a majority, or from a leader who did."""
        if host.raft is None or not self.is_static:
            return
        needed = len(self.names) // 2 if host.raft.is_leader else 1
        heard = sum(
            1 for name in self.names if self.network.received.get((host.name, name), -1.0) >= since
        )
        if heard < needed:
            self.checker.fail("P15", f"{host.name} answered {what} having heard {heard} peers")

    def check_durable(self, entry: LogEntry) -> None:
        """P12: when the first node applies an entry, a majority holds it durably."""
        holders = [h for h in self.hosts.values() if h.holds_durably(entry.index, entry.term)]
        if self.is_static and len(holders) * 2 <= len(self.names):
            self.checker.fail("P12", f"entry {entry.index} applied, durable on {len(holders)}")

    def stopped(self, host: Host, stop: FatalStop) -> None:
        """A process ended itself: right only where a test made it so."""
        self.world.note(f"{host.name} stops: {stop}")
        self.stops.append(str(stop))
        cause = stop.__cause__
        if cause is not None and str(cause).startswith("P22"):
            self.checker.fail("P22", f"{host.name}: {cause}")
        elif self.may_stop is None or not self.may_stop(host, stop):
            self.checker.fail("stop", f"{host.name}: {stop} {cause!r}")

    def checker_term(self, host: Host) -> int:
        """The highest term that ``host`` led."""
        return max(term for term, name in self.checker.leaders.items() if name == host.name)

    def next_incarnation(self, name: str) -> str:
        """The node id under which a wiped node comes back."""
        plain, _, incarnation = name.partition("@")
        return f"{plain}@{int(incarnation, 16) + 16:016x}"

    def wipe(self, host: Host) -> Host:
        """The disks of ``host`` are lost; a new process starts on empty ones."""
        host.kill(power=True)
        name = self.next_incarnation(host.name)
        self.network.replace(host.name, name)
        new = Host(self, name)
        del self.hosts[host.name]
        self.hosts[name] = self.network.nodes[name] = new
        new.start()
        return new

    def check(self) -> None:
        """Raises: the first violation so far."""
        if self.checker.violations:
            raise self.checker.violations[0]

    # --- phases -----------------------------------------------------------------------------------
    def heal(self) -> None:
        """All faults end: links, processes, clocks, disks."""
        self.network.heal()
        for host in self.hosts.values():
            host.crash_in = None
            host.power_fails_at_write = False
            host.sync_s = SYNC_S
            host.resume()
            host.clock.set_rate(1.0)
            if not host.is_up:
                host.start()

    def settle(self, seconds: float = 30.0, hosts: Collection[Host] | None = None) -> None:
        """After a heal, every node of ``hosts`` (default: all) comes to the same place; then compare.

        Raises: the first violation.
        """
        among = list(self.hosts.values()) if hosts is None else list(hosts)
        ok = self.world.wait_for(lambda: self._is_settled(among), seconds)
        self.check()
        if not ok:
            where = {host.name: host.machine.index for host in among}
            self.checker.fail("P17", f"not settled after {seconds} s: {where}")
        for host in among if ok else ():
            self.checker.at_rest(host.name, host.machine.index, host.machine.digest)
            trouble = host.machine.trouble()
            if trouble is not None:
                self.checker.fail("P11", f"{host.name}: {trouble}")
        self.check()

    def _is_settled(self, among: list[Host]) -> bool:
        rafts = [host.raft for host in among]
        leader = self.leader()
        if any(raft is None for raft in rafts) or leader is None or leader.raft is None:
            return False
        journals = [host.journal for host in among]
        ends = {(raft.applied_index, raft.commit_index) for raft in rafts if raft is not None}
        ends |= {(journal.last_index,) * 2 for journal in journals if journal is not None}
        # committed in the leader's own term: before that, what is missing may still come
        return len(ends) == 1 and leader.raft.term == leader.machine.term

    def remove(self) -> None:
        """Leave nothing behind."""
        for host in self.hosts.values():
            host.machine.remove()

    def power_cut_everywhere(self) -> None:
        for host in self.hosts.values():
            host.kill(power=True)
