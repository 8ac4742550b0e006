"""Verifies one data directory, part by part. Read-only; see the package for what that means."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sos.child import child_command
from sos.errors import (
    DAMAGE_NOTE_NAME,
    REJOIN_ADVICE,
    FatalStop,
    MadeByNewer,
    SosError,
    StartRefused,
)
from sos.raft import quarantine
from sos.raft.boots import BOOTS_NAME, decode_boots
from sos.raft.identity import LOCK_NAME, MARK_NAME, PARTS, Empty, Formed, Identity, read_identity
from sos.raft.journal import open_journal
from sos.verify.findings import Finding, Progress
from sos.verify.readonly import ReadOnlyDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRESS_BYTES: Final = 16 * 1024 * 1024
_ERROR_CHARS: Final = 300

OnProgress = Callable[[Progress], None]
OnFinding = Callable[[Finding], None]


class NotVerifiable(SosError):
    """There is nothing to verify here, or a node runs on it; one line that says what to do."""


@dataclass(slots=True, kw_only=True)
class Report:
    """``facts``: what was read, as plain values."""

    node: str = ""
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not any(finding.is_damage for finding in self.findings)


def verify_directory(
    path: Path,
    *,
    on_progress: OnProgress = lambda _: None,
    on_finding: OnFinding = lambda _: None,
) -> Report:
    """Read everything in the data directory of a stopped node. Raises: NotVerifiable."""
    with _locked(path):
        try:
            return _Verification(path, on_progress, on_finding).run()
        except MadeByNewer as error:
            raise NotVerifiable(str(error)) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep a node from starting meanwhile; by a descriptor that cannot write."""
    if not path.is_dir():
        raise NotVerifiable(f"{path}: no such directory")
    try:
        descriptor = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotVerifiable(
            f"{path} is no data directory of a node: it has no file {LOCK_NAME!r}"
        ) from None
    except OSError as error:
        raise NotVerifiable(f"{path} cannot be read: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotVerifiable(
                f"{path} is in use by a running node: stop it first, or use `sos scrub --now`"
            ) from error
        yield
    finally:
        os.close(descriptor)


class _Verification:
    """One run."""

    def __init__(self, path: Path, on_progress: OnProgress, on_finding: OnFinding) -> None:
        self._path = path
        self._on_progress = on_progress
        self._on_finding = on_finding
        self._report = Report()

    def run(self) -> Report:
        disk = ReadOnlyDisk()
        identity = self._identity(disk)
        if identity is None:
            return self._report
        self._report.node = identity.node
        self._marks(identity)
        self._aside(disk, identity)
        self._boots()
        self._journal(identity)
        if (self._path / "catalog" / "current").exists():
            self._catalog_and_blobs(identity)
            self._check_fit(identity)
        elif self._report.facts.get("journal_last", 0) > 1 or self._report.facts.get("term", 0) > 0:
            self._damage(
                "catalog", "catalog/current", "missing, and the journal beside it is not empty"
            )
        return self._report

    def _found(self, finding: Finding) -> None:
        self._report.findings.append(finding)
        self._on_finding(finding)

    def _damage(self, part: str, where: str, what: str) -> None:
        self._found(Finding(part=part, where=where, what=what))

    def _note(self, part: str, where: str, what: str) -> None:
        self._found(Finding(part=part, where=where, what=what, is_damage=False))

    # --- parts ------------------------------------------------------------------------------------
    def _identity(self, disk: ReadOnlyDisk) -> Identity | None:
        try:
            found = read_identity(disk, str(self._path))
        except MadeByNewer:
            raise
        except (StartRefused, FatalStop) as error:
            self._damage("identity", "identity", _short(error))
            return None
        if found is None:
            self._note("identity", "identity", "none: this node never started, or was emptied")
            return None
        if found.is_copy:
            what = "this directory is a copy of the one that the node wrote; it will not be started"
            self._note("identity", "identity", what)
        formation = found.identity.formation
        if isinstance(formation, Empty):
            self._note("identity", "identity", "the node belongs to no cluster yet")
        return found.identity

    def _marks(self, identity: Identity) -> None:
        """Each part carries the incarnation that it belongs to."""
        for part in PARTS:
            mark = self._path / part / MARK_NAME
            try:
                text = mark.read_bytes()
            except OSError as error:
                self._damage("identity", f"{part}/{MARK_NAME}", f"cannot be read: {error.strerror}")
                continue
            if text != f"{identity.incarnation}\n".encode():
                what = f"is of another incarnation than {identity.incarnation}"
                self._damage("identity", f"{part}/{MARK_NAME}", what)

    def _aside(self, disk: ReadOnlyDisk, identity: Identity) -> None:
        """What the node itself found damaged before."""
        note = quarantine.read_note(disk, str(self._path))
        if note is not None and note.incarnation == identity.incarnation:
            what = f"the next start comes back as an empty member: {note.why}"
            self._note("identity", DAMAGE_NOTE_NAME, what)
        for aside in quarantine.list_aside(disk, str(self._path)):
            self._note(
                "identity", os.path.relpath(aside.path, self._path), f"put aside: {aside.why}"
            )

    def _boots(self) -> None:
        path = self._path / BOOTS_NAME
        if path.exists() and decode_boots(path.read_bytes()) is None:
            what = "fails its checks: the highest start numbers of the other nodes are forgotten"
            self._damage("identity", BOOTS_NAME, what)

    def _journal(self, identity: Identity) -> None:
        """By the code that a start runs: every record in force, the vote, and that they fit together."""
        directory = self._path / "journal"
        if not directory.is_dir():
            self._damage("journal", "journal", "the directory is missing")
            return
        total = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
        done = told = 0

        def on_read(count: int) -> None:
            nonlocal done, told
            done += count
            if done - told >= _PROGRESS_BYTES:
                told = done
                self._on_progress(
                    Progress(part="journal", done=min(done, total), total=total, unit="bytes")
                )

        try:
            journal = open_journal(
                ReadOnlyDisk(on_read), str(directory), incarnation=identity.incarnation
            )
        except MadeByNewer:
            raise
        except (StartRefused, FatalStop) as error:
            self._damage("journal", "journal", _short(error))
            return
        facts = self._report.facts
        facts["journal_first"], facts["journal_last"] = journal.first_index, journal.last_index
        facts["term"] = journal.getCurrentTerm()
        if journal.recovered.torn_tail:
            what = "the end was never synced, and the next start cuts it: nothing that counts"
            self._note("journal", "journal", what)
        journal.close()

    def _catalog_and_blobs(self, identity: Identity) -> None:
        is_whole = False
        with subprocess.Popen(  # noqa: S603 - our own interpreter and module names
            child_command("sos.verify.child", str(self._path), identity.node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                is_whole = self._take(json.loads(line)) or is_whole
            _, complaint = process.communicate()
        if is_whole and process.returncode == 0:
            return
        last = " ".join(complaint.split())[-_ERROR_CHARS:]
        code = process.returncode
        how = f"of {signal.Signals(-code).name}" if code < 0 else f"with {code}: {last}"
        self._damage("catalog", "catalog", f"reading it, or a blob that it names, ended {how}")

    def _take(self, document: dict[str, Any]) -> bool:
        """One line of the child; True for the last. Raises: NotVerifiable."""
        if "finding" in document:
            self._found(Finding(**document["finding"]))
        elif "progress" in document:
            self._on_progress(Progress(**document["progress"]))
        elif "facts" in document:
            self._report.facts |= document["facts"]
        elif "newer" in document:
            raise NotVerifiable(document["newer"])
        return "end" in document

    def _check_fit(self, identity: Identity) -> None:
        """Journal, catalog and identity are of one time and one cluster."""
        facts, formation = self._report.facts, identity.formation
        applied = facts.get("applied_index")
        if applied is None:
            return
        if isinstance(formation, Formed) and formation.cluster_id.hex() != facts["cluster_id"]:
            self._damage("catalog", "catalog", "is of another cluster than the identity")
        if "journal_last" not in facts:
            return
        first, last = facts["journal_first"], facts["journal_last"]
        if last >= first and applied < first - 1:
            what = f"ends at log index {applied}, the journal begins at {first}: an older copy"
            self._damage("catalog", "catalog", what)
        if applied > last:
            what = f"the journal ends at log index {last}, the catalog at {applied}"
            if facts["has_boundary"]:
                self._note("journal", "journal", f"{what}: a start after a snapshot sets it right")
            else:
                self._damage("journal", "journal", f"{what}: an older copy, or it lost its end")


def _short(error: Exception) -> str:
    """What was found, without the advice to whoever starts a node."""
    return str(error).replace(REJOIN_ADVICE, "").rstrip(" :;")
