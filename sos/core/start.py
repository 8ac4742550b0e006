"""What happens before a core takes part: lock, identity, damage checks, catalog, journal.

A directory that fails its checks ends the node with one line and an exit code; unless it is the only member, it
comes back as a wiped one (``returning``).
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from sos.catalog.codec import decode_formation
from sos.catalog.environment import LmdbError
from sos.catalog.model import FormationRecord, NodeId
from sos.catalog.probe import probe
from sos.catalog.store import CatalogStore
from sos.clock import Clock, IdSource
from sos.config import Config, Secrets
from sos.core.returning import load_or_return
from sos.disk import Disk, Lock
from sos.disk_sizes import disk_sizes
from sos.errors import (
    EXIT_DAMAGE,
    EXIT_DISK,
    EXIT_USAGE,
    REJOIN_ADVICE,
    Corruption,
    MadeByNewer,
    StartRefused,
)
from sos.lifeline import die_with_parent
from sos.link.path import SOCKET_NAME
from sos.raft.boots import BOOTS_NAME
from sos.raft.identity import (
    IDENTITY_NAME,
    LOCK_NAME,
    PARTS,
    DataDirectory,
    Empty,
    Formed,
    lock_directory,
)
from sos.raft.journal import FileJournal, open_journal

_PROBE_S_MAX: Final = 60.0
_PROBE_BYTES: Final = 4096  # of its answer: a pipe takes so many in one piece


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDirectory:
    """A locked data directory whose identity counts this start."""

    lock: Lock
    directory: DataDirectory
    is_new: bool  # this start made the identity
    listed: Set[NodeId] | None = None  # the members, as far as its catalog could be asked


def open_directory(config: Config, *, disk: Disk, ids: IdSource, clock: Clock) -> OpenDirectory:
    """Lock the directory, load or make its identity, raise its boot number. Raises: StartRefused."""
    path = config.node.data
    lock = lock_directory(disk, path)
    directory = load_or_return(config, disk=disk, ids=ids, clock=clock)
    is_new = directory is None
    if directory is None:
        directory = DataDirectory.create(disk, path, name=config.node.name, ids=ids)
    formation = directory.identity.formation
    if isinstance(formation, Formed):
        record = decode_formation(formation.record)
        check_root_keys(config.secrets, record)
        if record.region != config.s3.region:
            raise StartRefused(
                f"--region {config.s3.region}: this cluster was formed with region {record.region}; "
                f"start every node with --region {record.region}"
            )
    directory.raise_boot()
    return OpenDirectory(lock=lock, directory=directory, is_new=is_new)


def check_parts(directory: DataDirectory) -> None:
    """Raises: StartRefused when this incarnation has lost what it promised."""
    wiped = directory.wiped_parts()
    if wiped:
        raise StartRefused(
            f"{', '.join(map(directory.part, wiped))} is missing or of another incarnation, so this node has "
            f"lost what it promised: {REJOIN_ADVICE}",
            exit_code=EXIT_DAMAGE,
        )


def remove_unpromised(opened: OpenDirectory, path: str) -> None:
    """Leave nothing of a first start that was refused before the node promised anything to anybody.

    The identity goes last: one without parts, that promised nothing, is simply completed by the next start.
    """
    if not opened.is_new or not isinstance(opened.directory.identity.formation, Empty):
        return
    for part in PARTS:
        shutil.rmtree(opened.directory.part(part), ignore_errors=True)
    for name in (BOOTS_NAME, IDENTITY_NAME, SOCKET_NAME, LOCK_NAME):
        if os.path.lexists(os.path.join(path, name)):
            os.unlink(os.path.join(path, name))


def check_root_keys(given: Secrets, record: FormationRecord) -> None:
    """Root keys of the environment are those of the catalog. Raises: StartRefused (design, section 4)."""
    if not given.root_access_key:
        return
    same = given.root_access_key == record.root_access_key and secrets.compare_digest(
        given.root_secret_key.encode(), record.root_secret_key.encode()
    )
    if not same:
        raise StartRefused(
            "SOS_ROOT_ACCESS_KEY or SOS_ROOT_SECRET_KEY differs from the cluster's: unset both (the "
            "cluster keeps its keys); to rotate, make a new key with `sos key create` and use that one"
        )


def write_root_keys(data: str, record: FormationRecord) -> str:
    """Write the root keys, 0600, in the form a shell can source; returns the path."""
    path = os.path.join(data, "root-keys")
    temporary = f"{path}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        text = (
            f"SOS_ROOT_ACCESS_KEY={record.root_access_key}\n"
            f"SOS_ROOT_SECRET_KEY={record.root_secret_key}\n"
        )
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    return path


def has_catalog(directory: DataDirectory) -> bool:
    return os.path.lexists(os.path.join(directory.part("catalog"), "current"))


def probe_catalog(directory: DataDirectory) -> frozenset[NodeId]:
    """Read the catalog's bones in a child first: on damage LMDB may end its process by a signal.

    Returns: the members that it lists.

    Forks, without exec: call it before there is a loop, a thread or an open environment. (A fresh
    interpreter would cost every start 0.3 s of CPU.) Raises: StartRefused.
    """
    path = directory.part("catalog")
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _probe_and_exit(path, writing, parent)
    os.close(writing)
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    is_answered = bool(poller.poll(_PROBE_S_MAX * 1000))  # its words, or the end of the pipe
    text = os.read(reading, _PROBE_BYTES).decode(errors="replace") if is_answered else ""
    os.close(reading)
    if not is_answered:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if not is_answered:
        raise StartRefused(
            f"{path}: the disk did not answer within {_PROBE_S_MAX:.0f} s", exit_code=EXIT_DISK
        )
    if code == EXIT_DISK:
        raise StartRefused(f"{path} cannot be read: {text}", exit_code=EXIT_DISK)
    if code == EXIT_USAGE:
        raise StartRefused(text)
    if code != 0:
        reason = text or f"reading it ended with {code}"
        raise StartRefused(f"{path} is damaged: {reason}", exit_code=EXIT_DAMAGE)
    return frozenset(map(NodeId, text.split()))


def _probe_and_exit(path: str, writing: int, parent: int) -> NoReturn:
    """The child's whole life; no cleanup of the parent's runs in it."""
    code = EXIT_DAMAGE
    try:
        die_with_parent(parent)
        os.write(writing, " ".join(probe(path)).encode())
        code = 0
    except MadeByNewer as error:
        code = error.exit_code
        os.write(writing, str(error).encode()[:_PROBE_BYTES])
    except (Corruption, OSError, LmdbError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            code = EXIT_DISK  # a full or failing disk says nothing of what is on it
        os.write(writing, " ".join(str(error).split()).encode()[:_PROBE_BYTES])
    finally:
        os._exit(code)


def open_log(config: Config, directory: DataDirectory, *, disk: Disk) -> FileJournal:
    """The journal of this incarnation. Raises: StartRefused when it is damaged."""
    sizes = disk_sizes(config)
    return open_journal(
        disk,
        directory.part("journal"),
        incarnation=directory.identity.incarnation,
        segment_bytes=sizes.segment,
        kept_bytes_min=sizes.journal_kept_min,
        kept_bytes_max=sizes.journal_kept_max,
    )


def open_catalog(
    directory: DataDirectory, record: FormationRecord, journal: FileJournal
) -> CatalogStore:
    """The catalog, made from the formation record at the first start. Raises: StartRefused."""
    path = Path(directory.part("catalog"))
    if has_catalog(directory):
        try:
            return CatalogStore.open(path)
        except (Corruption, FileNotFoundError) as error:
            raise StartRefused(f"{path} is damaged: {error}", exit_code=EXIT_DAMAGE) from error
    if journal.last_index > 1 or journal.getCurrentTerm() > 0:
        raise StartRefused(
            f"{path} is empty, but the journal beside it is not: this node has lost its catalog: "
            f"{REJOIN_ADVICE}",
            exit_code=EXIT_DAMAGE,
        )
    return CatalogStore.create(path, record)
