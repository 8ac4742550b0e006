"""Explicit-state search over the rules of formation: every interleaving of three nodes (protocols.md 2).

What a node says is a set that only grows: it may arrive at any later moment, in any order, again, or never,
so that stale reports are always possible. One thing limits it, and the transport guarantees that: there is
one connection per name, both sides have it or none, it starts with a report of the present state, and what
a replaced one still delivers is dropped. So two incarnations first ``meet``, and hear only each other from
then on. A crash keeps what is durable, and everything is durable before it is told, so a crash is a message
that is not sent yet. One disk may be wiped at any moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from sos.raft import formation_rules as rules
from sos.raft.formation_rules import Phase, Promise, Stand

NAMES = ("n1", "n2", "n3")


@dataclass(frozen=True, slots=True)
class World:
    """``met``: for each node, whom of the others it is connected to.

    ``reports``: what was said, with the ``met`` of the speaker, which tells to whom. ``committed``: clusters in
    which two formed members, a majority, have acknowledged a write.
    """

    stands: tuple[Stand, ...]
    met: tuple[tuple[str, ...], ...]
    reports: frozenset[tuple[Stand, tuple[str, ...]]]
    offers: frozenset[tuple[str, Promise]] = frozenset()
    committed: frozenset[bytes] = frozenset()
    wipes_left: int = 1
    proposals_left: int = 3


def _start(wipes: int, proposals: int) -> World:
    stands = tuple(Stand(node=_node(name, 0), phase=Phase.EMPTY) for name in NAMES)
    everybody = tuple(stand.node for stand in stands)
    return World(
        stands=stands,
        met=(everybody,) * len(NAMES),
        reports=frozenset((stand, everybody) for stand in stands),
        wipes_left=wipes,
        proposals_left=proposals,
    )


def _node(name: str, incarnation: int) -> str:
    return f"{name}@{incarnation:016x}"


def _become(world: World, index: int, stand: Stand) -> World:
    stands = (*world.stands[:index], stand, *world.stands[index + 1 :])
    reports = world.reports | {(stand, world.met[index])}
    return replace(world, stands=stands, reports=reports)


def _heard(world: World, index: int, at: int) -> list[Stand]:
    """What this node may believe of the other: any report of the incarnation it met, said to its own."""
    own = world.stands[index].node
    return [
        stand
        for stand, met in world.reports
        if stand.node == world.met[index][at] and met[index] == own
    ]


def _views(world: World, index: int) -> Iterator[dict[str, Stand]]:
    others = [at for at in range(len(NAMES)) if at != index]
    for choice in itertools.product(*([None, *_heard(world, index, at)] for at in others)):
        seen = zip((NAMES[at] for at in others), choice, strict=True)
        yield {name: stand for name, stand in seen if stand is not None}


def _steps(world: World) -> Iterator[tuple[str, World]]:
    for index, own in enumerate(world.stands):
        if world.wipes_left:
            yield f"wipe {own.node}", _wiped(world, index, own)
        for at in range(index):
            if (own.node, world.stands[at].node) != (world.met[at][index], world.met[index][at]):
                yield f"{own.node} meets {world.stands[at].node}", _meet(world, index, at)
        for seen in _views(world, index):
            yield from _steps_of(world, index, own, seen)
        for at in range(len(NAMES)):
            for other in _heard(world, index, at) if at != index else ():
                # A formed node tells the list by which it formed to whoever is not formed.
                promise = other.promise
                if other.phase is not Phase.FORMED or promise is None:
                    continue
                formed = Stand(node=own.node, phase=Phase.FORMED, promise=promise)
                if rules.may_adopt(own, promise):
                    yield f"{own.node} adopts", _become(world, index, formed)
                elif any(rules.may_join(own, promise, seen) for seen in _views(world, index)):
                    yield f"{own.node} joins", _become(world, index, formed)
    yield from _commits(world)


def _wiped(world: World, index: int, own: Stand) -> World:
    incarnation = int(own.node.partition("@")[2], 16) + 1
    empty = Stand(node=_node(NAMES[index], incarnation), phase=Phase.EMPTY)
    met = (*world.met[:index], ("",) * len(NAMES), *world.met[index + 1 :])
    return _become(replace(world, met=met, wipes_left=world.wipes_left - 1), index, empty)


def _meet(world: World, one: int, other: int) -> World:
    rows = [list(row) for row in world.met]
    rows[one][other], rows[other][one] = world.stands[other].node, world.stands[one].node
    world = replace(world, met=tuple(map(tuple, rows)))
    return _become(_become(world, one, world.stands[one]), other, world.stands[other])


def _steps_of(
    world: World, index: int, own: Stand, seen: dict[str, Stand]
) -> Iterator[tuple[str, World]]:
    number = rules.round_to_propose(own, NAMES, seen)
    if number is not None and world.proposals_left:
        nodes = tuple(own.node if name == NAMES[index] else seen[name].node for name in NAMES)
        offer = Promise(
            round_number=number, cluster_id=bytes([world.proposals_left] * 16), nodes=nodes
        )
        prepared = _become(world, index, Stand(node=own.node, phase=Phase.PREPARED, promise=offer))
        yield (
            f"{own.node} proposes {number}",
            replace(
                prepared,
                offers=world.offers | {(own.node, offer)},
                proposals_left=world.proposals_left - 1,
            ),
        )
    for proposer, offer in world.offers:
        if proposer not in world.met[index] or own.promise == offer:
            continue
        if rules.may_prepare(own, NAMES, seen, proposer, offer):
            stand = Stand(node=own.node, phase=Phase.PREPARED, promise=offer)
            yield f"{own.node} prepares {offer.round_number}", _become(world, index, stand)
    if rules.may_form(own, seen):
        yield f"{own.node} forms", _become(world, index, replace(own, phase=Phase.FORMED))


def _commits(world: World) -> Iterator[tuple[str, World]]:
    for one, other in itertools.combinations(world.stands, 2):
        if one.phase is other.phase is Phase.FORMED and one.promise == other.promise:
            assert one.promise is not None
            if {one.node, other.node} <= set(one.promise.nodes):
                cluster = one.promise.cluster_id
                if cluster not in world.committed:
                    yield "commit", replace(world, committed=world.committed | {cluster})


@dataclass
class Search:
    """Breadth first; ``parents`` gives the way to each world."""

    parents: dict[World, tuple[World, str] | None]
    successors: dict[World, list[World]]

    def way_to(self, world: World) -> list[str]:
        way = []
        parent = self.parents[world]
        while parent is not None:
            world, step = parent
            way.append(step)
            parent = self.parents[world]
        return way[::-1]


def explore(wipes: int, proposals: int = 3, states_max: int = 400_000) -> tuple[Search, str | None]:
    """All worlds that can be reached, and the first violation with the way to it."""
    start = _start(wipes, proposals)
    search = Search({start: None}, {})
    queue = [start]
    for world in queue:
        assert len(queue) < states_max, "the search does not end"
        following = search.successors[world] = []
        for step, after in _steps(world):
            if after == world:
                continue
            following.append(after)
            if after in search.parents:
                continue
            search.parents[after] = (world, step)
            queue.append(after)
            violation = _violation(after)
            if violation:
                return search, f"{violation}: {search.way_to(after)}"
    return search, _blocked(search)


def _violation(world: World) -> str | None:
    formed = {s.promise.cluster_id for s in world.stands if s.phase is Phase.FORMED and s.promise}
    if len(world.committed) > 1:
        return "two clusters committed"
    if world.committed and formed - world.committed:
        return "another cluster formed after a commit"
    if len(formed) > 1:
        return "two clusters formed"
    return None


def _blocked(search: Search) -> str | None:
    """A world from which, with no more wipes, no cluster can ever commit."""
    before: dict[World, list[World]] = {}
    for world, following in search.successors.items():
        for after in following:
            if after.wipes_left == world.wipes_left:
                before.setdefault(after, []).append(world)
    good = {world for world in search.parents if world.committed}
    todo = list(good)
    while todo:
        for world in before.get(todo.pop(), ()):
            if world not in good:
                good.add(world)
                todo.append(world)
    for world in search.parents:
        if world not in good and world.proposals_left:
            return f"blocks for ever: {search.way_to(world)}"
    return None


def test_no_second_cluster_and_no_block_with_one_wipe() -> None:
    """protocols.md 2, model E: with one wiped disk at any moment, one cluster forms, and always can."""
    search, violation = explore(wipes=1)
    assert violation is None
    assert len(search.parents) > 1000


def test_no_block_without_faults() -> None:
    """protocols.md 2.2: without faults one cluster forms, whatever the order of messages."""
    _, violation = explore(wipes=0)
    assert violation is None


def test_the_search_notices_who_adopts_only_its_own_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """protocols.md 2.4: a node that moved to a round that cannot form any more has to adopt the older one."""
    monkeypatch.setattr(
        rules,
        "may_adopt",
        lambda own, formed: own.phase is Phase.PREPARED and own.promise == formed,
    )
    _, violation = explore(wipes=1)
    assert violation is not None
    assert "blocks" in violation


def test_the_search_notices_a_promise_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """protocols.md 2.3: a node that leaves its round for no reason breaks the promise."""
    monkeypatch.setattr(rules, "_names_one_that_is_gone", lambda *_: True)
    _, violation = explore(wipes=1, proposals=2)
    assert violation is not None


def test_the_search_notices_a_promise_that_is_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """protocols.md 2.3, model D: without higher rounds a wipe in mid-formation blocks for ever."""
    monkeypatch.setattr(rules, "_names_one_that_is_gone", lambda *_: False)
    _, violation = explore(wipes=1)
    assert violation is not None
    assert "blocks" in violation


def test_the_search_notices_forming_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """protocols.md 2.2: who forms without everybody's promise forms alone."""
    monkeypatch.setattr(rules, "_has_promised", lambda stand, *_: stand is not None)
    _, violation = explore(wipes=1)
    assert violation is not None


def test_an_empty_node_never_adopts() -> None:
    """protocols.md 2.4: an empty node that meets a formed one is wiped or new; it counts for nothing."""
    promise = Promise(round_number=1, cluster_id=b"c" * 16, nodes=("n1@" + "0" * 16,))
    assert not rules.may_adopt(Stand(node="n1@" + "0" * 16, phase=Phase.EMPTY), promise)
