"""What a client did and saw, one value per HTTP attempt, and the register model it is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

ANY = "*"  # If-Match: *
NONE = "none"  # If-None-Match: *


class Kind(Enum):
    PUT = "put"
    CONDITIONAL_PUT = "cput"
    GET = "get"
    DELETE = "del"
    CONDITIONAL_DELETE = "cdel"
    LIST = "list"
    COPY = "copy"


READS = frozenset({Kind.GET, Kind.LIST})
WRITES = frozenset(Kind) - READS


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One attempt. ``returned is None``: outcome unknown; it may take effect any time after ``called``, or never.

    ``value`` is unique per write and stands for ETag and body. ``answer``: "ok", "412" or "404" for writes; the value
    (None: 404) for GET and COPY. ``listed`` holds key -> value for LIST over ``keys``. A definite failure is left out of
    a history: its value then shows as impossible if anybody ever reads it. ``position`` is (log index, place in the
    entry) where the server says the answer stands.
    """

    id: int
    kind: Kind
    called: float
    returned: float | None
    key: str = ""
    keys: tuple[str, ...] = ()
    source: str = ""
    value: str = ""
    condition: str = ""
    answer: str | None = None
    listed: Mapping[str, str] | None = None
    position: tuple[int, int] | None = None
    node: str = ""

    def touched(self) -> tuple[str, ...]:
        """The keys that this op reads or writes."""
        if self.kind is Kind.LIST:
            return self.keys
        return (self.key, self.source) if self.kind is Kind.COPY else (self.key,)


def verdict(condition: str, current: str | None) -> str:
    """What S3 answers to a conditional write or delete in a state (s3.md 4.3)."""
    if condition == NONE:
        return "ok" if current is None else "412"
    if current is None:
        return "404"
    return "ok" if condition in (ANY, current) else "412"


def groups(ops: Iterable[Op]) -> Iterator[list[Op]]:
    """Ops that share keys, transitively: a history is linearizable exactly if each group is (locality)."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    ops = list(ops)
    for op in ops:
        first, *rest = op.touched()
        find(first)
        for key in rest:
            parent[find(key)] = find(first)
    found: dict[str, list[Op]] = {}
    for op in ops:
        found.setdefault(find(op.touched()[0]), []).append(op)
    yield from found.values()


def write_history(path: Path, ops: Iterable[Op]) -> None:
    """JSON lines, so that a failed run can be judged again."""
    with path.open("w") as file:
        for op in ops:
            row = {**asdict(op), "kind": op.kind.value}
            file.write(json.dumps(row) + "\n")
