"""Real cores driven through links: minority, pause, forwarding, resends across a leader's death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sos.catalog.model import (
    CreateBucket,
    Done,
    Rejection,
    Stored,
    WriteCondition,
)
from sos.errors import OutcomeUnknown, Unavailable
from sos.link import CoreLink
from tests.integration.cores import ROOT, CoreNode, Cores, put_command

Test = Callable[[Cores, list[CoreLink]], Awaitable[None]]


def _run(directory: Path, test: Test) -> None:
    async def body() -> None:
        with Cores(directory) as cores:
            links = [node.link() for node in cores.nodes]
            try:
                async with asyncio.timeout(100):
                    for link in links:
                        await link.wait_formed()
                    await _current(links[0])
                    await links[0].propose(
                        CreateBucket(access_key=ROOT, bucket="bucket", created_ms=1)
                    )
                    await test(cores, links)
                    cores.assert_alive()
            finally:
                for link in links:
                    await link.close()

    asyncio.run(body())


async def _current(link: CoreLink) -> None:
    while True:
        try:
            await link.barrier()
            return
        except Unavailable:
            continue


def _put(link: CoreLink, key: str, condition: WriteCondition | None = None) -> Awaitable[object]:
    command = put_command("bucket", key, b"data", index=link.applied_index)
    if condition is not None:
        command = put_command("bucket", key, b"data", index=link.applied_index, condition=condition)
    return link.propose(command)


def _split(cores: Cores, links: list[CoreLink]) -> tuple[int, list[int]]:
    leader = next(i for i, link in enumerate(links) if link.state.is_leader)
    return leader, [i for i in range(len(links)) if i != leader]


def _pair(cores: Cores, links: list[CoreLink], number: int) -> tuple[CoreNode, CoreLink]:
    return cores.nodes[number], links[number]


def test_every_node_takes_writes_and_conditions_hold(tmp_path: Path) -> None:
    """P2: compare-and-swap through different nodes at once: exactly one wins."""

    async def test(cores: Cores, links: list[CoreLink]) -> None:
        for number in range(10):
            absent = WriteCondition(if_none_match_any=True)
            results = await asyncio.gather(
                *(_put(link, f"cas-{number}", absent) for link in links for _ in range(3))
            )
            assert sum(isinstance(result, Stored) for result in results) == 1
            assert (
                sum(result is Rejection.PRECONDITION_FAILED_IF_NONE_MATCH for result in results)
                == len(results) - 1
            )

    _run(tmp_path, test)


def test_without_a_majority_nothing_hangs(tmp_path: Path) -> None:
    """Issue 4: no majority: refused within the deadline; back with the majority."""

    async def test(cores: Cores, links: list[CoreLink]) -> None:
        leader, others = _split(cores, links)
        for number in others:
            cores.nodes[number].kill()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await links[leader].barrier()
        assert time.monotonic() - started < 5
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await _put(links[leader], "minority")
        assert time.monotonic() - started < 16
        for number in others:
            cores.nodes[number].start()
        await _current(links[leader])
        assert isinstance(await _put(links[leader], "majority"), Stored)

    _run(tmp_path, test)


def test_a_paused_core_answers_nothing_and_a_woken_leader_nothing_stale(tmp_path: Path) -> None:
    """Faults 91, 92: no barrier from a paused core; a woken former leader waits for what happened meanwhile."""

    async def test(cores: Cores, links: list[CoreLink]) -> None:
        leader, others = _split(cores, links)
        node, link = _pair(cores, links, leader)
        with node.paused():
            with pytest.raises(Unavailable):
                await link.barrier()
            result = await _retried(links[others[0]], "while-paused")
            index = (await links[others[0]].barrier()).index
            waiting = asyncio.create_task(link.barrier())
            await asyncio.sleep(0)
        try:
            assert (await waiting).index >= index, "a stale barrier"
        except Unavailable:
            await _current(link)
        assert (await link.barrier()).index >= index
        assert isinstance(result, Stored)

    _run(tmp_path, test)


async def _retried(link: CoreLink, key: str) -> object:
    while True:
        try:
            return await _put(link, key)
        except (Unavailable, OutcomeUnknown):
            continue


def test_a_killed_leader_leaves_one_result_per_request(tmp_path: Path) -> None:
    """P4, faults 99: operations in flight when the leader dies are resent under their ids: applied once."""

    async def test(cores: Cores, links: list[CoreLink]) -> None:
        leader, others = _split(cores, links)
        absent = WriteCondition(if_none_match_any=True)
        through = links[others[0]]
        await _put(through, "before")
        results: list[object] = []
        some = asyncio.Event()

        async def write(worker: int) -> None:
            for number in range(10):
                results.append(await _caught(_put(through, f"k{worker}-{number}", absent)))
                if len(results) >= 100:
                    some.set()

        writers = [asyncio.create_task(write(worker)) for worker in range(50)]
        await some.wait()  # each writer has one under way: to the core, the leader, the log
        cores.nodes[leader].kill()
        killed = time.monotonic()
        await asyncio.gather(*writers)
        # Each key was written by one request only: a resend that applied twice would answer 412.
        assert all(isinstance(result, Stored | OutcomeUnknown) for result in results), results
        assert sum(isinstance(result, Stored) for result in results) > 0
        assert isinstance(await _retried(through, "after"), Stored)
        assert time.monotonic() - killed < 15
        cores.nodes[leader].start()
        await _current(links[leader])

    _run(tmp_path, test)


async def _caught(call: Awaitable[object]) -> object:
    try:
        return await call
    except (Unavailable, OutcomeUnknown) as error:
        return error


def test_a_gateway_of_another_supervisor_is_not_served(tmp_path: Path) -> None:
    """Two supervisors over one directory: the second one's gateways reach no core."""

    async def test(cores: Cores, links: list[CoreLink]) -> None:
        from sos.clock import SystemClock, SystemIds

        stranger = CoreLink(
            directory=str(cores.nodes[0].data),
            gateway=0,
            token="other",
            clock=SystemClock(),
            ids=SystemIds(),
        )
        stranger.start()
        with pytest.raises(Unavailable):
            await stranger.barrier()
        assert not stranger.state.is_formed
        await stranger.close()
        again = await links[0].propose(CreateBucket(access_key=ROOT, bucket="bucket", created_ms=2))
        assert again is Rejection.BUCKET_ALREADY_OWNED_BY_YOU
        created = await links[1].propose(
            CreateBucket(access_key=ROOT, bucket="bucket2", created_ms=2)
        )
        assert isinstance(created, Done)

    _run(tmp_path, test)
