"""Runs all checks of SOS: exactly what continuous integration runs.

    python3 scripts/check.py               everything
    python3 scripts/check.py unit sim      some parts
    python3 scripts/check.py --list        the parts, with what each is for

Needs nothing but Python 3.11+ and a package index: it makes its own environment from `requirements-dev.lock`.
Three commands run at a time; what one prints appears when it has ended. Tests of failing and full disks need strace
(installed where this runs as root on Debian) and root; elsewhere they are skipped by name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from _environment import PYTHON, ROOT, install_debian_packages, run_inside, say

# Nodes in tests wait more than they compute: three commands keep two cores busy.
LANES = 3
# A lane's test nodes take their ports here, so that two lanes never meet.
LANE_PORTS = ("10000-17500", "17500-25000", "25000-32700")
LIFE_SIGN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the checks: commands that all must succeed. ``seconds_max`` ends a hung one.

    Leading ``NAME=value`` words of a command are its environment.
    """

    name: str
    purpose: str
    commands: tuple[tuple[str, ...], ...]
    seconds_max: int


def _pytest(*paths: str) -> tuple[str, ...]:
    return (str(PYTHON), "-m", "pytest", "-q", "-rs", *paths)


def _shares(folder: str, count: int = 2) -> tuple[tuple[str, ...], ...]:
    """Commands that share the test files of a folder, dealt to and fro by size, largest first."""
    files = list(ROOT.glob(f"tests/{folder}/test_*.py"))
    files.sort(key=lambda path: (-path.stat().st_size, path.name))
    shares: list[list[str]] = [[] for _ in range(count)]
    for at, path in enumerate(files):
        turn, place = divmod(at, count)
        shares[place if turn % 2 == 0 else count - 1 - place].append(str(path.relative_to(ROOT)))
    return tuple(_pytest(*share) for share in shares if share)


# In the order in which they begin: what fails soonest first, then the longest, so that all lanes end together.
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
    Part(name="unit", purpose="pure modules by table", commands=_shares("unit"), seconds_max=240),
    Part(
        name="sim",
        purpose="real engines on virtual time: three minutes of seeds, and one of lost disks",
        commands=(("SOS_SIM_SECONDS=180", *_pytest("tests/sim")),),
        seconds_max=600,
    ),
    Part(name="integration", purpose="three real nodes on loopback", commands=_shares("integration", 6), seconds_max=400),
    Part(name="crash", purpose="every crash state of the durable paths", commands=_shares("crash"), seconds_max=400),
    Part(name="chaos", purpose="faults under load, then the history is judged", commands=(_pytest("tests/chaos"),), seconds_max=300),
    Part(name="compat", purpose="S3 by independent clients", commands=_shares("compat"), seconds_max=300),
    Part(name="hostile", purpose="raw sockets and strangers", commands=_shares("hostile"), seconds_max=300),
    Part(name="property", purpose="hypothesis", commands=_shares("property"), seconds_max=240),
)  # fmt: skip


class Job:
    """One command of a part, running. Its output is kept until it has ended."""

    def __init__(self, part: Part, command: tuple[str, ...], lane: int) -> None:
        count = next(at for at, word in enumerate(command) if "=" not in word)
        settings = dict(word.split("=", 1) for word in command[:count])
        self.part = part
        self.lane = lane
        self.started = time.monotonic()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by show
        # a process group of its own, so that nothing it started outlives it
        self._process = subprocess.Popen(
            command[count:],
            cwd=ROOT,
            env={**os.environ, "SOS_TEST_PORTS": LANE_PORTS[lane], **settings},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def passed(self) -> bool | None:
        """None while it runs; ends it when it is over its time."""
        code = self._process.poll()
        if code is None and self.seconds > self.part.seconds_max:
            self.end()
            say(f"error: {self.part.name} is not done after {self.part.seconds_max} s, ended")
            return False
        return None if code is None else code == 0

    def end(self) -> None:
        """Kill what is left of its process group."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def show(self) -> None:
        """Print what it wrote."""
        self._output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(self._output.read())
        sys.stdout.flush()
        self._output.close()


def run(parts: list[Part]) -> dict[str, tuple[bool, float]]:
    """Whether each part passed, and the seconds its commands took together."""
    waiting = [(part, command) for part in parts for command in part.commands]
    results = {part.name: (True, 0.0) for part in parts}
    running: list[Job] = []
    told = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < LANES:
                lane = ({*range(LANES)} - {job.lane for job in running}).pop()
                running.append(Job(*waiting.pop(0), lane))
            for job in list(running):
                passed = job.passed()
                if passed is None:
                    continue
                running.remove(job)
                before, seconds = results[job.part.name]
                results[job.part.name] = (before and passed, seconds + job.seconds)
                say(f"--- {job.part.name}: {job.part.purpose} ({job.seconds:.0f} s)")
                job.show()
            if time.monotonic() - told > LIFE_SIGN_S:
                told = time.monotonic()
                names = ", ".join(f"{job.part.name} for {job.seconds:.0f} s" for job in running)
                say(f"    running: {names}; waiting: {len(waiting)} commands")
            time.sleep(0.1)
    finally:
        for job in running:
            job.end()
    return results


def _bring_strace() -> None:
    """The tests that make system calls fail are worth a package; without it they are skipped."""
    if shutil.which("strace") is not None:
        return
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        say("strace is missing: installing it")
        if install_debian_packages(["strace"]):
            return
    say("no strace here: tests of failing and slow disks will be skipped")


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
    _bring_strace()
    chosen = [part for part in PARTS if not arguments.parts or part.name in arguments.parts]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the commands first
    start = time.monotonic()
    try:
        results = run(chosen)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("--- summary")
    for name, (passed, seconds) in results.items():
        say(f"{'passed' if passed else 'FAILED'}  {name:12} {seconds:6.1f} s")
    say(f"        in all       {time.monotonic() - start:6.1f} s, {LANES} commands at a time")
    return 0 if all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
