"""Who a data directory is: name, incarnation, cluster, boot number, and whether it is a copy.

Raft counts by ``name@incarnation``, so an incarnation that comes back without what it promised could elect
two leaders. Hence the order in ``create`` and ``renew``: first a new incarnation is durable, then anything old
is deleted or put aside; and ``journal/``, ``catalog/`` and ``blobs/`` each carry the incarnation they belong to
(protocols.md 1).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Final

from sos import failpoints
from sos.clock import IdSource
from sos.disk import Disk, Lock
from sos.errors import (
    EXIT_DAMAGE,
    EXIT_DISK,
    REJOIN_ADVICE,
    DiskFull,
    FatalStop,
    StartRefused,
)
from sos.raft import quarantine
from sos.raft.identity_file import (
    Empty,
    Formation,
    Formed,
    Identity,
    Prepared,
    Returned,
    encode_identity,
    parse_identity,
)
from sos.raft.small_files import read_file, remove_content, write_file

__all__ = [
    "IDENTITY_NAME",
    "LOCK_NAME",
    "MARK_NAME",
    "PARTS",
    "DataDirectory",
    "Empty",
    "Formation",
    "Formed",
    "FoundIdentity",
    "Identity",
    "Prepared",
    "Returned",
    "lock_directory",
    "read_identity",
]

IDENTITY_NAME: Final = "identity"
LOCK_NAME: Final = "lock"
MARK_NAME: Final = "incarnation"
PARTS: Final = ("journal", "catalog", "blobs")
INCARNATION_BYTES: Final = 8
NAME_PATTERN: Final = re.compile(r"[a-z0-9-]{1,32}")
_MARK: Final = re.compile(rb"[0-9a-f]{16}\n")


class DataDirectory:
    """The identity of one data directory, and the only writer of it. Every write is durable when it returns."""

    def __init__(self, disk: Disk, path: str, identity: Identity) -> None:
        self._disk = disk
        self._path = path
        self._identity = identity

    @classmethod
    def load(cls, disk: Disk, path: str, *, name: str) -> DataDirectory | None:
        """The directory's identity, None if it has none yet.

        Raises: StartRefused for another name, a damaged identity or a copied directory; FatalStop.
        """
        found = read_identity(disk, path)
        if found is None:
            return None
        if found.is_copy:
            raise StartRefused(
                f"{path} is a copy of another data directory: start the original, which may be renamed but "
                f"not copied; or run `sos rejoin {path}`, which makes it an empty member of its cluster "
                f"(`sos rejoin {path} --moved` if nothing newer than this copy ever ran)"
            )
        identity = found.identity
        if identity.name != name:
            raise StartRefused(
                f"{path} belongs to node {identity.name!r}, not to {name!r}: "
                f"use --name {identity.name}, or another --data"
            )
        directory = cls(disk, path, identity)
        if isinstance(identity.formation, Empty) and directory.wiped_parts():
            directory._complete_parts()  # a start that was cut short: it had promised nothing
        return directory

    @classmethod
    def create(cls, disk: Disk, path: str, *, name: str, ids: IdSource) -> DataDirectory:
        """A new identity in ``path``, which exists; whatever was in its parts is deleted afterwards.

        Raises: StartRefused (bad name, no space), FatalStop.
        """
        if NAME_PATTERN.fullmatch(name) is None:
            raise StartRefused(f"node name {name!r} must be 1 to 32 of a-z, 0-9 and '-'")
        identity = Identity(
            name=name,
            incarnation=ids.random_bytes(INCARNATION_BYTES).hex(),
            boot=0,
            epoch=0,
            formation=Empty(),
        )
        directory = cls(disk, path, identity)
        directory._write(identity)
        directory._complete_parts()
        return directory

    @classmethod
    def renew(
        cls, disk: Disk, path: str, *, name: str, ids: IdSource, wall_ms: int, why: str
    ) -> DataDirectory:
        """Come back as a wiped member: a new incarnation, then the old parts in quarantine, blobs kept.

        Copies of blobs are sound or found out by their checksums, whoever made them: nobody counts them until
        the new incarnation itself reports them. Raises: StartRefused (no space), FatalStop.
        """
        try:
            found = read_identity(disk, path)
            old = None if found is None else found.identity
        except StartRefused:
            old = None
        incarnation = old.incarnation if old is not None else _any_mark(disk, path)
        returned = Returned(
            incarnation=incarnation,
            was_formed=old is None or _was_formed(old.formation),
            quarantine=quarantine.quarantine_name(wall_ms, incarnation),
            why=why,
        )
        identity = Identity(
            name=name,
            incarnation=ids.random_bytes(INCARNATION_BYTES).hex(),
            boot=0,
            epoch=0,
            formation=Empty(returned=returned),
        )
        directory = cls(disk, path, identity)
        failpoints.hit("wipe.before_identity")
        directory._write(identity)
        failpoints.hit("wipe.after_identity")
        directory._complete_parts()
        return directory

    @property
    def identity(self) -> Identity:
        return self._identity

    def part(self, name: str) -> str:
        """The path of ``journal``, ``catalog`` or ``blobs``."""
        assert name in PARTS
        return os.path.join(self._path, name)

    def wiped_parts(self) -> tuple[str, ...]:
        """The parts that are missing or of another incarnation. Any: this incarnation must never vote again."""
        expected = self._mark()
        return tuple(name for name in PARTS if self._read_mark(name) != expected)

    def write_moved(self) -> None:
        """A person says that nothing newer than this directory ever ran: it is no copy any more."""
        self._write(self._identity)

    def write_recovered(self, *, epoch: int, members: bytes) -> None:
        """Begin a new epoch with the members of this list (protocols.md 3.7)."""
        assert epoch > self._identity.epoch
        self._write(replace(self._identity, epoch=epoch, recovered=members))

    def raise_boot(self) -> None:
        """Count this start; before the first connection, for peers remember the highest they saw."""
        self._write(replace(self._identity, boot=self._identity.boot + 1))

    def write_prepared(self, *, round_number: int, cluster_id: bytes, record: bytes) -> None:
        """Promise to form this cluster; only a higher round may replace the promise."""
        formation = self._identity.formation
        assert not isinstance(formation, Formed), "formed is never left"
        if isinstance(formation, Prepared):
            assert round_number > formation.round_number, "a promise is kept within its round"
        prepared = Prepared(round_number=round_number, cluster_id=cluster_id, record=record)
        self._write(replace(self._identity, formation=prepared))

    def write_formed(self, *, cluster_id: bytes, record: bytes, epoch: int = 0) -> None:
        """Become a node of this cluster, which is in ``epoch``; before the first vote or acknowledgement."""
        formed = Formed(cluster_id=cluster_id, record=record)
        if self._identity.formation == formed:
            return
        assert not isinstance(self._identity.formation, Formed), "formed is never left"
        self._write(replace(self._identity, formation=formed, epoch=epoch))

    # --- helpers ------------------------------------------------------------------------------
    def _write(self, identity: Identity) -> None:
        """Replace the file by one that knows its own inode and birth time, which a copy has not."""
        try:
            write_file(
                self._disk,
                self._path,
                IDENTITY_NAME,
                lambda own: encode_identity(identity, own),
            )
        except OSError as error:
            raise _io_error(self._path, error) from error
        self._identity = identity

    def _mark(self) -> bytes:
        return f"{self._identity.incarnation}\n".encode()

    def _read_mark(self, part: str) -> bytes | None:
        return _read_mark(self._disk, self._path, part)

    def _complete_parts(self) -> None:
        """What a new incarnation still has to do: each part empty and marked, what was there put aside or kept."""
        formation = self._identity.formation
        assert isinstance(formation, Empty)
        try:
            for name in PARTS:
                if self._read_mark(name) == self._mark():
                    continue
                if formation.returned is None or not self._keep(name, formation.returned):
                    self._empty_part(name)
                write_file(self._disk, self.part(name), MARK_NAME, self._mark())
                failpoints.hit("wipe.after_part")
            if formation.returned is not None:
                quarantine.drop_oldest(self._disk, self._path, but=formation.returned.quarantine)
        except OSError as error:
            raise _io_error(self._path, error) from error

    def _keep(self, name: str, returned: Returned) -> bool:
        """Put an old part aside. Returns: True for ``blobs`` of the old incarnation, which stay."""
        old = f"{returned.incarnation}\n".encode()
        if not self._disk.exists(self.part(name)):
            return False
        if name == "blobs" and self._read_mark(name) == old:
            return True
        quarantine.put_aside(
            self._disk, self._path, name=returned.quarantine, part=name, why=returned.why
        )
        return False

    def _empty_part(self, name: str) -> None:
        disk, part = self._disk, self.part(name)
        if disk.exists(part):
            remove_content(disk, part)
        else:
            disk.mkdir(part)
        disk.fsync_directory(self._path)
        disk.fsync_directory(part)


def lock_directory(disk: Disk, path: str) -> Lock:
    """Keep every other process out of ``path``. Raises: StartRefused, in one line."""
    try:
        return disk.lock(os.path.join(path, LOCK_NAME))
    except OSError as error:
        raise StartRefused(f"data directory {path} cannot be used: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIdentity:
    """``is_copy``: the file is not where the identity was written, so perhaps something newer runs elsewhere."""

    identity: Identity
    is_copy: bool


def read_identity(disk: Disk, path: str) -> FoundIdentity | None:
    """What the identity file of ``path`` says, None if there is none and nothing else either.

    Raises: StartRefused (``EXIT_DAMAGE``: damaged, or lost beside parts that are there), FatalStop.
    """
    file_path = os.path.join(path, IDENTITY_NAME)
    if not disk.exists(file_path):
        _refuse_foreign_content(disk, path)
        return None
    try:
        file = disk.open(file_path)
        try:
            data, own = file.pread(file.size(), 0), file.identity()
        finally:
            file.close()
        disk.fsync_directory(path)  # a name that a crash left unsynced counts from now on
    except OSError as error:
        raise _io_error(path, error) from error
    parsed = parse_identity(data)
    if parsed is None:
        raise StartRefused(f"{file_path} is damaged: {REJOIN_ADVICE}", exit_code=EXIT_DAMAGE)
    identity, recorded = parsed
    return FoundIdentity(identity=identity, is_copy=recorded != own)


def _refuse_foreign_content(disk: Disk, path: str) -> None:
    """A lost identity file is no reason to delete a journal: a person decides."""
    left = [part for part in PARTS if disk.exists(os.path.join(path, part, MARK_NAME))]
    if left:
        raise StartRefused(
            f"{path} has {', '.join(left)} but no identity file: put it back, or choose another --data; "
            f"{REJOIN_ADVICE}",
            exit_code=EXIT_DAMAGE,
        )


def _read_mark(disk: Disk, path: str, part: str) -> bytes | None:
    try:
        return read_file(disk, os.path.join(path, part, MARK_NAME))
    except OSError as error:
        raise _io_error(path, error) from error


def _any_mark(disk: Disk, path: str) -> str:
    """The incarnation that the parts belong to; "" if they do not say."""
    marks = [_read_mark(disk, path, part) for part in reversed(PARTS)]
    return next((m.decode().strip() for m in marks if m is not None and _MARK.fullmatch(m)), "")


def _was_formed(formation: Formation) -> bool:
    """Whether a node that comes back from there was a member, so that it must not form a cluster."""
    if isinstance(formation, Empty):
        return formation.returned is not None and formation.returned.was_formed
    return isinstance(formation, Formed)


def _io_error(path: str, error: OSError) -> Exception:
    if isinstance(error, DiskFull):
        return StartRefused(f"no space left in data directory {path}", exit_code=EXIT_DISK)
    return FatalStop(f"data directory {path}: {error}", exit_code=EXIT_DISK)
