"""State machines under the engine: what the bed needs of one, and a small map with a digest chain.

The real catalog has the same interface in ``catalog_machine.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sos.packing import pack, unpack
from sos.raft.api import EntryKind, LogEntry
from sos.raft.members import MemberList
from sos.raft.messages import decode_members
from sos.raft.snapshot import SnapshotPoint

KEYS = 8
Observe = Callable[
    [LogEntry, object], None
]  # an entry was applied, and the digest after it, if known


class Machine(Protocol):
    """A state machine with its disk: it outlives the processes that open it."""

    remembers: bool  # whether a request that comes twice takes effect once

    def open(self, observe: Observe) -> None:
        """A process starts."""
        ...

    def died(self, *, power: bool) -> None:
        """The process is gone; with ``power`` also what was committed and not synced."""
        ...

    def trouble(self) -> str | None:
        """What a full scan of the state finds, with a process on it; None: all is well."""
        ...

    def remove(self) -> None:
        """Leave no files behind."""
        ...

    def applied(self) -> tuple[int, int]: ...
    def apply(self, entries: Sequence[LogEntry], /, *, hold: bool = False) -> Sequence[object]: ...
    def commit(self) -> None: ...
    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def digest(self) -> object: ...
    @property
    def members(self) -> MemberList: ...
    @property
    def installed_at(self) -> SnapshotPoint | None: ...
    @property
    def durable_index(self) -> int: ...
    def sync(self) -> None: ...

    def copy_at(self, point: SnapshotPoint) -> Any:
        """What travels as a snapshot."""
        ...

    def swap(self, copy: Any) -> None:
        """Make a fetched copy current, durably."""
        ...

    def written_at(self, key: int) -> int | None:
        """The index of the last write of ``key``; None if this machine cannot tell."""
        ...

    def encode(self, number: int, padding: int) -> bytes:
        """The payload of operation ``number``."""
        ...

    def number_of(self, payload: bytes) -> int:
        """Which operation ``payload`` carries."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one committed transaction holds."""

    index: int
    term: int
    digest: int
    values: dict[int, int]  # key -> index of its last write
    members: MemberList
    installed_at: SnapshotPoint | None


class MapMachine:
    """A few keys and a digest; every apply is one transaction."""

    remembers = False

    def __init__(self, members: MemberList) -> None:
        self.committed = State(
            index=1, term=0, digest=1, values={}, members=members, installed_at=None
        )
        self.synced = self.committed
        self._held: State | None = None
        self._observe: Observe = lambda entry, digest: None

    def open(self, observe: Observe) -> None:
        self._observe = observe

    def died(self, *, power: bool) -> None:
        self._held = None
        if power:
            self.committed = self.synced

    def trouble(self) -> str | None:
        return None

    def remove(self) -> None:
        """It has no files."""

    def applied(self) -> tuple[int, int]:
        return self.committed.index, self.committed.term

    @property
    def index(self) -> int:
        return self.committed.index

    @property
    def term(self) -> int:
        return self.committed.term

    @property
    def digest(self) -> object:
        return self.committed.digest

    @property
    def members(self) -> MemberList:
        return self.committed.members

    @property
    def installed_at(self) -> SnapshotPoint | None:
        return self.committed.installed_at

    @property
    def durable_index(self) -> int:
        return self.synced.index

    def apply(self, entries: Sequence[LogEntry], /, *, hold: bool = False) -> Sequence[object]:
        state = self._held or self.committed
        index, digest, members = state.index, state.digest, state.members
        values = dict(state.values)
        results: list[object] = []
        for entry in entries:
            assert entry.index == index + 1, f"P22: entry {entry.index} applied after {index}"
            index = entry.index
            line = b"%d %d %s" % (entry.index, entry.term, entry.payload)
            digest = zlib.crc32(line, digest)
            if entry.kind is EntryKind.OPERATIONS:
                number, _ = unpack(entry.payload[1:])
                values[number % KEYS] = index
                results.append(number)
            elif entry.kind is EntryKind.MEMBERS:
                members = decode_members(entry.payload)
                results.append(members)
            else:
                results.append(None)
            self._observe(entry, digest)
        self._held = replace(
            state,
            index=index,
            term=entries[-1].term,
            digest=digest,
            values=values,
            members=members,
        )
        if not hold:
            self.commit()
        return results

    def commit(self) -> None:
        if self._held is not None:
            self.committed, self._held = self._held, None

    def sync(self) -> None:
        self.synced = self.committed

    def copy_at(self, point: SnapshotPoint) -> State:
        assert self.applied() == (point.index, point.term)
        return replace(self.committed, installed_at=point)

    def swap(self, copy: State) -> None:
        self._held = None
        self.committed = self.synced = copy

    def written_at(self, key: int) -> int | None:
        return self.committed.values.get(key, 0)

    def encode(self, number: int, padding: int) -> bytes:
        return b"\x01" + pack([number, bytes(padding)])

    def number_of(self, payload: bytes) -> int:
        number: int = unpack(payload[1:])[0]
        return number
