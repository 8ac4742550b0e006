"""Break a real cluster under load and judge what clients saw.

    python3 scripts/chaos.py --minutes 5 --nodes 3
    python3 scripts/chaos.py --minutes 1 --faults kill-leader --seed 7

Starts its own nodes on loopback in a temporary directory. Ends with 0 if every promise held, with 1 and the
violations if not, and says which faults took effect and how many operations were checked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from _environment import ROOT, run_inside, say


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="how long faults are made (default 1)"
    )
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument(
        "--faults", nargs="+", metavar="FAULT", help="kinds of faults (default: all)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    run_inside("dev")
    sys.path.insert(0, str(ROOT))
    from tests.chaos.driver import FAULTS, ChaosRun

    faults = tuple(arguments.faults or FAULTS)
    if set(faults) - set(FAULTS):
        parser.error(f"faults are: {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="sos-chaos-") as directory:
        run = ChaosRun(
            Path(directory), nodes=arguments.nodes, seconds=arguments.minutes * 60, faults=faults,
            seed=arguments.seed, clients=arguments.clients,
        )  # fmt: skip
        report = asyncio.run(run.run())
    say(report.summary())
    for problem in report.problems:
        say(f"VIOLATED {problem}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
