#!/usr/bin/env python3
"""Run seeds of the Raft simulation; a failing seed prints how to run it again.

Example: scripts/simulate.py --seeds 0:1000 --minutes 3
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    arguments = _parser().parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings must not vary
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    sys.path.insert(0, str(ROOT))
    from tests.sim.schedule import run_seed

    first, _, stop = arguments.seeds.partition(":")
    end = time.monotonic() + arguments.minutes * 60
    counts: Counter[str] = Counter()
    bad: list[dict[str, object]] = []
    runs, virtual_s, started = 0, 0.0, time.monotonic()
    for seed in range(int(first), int(stop or int(first) + 1)):
        if time.monotonic() > end:
            break
        report = run_seed(
            seed,
            nodes=arguments.nodes,
            seconds=arguments.virtual_seconds,
            catalog=arguments.catalog,
            members=arguments.members,
        )
        runs += 1
        virtual_s += report.virtual_s
        counts += report.counts
        if report.violations:
            bad.append(
                {"seed": seed, "violation": str(report.violations[0]), "replay": report.replay}
            )
            if not arguments.json:
                print(f"seed {seed}: {report.violations[0]}\n  replay: {report.replay}")
        elif runs == 1 and not arguments.json:
            print(f"seed {seed}: trace {report.digest}")
    wall_s = time.monotonic() - started
    if arguments.json:
        summary = {
            "runs": runs,
            "bad": bad,
            "virtual_s": virtual_s,
            "wall_s": wall_s,
            "counts": counts,
        }
        print(json.dumps(summary, sort_keys=True))
    else:
        print(f"{runs} runs, {len(bad)} bad, {virtual_s:.0f} virtual seconds in {wall_s:.0f} s")
        print("  ".join(f"{name}={count}" for name, count in sorted(counts.items())))
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:1000000", help="FIRST:STOP, or one seed")
    parser.add_argument("--minutes", type=float, default=1.0, help="start no seed after this long")
    parser.add_argument("--nodes", type=int, choices=(3, 5), help="default: drawn from the seed")
    parser.add_argument("--virtual-seconds", type=float, default=15.0, help="of faults, per seed")
    parser.add_argument("--catalog", action="store_true", help="the real catalog, not a small map")
    parser.add_argument("--members", action="store_true", help="members come and go")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
