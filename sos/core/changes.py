"""The member change that is under way, at whoever leads. A request lapses when nobody repeats it.

A member that is marked as leaving is carried through all the same, for the mark stands in the list
(protocols.md 3.6). The rules are in ``change_rules``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sos.catalog.model import NodeId
from sos.clock import Clock
from sos.core.admission import Situation, Step
from sos.core.change_rules import follow, judge, leaving_of, member_of
from sos.core.change_words import Action, Change, ChangeAnswer, ChangeState

_LAPSE_S: Final = 15.0  # longer than an election and a few questions that got lost
_LET_GO_S: Final = 2.0  # who waits for a change repeats it twice a second


class Changes:
    """The change that is under way, at whoever leads; forgotten with the leadership."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._change: Change | None = None
        self._asked_at = 0.0

    def ask(self, change: Change, situation: Situation) -> ChangeAnswer:
        """Take ``change``, or say why not, or where it is."""
        now = self._clock.monotonic()
        busy = self._in_the_way(change, situation, now)
        if busy is not None:
            return ChangeAnswer(state=ChangeState.REFUSED, reason=busy)
        answer = judge(change, situation).answer
        is_known = change == self._change
        if answer.state is ChangeState.WORKING:
            self._change, self._asked_at = change, now
        elif is_known:
            self._change = None
        elif answer.state is ChangeState.DONE:
            return replace(answer, state=ChangeState.ALREADY)
        return answer

    def next_step(self, situation: Situation) -> Step | None:
        """What the leader does next; None when there is nothing to do."""
        change = self._wanted(situation)
        return follow(situation) if change is None else judge(change, situation).step

    def learners(self, situation: Situation) -> frozenset[NodeId]:
        """The newcomer that is to be added: it is fed before it votes."""
        expected = self.expected(situation)
        return frozenset(
            node
            for node, newcomer in situation.newcomers.items()
            if expected.get(newcomer.name) == newcomer.address and newcomer.level >= situation.level
        )

    def expected(self, situation: Situation) -> dict[str, str]:
        """Address by name of the node that is to be added."""
        change = self._wanted(situation)
        if change is None or change.action not in (Action.ADD, Action.REPLACE):
            return {}
        name = change.new if change.action is Action.REPLACE else change.name
        return {} if member_of(situation, name) is not None else {name: change.address}

    def reset(self) -> None:
        """This node leads no more: who asked asks the next leader."""
        self._change = None

    def _wanted(self, situation: Situation) -> Change | None:
        if self._change is not None and self._clock.monotonic() - self._asked_at > _LAPSE_S:
            self._change = None
        if self._change is not None:
            return self._change
        leaving = leaving_of(situation)
        return None if leaving is None else Change(action=Action.REMOVE, name=leaving.name)

    def _in_the_way(self, change: Change, situation: Situation, now: float) -> str | None:
        """Which other change is under way; None if ``change`` may begin or go on."""
        current = self._wanted(situation)
        leaving = leaving_of(situation)
        if current is None or current == change:
            return None
        if judge(current, situation).answer.state is not ChangeState.WORKING:
            return None  # it is over; whoever asked for it was perhaps told so by the node that it removed
        silent_s = now - self._asked_at if self._change is not None else _LAPSE_S
        is_about_it = leaving is not None and change.name == leaving.name
        if is_about_it and change.action is not Action.MOVE and silent_s > _LET_GO_S:
            return None  # a removal goes on by any command that means it, or is taken back
        if leaving is not None and self._change is None:
            return (
                f"a change is under way: {current}; `sos member add {leaving.name}={leaving.address}` "
                "takes it back"
            )
        return f"a change is under way: {current}"
