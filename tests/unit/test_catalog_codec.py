"""The bytes of the catalog: pinned, total, round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sos.catalog.codec import (
    OPERATIONS_MAX,
    decode_command,
    decode_entry,
    decode_formation,
    decode_member_list,
    decode_members,
    decode_result,
    encode_command,
    encode_entry,
    encode_formation,
    encode_members,
    encode_result,
)
from sos.catalog.model import Member, NodeId, Operation, Rejection, RequestId
from sos.packing import PackingError, pack, unpack
from tests.unit.catalog_samples import COMMANDS, RESULTS, SECOND_COMMANDS, formation

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "catalog.json").read_text()
)
OPERATION = Operation(request_id=RequestId(b"r" * 16), first_index=4, command=b"command")


ALL_COMMANDS = COMMANDS | SECOND_COMMANDS


@pytest.mark.parametrize("name", sorted(ALL_COMMANDS))
def test_command_bytes_are_pinned(name: str) -> None:
    """A released version of a command is readable for ever, and written the same (house style, 7)."""
    data = bytes.fromhex(GOLDEN["commands"][name])

    assert encode_command(ALL_COMMANDS[name]) == data
    assert decode_command(data) == ALL_COMMANDS[name]


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_result_bytes_are_pinned(name: str) -> None:
    """Results are remembered across versions under their request id (house style, 7)."""
    data = bytes.fromhex(GOLDEN["results"][name])

    assert encode_result(RESULTS[name]) == data
    assert decode_result(data) == RESULTS[name]


def test_entry_members_and_formation_bytes_are_pinned() -> None:
    """What stands in the log and in the identity of a cluster is readable for ever (house style, 7)."""
    golden = GOLDEN["others"]
    members = formation().members

    assert encode_entry([OPERATION]).hex() == golden["entry"]
    assert decode_entry(bytes.fromhex(golden["entry"])) == [OPERATION]
    assert encode_members(members).hex() == golden["members"]
    assert decode_members(bytes.fromhex(golden["members"])) == members
    epoch = 1 << 32 | 7
    assert encode_members(members, epoch=epoch).hex() == golden["members_epoch"]
    assert decode_member_list(bytes.fromhex(golden["members_epoch"])) == (epoch, members)
    assert encode_formation(formation()).hex() == golden["formation"]
    assert decode_formation(bytes.fromhex(golden["formation"])) == formation()


def test_every_rejection_has_its_own_number_for_ever() -> None:
    """Stored refusals keep their meaning: numbers are never reused (house style, 7)."""
    assert {rejection.name: rejection.value for rejection in Rejection} == GOLDEN["rejections"]


@pytest.mark.parametrize("name", sorted(ALL_COMMANDS))
def test_each_field_of_another_type_is_refused_with_the_declared_error(name: str) -> None:
    """Decoding is total: whatever stands in a field, it is a value or PackingError."""
    fields = unpack(encode_command(ALL_COMMANDS[name]))
    strange: list[object] = [
        None,
        True,
        -1,
        1 << 64 - 1,
        1.5,
        "",
        "x\x00y",
        b"",
        b"z" * 16,
        [],
        [[]],
        {},
    ]

    for position in range(len(fields)):
        for value in strange:
            changed = [*fields[:position], value, *fields[position + 1 :]]
            try:
                decode_command(pack(changed))
            except PackingError:
                continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack(1),
        pack([]),
        pack([1]),
        pack([99, 1]),
        pack([1, 99, "ROOT", "b", 1]),
        pack([1, 1, "ROOT", "b"]),
        pack([1, 1, "ROOT", "b", 1, 2]),
        pack([[], 1]),
        pack({"a": 1}),
        pack([7, 1, "no node", 1, [], []]),
        pack([7, 1, "n1@0000000000000001", 1, [b"short"], []]),
        pack([10, 1, "x" * 129]),
        pack([2, 1, "ROOT", "b" * 101]),
        pack([5, 1, "ROOT", "b", "", None]),
        pack([5, 1, "ROOT", "b", "k" * 1025, None]),
    ],
)
def test_hostile_commands_are_refused_with_the_declared_error(data: bytes) -> None:
    """What cannot be a command, or would not fit a database key, is PackingError and nothing else."""
    with pytest.raises(PackingError):
        decode_command(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x02" + pack([]),
        b"\x01" + pack(1),
        b"\x01" + pack([1]),
        b"\x01" + pack([[b"r" * 15, 1, b""]]),
        b"\x01" + pack([[b"r" * 16, -1, b""]]),
        b"\x01" + pack([[b"r" * 16, 1, "text"]]),
        b"\x01" + pack([None] * (OPERATIONS_MAX + 1)),
    ],
)
def test_hostile_entries_are_refused_with_the_declared_error(data: bytes) -> None:
    """A log entry from a damaged disk is PackingError and nothing else."""
    with pytest.raises(PackingError):
        decode_entry(data)
    with pytest.raises(PackingError):
        decode_members(data)


def test_a_member_with_a_foreign_node_id_is_refused() -> None:
    """Node ids become database keys: name@incarnation and nothing else."""
    members = [
        Member(node=NodeId("n1@x\x00"), name="n1", address="", blob_address="", s3_address="")
    ]

    with pytest.raises(PackingError):
        decode_members(encode_members(members))
