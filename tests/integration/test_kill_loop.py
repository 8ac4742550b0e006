"""Promise P1 on real processes: kill -9 of the leader, of any, of all, and no acknowledged write is lost."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sos.catalog.model import CreateBucket, Done, Stored
from sos.catalog.reader import CatalogReader, ViewBehind
from sos.catalog.views import View
from sos.errors import OutcomeUnknown, Unavailable
from sos.link import CoreLink
from tests.integration.cores import ROOT, CoreNode, Cores, put_command

SECONDS: Final = float(os.environ.get("SOS_TEST_KILL_SECONDS", "20"))
WRITERS: Final = 12
BUCKET: Final = "kill-loop"


@dataclass
class History:
    """What the writers know. A key is written once, so that its presence is its proof."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    unknown: int = 0
    unavailable: int = 0
    kills: int = 0
    gaps_s: list[float] = field(default_factory=list)
    last_ack: float = 0.0
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    async def another(self) -> None:
        """Until the next acknowledgement."""
        self.wrote.clear()
        await self.wrote.wait()

    async def more(self, count: int) -> None:
        """Until ``count`` more writes are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(30):
            while len(self.acknowledged) < wanted:
                await self.another()


async def _write(links: list[CoreLink], number: int, history: History, stop: asyncio.Event) -> None:
    count = 0
    while not stop.is_set():
        link = links[
            number % len(links)
        ]  # a client of a killed node waits for it, the others go on
        key, data = f"{number:03d}/{count:08d}", os.urandom(200)
        count += 1
        try:
            result = await link.propose(put_command(BUCKET, key, data, index=link.applied_index))
        except OutcomeUnknown:
            history.unknown += 1
        except Unavailable:
            history.unavailable += 1
        else:
            assert isinstance(result, Stored), result
            history.acknowledged[key] = data
            history.last_ack = time.monotonic()
            history.wrote.set()


async def _kill(
    cores: Cores, leader: CoreNode, turn: int, history: History, rng: random.Random
) -> None:
    """In turn: the leader, one node, all; back after a moment."""
    victims = [[leader], [rng.choice(cores.nodes)], cores.nodes][turn % 3]
    for victim in victims:
        victim.kill()
    history.kills += len(victims)
    killed_at = time.monotonic()
    if len(victims) < len(cores.nodes):
        async with asyncio.timeout(15):
            while (
                history.last_ack <= killed_at + 0.05
            ):  # answers that were on their way do not count
                await history.another()
        history.gaps_s.append(history.last_ack - killed_at)
    for victim in victims:
        victim.start()


async def _settled(links: list[CoreLink]) -> None:
    async with asyncio.timeout(30):
        for link in links:
            while True:
                try:
                    await link.barrier()
                    break
                except Unavailable:
                    continue


def _leader(cores: Cores, links: list[CoreLink]) -> CoreNode:
    for node, link in zip(cores.nodes, links, strict=True):
        if link.is_connected and link.state.is_leader:
            return node
    return cores.nodes[0]


@contextmanager
def _view(node: CoreNode, index: int) -> Iterator[View]:
    reader = CatalogReader(node.data / "catalog")
    try:
        with reader.view(index) as view:
            yield view
    finally:
        reader.close()


async def _check(cores: Cores, links: list[CoreLink], history: History) -> None:
    """Every acknowledged key with its bytes on every node, and equal catalogs."""
    barriers = [await link.barrier() for link in links]
    index = max(barrier.index for barrier in barriers)
    digests: dict[int, set[bytes]] = {}
    for node, link in zip(cores.nodes, links, strict=True):
        async with asyncio.timeout(10):
            while True:
                await link.barrier()
                try:
                    with _view(node, index) as view:
                        _check_node(view, history)
                        digests.setdefault(view.applied_index, set()).add(view.digests().chain)
                    break
                except ViewBehind:
                    await asyncio.sleep(0.01)
    assert all(len(chains) == 1 for chains in digests.values()), digests


def _check_node(view: View, history: History) -> None:
    bucket = view.bucket(BUCKET)
    assert bucket is not None
    for key, data in history.acknowledged.items():
        record = view.object(bucket.bucket_id, key)
        assert record is not None, f"acknowledged {key} is lost"
        assert record.blob is not None
        assert view.inline_body(record.blob) == data


async def _run(directory: Path) -> History:
    history = History()
    rng = random.Random(1)
    with Cores(directory) as cores:
        links = [node.link() for node in cores.nodes]
        try:
            async with asyncio.timeout(60):
                for link in links:
                    await link.wait_formed()
            await _settled(links)
            created = await links[0].propose(
                CreateBucket(access_key=ROOT, bucket=BUCKET, created_ms=1)
            )
            assert created == Done() or isinstance(created, Done)
            stop = asyncio.Event()
            writers = [
                asyncio.create_task(_write(links, number, history, stop))
                for number in range(WRITERS)
            ]
            end = time.monotonic() + SECONDS
            turn = 0
            while time.monotonic() < end or turn < 3:
                await history.more(rng.randrange(50, 500))  # a kill meets another state each time
                cores.assert_alive()
                await _kill(cores, _leader(cores, links), turn, history, rng)
                await _settled(links)
                turn += 1
            stop.set()
            await asyncio.gather(*writers)
            await _settled(links)
            cores.assert_alive()
            await _check(cores, links, history)
        finally:
            for link in links:
                await link.close()
    return history


def test_no_acknowledged_write_is_lost(tmp_path: Path) -> None:
    """P1, P10: after every kill each node has every acknowledged key, and the catalogs are equal."""
    history = asyncio.run(_run(tmp_path))

    print(  # noqa: T201 - the figures of the run
        f"kills {history.kills}, acknowledged {len(history.acknowledged)}, unknown {history.unknown}, "
        f"unavailable {history.unavailable}, write gaps {sorted(round(g, 2) for g in history.gaps_s)}"
    )
    assert history.kills >= 5
    assert len(history.acknowledged) > 100
