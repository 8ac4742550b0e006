"""The file protocol: one contract, kept by the machine's disk and by the simulated one."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sos.disk import Disk, SystemDisk
from sos.errors import EXIT_DISK, DiskFull, FatalStop, StartRefused
from tests.faults.simdisk import SimDisk

Place = tuple[Disk, str]


@pytest.fixture(params=["system", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "system":
        return SystemDisk(), str(tmp_path)
    disk = SimDisk()
    disk.mkdir("/d")
    return disk, "/d"


def test_written_bytes_are_read_back_and_gaps_are_zeros(place: Place) -> None:
    """Guards: pread gives what pwrite wrote, and fewer bytes only at the end of the file."""
    disk, root = place
    file = disk.create(f"{root}/a")

    file.pwrite(b"hello", 3)
    file.pwrite(memoryview(b"J"), 3)
    file.fsync()
    file.fdatasync()

    assert file.size() == disk.size(f"{root}/a") == 8
    assert file.pread(100, 0) == b"\0\0\0Jello"
    assert file.pread(2, 4) == b"el"
    assert file.pread(5, 8) == b""
    file.close()
    file.close()


def test_fallocate_grows_with_zeros_and_keeps_what_is_there(place: Place) -> None:
    """Guards: a preallocated segment reads as zeros where nothing was written."""
    disk, root = place
    file = disk.create(f"{root}/a")
    file.pwrite(b"x", 0)

    file.fallocate(0, 4096)
    file.fallocate(0, 16)

    assert file.pread(5000, 0) == b"x" + bytes(4095)
    file.truncate(2)
    assert file.pread(10, 0) == b"x\0"


def test_names(place: Place) -> None:
    """Guards: create, rename, unlink and listing agree on what exists."""
    disk, root = place
    disk.create(f"{root}/b").close()
    disk.create(f"{root}/a").close()
    with pytest.raises(FileExistsError):
        disk.create(f"{root}/a")
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/c")
    file = disk.open(f"{root}/b", writable=True)
    file.pwrite(b"from b", 0)

    disk.rename(f"{root}/b", f"{root}/a")
    disk.mkdir(f"{root}/sub")
    disk.fsync_directory(root)

    assert disk.listing(root) == ["a", "sub"]
    assert disk.is_directory(f"{root}/sub")
    assert not disk.is_directory(f"{root}/a")
    assert disk.open(f"{root}/a").pread(10, 0) == b"from b"
    disk.unlink(f"{root}/a")
    disk.rmdir(f"{root}/sub")
    assert disk.listing(root) == []
    assert not disk.exists(f"{root}/a")
    with pytest.raises(FileNotFoundError):
        disk.listing(f"{root}/none")


def test_read_only_files_are_not_written(place: Place) -> None:
    """Guards: a reader cannot change a file by mistake."""
    disk, root = place
    disk.create(f"{root}/a").close()

    with pytest.raises(OSError):  # noqa: PT011 - the number differs between systems
        disk.open(f"{root}/a").pwrite(b"x", 0)


def test_a_copy_has_another_identity_and_a_moved_file_the_same(place: Place) -> None:
    """Guards protocols.md 1.3: a copied data directory is noticed, a renamed file is not taken for one."""
    disk, root = place
    first = disk.create(f"{root}/a")
    own = first.identity()
    other = disk.create(f"{root}/b").identity()

    disk.rename(f"{root}/a", f"{root}/c")

    assert own != other
    assert disk.open(f"{root}/c").identity() == own


def test_lock_keeps_a_second_one_out(place: Place) -> None:
    """Guards: two processes never use one data directory."""
    disk, root = place
    lock = disk.lock(f"{root}/lock")
    with pytest.raises(StartRefused, match="in use by another process") as refused:
        disk.lock(f"{root}/lock")
    assert "\n" not in str(refused.value)

    lock.close()
    lock.close()

    disk.lock(f"{root}/lock").close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """Guards: after a kill -9 the node starts again without a person removing anything."""
    program = (
        "import os, signal; from sos.disk import SystemDisk\n"
        f"SystemDisk().lock({str(tmp_path / 'lock')!r}); os.kill(os.getpid(), signal.SIGKILL)"
    )

    subprocess.run([sys.executable, "-c", program], check=False)

    SystemDisk().lock(str(tmp_path / "lock")).close()


def test_files_are_private(tmp_path: Path) -> None:
    """Guards design 11: files 0600, directories 0700, whatever the umask adds."""
    disk = SystemDisk()
    old = os.umask(0)
    try:
        disk.create(str(tmp_path / "f")).close()
        disk.mkdir(str(tmp_path / "d"))
    finally:
        os.umask(old)

    assert stat.S_IMODE(os.stat(tmp_path / "f").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "d").st_mode) == 0o700


def test_no_space_is_told_apart_and_short_writes_are_finished() -> None:
    """Guards: a full disk is DiskFull, on the machine's own disk too (/dev/full answers ENOSPC)."""
    file = SystemDisk().open("/dev/full", writable=True)

    with pytest.raises(DiskFull):
        file.pwrite(b"x", 0)


def test_a_failed_sync_stops_the_process() -> None:
    """Guards design 11: a failed fsync is FatalStop with EXIT_DISK (a pipe cannot be synced)."""
    reading, writing = os.pipe()
    try:
        file = SystemDisk().open(f"/proc/self/fd/{writing}", writable=True)
        with pytest.raises(FatalStop) as stop:
            file.fsync()
        assert stop.value.exit_code == EXIT_DISK
        file.close()
    finally:
        os.close(reading)
        os.close(writing)


# --- what only the simulated disk can do ----------------------------------------------------------
def _simulated() -> SimDisk:
    disk = SimDisk()
    disk.mkdir("/d")
    disk.fsync_directory("/")
    return disk


def test_power_loss_keeps_what_was_synced_and_may_lose_the_rest() -> None:
    """Guards faults.md 3.1.2: the injector does only what the real world may do."""
    outcomes = set()
    for seed in range(40):
        disk = _simulated()
        file = disk.create("/d/a")
        file.pwrite(b"s" * 2048, 0)
        file.fsync()
        disk.fsync_directory("/d")
        file.pwrite(b"u" * 2048, 0)
        disk.create("/d/b")

        disk.power_loss(random.Random(seed))

        content = disk.content("/d/a")
        assert all(content[at : at + 512] in (b"s" * 512, b"u" * 512) for at in range(0, 2048, 512))
        outcomes.add((content, disk.exists("/d/b")))
    assert len(outcomes) > 5


def test_an_unsynced_name_is_lost_with_its_file() -> None:
    """Guards faults.md 3.4 (names): fsync of a file alone does not keep its name."""
    disk = _simulated()
    file = disk.create("/d/a")
    file.pwrite(b"x", 0)
    file.fsync()

    states = list(disk.power_loss_states())

    assert {state.exists("/d/a") for state in states} == {True, False}


def test_crash_keeps_the_page_cache_and_closes_files() -> None:
    """Guards faults.md 3.1.3: a killed process is not a power cut."""
    disk = _simulated()
    file = disk.create("/d/a")
    file.pwrite(b"x", 0)
    disk.lock("/d/lock")

    disk.crash()

    assert disk.content("/d/a") == b"x"
    disk.lock("/d/lock").close()
    with pytest.raises(OSError, match="not open"):
        file.pread(1, 0)


def test_a_failed_sync_drops_the_dirty_sectors_and_the_next_succeeds() -> None:
    """Guards: the simulated disk is as treacherous as Linux, so retrying a sync shows in tests."""
    disk = _simulated()
    file = disk.create("/d/a")
    file.pwrite(b"x" * 600, 0)
    fault = disk.fail("fdatasync", 1, "eio")

    with pytest.raises(FatalStop):
        file.fdatasync()
    file.fdatasync()

    assert fault.hits == 1
    assert disk.content("/d/a") == b""


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("create", lambda disk: disk.create("/d/n")),
        ("pwrite", lambda disk: disk.open("/d/a", writable=True).pwrite(b"x", 0)),
        ("fallocate", lambda disk: disk.open("/d/a", writable=True).fallocate(0, 10)),
        ("rename", lambda disk: disk.rename("/d/a", "/d/n")),
        ("mkdir", lambda disk: disk.mkdir("/d/n")),
    ],
)
def test_planned_faults_hit_the_nth_call(operation: str, call: Callable[[SimDisk], object]) -> None:
    """Guards faults.md 3.1.5: each planned fault is hit once and counted."""
    disk = _simulated()
    disk.create("/d/a")
    fault = disk.fail(operation, 1, "enospc", part="/d/")

    with pytest.raises(DiskFull):
        call(disk)
    call(disk)

    assert fault.hits == 1


def test_ignored_syncs_lose_everything() -> None:
    """Guards: the control run (no fsync) can fail, so a passing durability test means something."""
    disk = _simulated()
    disk.ignore_syncs = True
    file = disk.create("/d/a")
    file.pwrite(b"x", 0)
    file.fsync()
    disk.fsync_directory("/d")

    assert any(not state.exists("/d/a") for state in disk.power_loss_states())
