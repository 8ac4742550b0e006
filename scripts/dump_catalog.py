"""Prints the rows of a node's catalog as JSON lines; read-only, also next to a running node.

Secrets are left out. Every row is checked; a damaged one is printed with what is wrong, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from sos.catalog import keys, records
from sos.catalog.environment import (
    begin,
    generation_directory,
    open_copy,
    open_reader,
    read_pointer,
)
from sos.errors import Corruption
from sos.packing import PackingError, unpack

NUMBER_AND_BYTES = (keys.REQUEST[0], keys.DIGEST[0])
SECRET_TABLES = (keys.ACCESS_KEY[0],)
SECRET_ROWS = (keys.FORMATION_KEY,)
BYTES_SHOWN = 48


def plain(value: object) -> object:
    """``value`` as JSON can hold it; long bytes are cut."""
    if isinstance(value, bytes):
        tail = f"... {len(value)} bytes" if len(value) > BYTES_SHOWN else ""
        return value[:BYTES_SHOWN].hex() + tail
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def readable_key(row_key: bytes) -> str:
    """The part of a database key that a person wants to see."""
    rest = row_key[keys.PREFIX_BYTES :]
    if row_key.startswith(keys.OBJECT):
        return f"{int.from_bytes(rest[:8], 'big')}/{rest[8:].decode(errors='backslashreplace')}"
    if row_key.startswith((keys.META, keys.BUCKET, keys.MEMBER, keys.ACCESS_KEY)):
        return rest.decode(errors="backslashreplace")
    return rest.hex()


def content(row_key: bytes, value: bytes) -> object:
    """The decoded body of a row. Raises: Corruption."""
    body = records.unseal(row_key, value)
    if row_key in SECRET_ROWS:
        return "left out"
    if row_key[0] in NUMBER_AND_BYTES or row_key in (keys.MEMBERS_KEY, keys.FORMAT_KEY):
        number, rest = records.decode_number_and_bytes(row_key, value)
        return [number, plain(rest)]
    if row_key.startswith(keys.REQUESTS_OF):
        return plain([body[at : at + 16] for at in range(0, len(body), 16)])
    fields = unpack(body)
    if row_key[0] in SECRET_TABLES:
        fields[2] = "left out"
    return plain(fields)


def rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Every row of a data directory's catalog, of a catalog directory, or of a snapshot file."""
    if path.is_file():
        environment = open_copy(path)
    else:
        directory = path / "catalog" if (path / "catalog").is_dir() else path
        environment = open_reader(generation_directory(directory, read_pointer(directory)))
    transaction = begin(environment)
    cursor = transaction.cursor()
    if cursor.set_range(b"\x00"):
        yield from cursor.iternext(keys=True, values=True)
    transaction.abort()
    environment.close()


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="data directory, catalog directory or snapshot")
    parser.add_argument("--table", choices=sorted(keys.TABLES.values()), help="only this table")
    arguments = parser.parse_args()
    damaged = 0
    for row_key, value in rows(arguments.path):
        table = keys.TABLES.get(row_key[0], "unknown")
        if arguments.table not in (None, table):
            continue
        line: dict[str, object] = {"table": table, "key": readable_key(row_key)}
        try:
            line["row"] = content(row_key, value)
        except (Corruption, PackingError) as error:
            line["damage"] = str(error)
            damaged += 1
        print(json.dumps(line, ensure_ascii=False))
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
