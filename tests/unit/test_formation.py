"""The messages of the formation, the record that is made, and what is said when nothing can form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sos.clock import ManualIds
from sos.config import Seed, parse_address
from sos.errors import StartRefused
from sos.packing import pack
from sos.raft import formation_rules as rules
from sos.raft.formation_messages import FormedNotice, Prepare, Report, decode, encode
from sos.raft.formation_rules import Phase, Promise, Stand
from sos.raft.founding import (
    Founder,
    agrees,
    check_seeds,
    make_record,
    member_nodes,
    misfit,
    objection,
)
from sos.raft.messages import MessageRefused

NAMES = ("n1", "n2", "n3")
SEEDS = tuple(
    Seed(name=name, address=parse_address(f"10.0.0.{at}:9300"))
    for at, name in enumerate(NAMES, start=1)
)
FOUNDER = Founder(
    name="n1",
    seeds=SEEDS,
    blob_address="10.0.0.1:9301",
    s3_address="10.0.0.1:9000",
    region="us-east-1",
    root_access_key=None,
    root_secret_key=None,
)


def _node(name: str, incarnation: int = 0) -> str:
    return f"{name}@{incarnation:016x}"


NODES = tuple(map(_node, NAMES))
PROMISE = Promise(round_number=1, cluster_id=b"c" * 16, nodes=NODES)


def _empty(name: str, incarnation: int = 0) -> Stand:
    return Stand(node=_node(name, incarnation), phase=Phase.EMPTY)


def _prepared(name: str, promise: Promise = PROMISE) -> Stand:
    return Stand(node=_node(name), phase=Phase.PREPARED, promise=promise)


def _formed(name: str, promise: Promise = PROMISE) -> Stand:
    return Stand(node=_node(name), phase=Phase.FORMED, promise=promise)


def _report(stand: Stand, **changes: object) -> Report:
    report = Report(
        stand=stand,
        seeds=FOUNDER.seed_texts,
        blob_address="10.0.0.9:9301",
        s3_address="10.0.0.9:9000",
        root_keys=None,
    )
    return replace(report, **changes)  # type: ignore[arg-type]


# --- messages ---------------------------------------------------------------------------------------
MESSAGES = [
    _report(_empty("n2")),
    _report(_prepared("n2"), root_keys=b"r" * 32),
    _report(_formed("n3")),
    Prepare(round_number=7, record=b"record"),
    FormedNotice(record=b"record", epoch=3),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_come_back(message: Report | Prepare | FormedNotice) -> None:
    """What one node says is what the other hears."""
    assert decode(encode(message)) == message


NONSENSE = [
    [],
    [9],
    [1],
    [1, "n1", 0, None, [], "", "", None],
    [1, _node("n1"), 5, None, [], "", "", None],
    [1, _node("n1"), 1, None, [], "", "", None],
    [1, _node("n1"), 0, [1, b"c" * 16, []], [], "", "", None],
    [1, _node("n1"), 1, [1, b"short", []], [], "", "", None],
    [1, _node("n1"), 1, [-1, b"c" * 16, []], [], "", "", None],
    [1, _node("n1"), 1, [1, b"c" * 16], [], "", "", None],
    [1, _node("n1"), 0, None, ["x"] * 65, "", "", None],
    [1, _node("n1"), 0, None, [], "x" * 401, "", None],
    [1, _node("n1"), 0, None, [], "", "", b"short"],
    [2, True, b""],
    [2, 1, "text"],
    [3, b"x" * 300_000],
    {"kind": 1},
    None,
]


@pytest.mark.parametrize("fields", NONSENSE)
def test_nonsense_is_refused(fields: object) -> None:
    """faults.md 3.6: wrong types, counts and sizes from an authenticated peer: one declared error."""
    with pytest.raises(MessageRefused):
        decode(pack(fields))


@given(st.binary(max_size=200))
@example(b"\x98\x01" + b"\xc0" * 7)
def test_any_bytes_give_a_message_or_the_declared_error(data: bytes) -> None:
    """faults.md 2: only the declared error may rise."""
    try:
        decode(data)
    except MessageRefused:
        return


# --- rules (the search over all of them is test_formation_model.py) ---------------------------------------
def test_only_the_first_name_proposes_when_all_are_there() -> None:
    """protocols.md 2.1."""
    seen = {"n2": _empty("n2"), "n3": _empty("n3")}
    assert rules.round_to_propose(_empty("n1"), NAMES, seen) == 1
    assert rules.round_to_propose(_empty("n1"), NAMES, {"n2": _empty("n2")}) is None
    assert rules.round_to_propose(_empty("n1"), NAMES, seen | {"n3": _formed("n3")}) is None
    others = {"n1": _empty("n1"), "n3": _empty("n3")}
    assert rules.round_to_propose(_empty("n2"), NAMES, others) is None


def test_a_wiped_proposer_begins_above_what_the_others_promised() -> None:
    """protocols.md 2.3: a higher round, so that those who promised can move."""
    seen = {"n2": _prepared("n2"), "n3": _empty("n3")}
    assert rules.round_to_propose(_empty("n1", 5), NAMES, seen) == 2
    offer = Promise(round_number=2, cluster_id=b"d" * 16, nodes=(_node("n1", 5), *NODES[1:]))
    seen_by_2 = {"n1": _empty("n1", 5), "n3": _empty("n3")}
    assert rules.may_prepare(_prepared("n2"), NAMES, seen_by_2, _node("n1", 5), offer)


def test_a_promise_is_kept_while_all_that_it_names_are_there() -> None:
    """protocols.md 2.3: a prepared node moves only if an incarnation of its promise is gone."""
    offer = replace(PROMISE, round_number=2, cluster_id=b"d" * 16)
    seen = {"n1": _prepared("n1", offer), "n3": _empty("n3")}
    assert not rules.may_prepare(_prepared("n2"), NAMES, seen, NODES[0], offer)
    assert rules.may_prepare(_prepared("n2"), NAMES, seen, NODES[0], PROMISE)


def test_a_formed_peer_counts_as_one_that_promised() -> None:
    """protocols.md 2.2: it does not remember its round; the cluster id says which promise it was."""
    seen = {"n2": _formed("n2", replace(PROMISE, round_number=0)), "n3": _prepared("n3")}
    assert rules.may_form(_prepared("n1"), seen)
    assert not rules.may_form(_prepared("n1"), {"n2": _prepared("n2")})
    other = replace(PROMISE, cluster_id=b"d" * 16)
    assert not rules.may_form(_prepared("n1"), seen | {"n3": _prepared("n3", other)})


# --- what is brought --------------------------------------------------------------------------------------
def _reports() -> dict[str, Report]:
    return {name: _report(_empty(name)) for name in NAMES}


def test_the_record_names_everybody_and_makes_keys_once() -> None:
    """Design 4: root keys are generated once, by the node that proposes."""
    record = make_record(FOUNDER, _reports(), ids=ManualIds(), created_ms=5)
    assert member_nodes(record) == NODES
    assert [member.address for member in record.members] == [str(seed.address) for seed in SEEDS]
    assert len(record.root_secret_key) >= 40
    assert len(record.cluster_id) == 16
    assert len(record.owner_id) == 64
    assert agrees(replace(FOUNDER, name="n2"), record)


def test_given_keys_are_used_and_others_not_agreed_to() -> None:
    """Design 4: root keys of the environment are the cluster's, or the node does not take part."""
    given = replace(FOUNDER, root_access_key="root", root_secret_key="given-secret")
    record = make_record(given, _reports(), ids=ManualIds(), created_ms=5)
    assert (record.root_access_key, record.root_secret_key) == ("root", "given-secret")
    assert agrees(given, record)
    assert not agrees(replace(given, root_secret_key="another-one"), record)
    assert not agrees(replace(FOUNDER, seeds=SEEDS[::-1]), record)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (None, "10.0.0.2:9300: not reachable"),
        (_report(_empty("n2"), seeds=("n2=10.0.0.2:9300",)), "another seed list"),
        (_report(_empty("n2"), root_keys=b"r" * 32), "root keys"),
        (_report(_formed("n2")), "to join it"),
        (_report(_empty("n2")), None),
        (_report(_prepared("n2")), None),
    ],
    ids=["absent", "seeds", "root keys", "formed", "empty", "prepared"],
)
def test_what_blocks_is_told(report: Report | None, expected: str | None) -> None:
    """Task of the formation: what blocks names the peer, its address and the reason."""
    told = objection(FOUNDER, "n2", report, "not reachable")
    if expected is None:
        assert told is None
    else:
        assert told is not None
        assert "n2" in told
        assert expected in told


@pytest.mark.parametrize(
    "seeds",
    [SEEDS[1:], (*SEEDS, SEEDS[0]), (*SEEDS[:2], replace(SEEDS[2], address=SEEDS[0].address))],
    ids=["not named", "a name twice", "an address twice"],
)
def test_a_wrong_seed_list_is_refused(seeds: tuple[Seed, ...]) -> None:
    """Issue, bad input: one line that says what is wrong."""
    with pytest.raises(StartRefused):
        check_seeds(replace(FOUNDER, seeds=seeds))


OTHER = Promise(round_number=0, cluster_id=b"d" * 16, nodes=tuple(_node(n, 9) for n in NAMES))


@pytest.mark.parametrize(
    ("own", "formed", "seen", "expected"),
    [
        (_empty("n3", 1), PROMISE, {}, True),
        (_empty("n9"), PROMISE, {}, True),
        (_formed("n3"), OTHER, {}, False),
        (_prepared("n3"), PROMISE, {}, False),
        (_prepared("n3"), OTHER, {}, False),
        (_prepared("n3"), OTHER, {"n1": _formed("n1", OTHER)}, False),
        (
            _prepared("n3"),
            OTHER,
            {"n1": Stand(node=_node("n1", 9), phase=Phase.FORMED, promise=OTHER)},
            True,
        ),
        (_prepared("n3"), OTHER, {"n1": _empty("n1", 9), "n2": _formed("n2")}, False),
    ],
    ids=[
        *("wiped", "new", "formed", "named", "nobody gone", "alive", "dead round", "formed by it"),
    ],
)
def test_who_joins_a_formed_cluster(
    own: Stand, formed: Promise, seen: dict[str, Stand], expected: bool
) -> None:
    """P10, P16: an empty node joins; a prepared one only when its promise can bind nobody any more."""
    assert rules.may_join(own, formed, seen) is expected


def test_what_does_not_fit_the_cluster_is_refused() -> None:
    """Design 4: root keys or a region that differ from the cluster's are a start error that says what to do."""
    reports = {name: _report(_empty(name)) for name in NAMES}
    record = make_record(FOUNDER, reports, ids=ManualIds(), created_ms=1)
    assert misfit(FOUNDER, record) is None
    keys = replace(FOUNDER, root_access_key="OTHER", root_secret_key="secret-of-somebody")
    region = replace(FOUNDER, region="eu-west-1")
    for founder, word in ((keys, "SOS_ROOT_ACCESS_KEY"), (region, "--region us-east-1")):
        trouble = misfit(founder, record)
        assert trouble is not None
        assert word in trouble
