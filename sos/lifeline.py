"""A child's life tied to its parent's. Imports nothing slow: until it has run, a child would outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_EXIT_ORPHAN: Final = 71  # nobody is left to read it


def die_with_parent(parent: int) -> None:
    """End this process when ``parent``, which started it, ends.

    The death signal fires when the *thread* that started this process ends: supervisors start children
    from their main thread only. A parent that died before is noticed by its process id.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(_EXIT_ORPHAN)
