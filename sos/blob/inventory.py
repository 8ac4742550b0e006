"""Compares the blobs that the catalog names with those that lie on a disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sos.catalog.model import BlobId


@dataclass(frozen=True, slots=True)
class Missing:
    """Named by the catalog, not on the disk: the member is owed a replica."""

    blob: BlobId


@dataclass(frozen=True, slots=True)
class Orphaned:
    """On the disk, not named: garbage once it lies below the sweep floor."""

    blob: BlobId


def compare(named: Iterable[BlobId], present: Iterable[BlobId]) -> Iterator[Missing | Orphaned]:
    """The differences of two strictly ascending id streams, in order, in constant memory.

    Raises: ValueError if a stream does not ascend: a merge of unsorted streams would call present blobs orphaned.
    """
    names, files = _ascending(named), _ascending(present)
    name, file = next(names, None), next(files, None)
    while name is not None or file is not None:
        if file is None or (name is not None and name < file):
            assert name is not None
            yield Missing(name)
            name = next(names, None)
        elif name is None or file < name:
            yield Orphaned(file)
            file = next(files, None)
        else:
            name, file = next(names, None), next(files, None)


def _ascending(ids: Iterable[BlobId]) -> Iterator[BlobId]:
    last: BlobId | None = None
    for blob in ids:
        if last is not None and blob <= last:
            raise ValueError(f"blob ids do not ascend: {blob.hex()} after {last.hex()}")
        last = blob
        yield blob
