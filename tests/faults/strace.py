"""Failing and slow system calls of running processes, by ``strace --inject`` (faults.md 3.5).

Attaching needs root or the kernel's leave; ``strace_works`` tries it, for a program that is there proves nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_ATTACH_S: Final = 10.0


@cache
def strace_works() -> bool:
    """Whether a system call can be made to fail here."""
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-qq", "-e", "inject=fsync:error=EIO", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_strace = pytest.mark.skipif(
    not strace_works(), reason="strace cannot inject faults here (not installed, or no ptrace)"
)


@contextmanager
def injected(pid: int, inject: str, *, path: Path | None = None) -> Iterator[None]:
    """``inject`` as of ``strace -e inject=...`` on all threads of ``pid`` meanwhile; ``path``: calls on this file alone."""
    calls = inject.partition(":")[0]
    only = [] if path is None else ["-P", str(path)]
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-o", os.devnull, *only, "-e", f"trace={calls}"),
            *("-e", f"inject={inject}", "-p", str(pid)),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_attached(pid, tracer)
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)  # detaches; the process goes on
        tracer.wait(timeout=10)


def _wait_attached(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    """Until every thread is traced."""
    end = time.monotonic() + _ATTACH_S
    while not all(_is_traced(task) for task in Path(f"/proc/{pid}/task").iterdir()):
        assert tracer.poll() is None, f"strace ended with {tracer.returncode}"
        assert time.monotonic() < end, f"strace did not attach to {pid}"
        time.sleep(0.005)


def _is_traced(task: Path) -> bool:
    try:
        status = (task / "status").read_text()
    except OSError:
        return True  # a thread that ended
    return "TracerPid:\t0\n" not in status
