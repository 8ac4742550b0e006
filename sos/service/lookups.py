"""Rows that nearly every request reads, remembered while the catalog does not move.

At one generation and applied index the catalog is one value, so what was found there stays true there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sos.catalog.model import AccessKeyId, BucketRecord
    from sos.catalog.views import View

_ROWS_MAX: Final = 4096


class Lookups:
    """Access keys and buckets of the view that was used last."""

    def __init__(self) -> None:
        self._position = (0, 0)
        self._keys: dict[AccessKeyId, bool] = {}
        self._buckets: dict[str, BucketRecord | None] = {}

    def may_ask(self, view: View, access_key: AccessKeyId) -> bool:
        """Whether the key is valid in the view that answers the request (design 5.1)."""
        self._move_to(view)
        known = self._keys.get(access_key)
        if known is None:
            record = view.access_key(access_key)
            known = record is not None and record.enabled
            self._keys[access_key] = known
        return known

    def bucket(self, view: View, name: str) -> BucketRecord | None:
        """The bucket of this name in ``view``."""
        self._move_to(view)
        if name in self._buckets:
            return self._buckets[name]
        record = view.bucket(name)
        self._buckets[name] = record
        return record

    def _move_to(self, view: View) -> None:
        position = (view.generation, view.applied_index)
        if position != self._position or len(self._keys) + len(self._buckets) > _ROWS_MAX:
            self._position = position
            self._keys.clear()
            self._buckets.clear()
