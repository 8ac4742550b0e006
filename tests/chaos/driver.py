"""One chaos run: real nodes behind link proxies, a mixed load, faults in turn, then the history is judged.

The order is: start, load, nemesis, heal, quiet, checks at rest. Every fault counts what it did; a run in which a kind
of fault never took effect, or nothing was checked, has failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.chaos.load import MixedLoad, Recorder
from tests.checkers import linearizability, witness
from tests.checkers.history import Kind, Op, write_history
from tests.faults.proxy import Links
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.load.client import Connection, ConnectionLost, Credentials

BUCKET = "chaos"
# A bound on liveness, not a measurement: the bench measures the gap. Four times the worst gap that SOS may have,
# because the load, the checkers and three nodes share whatever machine this runs on.
WRITE_GAP_S_MAX = 16.0
FAULTS = ("kill", "kill-leader", "pause", "cut", "cut-one-way", "kill-all")


@dataclass(kw_only=True)
class Report:
    """What happened and what was found; ``problems`` is empty if every promise held."""

    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    operations_checked: int = 0
    groups: int = 0
    positions: int = 0
    keys_read_back: int = 0
    link_hits: int = 0
    gaps_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        gaps = sorted(self.gaps_s)
        gap = (
            f"write gap after a leader kill p50 {gaps[len(gaps) // 2]:.2f} s, max {gaps[-1]:.2f} s"
            if gaps
            else ""
        )
        return (
            f"faults that took effect: {faults or 'none'}; link hits {self.link_hits}; "
            f"operations {dict(self.outcomes)}; checked {self.operations_checked} in {self.groups} groups, "
            f"{self.positions} with a log position; {self.keys_read_back} keys read through every node; {gap}"
        )


class ChaosRun:
    """``seconds`` of faults drawn from ``faults`` over ``nodes`` nodes."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int,
        seconds: float,
        faults: tuple[str, ...],
        seed: int,
        clients: int = 8,
    ) -> None:
        unknown = set(faults) - set(FAULTS)
        assert not unknown, f"no such fault: {unknown}; there are {FAULTS}"
        self._directory = directory
        self._cluster = Cluster(directory, count=nodes)
        self._seconds = seconds
        self._faults = faults
        self._random = random.Random(seed)
        self._seed = seed
        self._clients = clients
        self._links = Links()
        self._report = Report()
        self._credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)

    async def run(self) -> Report:
        try:
            with self._cluster as cluster:
                await self._lay_links()
                await self._run_on(cluster)
        finally:
            await self._links.close()  # last: nobody dials them any more
        return self._report

    async def _run_on(self, cluster: Cluster) -> None:
        try:
            await asyncio.to_thread(cluster.start)
            await self._make_bucket()
            load = MixedLoad(
                {node.name: node.s3_port for node in cluster.nodes}, self._credentials,
                bucket=BUCKET, clients=self._clients, seed=self._seed,
            )  # fmt: skip
            load.start()
            await self._nemesis(load.recorder)
            await self._heal()
            await asyncio.sleep(1.0)  # the load's share without faults
            await load.stop()
            await asyncio.to_thread(cluster.wait_in_sync, deadline_s=60.0)
            self._judge(load.recorder)
            await self._read_back(load.recorder)
        finally:
            self._report.link_hits = self._links.hits()

    # --- set-up ---
    async def _lay_links(self) -> None:
        """Every node dials every peer through a proxy of its own."""
        for source in self._cluster.nodes:
            raft, blob = [], []
            for target in self._cluster.nodes:
                if target is source:
                    continue
                port = await self._links.add(source.name, target.name, "raft", target.node_port)
                raft.append(f"{target.name}=127.0.0.1:{port}")
                port = await self._links.add(source.name, target.name, "blob", target.node_port + 1)
                blob.append(f"{target.name}=127.0.0.1:{port}")
            source.environment["SOS_DIAL"] = ",".join(raft)
            source.environment["SOS_BLOB_DIAL"] = ",".join(blob)

    async def _make_bucket(self) -> None:
        connection = Connection("127.0.0.1", self._cluster.nodes[0].s3_port, self._credentials)
        answer = await connection.request("PUT", f"/{BUCKET}")
        assert answer.status == 200, answer
        connection.close()

    # --- faults ---
    async def _nemesis(self, recorder: Recorder) -> None:
        """Each kind of fault in turn, in a drawn order, until the time is over; at least one round of all."""
        end = time.monotonic() + self._seconds
        while True:
            for fault in self._random.sample(self._faults, len(self._faults)):
                await asyncio.sleep(self._random.uniform(0.5, 1.5))
                await self._strike(fault, recorder)
                if time.monotonic() > end and all(self._report.faults[f] for f in self._faults):
                    return

    async def _strike(self, fault: str, recorder: Recorder) -> None:
        nodes = self._cluster.nodes
        victim = self._random.choice(nodes)
        if fault == "kill-leader":
            victim = await asyncio.to_thread(self._cluster.leader, deadline_s=30.0)
        hold_s = self._random.uniform(0.8, 2.5)
        if fault in ("kill", "kill-leader"):
            await asyncio.to_thread(victim.kill)
            killed = time.monotonic()
            if fault == "kill-leader":
                await self._note_gap(recorder, killed)
            await asyncio.sleep(hold_s)
            await self._restart([victim])
        elif fault == "kill-all":
            for node in nodes:
                await asyncio.to_thread(node.kill)
            await self._restart(nodes)
        elif fault == "pause":
            victim.signal_children(signal.SIGSTOP)
            await asyncio.sleep(hold_s + 1.0)
            silent = not await asyncio.to_thread(victim.answers_admin, timeout_s=0.3)
            victim.signal_children(signal.SIGCONT)
            assert silent, "the paused node answered: the fault did not fire"
        elif fault == "cut":
            before = self._links.hits()
            self._links.isolate(victim.name)
            await asyncio.sleep(hold_s + 1.0)
            touched = self._links.hits() > before
            self._links.heal()
            assert touched, "the cut links carried nothing: the fault did not fire"
        elif fault == "cut-one-way":
            other = self._random.choice([node for node in nodes if node is not victim])
            before = self._links.hits()
            self._links.cut_one_way(victim.name, other.name)
            await asyncio.sleep(hold_s + 1.0)
            assert self._links.hits() > before, (
                "the cut direction carried nothing: the fault did not fire"
            )
            self._links.heal()
        self._report.faults[fault] += 1

    async def _note_gap(self, recorder: Recorder, killed: float) -> None:
        """How long after the kill no write succeeded; a gap over ``WRITE_GAP_S_MAX`` is a problem of its own."""
        while time.monotonic() < killed + WRITE_GAP_S_MAX:
            later = [t for t in recorder.success_times[-64:] if t > killed + 0.05]
            if later:
                self._report.gaps_s.append(min(later) - killed)
                return
            await asyncio.sleep(0.01)
        self._report.problems.append(
            "alive: no write succeeded for 20 s after the leader was killed"
        )

    async def _restart(self, nodes: list[TestNode]) -> None:
        for node in nodes:
            self._cluster.start_node(node)
        await asyncio.to_thread(self._cluster.wait_ready, nodes, deadline_s=40.0)

    async def _heal(self) -> None:
        self._links.heal()
        await asyncio.to_thread(self._cluster.wait_ready, deadline_s=40.0)

    # --- checks ---
    def _judge(self, recorder: Recorder) -> None:
        report = self._report
        report.outcomes = recorder.outcomes
        report.operations_checked = len(recorder.ops)
        report.positions = sum(op.position is not None for op in recorder.ops)
        verdict = linearizability.check(recorder.ops)
        report.groups = verdict.groups
        for group, culprit in verdict.violations:
            report.problems.append("linear: " + linearizability.explain(group, culprit))
        if verdict.undecided:
            report.problems.append(
                f"the load made {len(verdict.undecided)} groups too hard to check"
            )
        report.problems += [f"fresh: {line}" for line in witness.freshness(recorder.ops)]
        report.problems += [f"bytes: {line}" for line in recorder.wrong_bytes]
        report.problems += [
            f"odd answer ({n}x): {text}" for text, n in recorder.odd_answers.items()
        ]
        if report.problems:
            write_history(self._directory / "history.jsonl", recorder.ops)

    async def _read_back(self, recorder: Recorder) -> None:
        """P1: every key through every node; all agree, and the final reads extend the linearizable history."""
        keys = sorted({key for op in recorder.ops for key in op.touched()})
        seen: dict[str, set[str | None]] = {key: set() for key in keys}
        final: list[Op] = []
        for node in self._cluster.nodes:
            connection = Connection("127.0.0.1", node.s3_port, self._credentials, tag=node.name)
            for key in keys:
                called = time.monotonic()
                try:
                    answer = await connection.request("GET", f"/{BUCKET}/{quote(key)}")
                except (ConnectionLost, TimeoutError) as error:
                    self._report.problems.append(
                        f"kept: {key} cannot be read through {node.name}: {error!r}"
                    )
                    continue
                value: str | None = None
                if answer.status == 200:
                    value = answer.headers["etag"].strip('"')
                    if hashlib.md5(answer.body).hexdigest() != value:
                        self._report.problems.append(f"bytes: {key} through {node.name}")
                elif answer.status != 404:
                    self._report.problems.append(
                        f"kept: {key} through {node.name}: {answer.status}"
                    )
                    continue
                seen[key].add(value)
                final.append(
                    Op(
                        id=recorder.fresh_id(), kind=Kind.GET, key=key, called=called,
                        returned=time.monotonic(), answer=value, node=node.name,
                    )
                )  # fmt: skip
            connection.close()
        for key, values in seen.items():
            if len(values) != 1:
                self._report.problems.append(f"state: the nodes differ on {key}: {values}")
        self._report.keys_read_back = len(keys)
        for group, culprit in linearizability.check([*recorder.ops, *final]).violations:
            self._report.problems.append("kept: " + linearizability.explain(group, culprit))
