"""The full comparison of catalog and disk (design 10): it, not a queue of hints, is the truth."""

from __future__ import annotations

import pytest

from sos.blob.inventory import Missing, Orphaned, compare
from sos.catalog.model import BlobId


def _ids(*numbers: int) -> list[BlobId]:
    return [BlobId(number.to_bytes(16, "big")) for number in numbers]


A, B, C, D = _ids(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("named", "present", "expected"),
    [
        ([], [], []),
        ([A], [A], []),
        ([A], [], [Missing(A)]),
        ([], [A], [Orphaned(A)]),
        ([A, C], [B, C], [Missing(A), Orphaned(B)]),
        ([B], [A, B, C, D], [Orphaned(A), Orphaned(C), Orphaned(D)]),
        ([A, B, C, D], [D], [Missing(A), Missing(B), Missing(C)]),
    ],
)
def test_compare(
    named: list[BlobId], present: list[BlobId], expected: list[Missing | Orphaned]
) -> None:
    """Every missing and every orphaned blob is named, once, in order."""
    assert list(compare(named, present)) == expected


@pytest.mark.parametrize("bad", [[B, A], [A, A]])
def test_unsorted_streams_are_refused(bad: list[BlobId]) -> None:
    """A merge of unsorted streams would call present blobs orphaned, and the sweep would unlink them (P13)."""
    with pytest.raises(ValueError, match="ascend"):
        list(compare(bad, []))
    with pytest.raises(ValueError, match="ascend"):
        list(compare([], bad))
