"""Runs all checks of SOS: exactly what continuous integration runs.

    python3 scripts/check.py               everything
    python3 scripts/check.py unit sim      some parts
    python3 scripts/check.py --list        the parts, with what each is for

Needs nothing but Python 3.11+ and a package index: it makes its own environment from `requirements-dev.lock`.
No test needs root or a system package.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from _environment import PYTHON, ROOT, run_inside, say


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the checks: commands that all must succeed. ``seconds_max`` ends a hung one.

    Leading ``NAME=value`` words of a command are its environment. ``together``: the commands run at the same time.
    """

    name: str
    purpose: str
    commands: tuple[tuple[str, ...], ...]
    seconds_max: int
    together: bool = False


def _pytest(*paths: str) -> tuple[str, ...]:
    return (str(PYTHON), "-m", "pytest", "-q", *paths)


def _two_at_a_time(*folders: str) -> tuple[tuple[str, ...], ...]:
    """Two commands that share the test files of ``folders``: what waits for processes leaves the cores idle.

    Dealt by size, largest first. Each half takes its ports from a range of its own, so that they never meet.
    """
    files = [path for folder in folders for path in ROOT.glob(f"tests/{folder}/test_*.py")]
    files.sort(key=lambda path: (-path.stat().st_size, path.name))
    halves = ([], []) if len(files) < 2 else (files[0::4] + files[3::4], files[1::4] + files[2::4])
    ranges = ("10000-21300", "21300-32700")
    return tuple(
        (f"SOS_TEST_PORTS={ports}", *_pytest(*(str(path.relative_to(ROOT)) for path in half)))
        for half, ports in zip(halves, ranges, strict=True)
        if half
    )


PARTS = (
    Part(
        name="lint",
        purpose="format and lint",
        commands=(
            (str(PYTHON), "-m", "ruff", "format", "--check", "sos", "tests", "scripts"),
            (str(PYTHON), "-m", "ruff", "check", "sos", "tests", "scripts"),
        ),
        seconds_max=60,
    ),
    Part(
        name="type",
        purpose="mypy --strict over the product and its tests",
        commands=((str(PYTHON), "-m", "mypy", "--strict", "sos", "tests"),),
        seconds_max=240,
    ),
    Part(name="unit", purpose="pure modules by table", commands=_two_at_a_time("unit"), seconds_max=240, together=True),
    Part(name="property", purpose="hypothesis", commands=_two_at_a_time("property"), seconds_max=240, together=True),
    Part(
        name="sim",
        purpose="real engines on virtual time: three minutes of fresh seeds in each of two processes",
        commands=(
            ("SOS_SIM_SECONDS=180", *_pytest("tests/sim")),
            ("SOS_SIM_SECONDS=180", "SOS_SIM_FIRST=1000000", *_pytest("tests/sim/test_sim_raft.py")),
        ),
        seconds_max=600,
        together=True,
    ),
    Part(name="crash", purpose="every crash state of the durable paths", commands=_two_at_a_time("crash"), seconds_max=400, together=True),
    Part(name="compat", purpose="S3 by independent clients", commands=_two_at_a_time("compat"), seconds_max=300, together=True),
    Part(name="integration", purpose="three real nodes on loopback", commands=_two_at_a_time("integration"), seconds_max=500, together=True),
    Part(name="hostile", purpose="raw sockets and strangers", commands=_two_at_a_time("hostile"), seconds_max=200, together=True),
    Part(name="chaos", purpose="faults under load, then the history is judged", commands=(_pytest("tests/chaos"),), seconds_max=300),
)  # fmt: skip


def _start(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start one command in a process group of its own, so that nothing it started outlives it."""
    count = next(at for at, word in enumerate(command) if "=" not in word)
    settings = dict(word.split("=", 1) for word in command[:count])
    return subprocess.Popen(
        command[count:], cwd=ROOT, env={**os.environ, **settings}, start_new_session=True
    )


def _wait(process: subprocess.Popen[bytes], seconds_max: float) -> bool:
    try:
        return process.wait(timeout=seconds_max) == 0
    except subprocess.TimeoutExpired:
        say(f"error: not done after {seconds_max:.0f} s, ended: {process.args!r}")
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _run(part: Part) -> bool:
    """Run the commands of one part; whether all succeeded."""
    if not part.together:
        return all(_wait(_start(command), part.seconds_max) for command in part.commands)
    end = time.monotonic() + part.seconds_max
    processes = [_start(command) for command in part.commands]
    results = [_wait(process, max(0.0, end - time.monotonic())) for process in processes]
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="which parts to run (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="show the parts and end")
    arguments = parser.parse_args()
    if arguments.list:
        for part in PARTS:
            say(f"{part.name:12} {part.purpose}")
        return 0
    known = {part.name for part in PARTS}
    unknown = [name for name in arguments.parts if name not in known]
    if unknown:
        parser.error(
            f"no such part: {', '.join(unknown)}; there are: {', '.join(part.name for part in PARTS)}"
        )
    run_inside("dev")
    chosen = [part for part in PARTS if not arguments.parts or part.name in arguments.parts]
    results: list[tuple[str, bool, float]] = []
    for part in chosen:
        say(f"--- {part.name}: {part.purpose}")
        start = time.monotonic()
        passed = _run(part)
        results.append((part.name, passed, time.monotonic() - start))
    say("--- summary")
    for name, passed, seconds in results:
        say(f"{'passed' if passed else 'FAILED'}  {name:12} {seconds:6.1f} s")
    say(f"        in all       {sum(seconds for _, _, seconds in results):6.1f} s")
    return 0 if all(passed for _, passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
