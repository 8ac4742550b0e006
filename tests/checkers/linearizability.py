"""Per-key linearizability of S3 histories: just-in-time linearization with configuration sets.

Wing and Gong 1993; Lowe 2017, "Testing for linearizability". It believes no number of the server's; the witness
(``witness.py``) does, and is linear in time: use both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.checkers.history import ANY, READS, Kind, Op, groups, verdict

State = tuple[str | None, ...]
Step = Callable[[State], State | None]  # None: the op cannot stand here

EXPANSIONS_MAX = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``violations``: group and the op that no order explains. ``undecided`` counts as a failure of the load."""

    groups: int
    violations: list[tuple[list[Op], Op]]
    undecided: list[list[Op]]

    @property
    def holds(self) -> bool:
        return not self.violations and not self.undecided


class _Undecided(Exception):
    pass


def check(ops: Iterable[Op]) -> Report:
    """Judge a whole history, group by group."""
    violations: list[tuple[list[Op], Op]] = []
    undecided: list[list[Op]] = []
    count = 0
    for group in groups(ops):
        count += 1
        try:
            culprit = _Search(group).run()
        except _Undecided:
            undecided.append(group)
            continue
        if culprit is not None:
            violations.append((group, culprit))
    return Report(groups=count, violations=violations, undecided=undecided)


def explain(group: list[Op], culprit: Op, *, context: int = 20) -> str:
    """The culprit and what happened around it on its keys, as a person reads it."""
    ordered = sorted(group, key=lambda op: op.called)
    at = ordered.index(culprit)
    rows = []
    for op in ordered[max(0, at - context) : at + context // 4]:
        end = "unknown" if op.returned is None else f"{op.returned:.4f}"
        seen = op.listed if op.kind is Kind.LIST else op.answer
        mark = "  <-- no order of events explains this answer" if op is culprit else ""
        rows.append(
            f"{op.called:.4f}..{end} {op.node} {op.kind.value} {'+'.join(op.touched())}"
            f" value={op.value or '-'} condition={op.condition or '-'} -> {seen}{mark}"
        )
    return "\n".join(rows)


def _put(state: State, at: int, value: str | None) -> State:
    return state if state[at] == value else (*state[:at], value, *state[at + 1 :])


def _step_for(op: Op, index: dict[str, int]) -> Step:
    unknown = op.returned is None
    if op.kind is Kind.LIST:
        listed = op.listed or {}
        expected = [(index[key], listed.get(key)) for key in op.keys]
        return lambda s: s if all(s[at] == value for at, value in expected) else None
    at = index[op.key]
    if op.kind is Kind.PUT:
        return lambda s: _put(s, at, op.value)
    if op.kind is Kind.DELETE:
        return lambda s: _put(s, at, None)
    if op.kind is Kind.GET:
        return lambda s: s if s[at] == op.answer else None
    if op.kind is Kind.COPY:
        source = index[op.source]
        if unknown:
            return lambda s: s if s[source] is None else _put(s, at, s[source])
        if op.answer is None:
            return lambda s: s if s[source] is None else None
        return lambda s: _put(s, at, s[source]) if s[source] == op.answer else None
    value = op.value if op.kind is Kind.CONDITIONAL_PUT else None
    if unknown:
        return lambda s: _put(s, at, value) if verdict(op.condition, s[at]) == "ok" else s
    if op.answer == "ok":
        return lambda s: _put(s, at, value) if verdict(op.condition, s[at]) == "ok" else None
    return lambda s: s if verdict(op.condition, s[at]) == op.answer else None


def _cannot_change(op: Op) -> bool:
    if op.returned is None:
        return False
    if op.kind in READS or (op.kind is Kind.COPY and op.answer is None):
        return True
    return op.kind in (Kind.CONDITIONAL_PUT, Kind.CONDITIONAL_DELETE) and op.answer != "ok"


def _prune(ops: list[Op]) -> list[Op]:
    """Drop unknown reads, and unknown writes whose value nobody can have noticed."""
    noticed: set[str | None] = set()
    any_value_noticed = (
        False  # a 412 or If-Match: * saw "some other value": any unknown write may explain it
    )
    for op in ops:
        if op.kind in (Kind.CONDITIONAL_PUT, Kind.CONDITIONAL_DELETE):
            noticed.add(op.condition)
            any_value_noticed |= op.condition == ANY or op.answer == "412"
        if op.returned is None:
            continue
        if op.kind in (Kind.GET, Kind.COPY):
            noticed.add(op.answer)
        elif op.kind is Kind.LIST:
            noticed.update((op.listed or {}).values())
    kept = []
    for op in ops:
        if op.returned is None:
            if op.kind in READS:
                continue
            writes_value = op.kind in (Kind.PUT, Kind.CONDITIONAL_PUT)
            if writes_value and op.value not in noticed and not any_value_noticed:
                continue
        kept.append(op)
    return kept


@dataclass(slots=True)
class _Search:
    """Walk calls and returns in time; when an op returns, extend every configuration until that op is in it.

    A configuration is (state, bits of pending certain ops already placed, bits of unknown ops already spent).
    Two cuts keep the sets small: an op that cannot change the state is placed as soon as it fits; of two
    configurations equal but for the unknown ops spent, the one that spent fewer is the better.
    """

    ops: list[Op]
    pure: dict[int, int] = field(default_factory=dict)
    certain: dict[int, int] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def run(self) -> Op | None:
        """The first op that no order explains, or None. Raises: _Undecided."""
        self.ops = _prune(self.ops)
        keys = sorted({key for op in self.ops for key in op.touched()})
        index = {key: at for at, key in enumerate(keys)}
        self.steps = [_step_for(op, index) for op in self.ops]
        events = [(op.called, 0, n) for n, op in enumerate(self.ops)]
        events += [(op.returned, 1, n) for n, op in enumerate(self.ops) if op.returned is not None]
        events.sort()
        configurations: list[tuple[State, int, int]] = [((None,) * len(keys), 0, 0)]
        bit_of: dict[int, int] = {}
        free: list[int] = []
        highest = 0
        for _, is_return, n in events:
            if not is_return:
                if free:
                    bit = free.pop()
                else:
                    bit, highest = 1 << highest, highest + 1
                bit_of[n] = bit
                self._pending(n)[bit] = n
                continue
            bit = bit_of.pop(n)
            configurations = self._place(configurations, bit)
            if not configurations:
                return self.ops[n]
            self.pure.pop(bit, None)
            self.certain.pop(bit, None)
            free.append(bit)
        return None

    def _pending(self, n: int) -> dict[int, int]:
        op = self.ops[n]
        if _cannot_change(op):
            return self.pure
        return self.unknown if op.returned is None else self.certain

    def _place(
        self, configurations: list[tuple[State, int, int]], bit: int
    ) -> list[tuple[State, int, int]]:
        """Every configuration reachable from these that holds the op of ``bit``."""
        best: dict[tuple[State, int], list[int]] = {}
        done: dict[tuple[State, int], list[int]] = {}
        queue: deque[tuple[State, int, int]] = deque()

        def add(state: State, placed: int, spent: int) -> None:
            for b, n in self.pure.items():
                if not placed & b and self.steps[n](state) is not None:
                    placed |= b
            known = best.setdefault((state, placed), [])
            if any(other & spent == other for other in known):
                return
            known.append(spent)
            if placed & bit:
                done.setdefault((state, placed), []).append(spent)
            else:
                queue.append((state, placed, spent))

        for state, placed, spent in configurations:
            add(state, placed, spent)
        work = 0
        while queue:
            state, placed, spent = queue.popleft()
            work += 1
            if work > EXPANSIONS_MAX:
                raise _Undecided
            for b, n in self.certain.items():
                if not placed & b and (after := self.steps[n](state)) is not None:
                    add(after, placed | b, spent)
            for b, n in self.unknown.items():
                if not spent & b:
                    after = self.steps[n](state)
                    if after is not None and after is not state:
                        add(after, placed, spent | b)
        return [
            (state, placed & ~bit, spent)
            for (state, placed), all_spent in done.items()
            for spent in all_spent
            if not any(other != spent and other & spent == other for other in all_spent)
        ]
