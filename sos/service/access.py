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
    from collections.abc import Callable

    from sos.catalog.model import BlobId, Command, Result
    from sos.link import Barrier, NodeState

T = TypeVar("T")
_BEHIND_RETRY_S: Final = (
    0.002  # the core applied it already: a reopened environment shows it at once
)


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


class CatalogAccess:
    """The link and the reader of one gateway, joined by the rules of design 6."""

    def __init__(self, link: CatalogLink, reader: Views) -> None:
        self.link = link
        self.lookups = Lookups()
        self._reader = reader

    async def propose(self, command: Command) -> Result:
        """The stored result of ``command``. Raises: Unavailable, OutcomeUnknown."""
        result = await self.link.propose(command)
        hit("ack.before_send")
        # Only these results say where they stand; another write is placed by the log itself.
        SERVED_INDEX.set(result.commit_index if isinstance(result, Stored) else 0)
        return result

    async def read(self, query: Callable[[View], T]) -> T:
        """``query`` of a view that shows every write acknowledged before this call.

        Raises: Unavailable when no barrier was possible, or when the catalog is damaged here (then the
        core is told, which stops as for an I/O error: design 11).
        """
        barrier = await self.link.barrier()
        waited_s = 0.0
        while True:
            try:
                with self._reader.view(barrier.index, barrier.generation) as view:
                    SERVED_INDEX.set(view.applied_index)
                    return query(view)
            except ViewBehind as error:
                if waited_s >= READ_BARRIER_S_MAX:
                    raise Unavailable("the catalog view is behind the barrier") from error
            except Corruption as error:
                raise self._damaged(error) from error
            waited_s += _BEHIND_RETRY_S
            await asyncio.sleep(_BEHIND_RETRY_S)

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
