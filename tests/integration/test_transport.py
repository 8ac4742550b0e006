"""Connections between cores over real sockets: one per peer, in order, back at once, bounded."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from random import Random

import pytest
import uvloop

from sos.clock import ManualClock
from sos.errors import FatalStop
from sos.raft.boots import PeerBoots
from sos.raft.handshake import RefusalCode
from sos.raft.links import TransportSettings
from sos.raft.messages import MessageRefused
from tests.faults.simdisk import SimDisk
from tests.integration.nodeports import (
    KEY,
    Node,
    address_of,
    close_all,
    connected,
    listening_socket,
    make_node,
    node_id,
    start_all,
    until,
)

Run = Callable[[Coroutine[None, None, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on either loop: the core uses uvloop."""
    runner: Run = asyncio.run if request.param == "asyncio" else uvloop.run
    return runner


async def _pair(**settings: float) -> tuple[Node, Node]:
    made = TransportSettings(**settings)  # type: ignore[arg-type]
    one, two = make_node("n1", settings=made), make_node("n2", settings=made)
    await start_all(one, two)
    await connected(one, two)
    return one, two


def test_three_nodes_connect_and_frames_keep_their_order(run: Run) -> None:
    """pysyncobj.md 5: one live connection per peer; what is sent arrives once, whole and in order."""

    async def scenario() -> None:
        nodes = [make_node(name) for name in ("n1", "n2", "n3")]
        await start_all(*nodes)
        await connected(*nodes)
        sent = [os.urandom(size) for size in (1, 100_000, 0, 3_000_000, 17, 5000) * 20]
        for frame in sent[:100]:
            await until(lambda: nodes[0].transport.send(nodes[1].id, frame), "sent")  # noqa: B023
        nodes[2].transport.send(nodes[1].id, b"from n3")
        received = nodes[1].handler.frames
        await until(lambda: len(received) == 101, "all frames")
        assert [frame for peer, frame in received if peer == nodes[0].id] == sent[:100]
        assert (nodes[2].id, b"from n3") in received
        await close_all(*nodes)

    run(scenario())


def test_both_dialing_at_once_ends_in_one_connection_that_both_know(run: Run) -> None:
    """pysyncobj.md 5: when both sides dial at once, the same connection stands on both."""

    async def scenario() -> None:
        for _ in range(25):
            await _both_ways()

    run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_breaks_old_bytes_never_follow_new_ones(seed: int) -> None:
    """faults.md 27, 29: connections cut at random on either side; each peer's frames stay in order, links return."""

    async def scenario() -> None:
        random = Random(seed)
        nodes = [make_node(name) for name in ("n1", "n2", "n3")]
        await start_all(*nodes)
        await connected(*nodes)
        count = 0
        for _ in range(300):
            sender = random.choice(nodes)
            for peer in sender.transport.connected():
                count += 1
                sender.transport.send(peer, count.to_bytes(4, "big") * random.choice((1, 5000)))
            if random.random() < 0.15:
                links = [*sender.transport._links.values(), *sender.transport._pending]
                link = random.choice(links) if links else None
                if link is not None and link._transport is not None:
                    random.choice((link._transport.abort, link._transport.close))()
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.01)))
        await connected(*nodes)
        for node in nodes:
            for peer in {peer for peer, _ in node.handler.frames}:
                numbers = [frame[:4] for one, frame in node.handler.frames if one == peer]
                assert numbers == sorted(set(numbers))
            assert len([sign for sign, _ in node.handler.events if sign == "-"]) > 0
        await close_all(*nodes)

    uvloop.run(scenario())


async def _both_ways() -> None:
    one, two = await _pair()
    assert one.transport.send(two.id, b"ping")
    assert two.transport.send(one.id, b"pong")
    await until(lambda: bool(one.handler.frames and two.handler.frames), "both ways")
    await close_all(one, two)


def test_one_side_that_can_dial_is_enough(run: Run) -> None:
    """pysyncobj.md D11: a link comes up whichever side reaches the other."""

    async def scenario() -> None:
        for dialing_name, other_name in (("n1", "n2"), ("n2", "n1")):
            dialing_node, other = make_node(dialing_name), make_node(other_name)
            dialing_node.transport.set_peers({other_name: other.address})
            await other.transport.start()
            await dialing_node.transport.start()
            await connected(dialing_node, other)
            await close_all(dialing_node, other)

    run(scenario())


def test_a_lost_connection_is_back_at_once(run: Run) -> None:
    """Design 1: failover within a second needs links that are back well before."""

    async def scenario() -> None:
        one, two = await _pair()
        loop = asyncio.get_running_loop()
        for _ in range(10):
            before = len(two.handler.events)
            next(iter(one.transport._links.values()))._transport.abort()  # type: ignore[union-attr]
            start = loop.time()
            await until(lambda: len(two.handler.events) >= before + 2, "down and up again", 2)  # noqa: B023
            await connected(one, two)
            assert loop.time() - start < 1
        assert one.handler.is_connected(two.id)
        await close_all(one, two)

    run(scenario())


def test_a_restarted_peer_replaces_its_old_connection(run: Run) -> None:
    """protocols.md 1.3: a higher boot number is the same node, later; the old connection's data is dropped."""

    async def scenario() -> None:
        one, two = await _pair()
        # The old process is frozen: its connection stays open, unseen by the new one.
        again = make_node("n2", boot=2)
        again.transport.set_peers({"n1": one.address})
        await again.transport.start()
        await until(
            lambda: again.transport.connected() == (one.id,), "the new process is connected"
        )
        await until(lambda: one.handler.events[-2:] == [("-", two.id), ("+", two.id)], "replaced")
        await until(lambda: _refused(two, RefusalCode.OLD_BOOT), "the old process is refused")
        await close_all(one, two, again)

    run(scenario())


def test_a_peer_put_back_to_an_older_state_is_refused_also_after_a_restart(run: Run) -> None:
    """protocols.md 1.3: the highest boot number of a peer is durable before its connection is accepted."""

    async def scenario() -> None:
        disk = SimDisk()
        one = make_node("n1", boots=PeerBoots.load(disk, "/"))
        two = make_node("n2", boot=5)
        await start_all(one, two)
        await connected(one, two)
        await close_all(one, two)

        disk.power_loss(Random(1))
        one = make_node("n1", boot=2, boots=PeerBoots.load(disk, "/"))
        two = make_node("n2", boot=4)
        await start_all(one, two)
        await until(
            lambda: _refused(one, RefusalCode.OLD_BOOT) and _refused(two, RefusalCode.OLD_BOOT),
            "both are told",
        )
        assert not one.transport.connected()
        (status,) = one.transport.status()
        assert status.trouble is not None
        assert "put back to an older state" in status.trouble
        await two.close()

        again = make_node("n2", boot=6)
        again.transport.set_peers({"n1": one.address})
        await again.transport.start()
        await connected(one, again)
        await close_all(one, again)

    run(scenario())


def test_a_boot_number_that_cannot_be_written_stops_the_process(run: Run) -> None:
    """P19: an I/O error under DATA is heard; nothing is agreed on."""

    async def scenario() -> None:
        heard: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: heard.append(context.get("exception")))
        disk = SimDisk()
        for attempt in range(1, 20):
            disk.fail("fsync", attempt, "eio")
        one = make_node("n1", boots=PeerBoots.load(disk, "/"))
        two = make_node("n2")
        two.transport.set_peers({"n1": one.address})
        await one.transport.start()
        await two.transport.start()
        await until(lambda: bool(heard), "heard")
        assert isinstance(heard[0], FatalStop)
        assert not two.transport.connected()
        await close_all(one, two)

    run(scenario())


def _refused(node: Node, code: RefusalCode) -> bool:
    return any(link.refusal is code for link in node.transport.status())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster_id": b"d" * 16}, RefusalCode.OTHER_CLUSTER),
        ({"key": b"another"}, RefusalCode.OTHER_KEY),
        ({"epoch": 1}, None),
        ({"name": "n1", "incarnation": 7}, RefusalCode.SAME_NAME),
        ({"name": "n1"}, RefusalCode.DUPLICATE_IDENTITY),
    ],
    ids=["cluster", "key", "epoch", "name", "identity"],
)
def test_refusals_are_told_on_both_sides(
    changes: dict[str, object], code: RefusalCode | None
) -> None:
    """Design 10, protocols.md 1.4: refused, with a clear message on both sides."""

    async def scenario() -> None:
        one = make_node("n1")
        other = make_node(**({"name": "n2"} | changes))  # type: ignore[arg-type]
        one.transport.set_peers({"n2": other.address})
        name = "n0" if changes.get("name") == "n1" else "n1"
        other.transport.set_peers({name: one.address})
        await one.transport.start()
        await other.transport.start()
        ours = code or RefusalCode.NEW_EPOCH
        theirs = code or RefusalCode.OLD_EPOCH
        # both sides dial, so each side's last word changes from attempt to attempt: each must be told once
        await until(lambda: _refused(one, ours), "the one side knows why")
        await until(lambda: _refused(other, theirs), "the other side knows why")
        assert not one.transport.connected()
        assert all(link.trouble for link in one.transport.status())
        await close_all(one, other)

    asyncio.run(scenario())


def test_a_wrong_address_is_noticed() -> None:
    """Bad input: an address in the seed list that leads to another node is told, and not taken for the peer."""

    async def scenario() -> None:
        one, three = make_node("n1"), make_node("n3")
        one.transport.set_peers({"n2": three.address})
        await one.transport.start()
        await three.transport.start()
        await until(lambda: _refused(one, RefusalCode.OTHER_NAME), "noticed")
        assert not one.transport.connected()
        await close_all(one, three)

    asyncio.run(scenario())


def test_an_address_to_join_takes_whoever_answers(run: Run) -> None:
    """Design 4: `--join HOST:PORT` knows no names; it is dialed whenever nobody is connected, and told when in vain."""

    async def scenario() -> None:
        one, four = make_node("n1"), make_node("n4")
        nobody = listening_socket()
        address = address_of(nobody)
        nobody.close()
        four.transport.set_joins([address])
        await four.transport.start()
        await until(lambda: bool(four.transport.status()[0].trouble), "said why")
        assert [(link.name, link.address) for link in four.transport.status()] == [("", address)]
        four.transport.set_joins([address, one.address])
        await one.transport.start()
        await until(lambda: four.transport.connected() == (one.id,), "connected")
        assert four.transport.status() == ()
        await one.transport.close()
        again = make_node("n1", incarnation=2, listener=one.listener)
        await again.transport.start()
        await until(lambda: four.transport.connected() == (again.id,), "dialed again")
        await close_all(four, again)

    run(scenario())


def test_a_node_that_belongs_to_nothing_is_no_end_of_joining() -> None:
    """Of two addresses one leads to a node that is not formed: the other one is dialed until a cluster answers."""

    async def scenario() -> None:
        lost, four = make_node("n8", cluster_id=None), make_node("n4", cluster_id=None)
        nobody = listening_socket()
        address = address_of(nobody)
        nobody.close()
        await lost.transport.start()
        four.transport.set_joins([lost.address, address])
        await four.transport.start()
        await until(lambda: len(four.transport.claims()) == 1, "the lost one answers")
        one = make_node("n1", listener=listening_socket(int(address.rpartition(":")[2])))
        await one.transport.start()
        await until(lambda: len(four.transport.claims()) == 2, "and then the cluster")
        assert len(lost.transport.claims()) == 1
        await close_all(lost, four, one)

    asyncio.run(scenario())


def test_a_removed_incarnation_is_shut_out_and_an_unknown_one_is_not() -> None:
    """protocols.md 1.4: refused is an incarnation that a committed list removed, not one that is unknown."""

    async def scenario() -> None:
        one, two = await _pair()
        stranger = make_node("n9", incarnation=5)
        stranger.transport.set_peers({"n1": one.address})
        await stranger.transport.start()
        await until(lambda: stranger.id in one.transport.connected(), "the stranger is connected")
        one.transport.set_membership(members=[one.id, two.id], removed=[stranger.id])
        await until(lambda: stranger.id not in one.transport.connected(), "shut out")
        await until(lambda: _refused(stranger, RefusalCode.REMOVED), "told so")
        assert two.id in one.transport.connected()
        await close_all(one, two, stranger)

    asyncio.run(scenario())


def test_formed_nodes_with_skewed_clocks_stay_connected_and_say_so() -> None:
    """faults.md 32: a wall clock that jumps has no other effect than a warning among formed nodes."""

    async def scenario() -> None:
        clock = ManualClock()
        one, two = make_node("n1", clock=clock), make_node("n2")
        await start_all(one, two)
        await connected(one, two)
        (status,) = two.transport.status()
        assert status.connected
        assert status.trouble is not None
        assert "clock" in status.trouble
        await close_all(one, two)

    asyncio.run(scenario())


def test_a_silent_peer_is_dropped_and_an_idle_one_is_not(run: Run) -> None:
    """Limits: pings every half second keep an idle connection, silence ends it."""

    async def scenario() -> None:
        one, two = await _pair(ping_s=0.5, dead_s=0.6)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await until(lambda: loop.time() - start > 1.3, "idle for a while")
        assert one.handler.events == [("+", two.id)]
        if two.transport._timer is not None:
            two.transport._timer.cancel()  # it pings no more
        two.transport._dialers.clear()
        await until(lambda: one.handler.events[1:2] == [("-", two.id)], "the silent one is dropped")
        assert "silent" in str(one.transport._troubles["n2"].text)
        await close_all(one, two)

    run(scenario())


def test_a_peer_that_does_not_read_bounds_what_waits_for_it(run: Run) -> None:
    """P18: a queue to a peer is bounded in bytes; what does not fit is refused, not lost silently."""

    async def scenario() -> None:
        one, two = await _pair(output_bytes_max=4 << 20, dead_s=30)
        link = next(iter(two.transport._links.values()))
        assert link._transport is not None
        link._transport.pause_reading()
        frame = bytes(1 << 20)
        accepted = 0
        for _ in range(100):
            accepted += one.transport.send(two.id, frame)
            await asyncio.sleep(0)
        sender = one.transport._links[two.id]
        assert sender._transport is not None
        assert sender._out_bytes + sender._transport.get_write_buffer_size() <= 4 << 20
        assert accepted < 100
        link._transport.resume_reading()
        await until(lambda: len(two.handler.frames) == accepted, "what was accepted arrives")
        assert one.transport.send(two.id, b"again")
        await close_all(one, two)

    run(scenario())


def test_a_frame_that_the_engine_refuses_ends_the_connection() -> None:
    """faults.md 87: an authenticated node that sends nonsense loses its connection; nothing else happens."""

    async def scenario() -> None:
        one, two = await _pair()

        def refuse(peer: str, frame: bytes) -> None:
            raise MessageRefused("nonsense")

        two.handler.on_frame = refuse  # type: ignore[method-assign]
        one.transport.send(two.id, b"?")
        await until(lambda: two.handler.events[:2] == [("+", one.id), ("-", one.id)], "closed")
        assert two.transport.refused_frames == 1
        await close_all(one, two)

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["on_connected", "on_frame", "on_disconnected"])
def test_a_fatal_stop_in_a_handler_reaches_the_loops_exception_handler(
    run: Run, method: str
) -> None:
    """P19: an engine that must stop the process is heard, whatever callback it speaks in."""

    async def scenario() -> None:
        heard: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: heard.append(context.get("exception")))
        one, two = make_node("n1"), make_node("n2")
        stop = FatalStop("the disk is gone", exit_code=74)

        def fail(*_: object) -> None:
            raise stop

        setattr(two.handler, method, fail)
        await start_all(one, two)
        await until(lambda: bool(one.transport.connected()), "connected")
        one.transport.send(two.id, b"x")
        if method == "on_disconnected":
            await until(lambda: bool(two.handler.frames), "a frame")
            await one.transport.close()
        await until(lambda: stop in heard, "heard")
        setattr(two.handler, method, lambda *_: None)
        await close_all(one, two)

    run(scenario())


def test_too_large_or_unknown_is_not_sent() -> None:
    """Links.send: False means that it certainly will not go."""

    async def scenario() -> None:
        one, two = await _pair()
        assert not one.transport.send(two.id, bytes(8 << 20))
        assert not one.transport.send(node_id("n7"), b"x")
        await close_all(one, two)
        assert not one.transport.send(two.id, b"x")

    asyncio.run(scenario())


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_running_out_of_descriptors_does_not_end_the_listening(run: Run) -> None:
    """pysyncobj.md D13: one EMFILE closed the library's listener for ever; ours goes on."""

    async def scenario() -> None:
        one, two = make_node("n1"), make_node("n2")
        await one.transport.start()
        await two.transport.start()
        held: list[socket.socket] = []
        client = socket.socket()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 4
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        try:
            while True:
                held.append(socket.socket())
        except OSError:
            pass
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, one.listener.getsockname())
        await until(lambda: one.transport._listener._is_short, "accept fails")
        for sock in held:
            sock.close()
        two.transport.set_peers({"n1": one.address})
        await connected(one, two)
        client.close()
        await close_all(one, two)

    run(scenario())


def test_a_name_is_resolved_off_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """pysyncobj.md section 4: a resolver that hangs must not stop the core's loop, nor pile up threads."""
    look_ups: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        look_ups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("sos.raft.dialing.socket.getaddrinfo", resolve)

    async def scenario() -> None:
        one, two = make_node("n1"), make_node("n2")
        port = two.listener.getsockname()[1]
        one.transport.set_peers({"n2": f"node-two.invalid:{port}"})
        await one.transport.start()
        await two.transport.start()
        await connected(one, two)
        assert look_ups[0] == "node-two.invalid"
        await close_all(one, two)

    run(scenario())


def test_what_cannot_be_reached_is_told() -> None:
    """Design 10: what blocks is told: the status names the peer, its address and the reason."""

    async def scenario() -> None:
        silent = listening_socket()
        closed = listening_socket()
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        one = make_node("n1")
        one.transport.set_peers(
            {"n2": nowhere, "n3": f"127.0.0.1:{silent.getsockname()[1]}", "n4": "no-such.invalid:9"}
        )
        await one.transport.start()
        await until(lambda: all(link.trouble for link in one.transport.status()), "told")
        troubles = {link.name: str(link.trouble) for link in one.transport.status()}
        assert "not reachable" in troubles["n2"]
        assert "handshake" in troubles["n3"]
        assert "no-such.invalid" in troubles["n4"]
        await close_all(one)
        silent.close()

    asyncio.run(scenario())


def test_the_key_is_not_in_any_repr() -> None:
    """P21: secrets do not reach logs by accident."""
    node = make_node("n1")
    assert KEY.decode() not in repr(vars(node.transport)["identity"])
    node.listener.close()
