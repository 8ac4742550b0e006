"""The witness check: every answer names the log position it reflects; n log n, any number of keys.

It believes the positions that the server tells (``x-sos-index`` in test mode) and checks that they explain every
answer, never go back in real time, and are used once.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.checkers.history import WRITES, Kind, Op, verdict


def check(ops: Iterable[Op]) -> list[str]:
    """What is wrong, a line each; empty if the positions explain the whole history."""
    known = [op for op in ops if op.position is not None]
    return _replay(known) + freshness(known)


def _replay(known: list[Op]) -> list[str]:
    problems: list[str] = []
    log = sorted((op for op in known if op.kind in WRITES), key=lambda op: op.position or (0, 0))
    if len({op.position for op in log}) != len(log):
        problems.append("two writes claim one log position")
    reads = sorted(
        (op for op in known if op.kind not in WRITES), key=lambda op: op.position or (0, 0)
    )
    state: dict[str, str] = {}
    at = 0
    for op in reads:
        while at < len(log) and (log[at].position or (0, 0)) <= (op.position or (0, 0)):
            problems += _apply(state, log[at])
            at += 1
        if op.kind is Kind.GET:
            if state.get(op.key) != op.answer:
                problems.append(
                    f"read {op.id} of {op.key}: {op.answer}, the log says {state.get(op.key)}"
                )
        elif any(state.get(key) != (op.listed or {}).get(key) for key in op.keys):
            problems.append(f"list {op.id} differs from the log at {op.position}")
    for op in log[at:]:
        problems += _apply(state, op)
    return problems


def _apply(state: dict[str, str], op: Op) -> list[str]:
    current = state.get(op.key)
    certain = op.returned is not None
    if op.kind is Kind.PUT:
        state[op.key] = op.value
        return []
    if op.kind is Kind.DELETE:
        state.pop(op.key, None)
        return []
    if op.kind is Kind.COPY:
        value = state.get(op.source)
        wrong = certain and op.answer != value
        if value is not None:
            state[op.key] = value
        return [f"copy {op.id}: {op.answer}, the log says {value}"] if wrong else []
    answer = verdict(op.condition, current)
    if answer == "ok":
        if op.kind is Kind.CONDITIONAL_PUT:
            state[op.key] = op.value
        else:
            state.pop(op.key, None)
    if certain and op.answer != answer:
        return [f"{op.kind.value} {op.id} of {op.key}: answered {op.answer}, the log says {answer}"]
    return []


def freshness(ops: Iterable[Op]) -> list[str]:
    """P8: an op may not reflect a position below one acknowledged before it was sent; a write's is strictly above.

    Needs no position of every write: what is known must not go back. A refused write may have been refused from a
    view, so it counts as a read.
    """
    problems = []
    known = [op for op in ops if op.position is not None]
    finished = sorted(
        (op for op in known if op.returned is not None), key=lambda op: op.returned or 0.0
    )
    highest = (0, 0)
    at = 0
    for op in sorted(known, key=lambda op: op.called):
        while at < len(finished) and (finished[at].returned or 0.0) < op.called:
            highest = max(highest, finished[at].position or (0, 0))
            at += 1
        position = op.position or (0, 0)
        took_effect = op.kind in WRITES and op.answer not in ("412", "404")
        if position < highest or (position == highest and took_effect and highest != (0, 0)):
            problems.append(
                f"{op.kind.value} {op.id} of {op.key} stands at {position}, {highest} was acknowledged before"
            )
    return problems
