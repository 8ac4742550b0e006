"""Formation over real sockets and real directories, in one process (protocols.md 2)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sos.catalog import codec
from sos.catalog.model import FormationRecord
from sos.clock import Clock, ManualClock, SystemClock, SystemIds
from sos.config import Seed, parse_address
from sos.disk import SystemDisk
from sos.errors import FatalStop, StartRefused
from sos.raft import formation
from sos.raft.boots import PeerBoots
from sos.raft.formation import form
from sos.raft.formation_messages import Prepare, Report, decode
from sos.raft.founding import Founder
from sos.raft.handshake import LocalIdentity
from sos.raft.identity import DataDirectory, Empty, Formed, Prepared
from sos.raft.transport import NodeTransport
from tests.integration.nodeports import KEY, Recorder, address_of, listening_socket, until

NAMES = ("n1", "n2", "n3")


class PowerCut(FatalStop):
    """Stands for a process that dies between two effects (it keeps its connections until it is stopped)."""

    def __init__(self) -> None:
        super().__init__("cut", exit_code=1)


@dataclass
class Member:
    """One node: its directory outlives ``stop``; its port is its own all the time."""

    path: Path
    name: str
    seeds: tuple[Seed, ...]
    port: int
    key: bytes = KEY
    clock: Clock = field(default_factory=SystemClock)
    root_keys: tuple[str, str] | None = None
    join: tuple[str, ...] = ()
    handler: Recorder = field(default_factory=Recorder)
    waiting: tuple[str, ...] = ()
    transport: NodeTransport | None = None
    listener: socket.socket | None = None
    task: asyncio.Task[FormationRecord] | None = None
    directory: DataDirectory | None = None

    async def start(self, patch: Callable[[DataDirectory], None] = lambda _: None) -> None:
        ids, disk = SystemIds(), SystemDisk()
        self.path.mkdir(exist_ok=True)
        directory = DataDirectory.load(disk, str(self.path), name=self.name)
        if directory is None:
            directory = DataDirectory.create(disk, str(self.path), name=self.name, ids=ids)
        directory.raise_boot()
        patch(directory)
        identity = directory.identity
        state = identity.formation
        self.directory = directory
        self.listener = listening_socket(self.port)
        self.transport = NodeTransport(
            identity=LocalIdentity(
                node=identity.node,
                boot=identity.boot,
                cluster_id=state.cluster_id if isinstance(state, Formed) else None,
            ),
            key=self.key,
            listener=self.listener,
            clock=self.clock,
            ids=ids,
            boots=PeerBoots.load(disk, str(self.path)),
        )
        self.handler = Recorder()
        self.transport.set_raft_handler(self.handler)
        await self.transport.start()
        access, secret = self.root_keys or (None, None)
        self.task = asyncio.create_task(
            form(
                transport=self.transport,
                directory=directory,
                founder=Founder(
                    name=self.name,
                    seeds=self.seeds,
                    blob_address=f"127.0.0.1:{self.port + 1}",
                    s3_address="127.0.0.1:9000",
                    region="us-east-1",
                    root_access_key=access,
                    root_secret_key=secret,
                    join=self.join,
                ),
                codec=codec,
                clock=self.clock,
                ids=ids,
                on_waiting=self._on_waiting,
            )
        )

    def _on_waiting(self, lines: tuple[str, ...]) -> None:
        self.waiting = lines

    async def stop(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)
        if self.transport is not None:
            await self.transport.close()
        if self.listener is not None:
            self.listener.close()
        self.transport = self.listener = self.task = None

    async def wipe(self) -> None:
        await self.stop()
        self.path.rename(self.path.with_name(f"{self.path.name}-{self.node[-4:]}"))

    @property
    def node(self) -> str:
        assert self.directory is not None
        return self.directory.identity.node

    @property
    def record(self) -> FormationRecord | None:
        done = self.task is not None and self.task.done()
        return self.task.result() if done and self.task is not None else None


def _cluster(tmp_path: Path, names: tuple[str, ...] = NAMES) -> list[Member]:
    listeners = [listening_socket() for _ in names]
    seeds = tuple(
        Seed(name=name, address=parse_address(address_of(listener)))
        for name, listener in zip(names, listeners, strict=True)
    )
    for listener in listeners:
        listener.close()
    return [
        Member(path=tmp_path / seed.name, name=seed.name, seeds=seeds, port=seed.address.port)
        for seed in seeds
    ]


async def _formed(*members: Member) -> FormationRecord:
    await until(lambda: all(member.record is not None for member in members), "formed")
    records = [member.record for member in members]
    assert records[0] is not None
    assert all(record == records[0] for record in records)
    await until(
        lambda: all(
            member.transport is not None
            and set(member.transport.connected()) == {o.node for o in members} - {member.node}
            for member in members
        ),
        "connected for Raft",
    )
    return records[0]


async def _stop(*members: Member) -> None:
    for member in members:
        await member.stop()


def test_three_empty_nodes_form_one_cluster(tmp_path: Path) -> None:
    """protocols.md 2: all agree on one record, then the same transport carries Raft."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for member in members:
            await member.start()
        record = await _formed(*members)
        assert [listed.node for listed in record.members] == [member.node for member in members]
        assert [listed.name for listed in record.members] == list(NAMES)
        assert members[0].transport is not None
        assert members[0].transport.send(members[1].node, b"raft")
        await until(lambda: members[1].handler.frames == [(members[0].node, b"raft")], "a frame")
        await _stop(*members)

    asyncio.run(scenario())


def test_a_cluster_of_one_forms_at_once_and_stays(tmp_path: Path) -> None:
    """Design 3: one node alone is a cluster of one, by the same files."""

    async def scenario() -> None:
        (member,) = _cluster(tmp_path, ("n1",))
        await member.start()
        first = await _formed(member)
        await member.stop()
        await member.start()
        assert await _formed(member) == first
        await member.stop()

    asyncio.run(scenario())


def test_a_node_that_joins_never_founds(tmp_path: Path) -> None:
    """Design 4: with `--join` alone it waits and says for what, and takes the record of the cluster that answers."""

    async def scenario() -> None:
        first, second = _cluster(tmp_path, ("n1", "n2"))
        address = f"127.0.0.1:{first.port}"
        joiner = Member(
            path=tmp_path / "n4", name="n4", seeds=(), port=second.port, join=(address,)
        )
        await joiner.start()
        waits = f"waiting for the cluster at {address}: "
        await until(lambda: any(waits in line for line in joiner.waiting), "says what it waits for")
        first.seeds = first.seeds[:1]
        await first.start()
        await until(lambda: joiner.record is not None, "joined")
        assert joiner.record == first.record
        assert first.record is not None
        assert [listed.name for listed in first.record.members] == ["n1"]
        await _stop(first, joiner)
        third = Member(
            path=tmp_path / "n5", name="n2", seeds=second.seeds, port=second.port, join=(address,)
        )
        await third.start()
        assert third.task is not None
        with pytest.raises(StartRefused, match="give one of them"):
            await third.task
        await _stop(third)

    asyncio.run(scenario())


def test_nothing_forms_until_all_are_there(tmp_path: Path) -> None:
    """protocols.md 2.1: two of three wait, promise nothing, and say for whom."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for member in members[:2]:
            await member.start()
        await until(
            lambda: all(_waits_for_n3_only(member) for member in members[:2]),
            "both say for whom they wait",
        )
        for member in members[:2]:
            assert member.directory is not None
            assert member.directory.identity.formation == Empty()
        await members[2].start()
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


def test_a_formed_cluster_comes_back_whole_and_with_one_node_missing(tmp_path: Path) -> None:
    """protocols.md 2.2: formed is never left; a start needs nobody's agreement any more."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for member in members:
            await member.start()
        record = await _formed(*members)
        await _stop(*members)
        for member in members[:2]:
            await member.start()
        assert await _formed(*members[:2]) == record
        await _stop(*members)

    asyncio.run(scenario())


def _waits_for_n3_only(member: Member) -> bool:
    return (
        len(member.waiting) == 1 and "n3" in member.waiting[0] and "reachable" in member.waiting[0]
    )


def _die_after(method: str) -> Callable[[DataDirectory], None]:
    def patch(directory: DataDirectory) -> None:
        original = getattr(directory, method)

        def write_and_die(**fields: object) -> None:
            original(**fields)
            raise PowerCut

        setattr(directory, method, write_and_die)

    return patch


def _die_before(method: str) -> Callable[[DataDirectory], None]:
    def patch(directory: DataDirectory) -> None:
        def die(**_: object) -> None:
            raise PowerCut

        setattr(directory, method, die)

    return patch


@pytest.mark.parametrize("victim", [0, 1], ids=["proposer", "other"])
@pytest.mark.parametrize("when", [_die_before, _die_after], ids=["before", "after"])
@pytest.mark.parametrize("method", ["write_prepared", "write_formed"])
def test_a_crash_around_each_durable_step_is_no_wipe(
    tmp_path: Path, victim: int, when: Callable[[str], Callable[[DataDirectory], None]], method: str
) -> None:
    """Design 10: a crash in the middle of formation must not look like a wiped disk, nor block."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for index, member in enumerate(members):
            await member.start(when(method) if index == victim else lambda _: None)
        dying = members[victim]
        await until(lambda: dying.task is not None and dying.task.done(), "it died")
        assert dying.task is not None
        assert isinstance(dying.task.exception(), PowerCut)
        nodes = [member.node for member in members]
        await dying.stop()
        await dying.start()
        record = await _formed(*members)
        assert [listed.node for listed in record.members] == nodes
        await _stop(*members)

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", [0, 1], ids=["proposer", "other"])
def test_a_node_wiped_while_others_are_prepared_starts_a_higher_round(
    tmp_path: Path, victim: int
) -> None:
    """protocols.md 2.3: a recorded incarnation that is gone makes a higher round, not a block."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for member in members:
            await member.start(_die_before("write_formed"))
        await until(lambda: all(m.task is not None and m.task.done() for m in members), "all dead")
        promises = {member.directory.identity.formation for member in members if member.directory}
        old = members[victim].node
        await members[victim].wipe()
        await _stop(*members)
        for member in members:
            await member.start()
        record = await _formed(*members)
        assert len(promises) == 1
        (promise,) = promises
        assert isinstance(promise, Prepared)
        assert promise.cluster_id != record.cluster_id
        assert old not in [listed.node for listed in record.members]
        await _stop(*members)

    asyncio.run(scenario())


def test_a_promise_that_was_asked_for_too_early_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """protocols.md 2.3: who has not heard yet that a recorded incarnation is gone declines; that must not be
    the last word, or nothing forms until somebody restarts."""
    heard = formation.Formation.on_message
    held: list[tuple[formation.Formation, str, bytes]] = []
    declined: list[str] = []
    is_late = True

    def late(self: formation.Formation, peer: str, payload: bytes, /) -> None:
        message = decode(payload)
        if is_late and self._founder.name == "n3":
            if isinstance(message, Report) and peer[:3] == "n2@":
                held.append((self, peer, payload))
                return
            if isinstance(message, Prepare):
                declined.append(peer)
        heard(self, peer, payload)

    async def scenario() -> None:
        nonlocal is_late
        members = _cluster(tmp_path)
        for member in members:
            await member.start(_die_before("write_formed"))
        await until(lambda: all(m.task is not None and m.task.done() for m in members), "all dead")
        await members[1].wipe()
        await _stop(*members)
        monkeypatch.setattr(formation.Formation, "on_message", late)
        for member in members:
            await member.start()
        # Once at the beginning of the round, once more when n2 has promised: then n1 has no other cause to ask.
        await until(lambda: len(declined) >= 2 and len(held) >= 2, "n3 declined")
        is_late = False
        for report in held:
            heard(*report)
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


def test_a_wiped_member_takes_the_cluster_that_is_there(tmp_path: Path) -> None:
    """protocols.md 2.4: an empty node that meets a formed one is wiped or new; it forms nothing, and is unlisted."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        for member in members:
            await member.start()
        record = await _formed(*members)
        await members[2].wipe()
        await members[2].start()
        await until(lambda: members[2].record == record, "it has the cluster's record")
        assert members[2].node not in [member.node for member in record.members]
        await until(
            lambda: (
                members[0].transport is not None
                and members[2].node in members[0].transport.connected()
            ),
            "it is connected as a node of that cluster",
        )
        await members[2].stop()
        await members[2].start()
        await until(lambda: members[2].record == record, "it stays so")
        await _stop(*members)

    asyncio.run(scenario())


def test_a_prepared_node_that_missed_the_end_forms_with_the_others(tmp_path: Path) -> None:
    """protocols.md 2.4: a prepared node that meets a formed one whose list names it becomes formed."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        await members[0].start()
        await members[1].start()
        await members[2].start(_die_before("write_formed"))
        await _formed_pair(members)
        await members[2].stop()
        await members[2].start()
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


async def _formed_pair(members: list[Member]) -> None:
    await until(
        lambda: members[0].record is not None and members[1].record is not None, "two formed"
    )


def test_another_seed_list_is_told_and_nothing_forms(tmp_path: Path) -> None:
    """protocols.md 2.1: all carry the same list; who does not is named."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        members[2].seeds = (members[2].seeds[1], members[2].seeds[0], members[2].seeds[2])
        for member in members:
            await member.start()
        await until(
            lambda: any(
                "n3" in line and "another seed list" in line for line in members[0].waiting
            ),
            "n1 names n3",
        )
        await until(lambda: len(members[2].waiting) == 2, "n3 names the others")
        for member in members:
            assert member.directory is not None
            assert member.directory.identity.formation == Empty()
        await _stop(*members)

    asyncio.run(scenario())


async def _refused(member: Member) -> str:
    await until(lambda: member.task is not None and member.task.done(), "it gives up")
    assert member.task is not None
    failure = member.task.exception()
    assert isinstance(failure, StartRefused), failure
    assert member.directory is not None
    assert member.directory.identity.formation == Empty()
    assert "\n" not in str(failure)
    return str(failure)


def test_a_wrong_cluster_key_ends_the_start_of_the_odd_one_out(tmp_path: Path) -> None:
    """Issue, bad input: a wrong cluster key is one line that says what to do; the others wait for that node."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        members[2].key = b"another"
        for member in members:
            await member.start()
        assert "SOS_CLUSTER_KEY" in await _refused(members[2])
        await until(
            lambda: any("n3" in line and "cluster key" in line for line in members[0].waiting),
            "told",
        )
        assert members[0].task is not None
        assert not members[0].task.done()
        await members[2].stop()
        members[2].key = KEY
        await members[2].start()
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


def test_a_clock_that_is_off_ends_the_start_of_the_odd_one_out(tmp_path: Path) -> None:
    """Issue, bad input: a clock over 15 minutes off, for a node that is not yet formed."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        members[1].clock = ManualClock()
        for member in members:
            await member.start()
        assert "clock" in await _refused(members[1])
        assert members[0].task is not None
        assert not members[0].task.done()
        await _stop(*members)

    asyncio.run(scenario())


def test_root_keys_travel_and_those_that_differ_are_refused(tmp_path: Path) -> None:
    """Design 4: root keys of the environment are those of the cluster; a difference is a start error."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        members[0].root_keys = ("root", "secret-of-root")
        members[1].root_keys = ("root", "another-secret")
        for member in members:
            await member.start()
        assert "SOS_ROOT" in await _refused(members[1])
        await members[1].stop()
        members[1].root_keys = members[0].root_keys
        await members[1].start()
        record = await _formed(*members)
        assert (record.root_access_key, record.root_secret_key) == members[0].root_keys
        await _stop(*members)

    asyncio.run(scenario())


def test_keys_that_the_proposer_lacks_are_asked_for(tmp_path: Path) -> None:
    """Design 4: keys given to one node must not be replaced by generated ones."""

    async def scenario() -> None:
        members = _cluster(tmp_path)
        members[1].root_keys = ("root", "secret-of-root")
        for member in members:
            await member.start()
        await until(lambda: any("root keys" in line for line in members[0].waiting), "told")
        assert members[0].record is None
        await _stop(*members)

    asyncio.run(scenario())


def test_two_nodes_with_one_name_do_not_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue, bad input: two nodes with one name: one line that says what to do."""
    monkeypatch.setattr(formation, "_CONFLICT_S_MAX", 0.3)

    async def scenario() -> None:
        members = _cluster(tmp_path)
        free = listening_socket()
        port = free.getsockname()[1]
        free.close()
        twin = Member(path=tmp_path / "twin", name="n2", seeds=members[1].seeds, port=port)
        await members[0].start()
        await members[1].start()
        await until(lambda: len(members[1].waiting) == 1, "n1 and n2 have met")
        await twin.start()
        assert "name" in await _refused(twin)
        await twin.stop()
        await members[2].start()
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


def test_a_node_under_the_name_of_another_is_the_one_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue, bad input: the third machine was started as n2: it ends, the real n2 waits for n3."""
    monkeypatch.setattr(formation, "_CONFLICT_S_MAX", 0.3)

    async def scenario() -> None:
        members = _cluster(tmp_path)
        twin = Member(
            path=tmp_path / "twin", name="n2", seeds=members[1].seeds, port=members[2].port
        )
        await members[0].start()
        await members[1].start()
        await until(lambda: len(members[1].waiting) == 1, "n1 and n2 have met")
        await twin.start()
        reason = await _refused(twin)
        assert "two nodes carry this name" in reason or "leads back to this node" in reason
        await twin.stop()
        await members[2].start()
        await _formed(*members)
        await _stop(*members)

    asyncio.run(scenario())


def test_empty_nodes_never_form_a_cluster_beside_one_that_is_there(tmp_path: Path) -> None:
    """Design 10: an empty node that meets an existing cluster joins that one, it never forms another."""

    async def scenario() -> None:
        (tmp_path / "a").mkdir()
        members = _cluster(tmp_path / "a")
        for member in members:
            await member.start()
        record = await _formed(*members)
        (tmp_path / "b").mkdir()
        others = _cluster(tmp_path / "b", ("m1", "m2", "n3"))
        # The third name of the new list leads to a member of the old cluster.
        for other in others:
            other.seeds = (*other.seeds[:2], members[2].seeds[2])
        await others[0].start()
        await others[1].start()
        for other in others[:2]:
            await until(lambda other=other: other.record == record, "it is a node of the old one")  # type: ignore[misc]
        await _stop(*members, *others)

    asyncio.run(scenario())
