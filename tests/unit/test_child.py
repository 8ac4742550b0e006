"""A child dies with its parent from its first moment, not only once its imports are done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.cluster import is_alive

REPOSITORY = Path(__file__).parents[2]
_PARENT = """
import subprocess, signal
from sos.child import child_command
child = subprocess.Popen(child_command("slow_to_import"))
signal.pause()
"""
_SLOW = """
import os, signal
print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_child_that_is_still_importing_dies_with_its_parent(tmp_path: Path) -> None:
    """Design 3: no child outlives its parent, however the parent dies, also in the first seconds."""
    (tmp_path / "slow_to_import.py").write_text(_SLOW)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        end = time.monotonic() + 10
        while is_alive(child):
            assert time.monotonic() < end, "the child outlived its parent"
            time.sleep(0.01)
    finally:
        parent.stdout.close()
        if is_alive(child):
            os.kill(child, signal.SIGKILL)


def test_run_by_hand_it_says_so() -> None:
    """`python -m sos.child` without a supervisor: one line, exit code not 0."""
    done = subprocess.run(
        [sys.executable, "-m", "sos.child"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "this module is started by `sos serve`\n")


def test_a_child_of_somebody_else_does_not_run() -> None:
    """The parent that it was started for is gone already: it ends before it imports anything."""
    done = subprocess.run(
        [sys.executable, "-m", "sos.child", "1", "no_such_module"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (71, b"")
