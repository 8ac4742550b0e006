"""A bounded pool for blocking disk work; an I/O error that must end the process is told before anyone can act on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sos.errors import FatalStop

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DiskThreads:
    """Threads for one process. ``on_fatal`` is called in the thread that met the error."""

    def __init__(self, *, count: int, name: str, on_fatal: Callable[[FatalStop], None]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._on_fatal = on_fatal

    def submit(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Start ``work`` in a thread; the future belongs to the running loop."""
        return asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: self._guarded(work, *args, **kwargs)
        )

    def _guarded(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return work(*args, **kwargs)
        except FatalStop as stop:
            # Told here and not by the awaiting task: that one may have been cancelled meanwhile.
            self._on_fatal(stop)
            raise

    def close(self) -> None:
        """Wait for what runs; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
