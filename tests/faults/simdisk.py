"""A disk in memory that forgets what a power cut forgets, and fails when told.

It keeps what is durable apart from what the page cache shows, down to sectors of 512 bytes, and the
operations on names in their order. It does only what a real disk may do: what was synced stays, a failed
sync drops the dirty sectors and the next one succeeds (as Linux does; ``stale_cache``: the page cache goes on
showing them, as ext4 does), names are lost from some point on.
Rot (``flip_bit``) and copies are faults of their own.
"""

from __future__ import annotations

import copy
import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sos.disk import FileIdentity, lock_is_held, sync_failed
from sos.errors import DiskFull

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that the page cache has and the disk perhaps not."""

    offset: int
    data: bytes

    def sectors(self) -> Iterator[Write]:
        """The write cut at sector borders: each piece arrives or does not."""
        at = self.offset
        end = self.offset + len(self.data)
        while at < end:
            stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
            yield Write(at, self.data[at - self.offset : stop - self.offset])
            at = stop


@dataclass(frozen=True, slots=True)
class Resize:
    """A change of size: truncate, or fallocate, which never makes a file shorter."""

    size: int
    grow_only: bool = False


Change = Write | Resize


@dataclass(slots=True)
class Inode:
    number: int
    birth_ns: int
    durable: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        apply_change(self.cached, change)
        self.unsynced.append(change)

    def copy(self) -> Inode:
        return Inode(
            self.number,
            self.birth_ns,
            bytearray(self.durable),
            bytearray(self.cached),
            list(self.unsynced),
        )

    def sync(self) -> None:
        for change in self.unsynced:
            apply_change(self.durable, change)
        self.unsynced.clear()

    def drop_dirty(self, *, stale_cache: bool = False) -> None:
        if not stale_cache:
            self.cached = bytearray(self.durable)
        self.unsynced.clear()

    def settle(self, changes: Sequence[Change]) -> None:
        """The content after a power cut that let ``changes`` through."""
        for change in changes:
            apply_change(self.durable, change)
        self.drop_dirty()  # the page cache is gone too


def apply_change(content: bytearray, change: Change) -> None:
    if isinstance(change, Resize):
        if change.size <= len(content):
            if not change.grow_only:
                del content[change.size :]
        else:
            content.extend(bytes(change.size - len(content)))
        return
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class NameChange:
    """``path`` points at ``target`` from now on (None: at nothing); ``gone`` is the other end of a rename.

    A directory moves with all that is in it, also into another one.
    """

    path: str
    target: Inode | str | None
    gone: str | None = None

    def apply(self, names: dict[str, Inode | str]) -> None:
        if self.gone is not None and self.target == DIRECTORY:
            inner = [name for name in names if name.startswith(f"{self.gone}/")]
            moved = {self.path + name[len(self.gone) :]: names.pop(name) for name in inner}
            names.update(moved)
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.target is None:
            names.pop(self.path, None)
        else:
            names[self.path] = self.target

    def touches(self, directory: str) -> bool:
        if self.gone is not None and os.path.dirname(self.gone) == directory:
            return True
        return os.path.dirname(self.path) == directory


@dataclass(slots=True)
class PlannedFault:
    operation: str
    nth: int
    kind: str  # "eio", "enospc" or "short"
    part: str
    hits: int = 0


class SimFile:
    """An open file; of no use any more after a crash of its process."""

    def __init__(self, disk: SimDisk, inode: Inode, path: str, *, writable: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path
        self._writable = writable
        self._boot = disk.boot
        self._closed = False

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._check(writing=True)
        kind = self._disk.begin("pwrite", self._path)
        if kind == "short":
            half = bytes(data)[: len(data) // 2]
            if half:
                self._inode.change(Write(offset, half))
            self._disk.done()
            raise DiskFull(errno.ENOSPC, "simulated short write", self._path)
        if len(data):
            self._inode.change(Write(offset, bytes(data)))
        self._disk.done()

    def pread(self, count: int, offset: int) -> bytes:
        self._check()
        self._disk.begin("pread", self._path)
        return bytes(self._inode.cached[offset : offset + count])

    def fsync(self) -> None:
        self._sync("fsync")

    def fdatasync(self) -> None:
        self._sync("fdatasync")

    def _sync(self, operation: str) -> None:
        self._check()
        try:
            self._disk.begin(operation, self._path)
        except OSError as error:
            self._inode.drop_dirty(stale_cache=self._disk.stale_cache)
            raise sync_failed(self._path, error) from error
        if not self._disk.ignore_syncs:
            self._inode.sync()
        self._disk.done()

    def fallocate(self, offset: int, count: int) -> None:
        self._check(writing=True)
        self._disk.begin("fallocate", self._path)
        if offset + count > len(self._inode.cached):
            self._inode.change(Resize(offset + count, grow_only=True))
        self._disk.done()

    def truncate(self, size_bytes: int) -> None:
        self._check(writing=True)
        self._disk.begin("truncate", self._path)
        self._inode.change(Resize(size_bytes))
        self._disk.done()

    def size(self) -> int:
        self._check()
        return len(self._inode.cached)

    def identity(self) -> FileIdentity:
        self._check()
        return FileIdentity(inode=self._inode.number, birth_ns=self._inode.birth_ns)

    def close(self) -> None:
        self._closed = True

    def _check(self, *, writing: bool = False) -> None:
        usable = not self._closed and self._boot == self._disk.boot
        if not usable or (writing and not self._writable):
            raise OSError(errno.EBADF, "simulated: not open for this", self._path)


class SimLock:
    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._boot = disk.boot

    def close(self) -> None:
        if self._boot == self._disk.boot:
            self._disk.locked.discard(self._path)


class SimDisk:
    """A ``Disk``. ``on_change`` is called after each call that changed something: a point to crash at."""

    def __init__(self) -> None:
        self.boot = 0  # raised by every crash; files of an earlier one are closed
        self.names: dict[str, Inode | str] = {"/": DIRECTORY}
        self.durable_names: dict[str, Inode | str] = {"/": DIRECTORY}
        self.pending: list[NameChange] = []
        self.locked: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.planned: list[PlannedFault] = []
        self.ignore_syncs = False  # what eatmydata does: durability tests must then fail
        self.stale_cache = False
        self.on_change: Callable[[], None] | None = None
        self._inodes_made = 0

    # --- the disk protocol --------------------------------------------------------------------
    def create(self, path: str) -> SimFile:
        self.begin("create", path)
        self._parent_of(path)
        if path in self.names:
            raise FileExistsError(errno.EEXIST, "simulated", path)
        inode = self._new_inode()
        self._change_name(NameChange(path, inode))
        return SimFile(self, inode, path, writable=True)

    def open(self, path: str, *, writable: bool = False) -> SimFile:
        self.begin("open", path)
        return SimFile(self, self._file(path), path, writable=writable)

    def rename(self, old: str, new: str) -> None:
        self.begin("rename", new)
        if self.names.get(old) == DIRECTORY:
            self._parent_of(new)
            assert new not in self.names, "not modelled"
            self._change_name(NameChange(new, DIRECTORY, gone=old))
            return
        inode = self._file(old)
        assert os.path.dirname(old) == os.path.dirname(new), "not modelled"
        self._change_name(NameChange(new, inode, gone=old))

    def unlink(self, path: str) -> None:
        self.begin("unlink", path)
        self._file(path)
        self._change_name(NameChange(path, None))

    def mkdir(self, path: str) -> None:
        self.begin("mkdir", path)
        self._parent_of(path)
        if path in self.names:
            raise FileExistsError(errno.EEXIST, "simulated", path)
        self._change_name(NameChange(path, DIRECTORY))

    def rmdir(self, path: str) -> None:
        self.begin("rmdir", path)
        if self.listing(path):
            raise OSError(errno.ENOTEMPTY, "simulated", path)
        self._change_name(NameChange(path, None))

    def fsync_directory(self, path: str) -> None:
        if self.names.get(path) != DIRECTORY:
            raise FileNotFoundError(errno.ENOENT, "simulated", path)
        try:
            self.begin("fsync_directory", path)
        except OSError as error:
            raise sync_failed(path, error) from error
        if not self.ignore_syncs:
            for change in [change for change in self.pending if change.touches(path)]:
                change.apply(self.durable_names)
            self.pending = [change for change in self.pending if not change.touches(path)]
        self.done()

    def listing(self, path: str) -> list[str]:
        if self.names.get(path) != DIRECTORY:
            raise FileNotFoundError(errno.ENOENT, "simulated", path)
        return sorted(
            os.path.basename(name) for name in self.names if os.path.dirname(name) == path != name
        )

    def exists(self, path: str) -> bool:
        return path in self.names

    def is_directory(self, path: str) -> bool:
        return self.names.get(path) == DIRECTORY

    def size(self, path: str) -> int:
        return len(self._file(path).cached)

    def lock(self, path: str) -> SimLock:
        if path in self.locked:
            raise lock_is_held(path)
        if path not in self.names:
            self.create(path).close()
        self.locked.add(path)
        return SimLock(self, path)

    # --- what a test does to it ---------------------------------------------------------------
    def fail(self, operation: str, nth: int, kind: str, *, part: str = "") -> PlannedFault:
        """Fail the ``nth`` call (1 is the next) of ``operation`` on a path that contains ``part``."""
        assert kind in {"eio", "enospc", "short"}
        fault = PlannedFault(operation, nth, kind, part)
        self.planned.append(fault)
        return fault

    def crash(self) -> None:
        """The process dies; the machine, and with it the page cache, lives on."""
        self.boot += 1
        self.locked.clear()

    def power_loss(self, rng: random.Random) -> None:
        """The machine dies: what is not synced is kept, lost or torn as ``rng`` draws."""
        self.crash()
        kept_names = rng.choice([0, len(self.pending), rng.randint(0, len(self.pending))])
        touched = self._inodes()
        self._settle_names(kept_names)
        for inode in touched:
            inode.settle(_draw_kept(inode.unsynced, rng))

    def power_loss_states(self) -> Iterator[SimDisk]:
        """Disks after every kind of power cut that ``faults.md`` 3.4 lists, random ones left out."""
        for names in range(len(self.pending) + 1):
            whole = names == len(self.pending)
            for kept in self._kept_choices() if whole else ("all", "none"):
                state = self.clone()
                state.crash()
                inodes = state._inodes()
                state._settle_names(names)
                for number, inode in enumerate(inodes):
                    inode.settle(_choose(inode.unsynced, number, kept))
                yield state

    def flip_bit(self, path: str, bit: int) -> None:
        """Rot: one bit of the stored file changes, for good."""
        inode = self._file(path)
        for content in (inode.cached, inode.durable):
            if bit // 8 < len(content):
                content[bit // 8] ^= 1 << bit % 8

    def cut_file(self, path: str, size: int) -> None:
        """Rot: the file ends earlier, for good."""
        inode = self._file(path)
        for content in (inode.cached, inode.durable):
            del content[size:]

    def lose_file(self, path: str) -> None:
        """Rot: the name is gone, for good."""
        self._file(path)
        del self.names[path]
        self.durable_names.pop(path, None)

    def copy_tree(self, source: str, target: str) -> None:
        """What ``cp -a`` does: the same bytes under other names, in other inodes."""
        for name in sorted(self.names):
            if name != source and not name.startswith(source + "/"):
                continue
            new = target + name[len(source) :]
            entry = self.names[name]
            if isinstance(entry, Inode):
                made = self._new_inode()
                made.cached = bytearray(entry.cached)
                made.durable = bytearray(entry.cached)
                entry = made
            self.names[new] = self.durable_names[new] = entry

    def clone(self) -> SimDisk:
        """An independent copy, for a crash that the original does not see."""
        made: dict[int, Inode] = {}

        def twin(entry: Inode | str | None) -> Inode | str | None:
            if not isinstance(entry, Inode):
                return entry
            if entry.number not in made:
                made[entry.number] = entry.copy()
            return made[entry.number]

        other = copy.copy(self)
        other.on_change = None
        other.names = {path: twin(entry) or DIRECTORY for path, entry in self.names.items()}
        other.durable_names = {
            path: twin(entry) or DIRECTORY for path, entry in self.durable_names.items()
        }
        other.pending = [
            NameChange(change.path, twin(change.target), change.gone) for change in self.pending
        ]
        other.locked = set(self.locked)
        other.calls = self.calls.copy()
        other.planned = [copy.copy(fault) for fault in self.planned]
        return other

    def content(self, path: str) -> bytes:
        return bytes(self._file(path).cached)

    # --- helpers ------------------------------------------------------------------------------
    def begin(self, operation: str, path: str) -> str | None:
        """Count the call. Raises: what is planned for it; a short write is told to the caller."""
        self.calls[operation] += 1
        for fault in self.planned:
            if fault.operation != operation or fault.part not in path or fault.nth < 1:
                continue
            fault.nth -= 1
            if fault.nth == 0:
                fault.hits += 1
                if fault.kind == "enospc":
                    raise DiskFull(errno.ENOSPC, "simulated", path)
                if fault.kind == "eio":
                    raise OSError(errno.EIO, "simulated", path)
                return fault.kind
        return None

    def done(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _change_name(self, change: NameChange) -> None:
        change.apply(self.names)
        self.pending.append(change)
        self.done()

    def _new_inode(self) -> Inode:
        self._inodes_made += 1
        return Inode(self._inodes_made, 1_000_000_000 * self._inodes_made)

    def _file(self, path: str) -> Inode:
        entry = self.names.get(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "simulated", path)
        if isinstance(entry, str):
            raise IsADirectoryError(errno.EISDIR, "simulated", path)
        return entry

    def _parent_of(self, path: str) -> None:
        if self.names.get(os.path.dirname(path)) != DIRECTORY:
            raise FileNotFoundError(errno.ENOENT, "simulated", path)

    def _inodes(self) -> list[Inode]:
        """Every inode that any name ever pointed to since the last sync, in order of number."""
        entries = [*self.names.values(), *self.durable_names.values()]
        entries += [change.target for change in self.pending if change.target is not None]
        found = {entry.number: entry for entry in entries if isinstance(entry, Inode)}
        return [found[number] for number in sorted(found)]

    def _settle_names(self, kept: int) -> None:
        for change in self.pending[:kept]:
            change.apply(self.durable_names)
        self.pending = []
        names = self.durable_names
        for path in sorted(names):  # parents come first: what lost its directory is lost too
            if path != "/" and os.path.dirname(path) not in names:
                del names[path]
        self.names = dict(names)

    def _kept_choices(self) -> list[str]:
        choices = ["all", "none", "head", "tail", "zeroed"]
        for number, inode in enumerate(self._inodes()):
            for at in range(len(inode.unsynced)):
                choices += [f"lost {number} {at}", f"alone {number} {at}", f"prefix {number} {at}"]
        return choices


def _choose(changes: list[Change], inode: int, kept: str) -> list[Change]:
    """The part of one inode's unsynced ``changes`` that the state ``kept`` lets through."""
    word, *where = kept.split()
    if word == "none":
        return []
    if word in {"head", "tail"}:  # every write is cut in its middle, at a sector border
        return [piece for change in changes for piece in _half(change, word)]
    if word == "zeroed":  # the size came, the bytes did not; what was there before stays
        return [
            change
            if isinstance(change, Resize)
            else Resize(change.offset + len(change.data), grow_only=True)
            for change in changes
        ]
    if not where or int(where[0]) != inode:
        return [] if word == "alone" else list(changes)
    at = int(where[1])
    if word == "lost":
        return changes[:at] + changes[at + 1 :]
    return [changes[at]] if word == "alone" else changes[:at]


def _half(change: Change, part: str) -> list[Change]:
    if isinstance(change, Resize):
        return [change]
    sectors = list(change.sectors())
    middle = len(sectors) // 2
    return list(sectors[:middle] if part == "head" else sectors[middle:])


def _draw_kept(changes: list[Change], rng: random.Random) -> list[Change]:
    match rng.randrange(4):
        case 0:
            return []
        case 1:
            return list(changes)
        case 2:
            return [change for change in changes if rng.random() < 0.5]
    pieces: list[Change] = []
    for change in changes:
        parts = [change] if isinstance(change, Resize) else change.sectors()
        pieces += [piece for piece in parts if rng.random() < 0.5]
    return pieces
