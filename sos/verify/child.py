"""The part of a verification that reads the catalog by LMDB, in a process of its own: it may die of a signal.

``python -m sos.child PARENT sos.verify.child DIR NODE``: one JSON document a line on standard output,
``{"finding": ...}``, ``{"progress": ...}``, ``{"facts": ...}`` or ``{"newer": ...}``; the last line is ``{"end": true}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sos.blob.checking import Expected, State, check_replica
from sos.blob.format import file_bytes
from sos.blob.layout import FAN_OUT, QUARANTINE, TEMPORARY, blob_id_of_name, blob_path
from sos.blob.reading import OpenedFile
from sos.catalog.audit import audit
from sos.catalog.environment import (
    DATA_FILE,
    LmdbError,
    begin,
    check_length,
    generation_directory,
    open_copy,
    read_pointer,
)
from sos.catalog.model import BlobId, BlobRecord, NodeId
from sos.catalog.store import check_format
from sos.catalog.views import View
from sos.errors import Corruption, MadeByNewer
from sos.verify.findings import FINDINGS_MAX, Finding
from sos.verify.readonly import ReadOnlyDisk

_PAGE: Final = 1000
_STRANGERS_MAX: Final = 20  # named one by one


class Teller:
    """Writes the lines of one child."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def finding(self, part: str, where: str, what: str, *, is_damage: bool = True) -> None:
        """One find; beyond ``FINDINGS_MAX`` of a part they are only counted."""
        count = self._counts[part] = self._counts.get(part, 0) + 1
        if count <= FINDINGS_MAX:
            found = Finding(part=part, where=where, what=what, is_damage=is_damage)
            self._write({"finding": found.plain()})

    def progress(self, part: str, done: int, total: int, unit: str) -> None:
        self._write({"progress": {"part": part, "done": done, "total": total, "unit": unit}})

    def facts(self, **facts: str | int) -> None:
        self._write({"facts": facts})

    def newer(self, why: str) -> None:
        """The catalog cannot be verified by this release."""
        self._write({"newer": why})

    def end(self) -> None:
        for part, count in self._counts.items():
            if count > FINDINGS_MAX:
                what = f"and {count - FINDINGS_MAX} more"
                self._write({"finding": Finding(part=part, where="", what=what).plain()})
        self._write({"end": True})

    def _write(self, document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()


def main() -> None:
    """The child's whole life."""
    directory, node = Path(sys.argv[1]), NodeId(sys.argv[2])
    os.nice(5)
    teller = Teller()
    try:
        _verify_catalog(directory, node, teller)
    except MadeByNewer as error:
        teller.newer(str(error))
    except (Corruption, LmdbError) as error:
        teller.finding("catalog", "", str(error))
        verify_blobs_alone(directory, teller)
    teller.end()


def _verify_catalog(directory: Path, node: NodeId, teller: Teller) -> None:
    """The records, then the blobs that they name. Raises: Corruption, LmdbError: the catalog cannot be read."""
    generation = read_pointer(directory / "catalog")
    path = generation_directory(directory / "catalog", generation) / DATA_FILE
    if not path.exists():
        raise Corruption(f"{path.relative_to(directory)} is missing")
    environment = open_copy(path)
    try:
        check_length(environment, path)
        rows: int = environment.stat()["entries"]
        transaction = begin(environment)
        with View(transaction, generation) as view:
            check_format(view)
            teller.facts(
                applied_index=view.applied_index,
                applied_term=view.applied_term,
                records=rows,
                cluster_id=view.formation().cluster_id.hex(),
                has_boundary=path.with_name("boundary").exists(),
            )
            audit(
                transaction,
                lambda where, what: teller.finding("catalog", where, what),
                lambda done: teller.progress("catalog", done, rows, "records"),
            )
            _verify_blobs(directory, node, view, teller)
    finally:
        environment.close()


# --- blobs ----------------------------------------------------------------------------------------
def _verify_blobs(directory: Path, node: NodeId, view: View, teller: Teller) -> None:
    """Every replica that counts, then every file that nobody asked for."""
    blobs = str(directory / "blobs")
    disk = ReadOnlyDisk()
    total, done, count = view.counters().blob_bytes, 0, 0
    for record in _named(view):
        if node not in record.holders:
            continue
        expected = Expected(blob_id=record.blob, size_bytes=record.size_bytes, crc64=record.crc64)
        checked = check_replica(disk, blobs, expected)
        if checked.state is not State.SOUND:
            teller.finding("blobs", _below(directory, record.blob), checked.why)
        done += file_bytes(record.size_bytes)
        count += 1
        teller.progress("blobs", min(done, total), total, "bytes")
    teller.facts(replicas=count)

    def is_counted(blob: BlobId) -> bool:
        row = view.blob(blob)
        return row is not None and node in row.holders

    strangers = [blob for blob in _files(directory, teller) if not is_counted(blob)]
    for blob in strangers[:_STRANGERS_MAX]:
        what = "not counted here by the catalog: an upload that never ended, a copy on its way, or forgotten"
        teller.finding("blobs", _below(directory, blob), what, is_damage=False)
    if len(strangers) > _STRANGERS_MAX:
        what = (
            f"and {len(strangers) - _STRANGERS_MAX} more files that the catalog does not count here"
        )
        teller.finding("blobs", "blobs", what, is_damage=False)


def verify_blobs_alone(directory: Path, teller: Teller) -> None:
    """Every blob file by its own checksums: the catalog cannot say which ones must be here."""
    disk = ReadOnlyDisk()
    count = 0
    for blob in _files(directory, teller):
        count += 1
        try:
            opened = OpenedFile(disk, blob_path(str(directory / "blobs"), blob), blob)
            try:
                opened.verify_all()
            finally:
                opened.close()
        except (Corruption, FileNotFoundError) as error:
            teller.finding("blobs", _below(directory, blob), str(error))
    teller.facts(replicas=count)


def _named(view: View) -> Iterator[BlobRecord]:
    after = b""
    while True:
        page = view.blobs(after, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].blob


def _files(directory: Path, teller: Teller) -> Iterator[BlobId]:
    """The ids of the blob files; what stands among them and is none is named."""
    root = directory / "blobs"
    for name in FAN_OUT:
        try:
            files = sorted(os.listdir(root / name))
        except FileNotFoundError:
            teller.finding("blobs", f"blobs/{name}", "the directory is missing")
            continue
        for file in files:
            blob = blob_id_of_name(file)
            if blob is None or blob[-1] != int(name, 16):
                what = "no name of a blob of this directory"
                teller.finding("blobs", f"blobs/{name}/{file}", what, is_damage=False)
            else:
                yield blob
    for name, what in (
        (TEMPORARY, "half written files of a process that was killed: the next start removes them"),
        (QUARANTINE, "replicas that failed their checks are kept here for a person"),
    ):
        count = sum(1 for path in (root / name).rglob("*") if path.is_file())
        if count:
            teller.finding("blobs", f"blobs/{name}", f"{count} files: {what}", is_damage=False)


def _below(directory: Path, blob: BlobId) -> str:
    return str(Path(blob_path(str(directory / "blobs"), blob)).relative_to(directory))


if __name__ == "__main__":
    main()
