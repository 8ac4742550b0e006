"""Reads after one barrier share one view, which never outlives the turn of the loop (design 6)."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, cast

import pytest

from sos.catalog.views import View
from sos.errors import Corruption, Unavailable
from sos.link.protocol import Barrier
from sos.service.access import CatalogAccess


class CountingView:
    """A view that knows whether it is open."""

    generation = 1

    def __init__(self, index: int) -> None:
        self.applied_index = index
        self.is_open = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.is_open = False


class Reader:
    """Counts the views that were opened."""

    def __init__(self) -> None:
        self.views: list[CountingView] = []

    def view(self, index: int = 0, generation: int = 0) -> View:
        self.views.append(CountingView(index))
        return cast(View, self.views[-1])


class OneRound:
    """A link whose waiters are all released by one answer."""

    def __init__(self, index: int) -> None:
        self.answer: asyncio.Future[Barrier] = asyncio.get_running_loop().create_future()
        self.damage: list[str] = []
        self.index = index

    async def barrier(self) -> Barrier:
        return await asyncio.shield(self.answer)

    def release(self) -> None:
        self.answer.set_result(Barrier(generation=1, index=self.index))

    def report_damage(self, text: str) -> None:
        self.damage.append(text)


def index_of(view: Any) -> int:
    assert view.is_open
    index: int = view.applied_index
    return index


def test_reads_of_one_round_share_a_view_that_ends_with_the_turn() -> None:
    """P2: a read is answered from a view that was opened after its own barrier, and none pins old pages."""

    async def scenario() -> None:
        reader, link = Reader(), OneRound(7)
        access = CatalogAccess(cast(Any, link), reader)
        reads = [asyncio.ensure_future(access.read(index_of)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not reader.views
        link.release()
        assert await asyncio.gather(*reads) == [7, 7, 7]
        assert len(reader.views) == 1
        await asyncio.sleep(0)
        assert not reader.views[0].is_open

        later = access.link = cast(Any, OneRound(9))
        later.release()
        assert await access.read(index_of) == 9
        assert len(reader.views) == 2

    asyncio.run(scenario())


def test_rounds_within_one_turn_never_hold_two_views() -> None:
    """Scenario 67: requests that never wait must not use up the reader slots of the catalog."""

    async def scenario() -> None:
        reader = Reader()
        access = CatalogAccess(cast(Any, None), reader)
        for number in range(5):
            link = access.link = cast(Any, OneRound(number))
            link.release()
            assert await access.read(index_of) == number
            assert [view.is_open for view in reader.views].count(True) <= 1

    asyncio.run(scenario())


def test_a_read_that_fails_ends_the_view_for_the_others() -> None:
    """A damaged row ends its transaction at once; the next read of the round opens a new one (design 11)."""

    async def scenario() -> None:
        reader, link = Reader(), OneRound(7)
        access = CatalogAccess(cast(Any, link), reader)

        def damaged(view: View) -> int:
            raise Corruption("row")

        link.release()
        with pytest.raises(Unavailable):
            await access.read(damaged)
        assert link.damage == ["row"]
        assert not reader.views[0].is_open
        assert await access.read(index_of) == 7

    asyncio.run(scenario())
