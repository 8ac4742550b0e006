"""Read barriers on every node: a leader confirms rounds, the others ask it (rules: ``reads.py``)."""

from __future__ import annotations

from typing import Final

from sos.clock import Clock
from sos.raft import messages as m
from sos.raft.api import BarrierDone, RaftSettings
from sos.raft.engine import SosRaft
from sos.raft.membership import Membership
from sos.raft.reads import BarrierQuestions, LocalBarrier, ReadRounds, RemoteBarrier

AGAIN_S: Final = 0.25  # a question or round without an answer is repeated after this
PAUSE_S: Final = 0.02


class Barriers:
    """Everybody who waits is answered once: with an index, or at the deadline with None."""

    def __init__(
        self,
        *,
        core: SosRaft,
        membership: Membership,
        send: m.Send,
        clock: Clock,
        settings: RaftSettings,
        first_seq: int,
    ) -> None:
        self._core = core
        self._membership = membership
        self._send = send
        self._clock = clock
        self._settings = settings
        self._rounds: ReadRounds[LocalBarrier | RemoteBarrier] = ReadRounds(
            seq=first_seq, again_s=AGAIN_S
        )
        self._questions = BarrierQuestions(seq=first_seq, again_s=AGAIN_S, pause_s=PAUSE_S)

    @property
    def are_waiting(self) -> bool:
        return not (self._questions.idle and self._rounds.idle)

    def add(self, done: BarrierDone) -> None:
        deadline_s = self._clock.monotonic() + self._settings.barrier_s_max
        self._questions.add(LocalBarrier(done, deadline_s))

    def turn(self) -> None:
        """Ask what is to be asked; answer what is confirmed."""
        if not self.are_waiting:
            return
        core, questions, rounds = self._core, self._questions, self._rounds
        if core.is_leader():
            for waiter in questions.take_all():
                rounds.add(waiter)
            self._turn_rounds()
            return
        for stranded in rounds.take_all():
            if isinstance(stranded, LocalBarrier):
                questions.add(stranded)
            else:
                self._send(stranded.node, m.BarrierAnswer(stranded.seq, core.term(), 0))
        leader = core.leader()
        if leader is not None and core.is_connected(leader):
            seq = questions.next_question(now_s=self._clock.monotonic())
            if seq is not None:
                self._send(leader, m.BarrierAsk(seq, core.term()))

    def _turn_rounds(self) -> None:
        """The leader's part: begin a round if one is due, and end those that a majority confirmed."""
        core, rounds = self._core, self._rounds
        term = core.term()
        if (
            core.own_term_committed()
        ):  # before that, acknowledged entries may lie above our commit index
            seq = rounds.begin(
                now_s=self._clock.monotonic(), term=term, commit_index=core.commit_index()
            )
            if seq is not None:
                for peer in self._membership.connected_voters():
                    self._send(peer, m.ReadAsk(seq, term))
        membership = self._membership
        for index, waiters in rounds.finished(
            term=term, voters=membership.voters, self_node=membership.self_id
        ):
            for waiter in waiters:
                if isinstance(waiter, LocalBarrier):
                    waiter.done(index)
                else:
                    self._send(waiter.node, m.BarrierAnswer(waiter.seq, term, index))

    def confirmed_by(self, peer: str, answer: m.ReadAnswer) -> None:
        """A peer stands by our term, after the question."""
        if answer.is_current and answer.term == self._core.term() and self._core.is_leader():
            self._rounds.answered(peer, answer.seq, answer.term)
            self._turn_rounds()

    def asked_by(self, peer: str, ask: m.BarrierAsk) -> None:
        """A peer takes us for the leader; that alone may be the majority it asks for (``reads.py``)."""
        core, membership = self._core, self._membership
        if core.own_term_committed() and self._rounds.is_confirmed(
            ask.term == core.term(), {peer}, membership.voters, membership.self_id
        ):
            self._send(peer, m.BarrierAnswer(ask.seq, ask.term, core.commit_index()))
            return
        deadline_s = self._clock.monotonic() + self._settings.barrier_s_max
        self._rounds.add(RemoteBarrier(peer, ask.seq, deadline_s))
        self.turn()

    def answered(self, answer: m.BarrierAnswer) -> None:
        """The leader's answer to our question."""
        if answer.index == 0:
            self._questions.unanswered(answer.seq, now_s=self._clock.monotonic())
            return
        for waiter in self._questions.answered(answer.seq):
            waiter.done(answer.index)
        self.turn()  # those who came meanwhile share the next question

    def leader_is_gone(self) -> None:
        self._questions.put_back()

    def sweep(self, now: float) -> None:
        """End what waits too long."""
        if not self.are_waiting:
            return

        def is_late(waiter: LocalBarrier | RemoteBarrier) -> bool:
            return waiter.deadline_s <= now

        for waiter in [*self._questions.drop(is_late), *self._rounds.drop(is_late)]:
            if isinstance(waiter, LocalBarrier):
                waiter.done(None)

    def close(self) -> None:
        """Answer everybody."""
        for waiter in [*self._rounds.take_all(), *self._questions.take_all()]:
            if isinstance(waiter, LocalBarrier):
                waiter.done(None)
