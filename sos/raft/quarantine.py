"""What a node puts aside when it comes back as a wiped member, and the note that makes it do so.

    DIR/damaged                              left before the process ends: the next start takes it as damage
    DIR/quarantine/<time>-<incarnation>/     the parts that the old incarnation left, and in ``why`` what was found

Nothing in quarantine is ever read again by a node; the newest two are kept for a person to look at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sos.disk import Disk
from sos.errors import DAMAGE_NOTE_NAME
from sos.levels import check_version
from sos.raft.small_files import (
    decode_document,
    encode_document,
    read_file,
    remove_content,
    write_file,
)

QUARANTINE_NAME: Final = "quarantine"
WHY_NAME: Final = "why"
KEPT: Final = 2
_VERSION: Final = 1
_MOMENT: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Damage of ``incarnation``; a note about another one was acted upon before."""

    incarnation: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAside:
    """One directory in quarantine."""

    path: str
    why: str


# --- the note -------------------------------------------------------------------------------------
def leave_note(disk: Disk, path: str, note: Note) -> None:
    """Durable when it returns. Raises: OSError, FatalStop."""
    document = {"version": _VERSION, "incarnation": note.incarnation, "why": note.why}
    write_file(disk, path, DAMAGE_NOTE_NAME, encode_document(document))


def read_note(disk: Disk, path: str) -> Note | None:
    """The note, None if there is none or it fails its checks. Raises: OSError, MadeByNewer."""
    data = read_file(disk, os.path.join(path, DAMAGE_NOTE_NAME))
    document = None if data is None else decode_document(data)
    if document is None:
        return None
    check_version(f"{path}/{DAMAGE_NOTE_NAME}", document["version"], _VERSION)
    return Note(incarnation=str(document["incarnation"]), why=str(document["why"]))


def remove_note(disk: Disk, path: str) -> None:
    """Raises: OSError, FatalStop."""
    if disk.exists(os.path.join(path, DAMAGE_NOTE_NAME)):
        disk.unlink(os.path.join(path, DAMAGE_NOTE_NAME))
        disk.fsync_directory(path)


# --- quarantine -----------------------------------------------------------------------------------
def put_aside(disk: Disk, path: str, *, name: str, part: str, why: str) -> None:
    """Move ``path/part`` into the quarantine ``name``, if it is not there yet. Raises: OSError, FatalStop."""
    quarantine = os.path.join(path, QUARANTINE_NAME)
    directory = os.path.join(quarantine, name)
    for parent, child in ((path, quarantine), (quarantine, directory)):
        if not disk.exists(child):
            disk.mkdir(child)
        disk.fsync_directory(parent)
    if not disk.exists(os.path.join(directory, WHY_NAME)):
        write_file(disk, directory, WHY_NAME, f"{why}\n".encode())
    target = os.path.join(directory, part)
    if disk.exists(target):
        return  # a renewal that was cut short: what stands in its place is the new one, not ready yet
    disk.rename(os.path.join(path, part), target)
    disk.fsync_directory(directory)
    disk.fsync_directory(path)


def list_aside(disk: Disk, path: str) -> tuple[PutAside, ...]:
    """What lies in quarantine, oldest first. Raises: OSError."""
    quarantine = os.path.join(path, QUARANTINE_NAME)
    if not disk.exists(quarantine):
        return ()
    found = []
    for name in disk.listing(quarantine):
        directory = os.path.join(quarantine, name)
        why = read_file(disk, os.path.join(directory, WHY_NAME)) or b""
        found.append(PutAside(path=directory, why=why.decode(errors="replace").strip()))
    return tuple(found)


def quarantine_name(wall_ms: int, incarnation: str) -> str:
    """The name of what ``incarnation`` ("": nobody can tell) leaves at this moment."""
    moment = datetime.fromtimestamp(wall_ms / 1000, UTC).strftime(_MOMENT)
    return f"{moment}-{incarnation or 'unknown'}"


def made_ms(aside: PutAside) -> int | None:
    """When it was put aside, by its name; None if a person renamed it."""
    moment = os.path.basename(aside.path).partition("-")[0]
    try:
        made = datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(made.timestamp() * 1000)


def drop_oldest(disk: Disk, path: str, *, but: str) -> None:
    """Keep ``but`` and the newest other one: names begin with the time, and clocks jump. Raises: OSError."""
    others = [one for one in list_aside(disk, path) if os.path.basename(one.path) != but]
    for aside in others[: -(KEPT - 1)]:
        remove_content(disk, aside.path)
        disk.rmdir(aside.path)
