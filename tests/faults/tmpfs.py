"""A small real file system, for tests that fill it (needs root)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

FILLER: Final = "not-ours"


@cache
def mount_works() -> bool:
    """Whether a tmpfs can be mounted here."""
    with TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory), 1 << 20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[None]:
    """A tmpfs of ``size_bytes`` at ``directory`` meanwhile. Raises: CalledProcessError, OSError."""
    options = f"size={size_bytes},mode=0700"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)],
        check=True,
        capture_output=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)


def fill(directory: Path) -> None:
    """Leave no free byte: a foreign file takes them all."""
    with (directory / FILLER).open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = bytes(size)
            try:
                while True:
                    file.write(block)
            except OSError:
                continue


def free(directory: Path) -> None:
    """Give back what ``fill`` took."""
    os.unlink(directory / FILLER)


needs_tmpfs = pytest.mark.skipif(not mount_works(), reason="no tmpfs can be mounted (not root?)")
