"""Names inside the blob directory.

``00`` .. ``ff``   blobs: one file each, named by the id in hex, in the directory of the id's last byte
``tmp/TOKEN/``     what one process is writing or unlinking; ``tmp/TOKEN.lock`` is held while that process lives
``quarantine/``    replicas that failed their checks, the last few
``pins/``          readers' pins, see ``pins.py``

The 256 directories are made at formation, not on demand: a new directory would need its parent fsynced within a write (and
two levels, 65,536 of them, took 3.5 s and 258 MiB).
"""

from __future__ import annotations

from typing import Final

from sos.blob.format import BLOB_ID_BYTES
from sos.catalog.model import BlobId
from sos.disk import Disk, SystemDisk

TEMPORARY: Final = "tmp"
QUARANTINE: Final = "quarantine"
PINS: Final = "pins"
FAN_OUT: Final = tuple(f"{number:02x}" for number in range(256))
_NAME_LENGTH: Final = 2 * BLOB_ID_BYTES


def prepare_directories(directory: str, disk: Disk | None = None) -> None:
    """Make and fsync every directory that a blob write needs; may be repeated after a crash in the middle.

    ``directory`` itself exists. Raises: OSError, DiskFull, FatalStop.
    """
    disk = disk or SystemDisk()
    for name in (TEMPORARY, QUARANTINE, PINS, *FAN_OUT):
        path = f"{directory}/{name}"
        if not disk.exists(path):
            disk.mkdir(path)
    disk.fsync_directory(directory)


def blob_directory(directory: str, blob_id: BlobId) -> str:
    """The directory that holds the file of ``blob_id``."""
    assert len(blob_id) == BLOB_ID_BYTES
    return f"{directory}/{FAN_OUT[blob_id[-1]]}"


def blob_path(directory: str, blob_id: BlobId) -> str:
    """The file of ``blob_id``."""
    return f"{blob_directory(directory, blob_id)}/{blob_id.hex()}"


def blob_id_of_name(name: str) -> BlobId | None:
    """The id that a file name stands for; ``None`` for a name that is not ours."""
    if len(name) != _NAME_LENGTH or name != name.lower():
        return None
    try:
        return BlobId(bytes.fromhex(name))
    except ValueError:
        return None
