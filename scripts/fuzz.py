#!/usr/bin/env python3
"""Feed the parsers of requests with damaged input; what rises undeclared is printed, with the bytes.

Example: scripts/fuzz.py --parser form --minutes 5
Inputs with a new kind of verdict are kept in tests/fuzz/corpus with --keep.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FINDINGS_MAX = 10  # of one parser: the same fault is found again and again


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.fuzz.mutation import keep, load, search
    from tests.fuzz.parsers import PARSERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parser", choices=sorted(PARSERS), action="append", help="default: all")
    parser.add_argument("--minutes", type=float, default=1.0, help="altogether")
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--keep", action="store_true", help="let the corpus grow")
    arguments = parser.parse_args()
    names = arguments.parser or sorted(PARSERS)
    seed = time.time_ns() if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    bad = 0
    for name in names:
        corpus = load(name)
        known, count = len(corpus), 0
        end = time.monotonic() + arguments.minutes * 60 / len(names)

        def ends(done: int, end: float = end) -> bool:
            nonlocal count
            count = done
            return time.monotonic() > end

        findings = 0
        for data, error in search(PARSERS[name], corpus, seed=seed, ends=ends):
            print(f"{name}: {type(error).__name__}: {error}\n  {data!r}")
            findings += 1
            if findings == FINDINGS_MAX:
                break
        bad += findings
        print(f"{name}: {count} inputs, {findings} bad, {len(corpus) - known} new kinds")
        if arguments.keep and len(corpus) > known:
            keep(name, corpus)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
