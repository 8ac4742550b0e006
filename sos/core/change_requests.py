"""Member changes between a person and the leader: any node takes one, asks the leader, and passes the answer on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sos.catalog.model import NodeId
from sos.core.admission import Situation
from sos.core.change_words import Action, BadChange, Change, ChangeAnswer, ChangeState, parse_change
from sos.core.changes import Changes
from sos.core.messages import AppKind, AppRefused, known_fields
from sos.packing import pack

_ANSWER_S_MAX: Final = 5.0  # a barrier may wait for an election
_WAITING_MAX: Final = 256
_TEXT_CHARS_MAX: Final = 1000
_NO_LEADER: Final = ChangeAnswer(
    state=ChangeState.UNKNOWN, reason="no leader that a majority follows answered"
)


class Raft(Protocol):
    """What is needed of ``sos.raft.node.RaftNode``."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> str | None: ...

    def send_app(self, peer: str, payload: bytes, /) -> bool: ...


Barrier = Callable[[Callable[[int | None], None]], None]
Answered = Callable[[ChangeAnswer], None]


class ChangeRequests:
    """Of one core. ``situation`` is asked only while this node leads."""

    def __init__(
        self,
        raft: Raft,
        changes: Changes,
        *,
        barrier: Barrier,
        situation: Callable[[], Situation],
        removed: Callable[[], NodeId | None],
    ) -> None:
        """``removed``: this node's own id once it was removed: it has no leader that could say so."""
        self._raft = raft
        self._changes = changes
        self._barrier = barrier
        self._situation = situation
        self._removed = removed
        self._waiting: dict[int, Answered] = {}
        self._count = 0

    async def ask(self, document: object) -> dict[str, Any]:
        """What the leader says of a change, as the admin listener tells it. Raises: ValueError."""
        change = parse_change(document)
        answer = await self._ask_leader(change)
        return {
            "state": answer.state.value,
            "reason": answer.reason,
            "step": answer.step,
            "progress": dict(answer.progress),
            "eta_s": answer.eta_s,
        }

    async def _ask_leader(self, change: Change) -> ChangeAnswer:
        leader, removed = self._raft.leader, self._removed()
        if removed is not None and change == _removal_of(removed):
            return ChangeAnswer(state=ChangeState.DONE, reason=f"{change.name} is no member")
        if leader is None or len(self._waiting) >= _WAITING_MAX:
            return _NO_LEADER
        done: asyncio.Future[ChangeAnswer] = asyncio.get_running_loop().create_future()

        def answered(answer: ChangeAnswer) -> None:
            if not done.done():
                done.set_result(answer)

        self._count += 1
        number = self._count
        if self._raft.is_leader:
            self._decide(change, answered)
        else:
            self._waiting[number] = answered
            self._raft.send_app(leader, _encode_request(number, change))
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                return await done
        except TimeoutError:
            return _NO_LEADER
        finally:
            self._waiting.pop(number, None)

    def _decide(self, change: Change, answered: Answered) -> None:
        """After a barrier: a leader that was cut off knows an old list (protocols.md 3.2)."""

        def passed(index: int | None) -> None:
            if index is None or not self._raft.is_leader:
                answered(_NO_LEADER)
            else:
                answered(self._changes.ask(change, self._situation()))

        self._barrier(passed)

    # --- what peers say ---------------------------------------------------------------------------
    def take(self, peer: NodeId, kind: AppKind, fields: Sequence[Any]) -> None:
        """A request of another node, or the leader's answer to one of ours. Raises: AppRefused."""
        if kind is AppKind.MEMBER_REQUEST:
            number, change = _check_request(fields)
            if self._raft.is_leader:
                self._decide(
                    change, lambda answer: self._send(peer, _encode_answer(number, answer))
                )
            else:
                self._send(peer, _encode_answer(number, _NO_LEADER))
        else:
            number, answer = _check_answer(fields)
            answered = self._waiting.get(number)
            if answered is not None:
                answered(answer)

    def _send(self, peer: NodeId, payload: bytes) -> None:
        self._raft.send_app(peer, payload)


def _removal_of(node: NodeId) -> Change:
    return Change(action=Action.REMOVE, name=node.partition("@")[0])


# --- on the wire --------------------------------------------------------------------------------------
def _encode_request(number: int, change: Change) -> bytes:
    fields = [number, change.action.value, change.name, change.address, change.new]
    return pack([int(AppKind.MEMBER_REQUEST), *fields])


def _check_request(fields: Sequence[Any]) -> tuple[int, Change]:
    """Raises: AppRefused."""
    known = known_fields(fields, (int, str, str, str, str), "a member change")
    number, action, name, address, new = known
    document = {"action": action, "name": name, "address": address, "new": new}
    try:
        return number, parse_change(document)
    except BadChange as error:
        raise AppRefused(str(error)) from error


def _encode_answer(number: int, answer: ChangeAnswer) -> bytes:
    eta_ms = -1 if answer.eta_s is None else round(answer.eta_s * 1000)
    fields = [number, answer.state.value, answer.reason, answer.step, dict(answer.progress), eta_ms]
    return pack([int(AppKind.MEMBER_ANSWER), *fields])


def _check_answer(fields: Sequence[Any]) -> tuple[int, ChangeAnswer]:
    """Raises: AppRefused."""
    kinds = (int, str, str, str, dict, int)
    known = known_fields(fields, kinds, "an answer to a member change")
    number, state, reason, step, progress, eta_ms = known
    if not all(type(key) is str and type(count) is int for key, count in progress.items()):
        raise AppRefused("progress is counts by name")
    if state not in {one.value for one in ChangeState} or len(reason + step) > _TEXT_CHARS_MAX:
        raise AppRefused("not an answer to a member change")
    return number, ChangeAnswer(
        state=ChangeState(state),
        reason=reason,
        step=step,
        progress=progress,
        eta_s=None if eta_ms < 0 else eta_ms / 1000,
    )
