"""A damaged node comes back as a wiped member, by itself (protocols.md 1.2).

Damage is found at start, while running, or by a peer; in each case the process leaves a durable note and ends
with ``EXIT_DAMAGE``, the supervisor starts it again, and that start acts on the note: it makes a new incarnation
durable, puts the old parts into quarantine and begins empty. The note is there even if the next start could find
nothing wrong: two catalogs that differ both pass their checks. In a cluster of one there is nobody to be healed by:
it stops, says what to do, and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from sos import failpoints
from sos.catalog.codec import decode_formation
from sos.catalog.model import NodeId
from sos.clock import Clock, IdSource
from sos.config import Config
from sos.disk import Disk
from sos.errors import EXIT_DAMAGE, REJOIN_ADVICE, FatalStop, StartRefused
from sos.raft import quarantine
from sos.raft.boots import PeerBoots
from sos.raft.identity import (
    DataDirectory,
    Empty,
    FoundIdentity,
    Identity,
    lock_directory,
    read_identity,
)
from sos.raft.quarantine import Note
from sos.telemetry import log

_AGAIN_S: Final = 600


def load_or_return(
    config: Config, *, disk: Disk, ids: IdSource, clock: Clock
) -> DataDirectory | None:
    """The directory's identity, a new one if a note or the identity itself says so; None if there is none yet.

    Raises: StartRefused, FatalStop.
    """
    path, name = config.node.data, config.node.name
    try:
        directory = DataDirectory.load(disk, path, name=name)
        why = None if directory is None else _why_noted(disk, path, directory.identity)
    except StartRefused as error:
        if error.exit_code != EXIT_DAMAGE or not _may_have_company(config, disk):
            raise
        directory, why = None, str(error)
    if why is not None:
        why = without_advice(why)
        _refuse_again(disk, path, clock.wall_ms(), why)
        directory = DataDirectory.renew(
            disk, path, name=name, ids=ids, wall_ms=clock.wall_ms(), why=why
        )
        log.error("core.came_back_wiped", node=directory.identity.node, why=why)
        failpoints.hit("wipe.before_note_removed")
    quarantine.remove_note(disk, path)
    return directory


def _refuse_again(disk: Disk, path: str, wall_ms: int, why: str) -> None:
    """A disk that damages one directory after another must not make the others heal it for ever."""
    for aside in quarantine.list_aside(disk, path):
        made_ms = quarantine.made_ms(aside)
        if made_ms is not None and abs(wall_ms - made_ms) < _AGAIN_S * 1000:
            raise StartRefused(
                f"{why}; and it came back as an empty member just before, because {aside.why}: check its disk; a "
                f"start {_AGAIN_S // 60} minutes after that tries again, `sos rejoin {path}` does at once",
                exit_code=EXIT_DAMAGE,
            )


def _may_have_company(config: Config, disk: Disk) -> bool:
    """Whether there are others, where the identity cannot be read."""
    if len(config.node.seeds) > 1 or config.node.join:
        return True
    return bool(PeerBoots.load(disk, config.node.data).highest)


def without_advice(why: str) -> str:
    """What was found, for a node that needs no person to do anything about it."""
    return why.removesuffix(f": {REJOIN_ADVICE}")


def _why_noted(disk: Disk, path: str, identity: Identity) -> str | None:
    note = quarantine.read_note(disk, path)
    return note.why if note is not None and note.incarnation == identity.incarnation else None


def note_damage(
    config: Config, *, disk: Disk, identity: Identity, listed: Set[NodeId] | None, why: str
) -> bool:
    """Make the next start come back as a wiped member; False: nobody could heal it, or nothing can be written.

    ``listed``: the members as the catalog or the log knows them, None if neither can be asked.
    """
    others = None if listed is None else bool(listed - {identity.node})
    if others is None:
        others = _has_company(config.node.data, disk, identity)
    if not others:
        return False
    try:
        note = Note(incarnation=identity.incarnation, why=without_advice(why))
        quarantine.leave_note(disk, config.node.data, note)
    except (OSError, FatalStop) as error:
        log.error("core.note_failed", why=str(error))
        return False
    return True


def _has_company(path: str, disk: Disk, identity: Identity) -> bool:
    """Whether others may hold what this node held, as far as that is known without its catalog."""
    formation = identity.formation
    if isinstance(formation, Empty) or len(decode_formation(formation.record).members) > 1:
        return True
    return bool(PeerBoots.load(disk, path).highest)


# --- `sos rejoin`, on a stopped node ----------------------------------------------------------------
def rejoin_empty(disk: Disk, path: str, *, ids: IdSource, clock: Clock) -> str:
    """Make the node of ``path`` an empty member; what was done, in one line. Raises: StartRefused, FatalStop."""
    lock = lock_directory(disk, path)
    try:
        identity = _identity_of(disk, path).identity
        if not _has_company(path, disk, identity):
            raise StartRefused(
                f"{path} is the only member of its cluster: nobody could give it back what it would put aside; if "
                f"nothing newer ever ran, `sos rejoin {path} --moved`"
            )
        why = "`sos rejoin`"
        renewed = DataDirectory.renew(
            disk, path, name=identity.name, ids=ids, wall_ms=clock.wall_ms(), why=why
        )
        quarantine.remove_note(disk, path)
        return (
            f"{identity.node} is now {renewed.identity.node}, empty: start it, and the others heal it; what it had "
            f"is in {path}/{quarantine.QUARANTINE_NAME}"
        )
    finally:
        lock.close()


def declare_moved(disk: Disk, path: str) -> str:
    """Take ``path`` as the original; what was done, in one line. Raises: StartRefused, FatalStop."""
    lock = lock_directory(disk, path)
    try:
        found = _identity_of(disk, path)
        if not found.is_copy:
            return f"{path} is no copy of another directory: nothing to do"
        DataDirectory(disk, path, found.identity).write_moved()
        return f"{path} counts as the directory of {found.identity.node} from now on"
    finally:
        lock.close()


def _identity_of(disk: Disk, path: str) -> FoundIdentity:
    found = read_identity(disk, path)
    if found is None:
        raise StartRefused(f"{path} is no data directory of a node: it has no identity")
    return found


def warnings(disk: Disk, path: str) -> list[str]:
    """What status warns of as long as something lies in the quarantine of data directory ``path``."""
    try:
        asides = quarantine.list_aside(disk, path)
    except OSError:
        return []  # somebody deletes it at this moment
    return [
        f"this node came back as an empty member: {aside.why}; what it had is in {aside.path}, which may be "
        "deleted when nobody wants to look at it any more"
        for aside in asides
    ]
