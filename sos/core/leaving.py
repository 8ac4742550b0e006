"""Who holds all that a leaving member may hold: then it may go (protocols.md 3.6)."""

from __future__ import annotations

from typing import Final

from sos.catalog.keys import first_index_of
from sos.catalog.model import NodeId
from sos.catalog.views import View

_PAGE: Final = 256
_PAGES_MAX: Final = 32  # this runs in the core's loop: about 0.1 s


def holds_all_before(view: View, node: NodeId, index: int, *, others: frozenset[NodeId]) -> bool:
    """Whether ``node``, which was compared in full, holds every blob that was named before ``index``.

    What it owes of later ones does not matter: a write goes on all the time, and each new blob has its quorum of
    members that stay. A blob id tells from which index on it can have been named, so one that is owed and older
    is enough to say no; unless none of ``others`` (who could still give it) has it either: it comes from nobody.
    """
    after = b""
    for _ in range(_PAGES_MAX):
        page = view.owed(node, after=after, limit=_PAGE)
        for row in page:
            if first_index_of(row.blob) >= index:
                return True  # in order of blob id: so are all after it
            if others & frozenset(view.holders(row.blob)):
                return False
        if len(page) < _PAGE:
            return True
        after = page[-1].blob
    return False
