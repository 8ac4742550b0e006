"""The catalog of the core: the single writer of its LMDB environment, snapshots and generations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from sos.catalog import records
from sos.catalog.batch import CHAIN_BYTES, FORMAT_VERSION, Batch, Entry
from sos.catalog.environment import (
    DATA_FILE,
    GrowthRoom,
    LmdbError,
    begin,
    check_length,
    copy_environment,
    generation_directory,
    make_generation,
    open_copy,
    open_writer,
    read_pointer,
    remove_other_generations,
    sync_path,
    write_pointer,
)
from sos.catalog.model import CopyPoint, FormationRecord, MemberList
from sos.catalog.records import State
from sos.catalog.views import View
from sos.errors import EXIT_BUG, EXIT_DAMAGE, EXIT_DISK, Corruption, FatalStop
from sos.failpoints import hit
from sos.levels import check_level, check_version
from sos.limits import DEDUPE_ENTRIES
from sos.packing import PackingError

_FIRST_GENERATION: Final = 1
_BOUNDARY_FILE: Final = "boundary"
_BOUNDARY_KEY: Final = b"boundary"


class CatalogStore:
    """One open catalog. Satisfies Raft's ``StateMachine``. Not for two threads at once, but for views and copies."""

    def __init__(self, directory: Path, generation: int, *, dedupe_entries: int) -> None:
        self._directory = directory
        self._dedupe_entries = dedupe_entries
        self._generation = generation
        self._is_failed = False
        self._batch: Batch | None = None  # the open transaction
        self._durable_index = 0
        self._environment = open_writer(generation_directory(directory, generation))
        self._growth = GrowthRoom(self._environment, self._path() / DATA_FILE)
        with self.view() as view:
            self._state: State = view.state()
            check_format(view)
        # A process that died may have left its last meta page in the page cache only; the journal must not be
        # compacted by an index that a power cut could still take back.
        self.sync()

    @classmethod
    def create(
        cls,
        directory: str | Path,
        formation: FormationRecord,
        *,
        dedupe_entries: int = DEDUPE_ENTRIES,
    ) -> CatalogStore:
        """A new catalog at log index 1; when it returns, the catalog survives a power cut.

        An environment is unreadable until its first commit, and its name is not durable by itself: the pointer
        names it only after both. Raises: FileExistsError if there is a catalog.
        """
        path = Path(directory)
        path.mkdir(mode=0o700, exist_ok=True)
        if (path / "current").exists():
            raise FileExistsError(f"{path} holds a catalog")
        generation = make_generation(path, _FIRST_GENERATION)
        environment = open_writer(generation)
        try:
            transaction = begin(environment, write=True)
            batch = Batch(transaction, _empty_state(), dedupe_entries=dedupe_entries)
            batch.form(formation)
            batch.finish()
            transaction.commit()
            environment.sync(True)
        finally:
            environment.close()
        sync_path(generation / DATA_FILE)
        sync_path(generation)
        write_pointer(path, _FIRST_GENERATION)
        return cls(path, _FIRST_GENERATION, dedupe_entries=dedupe_entries)

    @classmethod
    def open(cls, directory: str | Path, *, dedupe_entries: int = DEDUPE_ENTRIES) -> CatalogStore:
        """The catalog that ``current`` names; ``sos.catalog.probe`` must have passed in a child process before.

        Raises: FileNotFoundError if there is none, Corruption, FatalStop.
        """
        path = Path(directory)
        generation = read_pointer(path)
        remove_other_generations(path, generation)
        try:
            return cls(path, generation, dedupe_entries=dedupe_entries)
        except LmdbError as error:
            raise Corruption(f"catalog generation {generation}: {error}") from error

    # --- the state machine ------------------------------------------------------------------------
    def applied(self) -> tuple[int, int]:
        """(index, term) of the last entry whose effects are in the catalog, and visible."""
        return self._state.index, self._state.term

    @property
    def durable_index(self) -> int:
        """The journal may drop entries up to here: a power cut may take back the transaction after it."""
        return self._durable_index

    def apply(self, entries: Sequence[Entry], /, *, hold: bool = False) -> list[list[bytes] | None]:
        """Apply entries that follow the last, in one transaction with their (index, term).

        ``hold``: the transaction stays open for those that follow, and nothing of it is visible before ``commit``,
        also not in ``applied()``. The results are final all the same: whoever applies these entries again gets them.

        Returns: for each entry of operations their encoded results, None for others.
        Raises: FatalStop. Then nothing of the transaction took effect and the store is of no more use: after a
        failed sync LMDB's next commit would succeed, over pages that never reached the disk.
        """
        if not entries:
            return []
        with self._ending_on_failure():
            if self._batch is None:
                hit("apply.before_txn")
                self._batch = Batch(
                    begin(self._environment, write=True),
                    replace(self._state),
                    dedupe_entries=self._dedupe_entries,
                )
            results = [self._batch.apply(entry) for entry in entries]
        if not hold:
            self.commit()
        return results

    def keep_room(self, ahead_bytes: int) -> bool:
        """Have ``ahead_bytes`` on disk for what ``apply`` adds next, so that no commit meets a full disk.

        Returns: False if there is no space for them now. Raises: FatalStop.
        """
        with self._ending_on_failure():
            return self._growth.keep(ahead_bytes)

    def commit(self) -> None:
        """Make visible what ``apply`` holds. Raises: FatalStop, as ``apply`` does."""
        batch = self._batch
        if batch is None:
            return
        with self._ending_on_failure():
            batch.finish()
            hit("apply.in_txn")
            batch.commit()
            self._batch = None
        # The commit that just returned made the one before it durable (``metasync=False``).
        self._durable_index = self._state.index
        self._state = batch.state
        hit("apply.after_commit")

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Whatever fails inside leaves nothing of the transaction and ends the use of this store."""
        if self._is_failed:
            raise FatalStop("the catalog failed before", exit_code=EXIT_DISK)
        self._is_failed = True
        try:
            yield
        except (LmdbError, OSError) as error:
            raise FatalStop(f"catalog: {error}", exit_code=EXIT_DISK) from error
        except Corruption as error:
            raise FatalStop(str(error), exit_code=EXIT_DAMAGE) from error
        except (AssertionError, PackingError) as error:
            raise FatalStop(f"catalog: {error}", exit_code=EXIT_BUG) from error
        else:
            self._is_failed = False
        finally:
            if self._is_failed and self._batch is not None:
                self._batch.abort()
                self._batch = None

    # --- reads ------------------------------------------------------------------------------------
    @property
    def generation(self) -> int:
        """Rises when a snapshot replaces the environment."""
        return self._generation

    def view(self) -> View:
        """The catalog as it is now; also in other threads."""
        return View(begin(self._environment), self._generation)

    def members(self) -> MemberList:
        """The member list in force, and the index of the entry that set it."""
        with self.view() as view:
            return view.member_list()

    def clear_stale_readers(self) -> int:
        """Free the slots of readers whose process died: they pin old pages until the disk is full."""
        return self._environment.reader_check()

    def sync(self) -> None:
        """Make everything that was committed durable. Raises: FatalStop."""
        try:
            self._environment.sync(True)
        except LmdbError as error:
            self._is_failed = True
            raise FatalStop(f"catalog: {error}", exit_code=EXIT_DISK) from error
        self._durable_index = self._state.index

    def close(self) -> None:
        """Commit, sync and close. Views must be closed before."""
        if not self._is_failed:
            self.commit()
            self.sync()
        self._environment.close()

    def _path(self) -> Path:
        return generation_directory(self._directory, self._generation)

    # --- snapshots --------------------------------------------------------------------------------
    def copy_snapshot(self, file: str | Path) -> CopyPoint:
        """A consistent, compacted copy in a new durable file. Long: run it in a thread, next to ``apply``.

        Raises: FileExistsError, LmdbError, OSError.
        """
        path = Path(file)
        copy_environment(self._environment, path)
        return check_snapshot(path)

    def install_snapshot(self, file: str | Path, boundary: bytes = b"") -> CopyPoint:
        """Adopt a checked copy on the same file system as a new generation; ``file`` is moved.

        ``boundary`` is kept beside it for ``boundary()``: what the journal needs if a crash comes before its
        reset (protocols.md 6). When this returns, the new generation survives a power cut; a crash before leaves
        the old one whole. Views of the old generation stay readable until they are closed.
        Raises: Corruption; FatalStop if the disk failed.
        """
        point = check_snapshot(file)
        self.commit()  # an open transaction would outlive its environment
        old, generation = self._environment, self._generation + 1
        try:
            path = make_generation(self._directory, generation)
            os.rename(file, path / DATA_FILE)
            sync_path(path / DATA_FILE)
            _write_boundary(path / _BOUNDARY_FILE, boundary)
            sync_path(path)
            hit("install.before_swap")
            write_pointer(self._directory, generation)
        except OSError as error:
            self._is_failed = True
            raise FatalStop(f"catalog: {error}", exit_code=EXIT_DISK) from error
        hit("install.after_swap")
        self._environment = open_writer(path)
        self._generation = generation
        self._growth = GrowthRoom(self._environment, self._path() / DATA_FILE)
        with self.view() as view:
            self._state = view.state()
        self._durable_index = self._state.index
        del old  # closed when its last view is gone
        return point

    def boundary(self) -> bytes | None:
        """What ``install_snapshot`` kept beside this generation; None if it grew from the formation record."""
        try:
            value = (self._path() / _BOUNDARY_FILE).read_bytes()
        except FileNotFoundError:
            return None
        return records.unseal(_BOUNDARY_KEY, value)

    def remove_old_generations(self) -> None:
        """Free the disk space of replaced generations; for later than the gateways' change to the new one."""
        remove_other_generations(self._directory, self._generation)


def check_snapshot(file: str | Path) -> CopyPoint:
    """Where a copy stands in the log, its structure checked. Raises: Corruption."""
    return _examine(Path(file), scan=False)


def verify_snapshot(file: str | Path) -> CopyPoint:
    """As ``check_snapshot``, and every record and their sum checked. Long; on damaged pages LMDB may die of a
    signal, so run it in another process than the core. Raises: Corruption."""
    return _examine(Path(file), scan=True)


def _examine(path: Path, *, scan: bool) -> CopyPoint:
    try:
        environment = open_copy(path)
    except LmdbError as error:
        raise Corruption(f"{path}: {error}") from error
    try:
        check_length(environment, path)
        with View(begin(environment), 0) as view:
            check_format(view)
            if scan and view.scan_digest() != view.digests().record_sum:
                raise Corruption(f"{path}: records are missing or of another time")
            return CopyPoint(
                index=view.applied_index, term=view.applied_term, size_bytes=path.stat().st_size
            )
    except LmdbError as error:
        raise Corruption(f"{path}: {error}") from error
    finally:
        environment.close()


def check_format(view: View) -> None:
    """Raises: MadeByNewer; Corruption, if the first rows are damaged."""
    version = view.format_version()
    check_version("the catalog", version, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise Corruption(f"catalog format {version}, this is {FORMAT_VERSION}")
    check_level("the catalog", view.level())
    view.formation()
    view.member_list()


def _write_boundary(path: Path, boundary: bytes) -> None:
    path.write_bytes(records.seal(_BOUNDARY_KEY, boundary))
    os.chmod(path, 0o600)
    sync_path(path)


def _empty_state() -> State:
    return State(
        index=0,
        term=0,
        chain=bytes(CHAIN_BYTES),
        record_sum=0,
        sweep_floor=0,
        bucket_count=0,
        object_count=0,
        size_bytes=0,
        blob_count=0,
        blob_bytes=0,
        forgotten_count=0,
    )
