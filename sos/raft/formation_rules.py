"""When a first member may propose, promise, form and adopt: the two phases of formation. Pure.

Source: protocols.md 2 (model E of the explicit-state search; ``tests/unit/test_formation_model.py`` explores
these very functions). A node is in one of three phases, each durable before it is told:

    EMPTY     has promised nothing
    PREPARED  has promised to form one cluster, in one round; only a higher round replaces the promise,
              and only if an incarnation that the promise names is gone
    FORMED    knows that every member had promised; is never left
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from sos.raft.api import NodeId


class Phase(Enum):
    """The value travels."""

    EMPTY = 0
    PREPARED = 1
    FORMED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a prepared node promised: to form this cluster, of these incarnations, in this round."""

    round_number: int
    cluster_id: bytes
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One node and its phase. ``promise``: None if empty; of a formed node the one that it formed by."""

    node: NodeId
    phase: Phase
    promise: Promise | None = None

    def __post_init__(self) -> None:
        assert (self.promise is None) == (self.phase is Phase.EMPTY)

    @property
    def round_number(self) -> int:
        return self.promise.round_number if self.promise is not None else 0


def name_of(node: NodeId) -> str:
    """The name in a ``name@incarnation``."""
    return node.partition("@")[0]


def round_to_propose(own: Stand, names: Sequence[str], seen: Mapping[str, Stand]) -> int | None:
    """The round that this node may begin now, or None.

    ``names``: the seed list; only its first name proposes (2.1; model F: else it blocks). ``seen``: what the
    others, those that are connected now, say of themselves. All must answer and none be formed. Once this
    node is prepared, it begins a higher round only if an incarnation that it recorded is gone (2.3).
    """
    if name_of(own.node) != names[0] or own.phase is Phase.FORMED:
        return None
    if not _all_answer_unformed(own, names, seen):
        return None
    if own.promise is not None and not _names_one_that_is_gone(own.promise, own, seen):
        return None
    return 1 + max(own.round_number, *(stand.round_number for stand in seen.values()), 0)


def may_prepare(
    own: Stand, names: Sequence[str], seen: Mapping[str, Stand], proposer: NodeId, offer: Promise
) -> bool:
    """Whether to promise ``offer``, which came from ``proposer``; true also if it is promised already.

    A prepared node moves only to a higher round, and only if its own promise cannot be kept any more (2.3).
    """
    if own.phase is Phase.FORMED:
        return False
    if name_of(proposer) != names[0] or proposer not in offer.nodes or own.node not in offer.nodes:
        return False
    if sorted(map(name_of, offer.nodes)) != sorted(names):
        return False
    if own.promise is None:
        return all(stand.phase is not Phase.FORMED for stand in seen.values())
    if own.promise == offer:
        return True
    return (
        offer.round_number > own.round_number
        and _all_answer_unformed(own, names, seen)
        and _names_one_that_is_gone(own.promise, own, seen)
    )


def may_form(own: Stand, seen: Mapping[str, Stand]) -> bool:
    """Whether every member of this node's promise has made the same one (2.2)."""
    if own.phase is not Phase.PREPARED or own.promise is None:
        return False
    others = (node for node in own.promise.nodes if node != own.node)
    return all(_has_promised(seen.get(name_of(node)), node, own.promise) for node in others)


def may_adopt(own: Stand, formed: Promise) -> bool:
    """Whether to become formed with a formed peer whose list is ``formed`` (2.4).

    An empty node never does: it is a wiped or a new member (``may_join``).
    """
    return own.phase is Phase.PREPARED and own.node in formed.nodes


def may_join(own: Stand, formed: Promise, seen: Mapping[str, Stand]) -> bool:
    """Whether to take the cluster of a formed peer as one's own without being in its first list (2.4).

    Such a node counts for nothing until a list names it. An empty one promised nothing; a prepared one must not
    leave others alone with its promise: its round is dead (2.3), and nobody it sees formed by it.
    """
    if own.phase is Phase.FORMED or own.node in formed.nodes:
        return False
    promise = own.promise
    if promise is None:
        return True
    is_formed = any(
        stand.phase is Phase.FORMED
        and stand.promise is not None
        and stand.promise.cluster_id == promise.cluster_id
        for stand in seen.values()
    )
    return (
        promise.cluster_id != formed.cluster_id
        and not is_formed
        and _names_one_that_is_gone(promise, own, seen)
    )


def _has_promised(stand: Stand | None, node: NodeId, promise: Promise) -> bool:
    """Whether ``stand`` says so. A formed node had promised; it does not remember its round (ids are unique)."""
    if stand is None or stand.node != node or stand.promise is None:
        return False
    if stand.phase is Phase.FORMED:
        return (stand.promise.cluster_id, stand.promise.nodes) == (
            promise.cluster_id,
            promise.nodes,
        )
    return stand.promise == promise


def _all_answer_unformed(own: Stand, names: Sequence[str], seen: Mapping[str, Stand]) -> bool:
    others = (seen.get(name) for name in names if name != name_of(own.node))
    return all(stand is not None and stand.phase is not Phase.FORMED for stand in others)


def _names_one_that_is_gone(promise: Promise, own: Stand, seen: Mapping[str, Stand]) -> bool:
    present = {name_of(own.node): own.node} | {name: stand.node for name, stand in seen.items()}
    return any(present.get(name_of(node), node) != node for node in promise.nodes)
