"""Reports of this node's own copies, on their way into the catalog in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final

from sos.catalog.model import BlobId, Command, NodeId, Rejection, ReportHolders, Result
from sos.errors import OutcomeUnknown, Unavailable
from sos.telemetry import log

_PAUSE_S: Final = 0.02  # reports of one batch of late answers arrive within this
_RETRY_S: Final = 0.5  # without a leader an attempt takes seconds by itself
_BLOBS_MAX: Final = 20_000  # 16 bytes each: far below the size of a command
_KEPT_MAX: Final = 200_000  # about 25 MB; a resync waits for each of its small reports
_COUNTER_BITS: Final = 32

Answered = Callable[[bool], None]


class HolderReports:
    """One report in flight at a time, in order: apply ignores a sequence that is not higher (protocols.md 4.1).

    What was not committed is kept and told again: a lost copy that stays counted is one that nobody makes again.
    """

    def __init__(
        self,
        propose: Callable[[Command], Awaitable[Result]],
        *,
        node: NodeId,
        boot: int,
        on_doubt: Callable[[], None],
    ) -> None:
        """``on_doubt``: more waits than can be kept; only a full comparison knows it all then."""
        self._propose = propose
        self._node = node
        self._sequence = boot << _COUNTER_BITS
        self._on_doubt = on_doubt
        self._news: dict[BlobId, bool] = {}  # blob -> has it now; the newest word counts
        self._answers: list[Answered] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, gained: Sequence[BlobId], lost: Sequence[BlobId], answered: Answered) -> None:
        """Report soon; ``answered(True)`` once the catalog has it, ``False`` when the first attempt failed."""
        if len(self._news) + len(gained) + len(lost) > _KEPT_MAX:
            self._on_doubt()
            answered(False)
            return
        for blob in gained:
            self._news[blob] = True
        for blob in lost:
            self._news[blob] = False
        self._answers.append(answered)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        waiting: list[Answered] = []
        is_failing = False
        while self._news or self._answers:
            await asyncio.sleep(_RETRY_S if is_failing else _PAUSE_S)
            waiting += self._answers
            self._answers = []
            batch = {blob: self._news.pop(blob) for blob in list(islice(self._news, _BLOBS_MAX))}
            is_all = not self._news
            error = await self._send(batch)
            if error is not None:
                for blob, has in batch.items():
                    self._news.setdefault(blob, has)
                if not is_failing:
                    log.warning("core.holders.unreported", blobs=len(batch), why=error)
            is_failing = error is not None
            if is_all or is_failing:
                for answered in waiting:
                    answered(not is_failing)
                waiting = []
        self._task = None

    async def _send(self, batch: dict[BlobId, bool]) -> str | None:
        """Why the report is not, or not certainly, in the catalog; None: it is."""
        if not batch:
            return None
        self._sequence += 1
        command = ReportHolders(
            node=self._node,
            sequence=self._sequence,
            gained=tuple(blob for blob, has in batch.items() if has),
            lost=tuple(blob for blob, has in batch.items() if not has),
        )
        try:
            result = await self._propose(command)
        except (Unavailable, OutcomeUnknown) as error:
            return str(error)
        return result.name if isinstance(result, Rejection) else None
