"""Reports of this node's own copies, on their way into the catalog in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sos.catalog.model import BlobId, Command, NodeId, ReportHolders, Result
from sos.errors import OutcomeUnknown, Unavailable
from sos.telemetry import log

_PAUSE_S: Final = 0.02  # reports of one batch of late answers arrive within this
_BLOBS_MAX: Final = 20_000  # 16 bytes each: far below the size of a command
_COUNTER_BITS: Final = 32

Answered = Callable[[bool], None]


class HolderReports:
    """One report in flight at a time, in order: apply ignores a sequence that is not higher (protocols.md 4.1)."""

    def __init__(
        self, propose: Callable[[Command], Awaitable[Result]], *, node: NodeId, boot: int
    ) -> None:
        self._propose = propose
        self._node = node
        self._sequence = boot << _COUNTER_BITS
        self._gained: dict[BlobId, bool] = {}  # blob -> has it now; the newest word counts
        self._answers: list[Answered] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, gained: tuple[BlobId, ...], lost: tuple[BlobId, ...], answered: Answered) -> None:
        """Report soon; ``answered(True)`` once the catalog has it, ``False`` when that is not certain."""
        for blob in gained:
            self._gained[blob] = True
        for blob in lost:
            self._gained[blob] = False
        self._answers.append(answered)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._gained or self._answers:
            await asyncio.sleep(_PAUSE_S)
            blobs = list(self._gained)[:_BLOBS_MAX]
            batch = {blob: self._gained.pop(blob) for blob in blobs}
            answers: list[Answered] = []
            if not self._gained:  # everything that was asked for so far is in this report
                answers, self._answers = self._answers, []
            self._sequence += 1
            command = ReportHolders(
                node=self._node,
                sequence=self._sequence,
                gained=tuple(blob for blob, has in batch.items() if has),
                lost=tuple(blob for blob, has in batch.items() if not has),
            )
            is_committed = await self._send(command)
            for answered in answers:
                answered(is_committed)
        self._task = None

    async def _send(self, command: ReportHolders) -> bool:
        if not command.gained and not command.lost:
            return True
        try:
            await self._propose(command)
        except (Unavailable, OutcomeUnknown) as error:
            # The full comparison finds what the catalog does not know.
            log.warning("core.holders.unreported", blobs=len(command.gained), why=str(error))
            return False
        return True
