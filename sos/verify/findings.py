"""What a verification found: one line each. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

FINDINGS_MAX: Final = 1000  # of one part: a disk that lost its head would name every blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``is_damage``: something that was written is not there any more as it was; else worth a word only."""

    part: str  # identity, journal, catalog, blobs
    where: str  # a path below the directory, or a row
    what: str
    is_damage: bool = True

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """For a person."""
        kind = "damage" if self.is_damage else "note"
        return f"{kind}: {self.part}: {self.where + ': ' if self.where else ''}{self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a part is; ``total`` is 0 while it is not known."""

    part: str
    done: int
    total: int
    unit: str  # "bytes", "records"
