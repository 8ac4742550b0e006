"""`sos recover`: a stopped survivor of a lost majority begins a new epoch with the others that survived.

Rules (protocols.md 3.7, which leaves them open):
1. An epoch holds its own list of survivors: its number is a count and a checksum over them, so nodes that were
   given different lists never talk to each other.
2. Until the log holds the survivors' list, an election needs all of them, not a majority: an acknowledged entry is
   on every majority of the old members, so on at least one survivor, but perhaps on one alone.
3. The leader of the new epoch appends the survivors' list before any other (``members.check_change``).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sos.catalog.model import NodeId
from sos.catalog.store import CatalogStore
from sos.core.members import to_raft_list
from sos.core.start import check_parts, has_catalog, probe_catalog
from sos.disk import Disk
from sos.errors import DAMAGE_NOTE_NAME, StartRefused
from sos.raft.engine import COMMAND
from sos.raft.identity import DataDirectory, Formed, lock_directory, read_identity
from sos.raft.journal import FileJournal, open_journal
from sos.raft.members import ListHistory, MemberList
from sos.raft.messages import MEMBERS_BYTE, decode_members, encode_members

_EPOCH_BITS: Final = 32
_SCAN_ENTRIES: Final = 4096
_SCAN_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What one stopped directory knows. ``members``: the list in force; ``is_recorded``: an entry holds it.

    ``counted``: the lists by whose majorities entries were acknowledged, as far as that may be undone.
    """

    node: NodeId
    epoch: int
    members: MemberList
    counted: tuple[MemberList, ...]
    is_recorded: bool
    last_index: int
    applied_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``is_done``: this directory has this epoch already. ``may_lose``: acknowledged writes may be gone."""

    survivors: MemberList
    lost: tuple[NodeId, ...]
    is_done: bool
    may_lose: bool

    @property
    def others(self) -> str:
        """The value of ``--only`` for the other survivors: with incarnations, so that all mean the same."""
        return ",".join(member.node for member in self.survivors.members)


def recover(disk: Disk, path: str, only: Collection[str], *, is_sure: bool) -> tuple[Survey, Plan]:
    """Plan what ``only`` (names, or name@incarnation) asks for, and do it if ``is_sure``.

    Raises: StartRefused; then nothing was changed.
    """
    lock = lock_directory(disk, path)
    try:
        directory = _sound_directory(disk, path)
        survey = _survey(disk, directory)
        made = plan(survey, only)
        if is_sure and not made.is_done:
            survivors = made.survivors
            directory.write_recovered(epoch=survivors.epoch, members=encode_members(survivors))
        return survey, made
    finally:
        lock.close()


def plan(survey: Survey, only: Collection[str]) -> Plan:
    """Who goes on, and what may be lost. Pure. Raises: StartRefused."""
    members = survey.members
    chosen = []
    for text in only:
        name, _, incarnation = text.partition("@")
        listed = next((m for m in members.members if m.name == name), None)
        if listed is None or (incarnation and listed.node != text):
            names = ", ".join(member.node for member in members.members)
            raise StartRefused(f"--only: {text!r} is not a member: {names}")
        chosen.append(replace(listed, leaving=False))
    kept = {member.node for member in chosen}
    if survey.node not in kept:
        raise StartRefused(
            f"--only does not name {survey.node}, whose directory this is: only survivors recover"
            if survey.node in members.nodes
            else f"this directory is that of {survey.node}, which is no member: it has nothing that counts"
        )
    lost = tuple(NodeId(m.node) for m in members.members if m.node not in kept)
    is_done = not lost and not survey.is_recorded
    if not lost and not is_done:
        raise StartRefused(
            "--only names every member: there is nobody to leave out; start the nodes, and they go on"
        )
    survivors = MemberList(members=tuple(sorted(chosen, key=lambda member: member.node)))
    epoch = survey.epoch if is_done else next_epoch(survey.epoch, kept)
    return Plan(
        survivors=replace(survivors, epoch=epoch),
        lost=lost,
        is_done=is_done,
        may_lose=any(
            len(kept & one.nodes) < len(one.members) - one.majority + 1 for one in survey.counted
        ),
    )


def next_epoch(epoch: int, nodes: Collection[str]) -> int:
    """The epoch after ``epoch`` in which ``nodes`` go on; another one for any other set of them. Pure."""
    count = (epoch >> _EPOCH_BITS) + 1
    return count << _EPOCH_BITS | zlib.crc32(",".join(sorted(nodes)).encode())


def _sound_directory(disk: Disk, path: str) -> DataDirectory:
    found = read_identity(disk, path)
    if found is None or not isinstance(found.identity.formation, Formed):
        raise StartRefused(f"{path} belongs to no cluster: nothing can be recovered from it")
    if found.is_copy:
        raise StartRefused(f"{path} is a copy: see `sos rejoin {path} --moved`")
    if disk.exists(os.path.join(path, DAMAGE_NOTE_NAME)):
        raise StartRefused(f"{path} was found damaged: it is no survivor")
    directory = DataDirectory(disk, path, found.identity)
    check_parts(directory)
    return directory


def _survey(disk: Disk, directory: DataDirectory) -> Survey:
    identity = directory.identity
    if not has_catalog(directory):
        raise StartRefused(
            f"{directory.part('catalog')} is empty: this node has nothing to go on with"
        )
    probe_catalog(directory)
    store = CatalogStore.open(Path(directory.part("catalog")))
    try:
        listed, applied = store.members(), store.applied()[0]
    finally:
        store.close()
    lists = ListHistory(
        base_index=applied,
        base=to_raft_list(listed.members, epoch=listed.epoch),
        recovered=decode_members(identity.recovered) if identity.recovered else None,
    )
    journal = open_journal(disk, directory.part("journal"), incarnation=identity.incarnation)
    try:
        _scan(journal, lists, applied + 1)
        last_index = journal.last_index
    finally:
        journal.close()
    return Survey(
        node=identity.node,
        epoch=identity.epoch,
        members=lists.in_force,
        counted=lists.recorded,
        is_recorded=lists.unrecorded is None,
        last_index=last_index,
        applied_index=applied,
    )


def _scan(journal: FileJournal, lists: ListHistory, first: int) -> None:
    """Find the lists in the entries that the catalog has not applied."""
    first = max(first, journal.first_index)
    while first <= journal.last_index:
        entries = journal.read_entries(first, _SCAN_ENTRIES, _SCAN_BYTES)
        for command, index, _ in entries:
            if command[:2] == COMMAND + MEMBERS_BYTE:
                lists.append(index, decode_members(command[1:]))
        first = entries[-1][1] + 1
