"""Explicit-state search over the rules of wiped members and lists: every interleaving of three nodes (protocols.md 3).

The rules are the product's own: what a leader proposes is ``admission.next_step``, what it may append is
``check_change``. Around them stands a Raft of a page: a call between two nodes is one step, so that what is in
flight is either there or lost; a message that is lost is a step that is not taken, a node that is cut off is one
that is not chosen, a lost acknowledgement is a replication without one. A disk may be wiped at any moment once
every node is a committed voter.

Searched for: a leader without a committed entry, two commits that differ, two leaders of one term, and a state
from which the cluster cannot come back although all nodes run and reach each other.

    python -m tests.unit.test_member_model [SECONDS]     further than in continuous integration
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from types import MappingProxyType
from typing import Final

import pytest

from sos.catalog.model import NodeId
from sos.core.admission import ProposeList, Situation, next_step
from sos.core.newcomers import Newcomer
from sos.raft.members import Member, MemberList, check_change

PLACES: Final = (0, 1, 2)
SEARCH_S_MAX: Final = (
    60.0  # a bound for a hung search; the bounds of the instances end it long before
)

Who = tuple[int, int]  # place, incarnation
Listed = frozenset[Who]


@dataclass(frozen=True, slots=True)
class Entry:
    """``listed``: of an entry that holds a member list. ``write``: of one that a client was promised."""

    term: int
    listed: Listed | None = None
    write: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """``match``: on a leader, what each node acknowledged; None on the others."""

    incarnation: int = 0
    term: int = 0
    log: tuple[Entry, ...] = ()
    match: frozenset[tuple[Who, int]] | None = None


@dataclass(frozen=True, slots=True)
class World:
    """``committed``: the longest log that was ever committed. ``led``: who led in which term."""

    nodes: tuple[Node, ...]
    committed: tuple[Entry, ...] = ()
    led: frozenset[tuple[int, Who]] = frozenset()
    wipes_left: int = 1
    writes_left: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The bounds of an instance, and mutants: rules that the product does not have."""

    wipes: int = 1
    writes: int = 1
    terms: int = 2
    entries: int = 5
    counted_by_name: bool = False
    one_entry: bool = False
    two_wipes_at_once: bool = False
    unknown_refused: bool = False
    places: tuple[int, ...] = PLACES


# --- a Raft of a page -------------------------------------------------------------------------------
def _who(world: World, place: int) -> Who:
    return place, world.nodes[place].incarnation


def _listed(rules: Rules, log: tuple[Entry, ...]) -> Listed:
    for entry in reversed(log):
        if entry.listed is not None:
            return entry.listed
    return frozenset((place, 0) for place in rules.places)


def _has_majority(rules: Rules, listed: Listed, having: set[Who]) -> bool:
    if rules.counted_by_name:
        count = len({place for place, _ in listed} & {place for place, _ in having})
    else:
        count = len(listed & having)
    return count * 2 > len(listed)


def _commit_index(rules: Rules, world: World, place: int) -> int:
    node = world.nodes[place]
    assert node.match is not None
    for index in range(len(node.log), 0, -1):
        if node.log[index - 1].term != node.term:
            break
        having = {who for who, match in node.match if match >= index} | {_who(world, place)}
        if _has_majority(rules, _listed(rules, node.log), having):
            return index
    return 0


def _with(world: World, place: int, node: Node) -> World:
    return replace(world, nodes=(*world.nodes[:place], node, *world.nodes[place + 1 :]))


def _last(log: tuple[Entry, ...]) -> tuple[int, int]:
    return (log[-1].term if log else 0, len(log))


def _elect(
    rules: Rules, world: World, place: int, voters: tuple[int, ...], term: int
) -> World | None:
    node, me = world.nodes[place], _who(world, place)
    if me not in _listed(rules, node.log):
        return None  # protocols.md 1.5
    after, having = world, {me}
    for voter in voters:
        other = world.nodes[voter]
        if other.term >= term or _last(node.log) < _last(other.log):
            return None
        if rules.unknown_refused and other.log and me not in _listed(rules, other.log):
            return None
        after = _with(after, voter, replace(other, term=term, match=None))
        having.add(_who(world, voter))
    if not _has_majority(rules, _listed(rules, node.log), having):
        return None
    leader = replace(node, term=term, log=(*node.log, Entry(term)), match=frozenset())
    return replace(_with(after, place, leader), led=world.led | {(term, me)})


def _replicate(world: World, leader: int, follower: int, *, acknowledged: bool) -> World | None:
    node, other = world.nodes[leader], world.nodes[follower]
    if node.match is None or other.term > node.term:
        return None
    if other.term == node.term and other.match is not None:
        return None
    log = other.log if other.log[: len(node.log)] == node.log else node.log
    after = _with(world, follower, Node(other.incarnation, node.term, log))
    if acknowledged:
        match = dict(node.match)
        match[_who(world, follower)] = max(len(node.log), match.get(_who(world, follower), 0))
        after = _with(after, leader, replace(node, match=frozenset(match.items())))
    return after


# --- what a leader decides, by the product's rules --------------------------------------------------
@cache
def _node_id(who: Who) -> NodeId:
    return NodeId(f"n{who[0]}@{who[1]:016x}")


def _parse(node: str) -> Who:
    name, _, incarnation = node.partition("@")
    return int(name[1:]), int(incarnation, 16)


@cache
def _member_list(listed: Listed) -> MemberList:
    rows = [Member(node=_node_id(who), address=f"10.0.0.{who[0]}:7000") for who in listed]
    return MemberList(members=tuple(sorted(rows, key=lambda row: row.node)))


@cache
def _next_list(
    me: Who, listed: Listed, may_change: bool, commit: int, there: Listed, match: frozenset[tuple[Who, int]]
) -> Listed | None:  # fmt: skip
    """The list that a leader proposes which reaches ``there``; whoever else is listed was away for long."""
    newcomers = {
        _node_id(who): Newcomer(
            node=_node_id(who),
            address=f"10.0.0.{who[0]}:7000",
            blob_address="",
            s3_address="",
            asks=True,
            version="",
        )
        for who in sorted(there - listed)
    }
    away: Mapping[NodeId, float] = {_node_id(who): 60.0 for who in listed - there}
    step = next_step(
        Situation(
            leader=_node_id(me),
            members=_member_list(listed),
            may_change=may_change,
            commit_index=commit,
            connected=frozenset(_node_id(who) for who in there),
            unreachable_s=MappingProxyType(dict(away)),
            newcomers=newcomers,
            learners=frozenset(newcomers),
            match_index={_node_id(who): index for who, index in match},
        )
    )
    if not isinstance(step, ProposeList):
        return None
    return frozenset(_parse(member.node) for member in step.members.members)


def _decide(rules: Rules, world: World, place: int, peers: tuple[int, ...]) -> Listed | None:
    node, me = world.nodes[place], _who(world, place)
    assert node.match is not None
    commit = _commit_index(rules, world, place)
    listed = _listed(rules, node.log)
    own_term_committed = commit > 0
    last_committed = not any(entry.listed is not None for entry in node.log[commit:])
    there = frozenset({me, *(_who(world, peer) for peer in peers)})
    match = frozenset((who, index) for who, index in node.match if who in there)
    may_change = own_term_committed and last_committed
    proposed = _next_list(me, listed, may_change, commit, there, match)
    if proposed is None:
        return None
    if rules.one_entry and proposed < listed:
        # mutant: the newcomer takes the place of its old incarnation in one entry
        (gone,) = listed - proposed
        proposed |= {_who(world, gone[0])}
    refusal = check_change(
        _member_list(listed),
        _member_list(proposed),
        leader=_node_id(me),
        own_term_committed=own_term_committed,
        last_list_committed=last_committed,
    )
    return proposed if refusal is None or rules.one_entry else None


# --- the search -------------------------------------------------------------------------------------
def _committing(rules: Rules, world: World, place: int) -> tuple[World, str]:
    """The world with what its leader has committed by now, and what is wrong with that."""
    node = world.nodes[place]
    prefix = node.log[: _commit_index(rules, world, place)]
    shorter, longer = sorted((prefix, world.committed), key=len)
    if longer[: len(shorter)] != shorter:
        return world, "two commits differ"
    return replace(world, committed=longer), ""


def _steps(rules: Rules, world: World) -> Iterator[tuple[str, World, str]]:
    for place in rules.places:
        others = tuple(other for other in rules.places if other != place)
        groups = [group for size in range(len(others) + 1) for group in combinations(others, size)]
        if world.nodes[place].match is None:
            yield from _elections(rules, world, place, groups)
        else:
            yield from _leading(rules, world, place, others, groups)
        yield from _wipes(rules, world, place)


def _elections(
    rules: Rules, world: World, place: int, groups: list[tuple[int, ...]]
) -> Iterator[tuple[str, World, str]]:
    node = world.nodes[place]
    if len(node.log) >= rules.entries:
        return
    for term in range(node.term + 1, rules.terms + 1):
        for voters in groups:
            after = _elect(rules, world, place, voters, term)
            if after is None:
                continue
            wrong = ""
            if node.log[: len(world.committed)] != world.committed:
                wrong = "a leader lacks a committed entry"
            elif any(other == term for other, _ in world.led):
                wrong = "two leaders in one term"
            after, differs = _committing(rules, after, place)
            yield f"n{place} is elected in term {term} by {voters}", after, wrong or differs


def _leading(
    rules: Rules,
    world: World,
    place: int,
    others: tuple[int, ...],
    groups: list[tuple[int, ...]],
) -> Iterator[tuple[str, World, str]]:
    node = world.nodes[place]
    if len(node.log) < rules.entries:
        if world.writes_left:
            log = (*node.log, Entry(node.term, write=world.writes_left))
            after = _with(world, place, replace(node, log=log))
            after = replace(after, writes_left=world.writes_left - 1)
            yield f"n{place} appends a write", *_committing(rules, after, place)
        for listed in {_decide(rules, world, place, peers) for peers in groups} - {None}:
            assert listed is not None
            log = (*node.log, Entry(node.term, listed=listed))
            after = _with(world, place, replace(node, log=log))
            yield f"n{place} appends the list {sorted(listed)}", *_committing(rules, after, place)
    for other in others:
        for acknowledged in (True, False):
            replicated = _replicate(world, place, other, acknowledged=acknowledged)
            if replicated is not None and replicated != world:
                told = "" if acknowledged else ", and the answer is lost"
                yield (
                    f"n{place} feeds n{other}{told}",
                    *_committing(rules, replicated, place),
                )
    yield f"n{place} restarts", _with(world, place, replace(node, match=None)), ""


def _wipes(rules: Rules, world: World, place: int) -> Iterator[tuple[str, World, str]]:
    listed = _listed(rules, world.committed)
    is_calm = all(_who(world, other) in listed for other in rules.places)
    if world.wipes_left and (is_calm or rules.two_wipes_at_once):
        incarnation = world.nodes[place].incarnation + 1
        after = _with(world, place, Node(incarnation))
        yield f"n{place} is wiped", replace(after, wipes_left=world.wipes_left - 1), ""


def _comes_back(rules: Rules, world: World) -> bool:
    """All run and reach each other, and nobody fails: does every present incarnation become a committed voter?"""
    term = max(node.term for node in world.nodes) + 1
    calm = replace(world, nodes=tuple(replace(node, match=None) for node in world.nodes))
    for place in sorted(rules.places, key=lambda p: _last(world.nodes[p].log), reverse=True):
        others = tuple(other for other in rules.places if other != place)
        for size in range(len(others), -1, -1):
            for voters in combinations(others, size):
                led = _elect(rules, calm, place, voters, term)
                if led is not None and _heals(rules, led, place, others):
                    return True
    return False


def _heals(rules: Rules, world: World, place: int, others: tuple[int, ...]) -> bool:
    for _ in range(8):
        for other in others:
            world = _replicate(world, place, other, acknowledged=True) or world
        # An old incarnation never connects again; every present one does.
        listed = _decide(rules, world, place, others)
        if listed is not None:
            node = world.nodes[place]
            entry = Entry(node.term, listed=listed)
            world = _with(world, place, replace(node, log=(*node.log, entry)))
    log = world.nodes[place].log
    wanted = {_who(world, other) for other in rules.places}
    return _commit_index(rules, world, place) == len(log) and _listed(rules, log) == wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``wrong`` is empty when nothing was found; then ``is_complete`` tells whether all was searched."""

    wrong: str
    path: tuple[str, ...]
    states: int
    is_complete: bool


def search(rules: Rules, *, seconds_max: float = SEARCH_S_MAX, blocks: bool = True) -> Found:
    """Breadth first, so that what is found is shortest. ``blocks``: also look for dead ends."""
    end = time.monotonic() + seconds_max
    start = World(
        nodes=tuple(Node() for _ in PLACES), wipes_left=rules.wipes, writes_left=rules.writes
    )
    came: dict[World, tuple[World, str] | None] = {start: None}
    healing: dict[tuple[tuple[int, int, tuple[Entry, ...]], ...], bool] = {}
    front = [start]

    def path(world: World) -> tuple[str, ...]:
        steps: list[str] = []
        step = came[world]
        while step is not None:
            steps.append(step[1])
            step = came[step[0]]
        return tuple(reversed(steps))

    while front:
        following: list[World] = []
        for world in front:
            if time.monotonic() > end:
                return Found(wrong="", path=(), states=len(came), is_complete=False)
            if blocks and world.committed:
                lasting = tuple((n.incarnation, n.term, n.log) for n in world.nodes)
                if lasting not in healing:
                    healing[lasting] = _comes_back(rules, world)
                if not healing[lasting]:
                    wrong = "blocked although all nodes run"
                    return Found(wrong=wrong, path=path(world), states=len(came), is_complete=False)
            for label, after, wrong in _steps(rules, world):
                if after in came:
                    continue
                came[after] = (world, label)
                if wrong:
                    return Found(wrong=wrong, path=path(after), states=len(came), is_complete=False)
                following.append(after)
        front = following
    return Found(wrong="", path=(), states=len(came), is_complete=True)


# --- tests ------------------------------------------------------------------------------------------
SMALL: Final = Rules(writes=0)


def test_one_wipe_loses_nothing_and_blocks_nothing() -> None:
    """P12, P13 (protocols.md 3.3): removed by one entry and admitted by another, whatever happens in between."""
    found = search(SMALL)
    assert (found.wrong, found.path) == ("", ())
    assert found.is_complete, "the search was cut off: it proves nothing"
    assert found.states > 10_000


_LOST: Final = {
    "a leader lacks a committed entry",
    "two commits differ",
    "two leaders in one term",
}
_BLOCKED: Final = {"blocked although all nodes run"}


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        (Rules(counted_by_name=True), _LOST),
        (Rules(one_entry=True), _LOST),
        (Rules(two_wipes_at_once=True, wipes=2, writes=0), _BLOCKED),
        (Rules(places=(0, 1), writes=0), _BLOCKED),
    ],
    ids=["counted by name", "one entry", "second wipe too early", "one of two wiped"],
)  # fmt: skip
def test_without_a_rule_the_search_finds_what_it_prevents(rules: Rules, wrong: set[str]) -> None:
    """The search can fail. The last two are the cases that need a person (protocols.md 3.7)."""
    found = search(rules, blocks=wrong is _BLOCKED)
    assert found.wrong in wrong, found


def _search_further(seconds_max: float) -> None:
    for name, rules in (
        ("one wipe and a write", Rules(entries=4)),
        ("one wipe and two writes", Rules(writes=2)),
        ("two wipes in turn", Rules(wipes=2, entries=6)),
        ("three terms", Rules(terms=3)),
        ("mutant: an unknown incarnation is refused", Rules(unknown_refused=True, terms=3, wipes=2, writes=0)),
    ):  # fmt: skip
        began = time.monotonic()
        found = search(rules, seconds_max=seconds_max)
        outcome = found.wrong or ("nothing" if found.is_complete else "nothing so far")
        seconds = time.monotonic() - began
        sys.stdout.write(f"{name}: {found.states} states in {seconds:.0f} s: {outcome}\n")
        sys.stdout.writelines(f"    {step}\n" for step in found.path)
        sys.stdout.flush()


if __name__ == "__main__":
    _search_further(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0)
