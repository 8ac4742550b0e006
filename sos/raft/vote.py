"""Term and vote on disk: durable before any message that tells of them leaves (Raft, figure 2).

A vote must not need free space: whether there is some can only be asked before, and a foreign process takes it
meanwhile. So the next vote's block is there already, in a spare file that is written in place and renamed; the block
that the old vote gives back becomes the next spare.
"""

from __future__ import annotations

import os
from typing import Final

from sos import failpoints
from sos.disk import Disk, File
from sos.errors import EXIT_DISK, DiskFull, FatalStop
from sos.raft.journal_format import Vote, encode_vote, parse_vote
from sos.raft.journal_load import TEMPORARY_SUFFIX, damaged, stopped

VOTE_NAME: Final = "vote"
SPARE_NAME: Final = "vote.spare"
_SPARE_BYTES: Final = 4096  # a block of every common file system; a vote is far shorter


class VoteFile:
    """The vote of one incarnation. There is always one: a missing file is damage, not "no vote yet"."""

    def __init__(self, disk: Disk, directory: str, *, incarnation: str, vote: Vote) -> None:
        self._disk = disk
        self._directory = directory
        self._incarnation = incarnation
        self._failed = False
        self.vote = vote

    @classmethod
    def load(cls, disk: Disk, directory: str, *, incarnation: str) -> VoteFile | None:
        """The stored vote, None if there is no file. Raises: JournalDamaged, OSError."""
        path = os.path.join(directory, VOTE_NAME)
        if not disk.exists(path):
            return None
        file = disk.open(path)
        try:
            vote = parse_vote(file.pread(file.size(), 0), incarnation)
        finally:
            file.close()
        if vote is None:
            raise damaged(directory, "vote file")
        return cls(disk, directory, incarnation=incarnation, vote=vote)

    @classmethod
    def create(cls, disk: Disk, directory: str, *, incarnation: str) -> VoteFile:
        """A durable "term 0, nobody". Raises: FatalStop."""
        made = cls(disk, directory, incarnation=incarnation, vote=Vote(term=0, voted_for=None))
        made.save(made.vote)
        return made

    def save(self, vote: Vote) -> None:
        """Replace the vote; it survives power loss when this returns. Raises: FatalStop."""
        if self._failed:
            raise FatalStop(f"vote in {self._directory} failed before", exit_code=EXIT_DISK)
        self._failed = True
        try:
            self._replace(vote)
        except OSError as error:
            raise stopped(self._directory, "vote", error) from error
        self.keep_spare()
        self._failed = False

    def _replace(self, vote: Vote) -> None:
        failpoints.hit("vote.before_save")
        path = os.path.join(self._directory, VOTE_NAME)
        spare = os.path.join(self._directory, SPARE_NAME)
        data = encode_vote(vote, self._incarnation)
        file = self._open_spare(spare)
        try:
            file.pwrite(data, 0)
            file.truncate(len(data))
            file.fsync()
        finally:
            file.close()
        self._disk.rename(spare, path)
        self._disk.fsync_directory(self._directory)
        self.vote = vote
        failpoints.hit("vote.after_save")

    def _open_spare(self, path: str) -> File:
        if self._disk.exists(path):
            return self._disk.open(path, writable=True)
        return self._disk.create(path)

    def keep_spare(self) -> None:
        """Have a block for the next vote, as soon as there is space for one. Raises: FatalStop."""
        path = os.path.join(self._directory, SPARE_NAME)
        if self._disk.exists(path):
            return
        temporary = path + TEMPORARY_SUFFIX
        try:
            self._write_zeros(temporary)
            self._disk.rename(temporary, path)  # lost in a crash, it is made again
        except DiskFull:
            if self._disk.exists(temporary):
                self._disk.unlink(temporary)
        except OSError as error:
            raise stopped(self._directory, "vote", error) from error

    def _write_zeros(self, path: str) -> None:
        file = self._disk.create(path)
        try:
            file.pwrite(bytes(_SPARE_BYTES), 0)
            file.fsync()
        finally:
            file.close()
