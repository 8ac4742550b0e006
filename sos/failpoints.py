"""Named crash points between any two effects; inert unless a test arms them.

``arm`` is called once per process, with what stands in ``SOS_FAILPOINTS``, and does nothing unless the node
was started with its test flag too. The specification is a list of ``NAME=ACTION[:COUNT]`` separated by
``;``. ACTION is ``kill`` (SIGKILL to this process), ``eio``, ``enospc`` (raise that OSError), or
``pause:FILE`` (make FILE, wait until somebody removes it). COUNT is the hit that acts, 1 if it is left out.
With ``@GATE`` at the end only hits count while the file GATE exists: a running node is armed by making it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sos.errors import DiskFull, StartRefused

NAMES: Final = frozenset(
    {
        "put.spool.created",
        "put.spool.written",
        "put.spool.synced",
        "put.replicate.sent",
        "put.replicate.one_ack",
        "put.replicate.quorum",
        "put.blob.renamed",
        "put.blob.dirsynced",
        "raft.propose.before",
        "raft.propose.after",
        "journal.append.before_sync",
        "journal.append.after_sync",
        "journal.segment.switch",
        "vote.before_save",
        "vote.after_save",
        "apply.before_txn",
        "apply.in_txn",
        "apply.after_commit",
        "ack.before_send",
        "delete.after_commit",
        "gc.before_unlink",
        "snapshot.before_rename",
        "snapshot.after_rename",
        "install.before_swap",
        "install.after_swap",
        "install.journal_half",
        "compact.before_unlink",
        "compact.after_unlink",
        "join.before_formed",
        "join.after_formed",
        "member.entry.before",
        "member.entry.after",
        "resync.blob.partial",
        "resync.bundle.synced",
        "resync.bundle.renamed",
        "resync.before_report",
        "resync.catalog.half",
        "scrub.found",
        "scrub.put_away",
        "wipe.before_identity",
        "wipe.after_identity",
        "wipe.after_part",
        "wipe.before_note_removed",
    }
)
_PAUSE_POLL_S: Final = 0.005


class Action(Enum):
    """What an armed point does."""

    KILL = "kill"
    EIO = "eio"
    ENOSPC = "enospc"
    PAUSE = "pause"


@dataclass(slots=True, kw_only=True)
class _Armed:
    action: Action
    file: str
    hits_left: int
    gate: str  # "": always open


# Of the process, not of an object: a crash point ends the process. Empty outside of tests.
_armed: dict[str, _Armed] = {}
_reached: set[str] = set()


def hit(name: str) -> None:
    """Say that the code is at ``name``. Raises: OSError, DiskFull, where a test asked for it."""
    if _armed:
        _act(name)


def arm(specification: str | None, *, test_mode: bool) -> None:
    """Arm the points of ``specification``, in place of those armed before.

    Raises: StartRefused for an unknown name or action, also without ``test_mode``: whoever sets the
    variable expects something of it.
    """
    armed = _parse(specification or "")
    _armed.clear()
    _reached.clear()
    if test_mode:
        _armed.update(armed)


def reached() -> frozenset[str]:
    """The points passed since ``arm`` armed at least one."""
    return frozenset(_reached)


def _act(name: str) -> None:
    assert name in NAMES, f"failpoint {name} is not in the list"
    _reached.add(name)
    point = _armed.get(name)
    if point is None or (point.gate and not os.path.exists(point.gate)):
        return
    point.hits_left -= 1
    if point.hits_left != 0:
        return
    match point.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.EIO:
            raise OSError(errno.EIO, f"failpoint {name}")
        case Action.ENOSPC:
            raise DiskFull(errno.ENOSPC, f"failpoint {name}")
        case Action.PAUSE:
            _pause(point.file)


def _pause(path: str) -> None:
    """Tell by ``path`` that the point is reached; go on when it is gone."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    while os.path.exists(path):
        time.sleep(_PAUSE_POLL_S)


def _parse(specification: str) -> dict[str, _Armed]:
    armed: dict[str, _Armed] = {}
    for part in filter(None, (part.strip() for part in specification.split(";"))):
        name, _, action = part.partition("=")
        if name not in NAMES:
            raise StartRefused(
                f"SOS_FAILPOINTS: no failpoint is named {name!r}: see sos/failpoints.py"
            )
        armed[name] = _parse_action(part, action)
    return armed


def _parse_action(part: str, text: str) -> _Armed:
    text, _, gate = text.partition("@")
    word, *rest = text.split(":")
    file = ""
    if word == Action.PAUSE.value and rest:
        file, *rest = rest
    count = rest[0] if rest else "1"
    known = any(word == action.value for action in Action)
    complete = bool(file) == (word == Action.PAUSE.value)
    if not known or not complete or len(rest) > 1 or not count.isdecimal() or int(count) < 1:
        raise StartRefused(
            f"SOS_FAILPOINTS: {part!r} is not NAME=kill|eio|enospc|pause:FILE, with "
            ":COUNT and @GATE if wanted"
        )
    return _Armed(action=Action(word), file=file, hits_left=int(count), gate=gate)
