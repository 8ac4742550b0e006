"""Whatever bytes come, a parser of requests reads them or refuses them by name, in time that grows with their size."""

from __future__ import annotations

import time

import pytest

from tests.fuzz.mutation import load, search
from tests.fuzz.parsers import PARSERS, verdict

INPUTS = 300
LONG_BYTES = 32 * 1024
LONG_S_MAX = 2.0  # of the processor; what is linear takes hundredths, what is quadratic minutes


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_damaged_input_is_read_or_refused(name: str) -> None:
    """The kept corpus, and inputs made from it: the same ones in each run (scripts/fuzz.py makes others)."""
    bad = list(search(PARSERS[name], load(name), seed=1, ends=lambda count: count == INPUTS))
    assert bad == []


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_time_is_linear(name: str) -> None:
    """Regular expressions that go back and forth, and buffers copied per byte, would show here."""
    for data in load(name)[:2]:
        for start in {0, len(data) // 4, len(data) // 2}:
            for piece in (data[start : start + 1], data[start : start + 7], data[start:]):
                count = LONG_BYTES // (len(piece) or 1)
                began = time.process_time()
                verdict(PARSERS[name], data[:start] + piece * count + data[start:])
                assert time.process_time() - began < LONG_S_MAX, (start, piece)
