"""The real catalog in real LMDB under the simulated engines.

LMDB does its own I/O, so a power cut is modelled by its contract (``metasync=False``: the last transaction may be
taken back, never torn): the two meta pages as they were before the last commit. That LMDB honours the contract is
the crash tests' business.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from sos.catalog.codec import decode_entry, encode_command, encode_entry
from sos.catalog.environment import DATA_FILE
from sos.catalog.model import Command, FormationRecord, NodeId, Operation, RequestId, WriteCondition
from sos.catalog.model import Member as CatalogMember
from sos.catalog.store import CatalogStore, verify_snapshot
from sos.core.members import to_raft_list
from sos.core.snapshots import decode_point, encode_point
from sos.errors import Corruption
from sos.raft.api import LogEntry
from sos.raft.members import MemberList
from sos.raft.snapshot import SnapshotPoint
from tests.sim.machine import KEYS, Observe
from tests.unit import catalog_samples as samples

_META_BYTES: Final = 2 * 4096
_DEDUPE_ENTRIES: Final = 100_000


class CatalogMachine:
    """Satisfies the bed's ``Machine`` with a ``CatalogStore``."""

    remembers = True

    def __init__(self, members: MemberList, random: Random) -> None:
        self._random = random
        self._home = Path(tempfile.mkdtemp(prefix="sos-sim-", dir=_memory_directory()))
        self._directory = self._home / "catalog"
        record = samples.formation()
        CatalogStore.create(self._directory, _formation(record, members)).close()
        self._store: CatalogStore | None = None
        self._metas: bytes | None = None  # before the last commit, while that is not synced
        self._copies = 0
        self._observe: Observe = lambda entry, digest: None
        self._shown = (
            1,
            0,
            0,
            b"",
            members,
        )  # index, term, durable index, digest, members: of a dead process
        self.open(self._observe)
        self.died(power=False)

    # --- life -------------------------------------------------------------------------------------
    def open(self, observe: Observe) -> None:
        self._observe = observe
        self._store = CatalogStore.open(self._directory, dedupe_entries=_DEDUPE_ENTRIES)

    def died(self, *, power: bool) -> None:
        store = self._store
        if store is not None:
            self._shown = (self.index, self.term, self.durable_index, self.digest, self.members)
            store._environment.close()
            self._store = None
        if power and self._metas is not None and self._random.random() < 0.5:
            with open(self._file(), "r+b") as file:
                file.write(self._metas)
            self._metas = None
            self.open(self._observe)
            self.died(power=False)

    def trouble(self) -> str | None:
        """Every record and both digests, recomputed."""
        assert self._store is not None
        self._copies += 1
        path = self._home / f"scan-{self._copies}"
        try:
            self._store.copy_snapshot(path)
            verify_snapshot(path)
        except Corruption as damage:
            return str(damage)
        path.unlink()
        return None

    def remove(self) -> None:
        """Leave nothing behind."""
        self.died(power=False)
        shutil.rmtree(self._home)

    def _file(self) -> Path:
        generation = CatalogStore.open(self._directory, dedupe_entries=_DEDUPE_ENTRIES)
        path = generation._path() / DATA_FILE
        generation._environment.close()
        return path

    # --- the state machine ------------------------------------------------------------------------
    def applied(self) -> tuple[int, int]:
        return self.index, self.term

    @property
    def index(self) -> int:
        return self._store.applied()[0] if self._store is not None else self._shown[0]

    @property
    def term(self) -> int:
        return self._store.applied()[1] if self._store is not None else self._shown[1]

    @property
    def durable_index(self) -> int:
        return self._store.durable_index if self._store is not None else self._shown[2]

    @property
    def digest(self) -> bytes:
        return self._store._state.chain if self._store is not None else self._shown[3]

    @property
    def members(self) -> MemberList:
        if self._store is None:
            return self._shown[4]
        return to_raft_list(self._store.members().members)

    @property
    def installed_at(self) -> SnapshotPoint | None:
        assert self._store is not None
        boundary = self._store.boundary()
        return None if boundary is None else decode_point(boundary)

    def apply(self, entries: Sequence[LogEntry], /, *, hold: bool = False) -> Sequence[object]:
        store = self._store
        assert store is not None
        last = store._state.index if store._batch is None else store._batch.state.index
        assert entries[0].index == last + 1, f"P22: {entries[0].index} after {last}"
        results = store.apply(entries, hold=True)
        assert store._batch is not None
        for entry in entries[:-1]:
            self._observe(entry, None)
        self._observe(entries[-1], store._batch.state.chain)
        if not hold:
            self.commit()
        return results

    def commit(self) -> None:
        store = self._store
        assert store is not None
        with open(store._path() / DATA_FILE, "rb") as file:
            self._metas = file.read(_META_BYTES)
        store.commit()

    def sync(self) -> None:
        assert self._store is not None
        self._store.sync()
        self._metas = None

    def copy_at(self, point: SnapshotPoint) -> Path:
        assert self._store is not None
        self._copies += 1
        path = self._home / f"copy-{self._copies}"
        copied = self._store.copy_snapshot(path)
        assert (copied.index, copied.term) == (point.index, point.term)
        (self._home / f"copy-{self._copies}.point").write_bytes(encode_point(point))
        return path

    def swap(self, copy: Path) -> None:
        store = self._store
        assert store is not None
        self._copies += 1
        own = self._home / f"fetched-{self._copies}"
        shutil.copyfile(copy, own)
        store.install_snapshot(own, copy.with_name(copy.name + ".point").read_bytes())
        store.remove_old_generations()
        self._metas = None

    # --- operations -------------------------------------------------------------------------------
    def written_at(self, key: int) -> int | None:
        """A delete leaves no index behind."""
        return None

    def encode(self, number: int, padding: int) -> bytes:
        """Puts, conditional puts and deletes over few keys; now and then the bucket, which begins missing."""
        key = f"key/{number % KEYS}"
        command: Command = samples.put(key, samples.inline_body(number, bytes(padding)))
        if number % 40 == 1:
            command = samples.create_bucket()
        elif number % 5 == 0:
            command = samples.put(key, condition=WriteCondition(if_none_match_any=True))
        elif number % 7 == 0:
            command = samples.delete(key)
        operation = Operation(
            request_id=RequestId(number.to_bytes(16, "big")),
            first_index=1,
            command=encode_command(command),
        )
        return encode_entry([operation])

    def number_of(self, payload: bytes) -> int:
        return int.from_bytes(decode_entry(payload)[0].request_id, "big")


def _formation(record: FormationRecord, members: MemberList) -> FormationRecord:
    return FormationRecord(
        cluster_id=record.cluster_id,
        members=tuple(
            CatalogMember(
                node=NodeId(member.node),
                name=member.name,
                address=member.address,
                blob_address="",
                s3_address="",
            )
            for member in members.members
        ),
        root_access_key=record.root_access_key,
        root_secret_key=record.root_secret_key,
        token_secret=record.token_secret,
        owner_id=record.owner_id,
        region=record.region,
        created_ms=record.created_ms,
    )


def _memory_directory() -> str | None:
    """A file system in memory, if there is one: the simulated syncs need no real disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
