"""Internal errors: what a part may raise to the part above it. S3 errors live in ``sos.s3.errors``."""

from __future__ import annotations

from typing import Final

EXIT_USAGE: Final = 2  # wrong flags, configuration, seed list, key: nothing was written
EXIT_DISK: Final = 74  # EX_IOERR: an I/O error on journal, vote, catalog or blob sync
EXIT_DAMAGE: Final = 76  # the node's own state failed its checks at start or while running
EXIT_REMOVED: Final = (
    77  # EX_NOPERM: a committed member list removed this node: starting it again is of no use
)
EXIT_BUG: Final = 70  # EX_SOFTWARE: an invariant of ours is broken; stopping keeps replicas equal

# In a data directory: a note, left before the process ends, that makes the next start take the directory as damaged.
DAMAGE_NOTE_NAME: Final = "damaged"

# What a person does with a node that lost its promises, if it does not come back as an empty member by itself.
LOST_DIRECTORY_ADVICE: Final = (
    "the only member of a cluster has nobody to heal it: put back what is missing, or keep the directory for "
    "somebody who can look into it"
)
REJOIN_ADVICE: Final = (
    "a member of a cluster comes back as an empty one by itself when it is started with its --seeds, or by "
    f"`sos rejoin DIR`; {LOST_DIRECTORY_ADVICE}"
)


class SosError(Exception):
    """Base of everything SOS raises on purpose."""


class Unavailable(SosError):
    """The request was certainly **not** applied: no leader, queue full, no write quorum. Safe to retry."""


class NoMajority(Unavailable):
    """No leader that a majority follows, or no write quorum, answered in time."""


class QueueFull(Unavailable):
    """More requests wait than are taken: the one case in which fewer of them would help."""


class StorageFull(Unavailable):
    """Disks are full or nearly so. Nothing counts as stored."""


class NotYet(Unavailable):
    """Some node of the cluster runs a release that does not know this operation: nothing was proposed."""


class OutcomeUnknown(SosError):
    """The request was perhaps applied: only its own stored result, or the deadline, may answer it."""


class Corruption(SosError):
    """Stored bytes fail their digest: this copy goes to quarantine, another one is read."""


class StartRefused(SosError):
    """The node cannot start. ``str(self)`` is one line that says what to do; no traceback is shown."""

    def __init__(self, message: str, *, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FatalStop(SosError):
    """The process must end now, with ``exit_code``, and acknowledge nothing more (design, section 11)."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MadeByNewer(FatalStop):
    """A sound file or log entry of a release after this one: no damage, and nothing of it is touched.

    A FatalStop, for it may also come from a peer while the node runs.
    """

    def __init__(self, what: str, version: str) -> None:
        super().__init__(
            f"{what} was made by a newer sos ({version}): use that version", exit_code=EXIT_USAGE
        )


class JournalDamaged(StartRefused):
    """Journal or vote fail their checks: this node may have forgotten a vote, so it must not vote."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=EXIT_DAMAGE)


class DiskFull(SosError, OSError):
    """No space for a write (ENOSPC, EDQUOT). Nothing of it counts; the caller may try again later."""
