"""A gateway's read-only access to its own node's catalog, next to the core that writes it."""

from __future__ import annotations

from pathlib import Path

from sos.catalog.environment import (
    Environment,
    LmdbError,
    MapResizedError,
    Transaction,
    begin,
    copy_environment,
    generation_directory,
    meaning_of,
    open_reader,
    read_pointer,
    used_bytes,
)
from sos.catalog.views import View
from sos.errors import SosError

_REOPENS_MAX = 10


class ViewBehind(SosError):
    """This node's catalog does not hold what was asked for yet: wait, take another view."""


class CatalogReader:
    """Opens views of the generation that ``current`` names. One per process; not fork-safe.

    A reader that stays in a replaced environment would see its old state for ever (measured), so a view that is
    older than the barrier's answer makes it read the pointer again.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._generation, self._environment = self._open_current()

    @property
    def generation(self) -> int:
        """The generation that views are taken from."""
        return self._generation

    def view(self, index: int = 0, generation: int = 0) -> View:
        """A view with applied index at least ``index``, or of a newer generation than ``generation``.

        Raises: ViewBehind; Corruption; Unavailable: no slot for another reader.
        """
        view = self._begin()
        if self._generation >= generation and view.applied_index >= index:
            return view
        view.close()
        if self.refresh():
            view = self._begin()
            # A snapshot that was installed after the barrier holds all that was applied before it.
            if self._generation > generation > 0 or view.applied_index >= index:
                return view
            view.close()
        raise ViewBehind(f"index {index} is not applied yet")

    def refresh(self) -> bool:
        """Adopt another generation if the pointer names one; whether it did. Raises: Corruption."""
        if read_pointer(self._directory) == self._generation:
            return False
        self._generation, self._environment = self._open_current()
        return True

    def copy_snapshot(self, file: str | Path) -> None:
        """A consistent, compacted copy of the current generation in a new durable file.

        Long: run it in a thread, after ``refresh`` in the thread that takes the views: an environment may be
        opened only once in a process. Raises: FileExistsError, LmdbError, OSError.
        """
        copy_environment(self._environment, Path(file))

    def used_bytes(self) -> int:
        """The most that a copy can take."""
        return used_bytes(self._environment)

    def close(self) -> None:
        """Close the environment; open views end."""
        self._environment.close()

    def _begin(self) -> View:
        transaction: Transaction | None = None
        try:
            try:
                transaction = begin(self._environment)
            except MapResizedError:
                self._environment.set_mapsize(0)  # adopt what the writer made of it
                transaction = begin(self._environment)
            return View(transaction, self._generation)
        except BaseException as error:
            if transaction is not None:
                transaction.abort()
            if isinstance(error, LmdbError) and (meaning := meaning_of(error)) is not None:
                raise meaning from error
            raise

    def _open_current(self) -> tuple[int, Environment]:
        """Open what the pointer names; it may be replaced, and its directory removed, in between."""
        for _ in range(_REOPENS_MAX):
            generation = read_pointer(self._directory)
            try:
                path = generation_directory(self._directory, generation)
                return generation, open_reader(path)
            except LmdbError as error:
                if read_pointer(self._directory) != generation:
                    continue
                meaning = meaning_of(error)
                if meaning is None:
                    raise
                raise meaning from error
        raise ViewBehind("the catalog is being replaced over and over")
