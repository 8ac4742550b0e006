"""What every scenario of a Python client shares: where the store is, odd names, data that tells itself apart.

Runs in the environment of the client, not in that of SOS: only the standard library may be imported here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ENDPOINT = os.environ["SOS_ENDPOINT"]
HOST = ENDPOINT.partition("//")[2]
ACCESS_KEY = os.environ["AWS_ACCESS_KEY_ID"]
SECRET_KEY = os.environ["AWS_SECRET_ACCESS_KEY"]
REGION = "us-east-1"
BUCKET = os.environ["SOS_BUCKET"]
WORK = Path(os.environ["SOS_WORK"])
MIB = 1024 * 1024

# Names that people and programs really give files; each distinct, none of them folded into another.
ODD_NAMES = [
    "plain.txt",
    "with space.txt",
    " leading",
    "trailing ",
    "a+b",
    "a%2Bb",
    "100%",
    "ключ/日本語/😀",
    "NFC-\u00e9",
    "NFD-e\u0301",
    "quote'\"",
    "brackets[1]{2}(3)",
    "semi;colon&amp=equals",
    "question?mark",
    "hash#tag",
    "back\\slash",
    "tilde~star*",
    "deep/" * 20 + "file",
    "x" * 900,
]


def data(size: int, seed: int = 0) -> bytes:
    """Bytes that differ by seed."""
    block = hashlib.sha256(f"{seed}".encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def check(condition: object, what: str) -> None:
    """A scenario ends at the first thing that is not as it must be."""
    if not condition:
        raise SystemExit(f"not so: {what}")
