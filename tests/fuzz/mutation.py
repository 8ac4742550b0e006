"""Inputs made from a corpus: bytes changed, cut, doubled, joined; always the same ones for a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.parsers import verdict

CORPUS: Final = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX: Final = 4096
# What parsers trip over: ends of lines, numbers at the edges, text that is none, markup.
_TOKENS: Final = (
    *(b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b"\x7f", b" ", b"\t", b'"', b"'", b"\\"),
    *(b"%", b"%00", b"%2F", b"%ff", b"%C3%A4", b"+", b"&", b"=", b"?", b"/", b"//", b"..", b"*"),
    *(b"0", b"-1", b"+1", b"1_0", b"0x1", b"1e999", b"NaN", b"Infinity", b"-0", b"4294967296"),
    *(b"9223372036854775808", b"9" * 400, b"\xd9\xa3", b"\xc2\xb2", b"\xff", b"\xed\xa0\x80"),
    *(b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"null", b"true", b"[]", b"{}"),
    *(b"<", b">", b"</", b"/>", b"<!--", b"<![CDATA[", b"&amp;", b"&#0;", b"&x;", b"<a/>"),
    *(b"<!DOCTYPE a>", b"--", b"--edge", b"--edge--", b";", b",", b":", b"bytes=", b"[" * 300),
)


def load(name: str) -> list[bytes]:
    """The kept inputs of a parser; in the file, a character is a byte."""
    return [text.encode("latin-1") for text in json.loads(_path(name).read_text())]


def keep(name: str, inputs: Sequence[bytes]) -> None:
    texts = [data.decode("latin-1") for data in inputs]
    _path(name).write_text(json.dumps(texts, indent=1) + "\n")


def _path(name: str) -> Path:
    return CORPUS / f"{name}.json"


def mutations(corpus: list[bytes], seed: int) -> Iterator[bytes]:
    """Without end. What is appended to ``corpus`` meanwhile is mutated as well."""
    chance = random.Random(seed)
    while True:
        data = chance.choice(corpus)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
            data = _mutate(data, corpus, chance)
        yield data[:INPUT_BYTES_MAX]


def _mutate(data: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    start, stop = sorted(chance.randint(0, len(data)) for _ in range(2))
    match chance.randrange(7):
        case 0:
            new = bytes([chance.randrange(256)])
            return data[:start] + new + data[start + 1 :]
        case 1:
            return data[:start] + data[stop:]
        case 2:
            return data[:start] + data[start:stop] * chance.randint(2, 12) + data[stop:]
        case 3:
            return data[:start]
        case 4:
            return data[:start] + chance.choice(corpus)[stop:]
        case 5:
            return data[:start] + chance.choice(_TOKENS) + data[start:]
        case _:
            return data[:start] + chance.choice(_TOKENS) + data[stop:]


def search(
    parser: Callable[[bytes], object],
    corpus: list[bytes],
    *,
    seed: int,
    ends: Callable[[int], bool],
) -> Iterator[tuple[bytes, Exception]]:
    """Run inputs until ``ends(count)``. Yields: those at which something undeclared rose.

    An input with a verdict that no other had joins ``corpus``.
    """
    seen = {verdict(parser, data) for data in corpus}
    for count, data in enumerate(mutations(corpus, seed)):
        if ends(count):
            return
        try:
            found = verdict(parser, data)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            yield data, error
            continue
        if found not in seen:
            seen.add(found)
            corpus.append(data)
