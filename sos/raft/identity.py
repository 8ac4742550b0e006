"""Who a data directory is: name, incarnation, cluster, boot number, and whether it is a copy.

Raft counts by ``name@incarnation``, so an incarnation that comes back without what it promised could elect
two leaders. Hence the order in ``create``: first a new incarnation is durable, then anything old is
deleted; and ``journal/``, ``catalog/`` and ``blobs/`` each carry the incarnation they belong to
(protocols.md 1).
"""

from __future__ import annotations

import base64
import json
import os
import re
import zlib
from dataclasses import dataclass, replace
from typing import Final

from sos.catalog.model import NodeId
from sos.clock import IdSource
from sos.disk import Disk, FileIdentity, Lock
from sos.errors import (
    EXIT_DAMAGE,
    EXIT_DISK,
    REJOIN_ADVICE,
    DiskFull,
    FatalStop,
    StartRefused,
)

IDENTITY_NAME: Final = "identity"
LOCK_NAME: Final = "lock"
MARK_NAME: Final = "incarnation"
PARTS: Final = ("journal", "catalog", "blobs")
INCARNATION_BYTES: Final = 8
NAME_PATTERN: Final = re.compile(r"[a-z0-9-]{1,32}")
_TEMPORARY_SUFFIX: Final = ".tmp"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Nothing promised to anybody yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Agreed to form this cluster in this round (protocols.md 2). ``record``: the formation record, encoded."""

    round_number: int
    cluster_id: bytes
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Formed:
    """A member, for good. ``record`` stays: the catalog's first state is made from it."""

    cluster_id: bytes
    record: bytes


Formation = Empty | Prepared | Formed


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the identity file says. ``boot``: raised by each start. ``epoch``: raised by ``sos recover``."""

    name: str
    incarnation: str
    boot: int
    epoch: int
    formation: Formation

    @property
    def node(self) -> NodeId:
        return NodeId(f"{self.name}@{self.incarnation}")


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
        parsed = _parse_identity(data)
        if parsed is None:
            raise StartRefused(
                f"{file_path} is damaged: {REJOIN_ADVICE}",
                exit_code=EXIT_DAMAGE,
            )
        identity, recorded = parsed
        if recorded != own:
            raise StartRefused(
                f"{path} is a copy of another data directory: start the original, which may be "
                f"renamed but not copied; {REJOIN_ADVICE}"
            )
        if identity.name != name:
            raise StartRefused(
                f"{path} belongs to node {identity.name!r}, not to {name!r}: "
                f"use --name {identity.name}, or another --data"
            )
        directory = cls(disk, path, identity)
        if isinstance(identity.formation, Empty) and directory.wiped_parts():
            directory._prepare_parts()  # a first start that was cut short: it had promised nothing
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
        directory._prepare_parts()
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

    def write_formed(self, *, cluster_id: bytes, record: bytes) -> None:
        """Become a member of this cluster; before the first vote or acknowledgement."""
        formed = Formed(cluster_id=cluster_id, record=record)
        if self._identity.formation == formed:
            return
        assert not isinstance(self._identity.formation, Formed), "formed is never left"
        self._write(replace(self._identity, formation=formed))

    # --- helpers ------------------------------------------------------------------------------
    def _write(self, identity: Identity) -> None:
        """Replace the file by one that knows its own inode and birth time, which a copy has not."""
        path = os.path.join(self._path, IDENTITY_NAME)
        temporary = path + _TEMPORARY_SUFFIX
        try:
            if self._disk.exists(temporary):
                self._disk.unlink(temporary)
            file = self._disk.create(temporary)
            try:
                file.pwrite(_encode_identity(identity, file.identity()), 0)
                file.fsync()
            finally:
                file.close()
            self._disk.rename(temporary, path)
            self._disk.fsync_directory(self._path)
        except OSError as error:
            raise _io_error(self._path, error) from error
        self._identity = identity

    def _mark(self) -> bytes:
        return f"{self._identity.incarnation}\n".encode()

    def _read_mark(self, part: str) -> bytes | None:
        path = os.path.join(self.part(part), MARK_NAME)
        if not self._disk.exists(path):
            return None
        try:
            file = self._disk.open(path)
            try:
                return file.pread(file.size(), 0)
            finally:
                file.close()
        except OSError as error:
            raise _io_error(self._path, error) from error

    def _prepare_parts(self) -> None:
        """Empty each part and mark it; the mark comes last, so a crash in between shows as not done."""
        disk = self._disk
        try:
            for name in PARTS:
                part = self.part(name)
                if disk.exists(part):
                    _remove_content(disk, part)
                else:
                    disk.mkdir(part)
                disk.fsync_directory(self._path)
                disk.fsync_directory(part)
                file = disk.create(os.path.join(part, MARK_NAME))
                try:
                    file.pwrite(self._mark(), 0)
                    file.fsync()
                finally:
                    file.close()
                disk.fsync_directory(part)
        except OSError as error:
            raise _io_error(self._path, error) from error


def lock_directory(disk: Disk, path: str) -> Lock:
    """Keep every other process out of ``path``. Raises: StartRefused, in one line."""
    try:
        return disk.lock(os.path.join(path, LOCK_NAME))
    except OSError as error:
        raise StartRefused(f"data directory {path} cannot be used: {error.strerror}") from error


def _refuse_foreign_content(disk: Disk, path: str) -> None:
    """A lost identity file is no reason to delete a journal: a person decides."""
    left = [part for part in PARTS if disk.exists(os.path.join(path, part, MARK_NAME))]
    if left:
        raise StartRefused(
            f"{path} has {', '.join(left)} but no identity file: put it back, or choose another --data; "
            f"{REJOIN_ADVICE}",
            exit_code=EXIT_DAMAGE,
        )


def _remove_content(disk: Disk, path: str) -> None:
    """Empty a directory."""
    for name in disk.listing(path):
        child = os.path.join(path, name)
        if disk.is_directory(child):
            _remove_content(disk, child)
            disk.rmdir(child)
        else:
            disk.unlink(child)


def _io_error(path: str, error: OSError) -> Exception:
    if isinstance(error, DiskFull):
        return StartRefused(f"no space left in data directory {path}", exit_code=EXIT_DISK)
    return FatalStop(f"data directory {path}: {error}", exit_code=EXIT_DISK)


# --- the file: one line of JSON, one line with its CRC; a person may read it ----------------------
def _encode_identity(identity: Identity, own: FileIdentity) -> bytes:
    document: dict[str, str | int] = {
        "version": _VERSION,
        "name": identity.name,
        "incarnation": identity.incarnation,
        "boot": identity.boot,
        "epoch": identity.epoch,
        "inode": own.inode,
        "birth_ns": own.birth_ns,
        "state": "empty",
    }
    formation = identity.formation
    if not isinstance(formation, Empty):
        document["state"] = "formed"
        document["cluster_id"] = formation.cluster_id.hex()
        document["record"] = base64.b64encode(formation.record).decode()
    if isinstance(formation, Prepared):
        document["state"] = "prepared"
        document["round"] = formation.round_number
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    return body + f"{zlib.crc32(body):08x}\n".encode()


def _parse_identity(data: bytes) -> tuple[Identity, FileIdentity] | None:
    """The identity and where its file was made; None if the bytes fail their checks."""
    body, newline, check = data.partition(b"\n")
    body += newline
    if check != f"{zlib.crc32(body):08x}\n".encode():
        return None
    document = json.loads(body)
    if document["version"] != _VERSION:
        return None
    formation: Formation = Empty()
    if document["state"] != "empty":
        cluster_id = bytes.fromhex(document["cluster_id"])
        record = base64.b64decode(document["record"])
        formation = Formed(cluster_id=cluster_id, record=record)
        if document["state"] == "prepared":
            formation = Prepared(
                round_number=document["round"], cluster_id=cluster_id, record=record
            )
    identity = Identity(
        name=document["name"],
        incarnation=document["incarnation"],
        boot=document["boot"],
        epoch=document["epoch"],
        formation=formation,
    )
    return identity, FileIdentity(inode=document["inode"], birth_ns=document["birth_ns"])
