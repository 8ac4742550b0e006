"""Reads of this node's catalog that are current: a barrier first, then a view that is checked against it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from sos.catalog.model import Stored
from sos.catalog.reader import ViewBehind
from sos.catalog.views import View
from sos.errors import Corruption, Unavailable
from sos.failpoints import hit
from sos.limits import COMMIT_S_MAX, READ_BARRIER_S_MAX
from sos.service.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from sos.catalog.model import BlobId, Command, Result
    from sos.link import Barrier, NodeState

T = TypeVar("T")
_BEHIND_RETRY_S: Final = (
    0.002  # the core applied it already: a reopened environment shows it at once
)


_LAST_ANSWER_S: Final = 0.5  # a small body leaves in less


# The log index that the running request was answered at; tests of consistency ask for it (faults.md).
SERVED_INDEX: ContextVar[int] = ContextVar("sos_served_index", default=0)


class CatalogLink(Protocol):
    """What the use cases need of ``sos.link.CoreLink``."""

    @property
    def state(self) -> NodeState: ...

    @property
    def applied_index(self) -> int: ...

    async def propose(self, command: Command, *, deadline_s: float = COMMIT_S_MAX) -> Result: ...

    async def barrier(self) -> Barrier: ...

    def report_damage(self, text: str) -> None: ...


class Views(Protocol):
    """What the use cases need of ``sos.catalog.reader.CatalogReader``."""

    def view(self, index: int = 0, generation: int = 0) -> View: ...


class _SharedView:
    """One view for all reads that one barrier round released: opening one costs as much as the look-up itself."""

    __slots__ = ("_view", "barrier")

    def __init__(self, barrier: Barrier, view: View) -> None:
        self.barrier = barrier
        self._view: View | None = view

    def __enter__(self) -> View:
        assert self._view is not None, "the view has ended"
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stay open for the next read, unless this one failed. Raises: as ``View.__exit__``."""
        if error is not None and self._view is not None:
            view, self._view = self._view, None
            view.__exit__(kind, error, traceback)

    @property
    def has_ended(self) -> bool:
        return self._view is None

    def end(self) -> None:
        """End the view; it must not live longer than a turn of the loop, for it pins old pages.

        LMDB's reader slot is free only when nothing refers to the view any more.
        """
        if self._view is not None:
            self._view.close()
            self._view = None


class CatalogAccess:
    """The link and the reader of one gateway, joined by the rules of design 6."""

    def __init__(self, link: CatalogLink, reader: Views) -> None:
        self.link = link
        self.lookups = Lookups()
        self._reader = reader
        self._shared: _SharedView | None = None

    async def propose(self, command: Command) -> Result:
        """The stored result of ``command``. Raises: Unavailable, OutcomeUnknown."""
        result = await self.link.propose(command)
        hit("ack.before_send")
        # Only these results say where they stand; another write is placed by the log itself.
        SERVED_INDEX.set(result.commit_index if isinstance(result, Stored) else 0)
        return result

    async def read(
        self, query: Callable[[View], T], *, elsewhere: Callable[[], Awaitable[T]] | None = None
    ) -> T:
        """``query`` of a view that shows every write acknowledged before this call.

        ``elsewhere``: asks another member for the same, if the catalog turns out to be damaged here.
        Raises: Unavailable when no barrier was possible, or when the catalog is damaged here (then the
        core is told, which stops as for an I/O error: design 11).
        """
        barrier = await self.link.barrier()
        waited_s = 0.0
        while True:
            try:
                with self._view_after(barrier) as view:
                    SERVED_INDEX.set(view.applied_index)
                    return query(view)
            except ViewBehind as error:
                if waited_s >= READ_BARRIER_S_MAX:
                    raise Unavailable("the catalog view is behind the barrier") from error
            except Corruption as error:
                if elsewhere is None:
                    raise self._damaged(error) from error
                return await self._ask(elsewhere, error)
            waited_s += _BEHIND_RETRY_S
            await asyncio.sleep(_BEHIND_RETRY_S)

    def _view_after(self, barrier: Barrier) -> _SharedView:
        """The view that all reads use which this barrier released. Raises: ViewBehind, Corruption, Unavailable."""
        shared = self._shared
        if shared is None or shared.barrier is not barrier or shared.has_ended:
            if shared is not None:
                shared.end()  # one at a time, whatever number of rounds a turn sees: readers have few slots
            view = self._reader.view(barrier.index, barrier.generation)
            shared = self._shared = _SharedView(barrier, view)
            # The reads that the barrier released run in this turn of the loop, before what is scheduled now.
            asyncio.get_running_loop().call_soon(shared.end)
        return shared

    async def _ask(self, elsewhere: Callable[[], Awaitable[T]], error: Corruption) -> T:
        """This request is answered, then the node stops: the answer gets a moment to leave."""
        try:
            return await elsewhere()
        finally:
            loop = asyncio.get_running_loop()
            loop.call_later(_LAST_ANSWER_S, self.link.report_damage, str(error))

    def peek(self, query: Callable[[View], T]) -> T:
        """``query`` of the view as it is now. It may let a request go on, never refuse one (design 5.1).

        Raises: Unavailable when the catalog is damaged here.
        """
        try:
            # A generation that the core installed is adopted: the replaced one stays as it was for ever.
            with self._reader.view(generation=self.link.state.generation) as view:
                return query(view)
        except ViewBehind as error:
            raise Unavailable("the catalog is being replaced") from error
        except Corruption as error:
            raise self._damaged(error) from error

    def is_named(self, blob: BlobId) -> bool:
        """Whether the view as it is now names ``blob``; then no copy here may be dropped (protocols.md 4.5).

        Raises: Unavailable.
        """
        return self.peek(lambda view: view.blob(blob) is not None)

    def _damaged(self, error: Corruption) -> Unavailable:
        self.link.report_damage(str(error))
        return Unavailable("the catalog of this node is damaged")
