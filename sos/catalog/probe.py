"""Opens a catalog for the first time after a start: ``python -m sos.catalog.probe DIR``, in a child process.
With ``--copy FILE``: reads a copy that came from another node, every record of it.

LMDB has no checksums of its own: on damaged pages it may abort or die of SIGBUS. A child that ends by a signal,
or with ``EXIT_DAMAGE``, means that the catalog is damaged; one line on standard error says what was found. It
reads what every start needs and the first row of every table, and begins a write to read the list of free pages; it
does not read everything (``View.scan_digest`` does).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sos.catalog import keys
from sos.catalog.environment import (
    DATA_FILE,
    LmdbError,
    begin,
    check_length,
    generation_directory,
    open_writer,
    read_pointer,
)
from sos.catalog.model import NodeId
from sos.catalog.store import check_format, verify_snapshot
from sos.catalog.views import View
from sos.errors import EXIT_DAMAGE, Corruption, MadeByNewer


def probe(directory: str | Path) -> tuple[NodeId, ...]:
    """Check the catalog in ``directory`` in this process; who is listed in it.

    Raises: Corruption, FileNotFoundError, MadeByNewer.
    """
    path = generation_directory(Path(directory), read_pointer(Path(directory)))
    if not (path / DATA_FILE).exists():
        raise Corruption(f"{path / DATA_FILE} is missing")
    try:
        environment = open_writer(path)
        try:
            check_length(environment, path / DATA_FILE)
            with View(begin(environment), 0) as view:
                check_format(view)
                view.check_ends()
                listed = tuple(member.node for member in view.members())
            transaction = begin(environment, write=True)
            transaction.put(keys.META + b"probe", b"")
            transaction.abort()
        finally:
            environment.close()
    except LmdbError as error:
        raise Corruption(f"{path}: {error}") from error
    return listed


def main() -> int:
    """The exit code of the child."""
    try:
        match sys.argv[1:]:
            case ["--copy", file]:
                os.nice(10)  # minutes for a large one; requests go first
                verify_snapshot(file)
            case [directory]:
                probe(directory)
            case _:
                sys.stderr.write("usage: python -m sos.catalog.probe DIR | --copy FILE\n")
                return EXIT_DAMAGE
    except MadeByNewer as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (Corruption, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_DAMAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
