"""The parts of the core that decide: proposer, holder reports, catch-up, sweep floor, digests, messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.catalog.codec import decode_entry, encode_command, encode_result
from sos.catalog.model import (
    AccessKeyId,
    BlobId,
    Command,
    Done,
    NodeId,
    Rejection,
    ReportHolders,
    Result,
    RevokeAccessKey,
)
from sos.clock import ManualClock
from sos.core.catchup import CatchUp, MemberView
from sos.core.floor import FloorSamples
from sos.core.gossip import Peers, check_digests
from sos.core.holders import HolderReports
from sos.core.messages import (
    AppKind,
    AppRefused,
    NodeReport,
    check_report,
    check_rows,
    decode_app,
    encode_proposals,
    encode_report,
)
from sos.core.proposer import OwnProposals, Proposer
from sos.errors import FatalStop, OutcomeUnknown, Unavailable
from sos.limits import COMMIT_S_MAX, PROPOSALS_QUEUED_MAX
from sos.link.protocol import Answer
from sos.raft.api import Applied, ProposeOutcome, Refused, RefusedReason, Unknown

N1, N2 = NodeId("n1@0000000000000001"), NodeId("n2@0000000000000002")


class FakeConsensus:
    """Raft as a test wants it: entries wait until the test decides them."""

    def __init__(self, *, is_leader: bool = True, leader: str | None = N1) -> None:
        self.is_leader = is_leader
        self.leader = leader
        self.entries: list[tuple[bytes, Callable[[ProposeOutcome], None]]] = []
        self.sent: list[tuple[str, bytes]] = []
        self.is_connected = True

    def propose(self, payload: bytes, done: Callable[[ProposeOutcome], None]) -> None:
        self.entries.append((payload, done))

    def send_app(self, peer: str, payload: bytes) -> bool:
        if self.is_connected:
            self.sent.append((peer, payload))
        return self.is_connected


class FakeOrigin:
    def __init__(self) -> None:
        self.answers: dict[bytes, tuple[Answer, bytes]] = {}

    def answer(self, request_id: bytes, answer: Answer, payload: bytes = b"") -> None:
        assert request_id not in self.answers, "answered twice"
        self.answers[request_id] = (answer, payload)


def _rows(count: int, size: int = 10) -> list[tuple[bytes, int, bytes]]:
    return [(number.to_bytes(16, "big"), 1, b"c" * size) for number in range(count)]


def _with_loop(test: Callable[[], Any]) -> None:
    async def body() -> None:
        result = test()
        if asyncio.iscoroutine(result):
            await result

    asyncio.run(body())


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the parts under test tell nobody
            await asyncio.sleep(0.005)


def test_waiting_operations_share_an_entry_and_are_answered_in_order() -> None:
    """Design 5: many operations in one entry; each answered by its own result."""

    async def test() -> None:
        raft, origin = FakeConsensus(), FakeOrigin()
        proposer = Proposer(raft, clock=ManualClock())
        proposer.submit(_rows(3), origin)
        await _turns()
        ((payload, done),) = raft.entries
        assert [o.request_id for o in decode_entry(payload)] == [row[0] for row in _rows(3)]
        done(Applied(index=2, term=1, result=[b"a", b"b", b"c"]))
        assert [origin.answers[row[0]] for row in _rows(3)] == [
            (Answer.RESULT, text) for text in (b"a", b"b", b"c")
        ]

    _with_loop(test)


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Refused(reason=RefusedReason.NOT_LEADER), Answer.NO_LEADER),
        (Refused(reason=RefusedReason.DISCARDED), Answer.NO_LEADER),
        (Refused(reason=RefusedReason.QUEUE_FULL), Answer.QUEUE_FULL),
        (Unknown(), Answer.UNKNOWN),
    ],
)
def test_outcomes_keep_their_certainty(outcome: ProposeOutcome, answer: Answer) -> None:
    """House style 6: definite refusals are definite, everything else is unknown."""

    async def test() -> None:
        raft, origin = FakeConsensus(), FakeOrigin()
        Proposer(raft, clock=ManualClock()).submit(_rows(1), origin)
        await _turns()
        raft.entries[0][1](outcome)
        assert origin.answers[_rows(1)[0][0]][0] is answer

    _with_loop(test)


def test_the_queue_is_bounded_and_refuses_definitely() -> None:
    """Design 12: beyond PROPOSALS_QUEUED_MAX operations 503 SlowDown; several entries in flight."""

    async def test() -> None:
        raft, origin = FakeConsensus(), FakeOrigin()
        proposer = Proposer(raft, clock=ManualClock())
        proposer.submit(_rows(PROPOSALS_QUEUED_MAX + 7), origin)
        refused = [answer for answer, _ in origin.answers.values()]
        assert refused == [Answer.QUEUE_FULL] * 7

    _with_loop(test)


def test_losing_the_leadership_refuses_what_never_was_an_entry() -> None:
    """Design 5: what waits in the queue was certainly not applied."""

    async def test() -> None:
        raft, origin = FakeConsensus(), FakeOrigin()
        proposer = Proposer(raft, clock=ManualClock())
        proposer.submit(_rows(2), origin)
        proposer.refuse_waiting()
        await _turns()
        assert raft.entries == []
        assert {answer for answer, _ in origin.answers.values()} == {Answer.NO_LEADER}

    _with_loop(test)


def test_followers_forward_and_give_up_as_unknown() -> None:
    """Design 5: to a leader that is gone the outcome is unknown; without connection it is definite."""

    async def test() -> None:
        clock = ManualClock()
        raft, origin = FakeConsensus(is_leader=False, leader=N2), FakeOrigin()
        proposer = Proposer(raft, clock=clock)
        rows = _rows(4)
        proposer.submit(rows[:1], origin)
        kind, fields = decode_app(raft.sent[0][1])
        assert kind is AppKind.PROPOSALS
        assert check_rows(fields[0], middle_max=9) == rows[:1]
        proposer.take_answers(N2, [(rows[0][0], int(Answer.RESULT), b"r")])
        proposer.submit(rows[1:2], origin)
        proposer.give_up(lambda leader: leader == N2)
        proposer.submit(rows[2:3], origin)
        clock.advance(COMMIT_S_MAX + 1)
        proposer.expire()
        raft.is_connected = False
        proposer.submit(rows[3:], origin)
        assert [origin.answers[row[0]][0] for row in rows] == [
            *(Answer.RESULT, Answer.UNKNOWN, Answer.UNKNOWN, Answer.NO_LEADER)
        ]
        proposer.take_answers(N2, [(rows[1][0], int(Answer.RESULT), b"late")])

    _with_loop(test)


def test_own_commands_are_resent_under_one_id() -> None:
    """Protocols 5: the core's own commands follow the same rules as a gateway's."""

    async def test() -> None:
        raft = FakeConsensus()
        proposer = Proposer(raft, clock=ManualClock())
        own = OwnProposals(proposer, clock=ManualClock(), session=b"s" * 8, applied=lambda: 5)
        command = RevokeAccessKey(access_key=AccessKeyId("k"))
        call = asyncio.create_task(own.propose(command))
        await _turns()
        raft.entries[0][1](Unknown())
        await _until(lambda: len(raft.entries) == 2)
        first, second = (decode_entry(payload)[0] for payload, _ in raft.entries)
        assert first == second
        assert first.command == encode_command(command)
        raft.entries[1][1](Applied(index=6, term=1, result=[encode_result(Done())]))
        assert await call == Done()

    _with_loop(test)


def test_reports_of_holders_rise_in_sequence_and_the_newest_word_counts() -> None:
    """Protocols 4.1: a sequence per incarnation, raised by every start; a late report must not undo a newer one."""

    async def test() -> None:
        proposed: list[ReportHolders] = []
        failing = [False]

        async def propose(command: Command) -> Result:
            assert isinstance(command, ReportHolders)
            proposed.append(command)
            if failing[0]:
                raise OutcomeUnknown("?")
            return Done()

        reports = HolderReports(propose, node=N1, boot=3, on_doubt=_no_doubt)
        blobs = [BlobId(bytes([number]) * 16) for number in range(3)]
        answers: list[bool] = []
        reports.add((blobs[0], blobs[1]), (), answers.append)
        reports.add((blobs[2],), (blobs[0],), answers.append)
        await _until(lambda: len(answers) == 2)
        failing[0] = True
        reports.add((blobs[0],), (), answers.append)
        await _until(lambda: len(answers) == 3)

        assert answers == [True, True, False]
        assert [p.sequence for p in proposed] == [(3 << 32) + 1, (3 << 32) + 2]
        assert proposed[0].gained == (blobs[1], blobs[2])
        assert proposed[0].lost == (blobs[0],)

    _with_loop(test)


def _no_doubt() -> None:
    raise AssertionError("nothing was left out")


@pytest.mark.parametrize("failure", [OutcomeUnknown("?"), Unavailable("no leader")])
def test_a_lost_copy_is_told_until_the_catalog_has_it(failure: Exception) -> None:
    """Issue 4, item 9: quarantined and owed, also if there was no leader then; the newest word is told."""

    async def test() -> None:
        proposed: list[ReportHolders] = []
        blobs = [BlobId(bytes([number]) * 16) for number in range(3)]
        answers: list[bool] = []

        async def propose(command: Command) -> Result:
            assert isinstance(command, ReportHolders)
            proposed.append(command)
            if len(proposed) == 1:
                reports.add((blobs[1],), (), answers.append)  # made again meanwhile
                raise failure
            return Done()

        reports = HolderReports(propose, node=N1, boot=1, on_doubt=_no_doubt)
        reports.add((), (blobs[0], blobs[1]), answers.append)
        await _until(lambda: len(answers) == 2)

        assert answers == [False, True]
        assert [set(p.lost) for p in proposed] == [{blobs[0], blobs[1]}, {blobs[0]}]
        assert proposed[1].gained == (blobs[1],)
        assert proposed[0].sequence < proposed[1].sequence

    _with_loop(test)


def test_what_cannot_be_kept_is_left_to_the_full_comparison() -> None:
    """Bounded memory: then the leader is told to compare, and never that all is well."""

    async def test() -> None:
        doubts: list[int] = []
        answers: list[bool] = []

        async def propose(command: Command) -> Result:
            raise Unavailable("no leader")

        reports = HolderReports(propose, node=N1, boot=1, on_doubt=lambda: doubts.append(1))
        many = [BlobId(number.to_bytes(16, "big")) for number in range(150_000)]
        reports.add((), many, answers.append)
        assert not doubts
        reports.add((), many, answers.append)
        assert (doubts, answers) == ([1], [False])

    _with_loop(test)


# --- catch-up -------------------------------------------------------------------------------------
class Jobs:
    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.ended: list[Callable[[bool, dict[str, Any]], None]] = []
        self.cancelled: list[int] = []
        self.has_gateway = True

    def start(
        self, kind: str, arguments: dict[str, Any], ended: Callable[[bool, dict[str, Any]], None]
    ) -> int | None:
        if not self.has_gateway:
            return None
        assert kind == "resync"
        self.started.append(arguments)
        self.ended.append(ended)
        return len(self.started)


def test_own_commands_that_the_catalog_forgot_are_unknown() -> None:
    """Protocols 5.2: too old to remember is no refusal: it may have been applied."""

    async def test() -> None:
        raft = FakeConsensus()
        proposer = Proposer(raft, clock=ManualClock())
        own = OwnProposals(proposer, clock=ManualClock(), session=b"s" * 8, applied=lambda: 5)
        call = asyncio.create_task(own.propose(RevokeAccessKey(access_key=AccessKeyId("k"))))
        await _turns()
        forgotten = encode_result(Rejection.TOO_OLD_TO_REMEMBER)
        raft.entries[0][1](Applied(index=6, term=1, result=[forgotten]))
        with pytest.raises(OutcomeUnknown):
            await call

    _with_loop(test)


def _member(
    node: NodeId = N2, *, owed: int = 0, connected: bool = True, caught_up: bool = True
) -> MemberView:
    return MemberView(
        node=node,
        is_connected=connected,
        has_gateway=True,
        is_caught_up=caught_up,
        is_up_to_date=caught_up,
        doubt=0,
        blobs_owed=owed,
        bytes_owed=owed,
    )


def test_a_member_is_compared_once_per_connection_and_then_by_its_owed_list() -> None:
    """Design 10: the full comparison is the truth; the owed list only saves time."""
    clock, jobs = ManualClock(), Jobs()
    care = CatchUp(clock=clock, start_job=jobs.start, cancel_job=jobs.cancelled.append)

    care.update([_member(caught_up=False)])
    assert jobs.started == []
    care.update([_member()])
    care.update([_member()])
    assert jobs.started == [{"node": N2, "full": True}]
    assert not care.is_in_sync(_member())
    care.progress(1, {"bytes_done": 10, "bytes_total": 30})
    clock.advance(2)
    assert care.eta_s(N2) == 4.0
    jobs.ended[0](True, {})
    assert care.is_compared(_member())
    assert care.is_in_sync(_member())

    care.update([_member(owed=5)])
    assert len(jobs.started) == 1, "late answers of a write need no resync"
    clock.advance(1.5)
    care.update([_member(owed=5)])
    assert jobs.started[1] == {"node": N2, "full": False}
    clock.advance(5)
    assert not care.is_in_sync(_member(owed=5)), "owed for more than 5 s"
    jobs.ended[1](False, {"error": "disk"})
    clock.advance(2)
    care.update([_member(owed=5)])
    assert len(jobs.started) == 3, "a failed job is tried again"

    care.update([_member(connected=False)])
    care.update([_member()])
    assert jobs.started[3]["full"], "compared in full after every connection"


def test_no_gateway_no_job_and_a_new_leader_compares_for_itself() -> None:
    """A job needs gateway 0; what an earlier leader knew is forgotten."""
    clock, jobs = ManualClock(), Jobs()
    care = CatchUp(clock=clock, start_job=jobs.start, cancel_job=jobs.cancelled.append)
    jobs.has_gateway = False
    care.update([_member()])
    jobs.has_gateway = True
    clock.advance(2)
    care.update([_member()])
    jobs.ended[0](True, {})
    care.reset()
    assert not care.is_compared(_member())


# --- floor, digests, messages ---------------------------------------------------------------------
@given(st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 9)), max_size=60))
def test_the_sweep_floor_never_names_an_index_younger_than_its_age(
    steps: list[tuple[float, int]],
) -> None:
    """Protocols 4.4: an orphan lives at least its age, by this node's monotonic clock."""
    clock, index = ManualClock(), 1
    samples = FloorSamples(clock=clock, age_s=60.0)
    history: list[tuple[float, int]] = []
    for seconds, entries in steps:
        clock.advance(seconds)
        index += entries
        samples.sample(index)
        history.append((clock.monotonic(), index))
        floor = samples.floor()
        old = [i for at, i in history if at <= clock.monotonic() - 60.0]
        assert floor == (old[-1] if old else None)


def test_digests_that_differ_at_one_index_stop_the_node() -> None:
    """House style 7: members compare digests at equal index; who stands against a majority stops."""
    good, bad = {1024: b"a", 2048: b"b"}, {1024: b"a", 2048: b"x"}
    assert check_digests(good, [_report(good), _report({3072: b"c"})], majority=2) is None
    with pytest.raises(FatalStop):
        check_digests(bad, [_report(good), _report(good)], majority=2)


def test_one_bad_leader_stops_no_good_member() -> None:
    """The leader has no better claim than others: only the one in the minority stops."""
    good, bad = {1024: b"a", 2048: b"b"}, {1024: b"a", 2048: b"x"}
    assert check_digests(good, [_report(bad), _report(good)], majority=2) == 2048


def test_without_a_majority_of_digests_nobody_decides() -> None:
    """One against one: a third report decides, and until then both say that they differ."""
    good, bad = {1024: b"a"}, {1024: b"x"}
    assert check_digests(good, [_report(bad)], majority=2) == 1024
    assert check_digests(bad, [_report(good)], majority=2) == 1024
    assert check_digests(good, [_report(bad), _report({1024: b"y"})], majority=2) == 1024
    five = [_report(bad), _report(bad), _report(good)]
    assert check_digests(good, five, majority=3) == 1024, "two and two of five"
    with pytest.raises(FatalStop):
        check_digests(good, [*five, _report(bad)], majority=3)


def _report(digests: dict[int, bytes] | None = None, applied: int = 9) -> NodeReport:
    return NodeReport(
        applied_index=applied,
        digests=tuple((digests or {}).items()),
        is_disk_low=True,
        has_gateway=False,
        version="1",
        free_bytes=7,
        doubt=(3 << 32) + 1,
    )


def test_up_to_date_is_who_applied_what_was_committed_half_a_second_ago() -> None:
    """Design 5: in sync means applied up to date; one that stands still near the end is not, nor a silent one."""
    clock = ManualClock()
    peers = Peers(clock=clock)
    assert not peers.is_up_to_date(N1)
    peers.take_report(N1, _report(applied=100), commit_index=150)
    assert not peers.is_up_to_date(N1), "of what it does not have nothing is known yet"
    clock.advance(0.5)
    peers.take_report(N1, _report(applied=150), commit_index=900)
    assert peers.is_up_to_date(N1)
    clock.advance(0.5)
    peers.take_report(N1, _report(applied=899), commit_index=901)
    assert not peers.is_up_to_date(N1)
    clock.advance(0.5)
    peers.take_report(N1, _report(applied=901), commit_index=950)
    clock.advance(1.6)
    assert not peers.is_up_to_date(N1), "silent"
    assert peers.report(N1) is not None


def test_reports_and_tables_grow_old() -> None:
    """Status shows what is fresh, or that it does not know."""
    clock = ManualClock()
    peers = Peers(clock=clock)
    peers.take_table(N1, {"members": []})
    assert peers.table(N1) == {"members": []}
    assert peers.table(N2) is None
    clock.advance(10)
    assert peers.table(N1) is None


@given(st.binary(max_size=200))
def test_hostile_messages_are_refused(data: bytes) -> None:
    """Faults 87: bytes of a broken peer give one declared error."""
    try:
        kind, fields = decode_app(data)
        if kind is AppKind.REPORT:
            check_report(fields)
        else:
            check_rows(fields[0], middle_max=3)
    except AppRefused:
        return


def test_message_round_trips() -> None:
    """What one core says is what the other hears."""
    report = _report({1024: b"a"})
    kind, fields = decode_app(encode_report(report))
    assert kind is AppKind.REPORT
    assert check_report(fields) == report
    kind, fields = decode_app(encode_proposals(_rows(2)))
    assert check_rows(fields[0], middle_max=1) == _rows(2)
    with pytest.raises(AppRefused):
        check_rows([[b"short", 0, b""]], middle_max=1)
