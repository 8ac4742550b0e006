"""Whether a member holds all that a leaving one may hold."""

from __future__ import annotations

from typing import cast

from sos.catalog.keys import first_index_of
from sos.catalog.model import BlobId, NodeId, OwedBlob
from sos.catalog.views import View
from sos.core.leaving import holds_all_before

NODE = NodeId("n2@0000000000000002")
OTHER = NodeId("n3@0000000000000003")


def _blob(index: int, number: int = 0) -> BlobId:
    blob = BlobId(index.to_bytes(8, "big") + number.to_bytes(8, "big"))
    assert first_index_of(blob) == index
    return blob


class Owing:
    """The part of a view that is asked: what ``NODE`` owes, and who holds it."""

    def __init__(self, owed: dict[BlobId, frozenset[NodeId]]) -> None:
        self._owed = owed

    def owed(self, node: NodeId, after: bytes = b"", limit: int = 1000) -> list[OwedBlob]:
        assert node == NODE
        ids = sorted(blob for blob in self._owed if blob > after)
        return [OwedBlob(blob=blob, size_bytes=1) for blob in ids[:limit]]

    def holders(self, blob: BlobId) -> frozenset[NodeId]:
        return self._owed[blob]


def _holds_all(owed: dict[BlobId, frozenset[NodeId]]) -> bool:
    view = cast(View, Owing(owed))
    return holds_all_before(view, NODE, 100, others=frozenset({OTHER}))


def test_what_somebody_can_still_give_has_to_come_first() -> None:
    """P14 (protocols.md 3.6): a member goes when each older blob has its quorum among the others."""
    assert _holds_all({})
    assert not _holds_all({_blob(99): frozenset({OTHER})})
    assert _holds_all(
        {_blob(100): frozenset({OTHER})}
    )  # named after the mark: it has its own quorum


def test_any_number_of_blobs_that_nobody_can_give_keeps_nobody() -> None:
    """protocols.md 3.6: who is gone for good has nothing to copy from; however much that is, its removal ends."""
    lost = {_blob(5, number): frozenset[NodeId]() for number in range(1000)}
    assert _holds_all(lost)
    assert not _holds_all({**lost, _blob(6): frozenset({OTHER})})
