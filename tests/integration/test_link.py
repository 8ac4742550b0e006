"""The gateway's end of the link against a scripted core: cuts, half frames, lost and late answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sos.catalog.codec import encode_result
from sos.catalog.model import AccessKeyId, BlobId, CreateBucket, Done, Rejection
from sos.clock import SystemClock, SystemIds
from sos.errors import OutcomeUnknown, Unavailable
from sos.link import CoreLink, NodeState
from sos.link.path import LinkAddress
from sos.link.protocol import Answer, FrameBuffer, Kind, encode_frame, encode_state

COMMAND = CreateBucket(access_key=AccessKeyId("a"), bucket="bucket", created_ms=1)
OK = encode_result(Done())


class ScriptedCore(asyncio.Protocol):
    """Records every frame of its gateway and answers as the test says."""

    connections: list[ScriptedCore]

    def __init__(self, core: Script) -> None:
        self.core = core
        self.buffer = FrameBuffer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.core.current = self

    def data_received(self, data: bytes) -> None:
        for frame in self.buffer.feed(data):
            if frame[0] == Kind.HELLO:
                self.transport.write(encode_state(NodeState(is_formed=True, applied_index=41)))
            else:
                self.core.frames.put_nowait(frame)

    def send(self, kind: Kind, *fields: object) -> None:
        self.transport.write(encode_frame(kind, *fields))


class Script:
    """A core whose every answer a test writes."""

    def __init__(self, directory: Path) -> None:
        self.frames: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.current: ScriptedCore | None = None
        self.address = LinkAddress(str(directory))

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: ScriptedCore(self), sock=self.address.listen()
        )

    async def next(self, kind: Kind) -> list[Any]:
        async with asyncio.timeout(5):
            while True:
                frame = await self.frames.get()
                if frame[0] == kind:
                    return frame

    @property
    def connection(self) -> ScriptedCore:
        assert self.current is not None
        return self.current

    def close(self) -> None:
        self.server.close()
        if self.current is not None:
            self.current.transport.abort()
        self.address.close()


def _run(directory: Path, test: Callable[[Script, CoreLink], Awaitable[None]]) -> None:
    async def body() -> None:
        script = Script(directory)
        await script.start()
        link = CoreLink(
            directory=str(directory), gateway=0, token="t", clock=SystemClock(), ids=SystemIds()
        )
        link.start()
        try:
            async with asyncio.timeout(20):
                await link.wait_formed()
                await test(script, link)
        finally:
            await link.close()
            script.close()

    asyncio.run(body())


def test_a_deep_data_directory_is_no_obstacle(tmp_path: Path) -> None:
    """Design 3: the link socket works for a data path of any length (AF_UNIX allows 107 bytes)."""
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)

    async def test(script: Script, link: CoreLink) -> None:
        assert link.applied_index == 41
        assert (deep / "link.sock").stat().st_mode & 0o777 == 0o600

    _run(deep, test)


def test_operations_of_one_turn_share_a_frame(tmp_path: Path) -> None:
    """Batching: many callers, one frame; answers find their callers."""

    async def test(script: Script, link: CoreLink) -> None:
        calls = [asyncio.create_task(link.propose(COMMAND)) for _ in range(20)]
        rows = (await script.next(Kind.PROPOSE))[1]
        assert len(rows) == 20
        assert {row[1] for row in rows} == {41}
        script.connection.send(
            Kind.RESULTS, 42, [[row[0], Answer.RESULT, OK] for row in rows[::-1]]
        )
        assert await asyncio.gather(*calls) == [Done()] * 20
        assert link.applied_index == 42

    _run(tmp_path, test)


@pytest.mark.parametrize("half_frame", [False, True])
def test_a_lost_answer_is_asked_for_again_under_the_same_request_id(
    tmp_path: Path, half_frame: bool
) -> None:
    """Faults 94, promise P4: cut, half frame, lost answer: resend with the same id and first index."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.propose(COMMAND))
        first = (await script.next(Kind.PROPOSE))[1]
        if half_frame:
            answer = encode_frame(Kind.RESULTS, 99, [[first[0][0], Answer.RESULT, OK]])
            script.connection.transport.write(answer[:-3])
        script.connection.transport.close()
        again = (await script.next(Kind.PROPOSE))[1]
        assert again == first
        assert not call.done()
        script.connection.send(Kind.RESULTS, 42, [[again[0][0], Answer.RESULT, OK]])
        assert await call == Done()

    _run(tmp_path, test)


def test_once_unknown_no_refusal_makes_it_definite(tmp_path: Path) -> None:
    """Design 5: after an unknown attempt only a result or the deadline answers; never 503."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.propose(COMMAND, deadline_s=0.5))
        answers = [Answer.UNKNOWN, Answer.NO_LEADER, Answer.QUEUE_FULL]
        while not call.done():
            waiter = asyncio.create_task(script.next(Kind.PROPOSE))
            await asyncio.wait({waiter, call}, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.done():
                waiter.cancel()
                break
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            script.connection.send(Kind.RESULTS, 0, [[waiter.result()[1][0][0], answer, b""]])
        with pytest.raises(OutcomeUnknown):
            await call

    _run(tmp_path, test)


def test_a_full_queue_is_definite(tmp_path: Path) -> None:
    """House style 6: queue full on the only attempt is Unavailable, at once."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.propose(COMMAND))
        row = (await script.next(Kind.PROPOSE))[1][0]
        script.connection.send(Kind.RESULTS, 0, [[row[0], Answer.QUEUE_FULL, b""]])
        with pytest.raises(Unavailable):
            await call

    _run(tmp_path, test)


def test_no_leader_is_retried_then_definite(tmp_path: Path) -> None:
    """Design 12: without a leader 503 after at most 3 s; a leader in between makes it a success."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.propose(COMMAND, deadline_s=5))
        lucky = (await script.next(Kind.PROPOSE))[1][0][0]
        script.connection.send(Kind.RESULTS, 0, [[lucky, Answer.NO_LEADER, b""]])
        assert (await script.next(Kind.PROPOSE))[1][0][0] == lucky
        script.connection.send(Kind.RESULTS, 0, [[lucky, Answer.RESULT, OK]])
        assert await call == Done()

    _run(tmp_path, test)


def test_forgotten_results_are_unknown(tmp_path: Path) -> None:
    """Protocols 5.2: too old to remember is told as unknown."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.propose(COMMAND))
        row = (await script.next(Kind.PROPOSE))[1][0]
        result = encode_result(Rejection.TOO_OLD_TO_REMEMBER)
        script.connection.send(Kind.RESULTS, 0, [[row[0], Answer.RESULT, result]])
        with pytest.raises(OutcomeUnknown):
            await call

    _run(tmp_path, test)


def test_a_caller_during_a_round_waits_for_the_next(tmp_path: Path) -> None:
    """Promise P8: a barrier counts only if its round began after the request arrived."""

    async def test(script: Script, link: CoreLink) -> None:
        early = [asyncio.create_task(link.barrier()) for _ in range(3)]
        first = await script.next(Kind.BARRIER)
        late = asyncio.create_task(link.barrier())
        script.connection.send(Kind.BARRIER_PASSED, first[1], 1, 50)
        assert {(await call).index for call in early} == {50}
        second = await script.next(Kind.BARRIER)
        assert second[1] != first[1]
        assert not late.done()
        script.connection.send(Kind.BARRIER_PASSED, second[1], 2, 60)
        barrier = await late
        assert (barrier.generation, barrier.index) == (2, 60)

    _run(tmp_path, test)


def test_a_barrier_outlives_a_core(tmp_path: Path) -> None:
    """Faults 91: no answer from the local view without a barrier; a new core's round serves old waiters."""

    async def test(script: Script, link: CoreLink) -> None:
        call = asyncio.create_task(link.barrier())
        await script.next(Kind.BARRIER)
        script.connection.transport.abort()
        again = await script.next(Kind.BARRIER)
        script.connection.send(Kind.BARRIER_FAILED, again[1])
        third = await script.next(Kind.BARRIER)
        script.connection.send(Kind.BARRIER_PASSED, third[1], 1, 7)
        assert (await call).index == 7

    _run(tmp_path, test)


def test_jobs_report_progress_and_end(tmp_path: Path) -> None:
    """Contract: core to gateway jobs have progress and one reply; cancel ends them."""

    async def test(script: Script, link: CoreLink) -> None:
        async def handler(job: Any, progress: Any) -> dict[str, Any]:
            progress.report({"done": 1})
            if job.kind == "wait":
                await asyncio.Event().wait()
            if job.kind == "fail":
                raise OSError("disk")
            return {"kind": job.kind}

        link.on_job(handler)
        script.connection.send(Kind.JOB, 1, "resync", {"node": "n2"})
        assert (await script.next(Kind.JOB_PROGRESS))[1:] == [1, {"done": 1}]
        assert (await script.next(Kind.JOB_DONE))[1:] == [1, True, {"kind": "resync"}]
        script.connection.send(Kind.JOB, 2, "fail", {})
        assert (await script.next(Kind.JOB_DONE))[1:] == [2, False, {"error": "OSError: disk"}]
        script.connection.send(Kind.JOB, 3, "wait", {})
        await script.next(Kind.JOB_PROGRESS)
        script.connection.send(Kind.JOB, 4, "cancel", {"job_id": 3})
        assert (await script.next(Kind.JOB_DONE))[1:] == [3, False, {"error": "cancelled"}]

    _run(tmp_path, test)


def test_each_report_of_holders_gets_its_own_answer(tmp_path: Path) -> None:
    """protocols.md 4.1: a report that ends takes no other one's answer along."""

    async def test(script: Script, link: CoreLink) -> None:
        blobs = [BlobId(bytes([number]) * 16) for number in range(3)]
        calls = [asyncio.create_task(link.report_holders([blob], [])) for blob in blobs]
        reports = [(await script.next(Kind.HOLDERS))[1] for _ in blobs]
        assert len(set(reports)) == 3
        script.connection.send(Kind.HOLDERS_ANSWER, reports[0], True)
        await calls[0]
        script.connection.send(Kind.HOLDERS_ANSWER, reports[2], True)
        await calls[2]
        script.connection.send(Kind.HOLDERS_ANSWER, reports[1], False)
        with pytest.raises(Unavailable):
            await calls[1]

    _run(tmp_path, test)
