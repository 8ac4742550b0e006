"""The gateway's end of the link: proposals, barriers, holder reports, jobs, the core's state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from sos.catalog.codec import decode_result, encode_command
from sos.catalog.model import BlobId, Command, Rejection, Result
from sos.clock import Clock, IdSource
from sos.errors import OutcomeUnknown, QueueFull, Unavailable
from sos.limits import COMMIT_S_MAX, READ_BARRIER_S_MAX
from sos.link.path import LinkAddress
from sos.link.protocol import (
    VERSION,
    Barrier,
    FrameBuffer,
    Job,
    Kind,
    NodeState,
    ProtocolError,
    decode_state,
    encode_frame,
)
from sos.link.waiting import Operations, Rounds

_RECONNECT_S: Final = 0.05  # a restarted core listens within a second; a connect costs 50 us
_SWEEP_S: Final = 0.05  # deadlines are seconds: one timer for all is cheaper than one each
_RETRY_S: Final = 0.025  # after "no leader": an election takes half a second at least

JobHandler = Callable[[Job, "JobProgress"], Awaitable[dict[str, Any]]]


class JobProgress:
    """Handed to a job's handler: ``report`` sends plain values to the core."""

    __slots__ = ("_job_id", "_link")

    def __init__(self, link: CoreLink, job_id: int) -> None:
        self._link = link
        self._job_id = job_id

    def report(self, values: dict[str, Any]) -> None:
        """Tell the core how far the job is; lost when the link is down, the next one replaces it."""
        self._link.send_frame(encode_frame(Kind.JOB_PROGRESS, self._job_id, values))


class CoreLink:
    """One gateway's connection to its own core; reconnects for ever, resends by request id.

    All methods belong to the loop that called ``start``.
    """

    def __init__(
        self, *, directory: str, gateway: int, token: str, clock: Clock, ids: IdSource
    ) -> None:
        self.state = NodeState()
        self._address = LinkAddress(directory)
        self._hello = encode_frame(Kind.HELLO, VERSION, gateway, token)
        self._clock = clock
        self._operations = Operations(clock=clock, session=ids.random_bytes(8))
        self._rounds = Rounds(clock=clock)
        self._reports: dict[int, asyncio.Future[None]] = {}
        self._report_count = 0
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._job_handler: JobHandler | None = None
        self._metrics: Callable[[], list[Any]] | None = None
        self._state_callbacks: list[Callable[[NodeState], None]] = []
        self._formed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._is_flush_due = False
        self._applied_index = 0
        self._is_serving = False
        self._runner: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Connect in the background and stay connected."""
        self._loop = asyncio.get_running_loop()
        self._runner = self._loop.create_task(self._run())
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    async def close(self) -> None:
        """Disconnect; whatever waits ends as unavailable or unknown."""
        if self._runner is not None:
            self._sweeper.cancel()
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        for job in self._jobs.values():
            job.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._operations.end_all()
        self._rounds.end_all()
        self._address.close()

    async def wait_formed(self) -> NodeState:
        """The state, once the node belongs to a formed cluster; no deadline: formation may take days."""
        await self._formed.wait()
        return self.state

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    @property
    def applied_index(self) -> int:
        """The newest applied index of this node's core that this gateway heard of."""
        return self._applied_index

    # --- what a gateway asks ----------------------------------------------------------------------
    async def propose(self, command: Command, *, deadline_s: float = COMMIT_S_MAX) -> Result:
        """The stored result of ``command``, proposed under one request id however often it is sent.

        Raises: Unavailable: certainly not applied. OutcomeUnknown: perhaps applied, now or later
        (also when the catalog answers that it forgot: protocols.md 5.2).
        """
        if self._operations.is_full:
            raise QueueFull("too many operations wait for the core")
        payload = await self._operations.add(
            encode_command(command), self._applied_index, deadline_s, self._schedule_flush
        )
        result = decode_result(payload)
        if result is Rejection.TOO_OLD_TO_REMEMBER:
            raise OutcomeUnknown("the catalog no longer remembers this request")
        return result

    async def barrier(self) -> Barrier:
        """What a read that began before this call must at least see. Raises: Unavailable."""
        return await self._rounds.join(READ_BARRIER_S_MAX, self._schedule_flush)

    async def report_holders(self, gained: Sequence[BlobId], lost: Sequence[BlobId]) -> None:
        """This node gained or lost copies; when it returns, the catalog knows.

        Not resent: a late report could undo a newer one, and the full comparison is the truth.
        Raises: Unavailable.
        """
        if self._transport is None:
            raise Unavailable("the core is not connected")
        self._report_count += 1
        report = self._report_count  # others report meanwhile
        answer: asyncio.Future[None] = self._loop.create_future()
        self._reports[report] = answer
        frame = encode_frame(Kind.HOLDERS, report, list(gained), list(lost))
        self._transport.write(frame)
        try:
            async with asyncio.timeout(COMMIT_S_MAX):
                await answer
        except TimeoutError as error:
            raise Unavailable("the report of holders was not confirmed") from error
        finally:
            self._reports.pop(report, None)

    def report_damage(self, text: str) -> None:
        """The catalog failed a checksum here: the core stops as for an I/O error (design, 11)."""
        self.send_frame(encode_frame(Kind.DAMAGE, text[:1000]))

    def set_serving(self) -> None:
        """This gateway answers S3 requests from now on: without one the node is not ready."""
        self._is_serving = True
        self.send_frame(encode_frame(Kind.SERVING))

    def on_state(self, callback: Callable[[NodeState], None]) -> None:
        """Call ``callback`` with each new state."""
        self._state_callbacks.append(callback)

    def on_job(self, handler: JobHandler) -> None:
        """Run ``handler`` for the core's jobs; only gateway 0 gets any, and none before this call."""
        self._job_handler = handler
        self.send_frame(encode_frame(Kind.TAKES_JOBS))

    def on_metrics(self, collect: Callable[[], list[Any]]) -> None:
        """Answer the core's scrapes with ``collect()``: plain values."""
        self._metrics = collect

    def send_frame(self, frame: bytes) -> None:
        """Send now, or drop when not connected."""
        if self._transport is not None:
            self._transport.write(frame)

    # --- sending ----------------------------------------------------------------------------------
    def _schedule_flush(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything that this turn of the loop gathered leaves in as few frames as fit."""
        self._is_flush_due = False
        if self._transport is None or self._is_paused:
            return
        frames = [encode_frame(Kind.PROPOSE, rows) for rows in self._operations.take_batches()]
        round_number = self._rounds.begin()
        if round_number is not None:
            frames.append(encode_frame(Kind.BARRIER, round_number))
        if frames:
            self._transport.write(b"".join(frames) if len(frames) > 1 else frames[0])

    def _sweep(self) -> None:
        self._operations.expire()
        self._rounds.expire()
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    # --- connection -------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            try:
                connection = self._address.connect()
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            lost: asyncio.Future[None] = self._loop.create_future()
            await self._loop.create_connection(
                lambda lost=lost: _ClientProtocol(self, lost),  # type: ignore[misc]
                sock=connection,
            )
            await lost
            await asyncio.sleep(_RECONNECT_S)

    def connected(self, transport: asyncio.Transport) -> None:
        """Called by the protocol."""
        self._transport = transport
        self._is_paused = False
        transport.write(self._hello)
        if self._job_handler is not None:
            transport.write(encode_frame(Kind.TAKES_JOBS))
        if self._is_serving:
            transport.write(encode_frame(Kind.SERVING))
        self._schedule_flush()

    def disconnected(self) -> None:
        """Called by the protocol: what was sent and not answered is unknown, and is sent again."""
        self._transport = None
        self._operations.connection_lost()
        self._rounds.connection_lost()
        for answer in self._reports.values():
            if not answer.done():
                answer.set_exception(Unavailable("the core went away"))
        for job in self._jobs.values():
            job.cancel()

    def pause(self, is_paused: bool) -> None:
        """Called by the protocol: the core reads more slowly than we write."""
        self._is_paused = is_paused
        if not is_paused:
            self._schedule_flush()

    def received(self, fields: list[Any]) -> None:
        """One frame from the core. Raises: ProtocolError, IndexError, TypeError on nonsense."""
        kind = fields[0]
        if kind == Kind.RESULTS:
            self._applied_index = max(self._applied_index, fields[1])
            if self._operations.answer(fields[2]):
                self._loop.call_later(_RETRY_S, self._schedule_flush)
        elif kind == Kind.BARRIER_PASSED:
            _, round_number, generation, index = fields
            self._applied_index = max(self._applied_index, index)
            self._rounds.passed(round_number, Barrier(generation=generation, index=index))
            if self._rounds.has_waiters:
                self._schedule_flush()
        elif kind == Kind.BARRIER_FAILED:
            self._rounds.failed(fields[1])
            self._loop.call_later(_RETRY_S, self._schedule_flush)
        elif kind == Kind.STATE:
            self._adopt(decode_state(fields[1:]))
        else:
            self._received_rare(kind, fields)

    def _received_rare(self, kind: int, fields: list[Any]) -> None:
        if kind == Kind.HOLDERS_ANSWER:
            answer = self._reports.get(fields[1])
            if answer is not None and not answer.done():
                if fields[2]:
                    answer.set_result(None)
                else:
                    answer.set_exception(Unavailable("the report of holders was not committed"))
        elif kind == Kind.JOB:
            self._start_job(Job(job_id=fields[1], kind=fields[2], arguments=fields[3]))
        elif kind == Kind.METRICS_REQUEST:
            samples = [] if self._metrics is None else self._metrics()
            self.send_frame(encode_frame(Kind.METRICS, fields[1], samples))
        else:
            raise ProtocolError(f"unknown kind {kind}")

    def _adopt(self, state: NodeState) -> None:
        self.state = state
        self._applied_index = max(self._applied_index, state.applied_index)
        if state.is_formed:
            self._formed.set()
        for callback in self._state_callbacks:
            callback(state)

    # --- jobs -------------------------------------------------------------------------------------
    def _start_job(self, job: Job) -> None:
        if job.kind == "cancel":
            running = self._jobs.get(job.arguments["job_id"])
            if running is not None:
                running.cancel()
            return
        task = self._loop.create_task(self._run_job(job))
        self._jobs[job.job_id] = task
        task.add_done_callback(lambda _: self._jobs.pop(job.job_id, None))

    async def _run_job(self, job: Job) -> None:
        assert self._job_handler is not None, "the core waits for TAKES_JOBS"
        try:
            values = await self._job_handler(job, JobProgress(self, job.job_id))
        except asyncio.CancelledError:
            self.send_frame(encode_frame(Kind.JOB_DONE, job.job_id, False, {"error": "cancelled"}))
            raise
        except Exception as error:  # noqa: BLE001 - a worker loop: the core decides about a retry
            text = f"{type(error).__name__}: {error}"
            self.send_frame(encode_frame(Kind.JOB_DONE, job.job_id, False, {"error": text}))
            return
        self.send_frame(encode_frame(Kind.JOB_DONE, job.job_id, True, values))


class _ClientProtocol(asyncio.Protocol):
    """Bytes to frames; a frame that does not parse ends the connection."""

    def __init__(self, link: CoreLink, lost: asyncio.Future[None]) -> None:
        self._link = link
        self._lost = lost
        self._buffer = FrameBuffer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none of its subclasses
        self._transport = transport
        self._link.connected(transport)

    def data_received(self, data: bytes) -> None:
        try:
            for fields in self._buffer.feed(data):
                self._link.received(fields)
        except (ProtocolError, IndexError, TypeError, ValueError):
            self._transport.abort()

    def pause_writing(self) -> None:
        self._link.pause(True)

    def resume_writing(self) -> None:
        self._link.pause(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.disconnected()
        if not self._lost.done():
            self._lost.set_result(None)
