"""Do the two history checkers tell right from wrong? Judged by brute force, by correct stores, by planted lies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tests.checkers import linearizability, witness
from tests.checkers.history import ANY, NONE, WRITES, Kind, Op, verdict


def effect(state: dict[str, str], op: Op) -> str | dict[str, str] | None:
    """Apply ``op`` to ``state`` in place, and tell its answer: the whole model in a few lines."""
    if op.kind is Kind.LIST:
        return {key: state[key] for key in op.keys if key in state}
    if op.kind is Kind.GET:
        return state.get(op.key)
    if op.kind is Kind.COPY:
        value = state.get(op.source)
        if value is not None:
            state[op.key] = value
        return value
    conditional = op.kind in (Kind.CONDITIONAL_PUT, Kind.CONDITIONAL_DELETE)
    answer = verdict(op.condition, state.get(op.key)) if conditional else "ok"
    if answer == "ok":
        if op.kind in (Kind.PUT, Kind.CONDITIONAL_PUT):
            state[op.key] = op.value
        else:
            state.pop(op.key, None)
    return answer


def seen(op: Op) -> object:
    return op.listed if op.kind is Kind.LIST else op.answer


def brute(state: dict[str, str], left: list[Op]) -> bool:
    """Try every order."""
    certain = [op.returned for op in left if op.returned is not None]
    if not certain:
        return True
    for n, op in enumerate(left):
        if op.called <= min(certain):
            after = dict(state)
            answer = effect(after, op)
            if (op.returned is None or answer == seen(op)) and brute(
                after, left[:n] + left[n + 1 :]
            ):
                return True
    return False


def draw(r: random.Random, n: int, keys: list[str], kind: Kind, etag: Callable[[], str]) -> Op:
    op = Op(id=n, kind=kind, key=r.choice(keys), value=f"v{n}", called=0, returned=0)
    if kind is Kind.CONDITIONAL_PUT:
        return replace(op, condition=r.choice([NONE, etag()]))
    if kind is Kind.CONDITIONAL_DELETE:
        return replace(op, condition=r.choice([ANY, etag()]))
    if kind is Kind.LIST:
        return replace(op, keys=tuple(keys))
    if kind is Kind.COPY:
        return replace(op, source=r.choice([key for key in keys if key != op.key]))
    return op


def small(r: random.Random) -> list[Op]:
    """A short history with drawn answers: most are impossible."""
    size = r.randint(2, 7)
    keys = r.choice([["a"], ["a", "b"]])
    kinds = [k for k in Kind if len(keys) > 1 or k not in (Kind.COPY, Kind.LIST)]
    ops = []
    for n in range(size):
        op = draw(r, n, keys, r.choice(kinds), lambda: f"v{r.randrange(size)}")
        called = r.randint(0, 20) + n * 0.001
        returned = called + r.randint(1, 8) + 0.5 if r.random() > 0.3 else None
        value = r.choice([None, *(f"v{x}" for x in range(size))])
        listed = None
        if op.kind in (Kind.GET, Kind.COPY):
            answer = value
        elif op.kind is Kind.LIST:
            answer = None
            drawn = {key: r.choice([None, *(f"v{x}" for x in range(size))]) for key in keys}
            listed = {key: v for key, v in drawn.items() if v is not None}
        elif op.kind in (Kind.CONDITIONAL_PUT, Kind.CONDITIONAL_DELETE):
            answer = r.choice(["ok", "412", "404"])
        else:
            answer = "ok"
        ops.append(replace(op, called=called, returned=returned, answer=answer, listed=listed))
    return ops


def _last_value(last: dict[str, str], key: str) -> str:
    return last.get(key, "v?")


def correct_store(seed: int, *, size: int, groups: int, group_keys: int, clients: int) -> list[Op]:
    """The history of a correct store: each op takes effect at one moment between its call and its return."""
    r = random.Random(seed)
    free = [(r.random(), client) for client in range(clients)]
    names = [[f"{g}/{i}" for i in range(group_keys)] for g in range(groups)]
    kinds = (
        [Kind.PUT] * 2
        + [Kind.GET] * 4
        + [Kind.CONDITIONAL_PUT, Kind.DELETE, Kind.CONDITIONAL_DELETE]
    )
    kinds += [Kind.LIST, Kind.COPY] if group_keys > 1 else []
    timed: list[tuple[float, Op]] = []
    last: dict[str, str] = {}
    for n in range(size):
        free.sort()
        now, client = free[0]
        keys = r.choice(names)
        op = draw(r, n, keys, r.choice(kinds), partial(_last_value, last, keys[0]))
        last[op.key] = op.value
        at = now + r.random()
        returned = at + r.random()
        free[0] = (returned + 0.01, client)
        timed.append(
            (at, replace(op, called=now, returned=returned if r.random() >= 0.02 else None))
        )
    state: dict[str, str] = {}
    ops, position = [], 0
    for _, op in sorted(timed, key=lambda pair: pair[0]):
        lost = op.returned is None and r.random() < 0.5
        position += op.kind in WRITES and not lost
        answer = None if lost else effect(state, op)
        silent = lost or (op.returned is None and op.kind not in WRITES)
        where = None if silent else (position, 0)
        if op.kind is Kind.LIST:
            assert answer is None or isinstance(answer, dict)
            ops.append(replace(op, listed=answer, position=where))
        else:
            assert not isinstance(answer, dict)
            ops.append(replace(op, answer=answer, position=where))
    return ops


def plant(r: random.Random, ops: list[Op]) -> list[Op]:
    """One lie: a stale read, a read that misses a write, a false success or a false refusal."""
    for op in r.sample(ops, len(ops)):
        if op.returned is None:
            continue
        if op.kind is Kind.GET:
            earlier = [
                x.value
                for x in ops
                if x.kind is Kind.PUT and x.key == op.key and x.returned and x.returned < op.called
            ]
            choices = [v for v in [None, *earlier[-5:-1]] if v != op.answer] or ["never written"]
            lie = replace(op, answer=r.choice(choices))
        elif op.kind in (Kind.CONDITIONAL_PUT, Kind.CONDITIONAL_DELETE):
            lie = replace(op, answer="412" if op.answer == "ok" else "ok")
        else:
            continue
        return [lie if x is op else x for x in ops]
    raise AssertionError("a history without a reply cannot lie")


def test_the_checker_agrees_with_brute_force() -> None:
    """P2: a checker that differs from "try every order" on any small history is worthless."""
    r = random.Random(1)
    impossible = 0
    for _ in range(12_000):
        ops = small(r)
        truth = brute({}, ops)
        assert linearizability.check(ops).holds == truth, ops
        impossible += not truth
    assert 2_000 < impossible < 11_900


def test_correct_histories_are_accepted() -> None:
    """P2, P8: no false alarm from either checker, with and without groups."""
    for group_keys in (1, 4):
        ops = correct_store(7, size=4_000, groups=20, group_keys=group_keys, clients=8)
        assert linearizability.check(ops).holds
        assert witness.check(ops) == []


def test_planted_lies_are_found() -> None:
    """P2, P8: at least 18 of 20 lies in long histories (the rest are legal by overlap); the witness finds all."""
    found = [0, 0]
    for seed in range(20):
        ops = plant(
            random.Random(seed), correct_store(seed, size=2_000, groups=20, group_keys=1, clients=8)
        )
        found[0] += not linearizability.check(ops).holds
        found[1] += bool(witness.check(ops))
    assert found[0] >= 18
    assert found[1] == 20
