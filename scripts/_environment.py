"""Makes the project's own environment (`.venv`) from a lock file; needs nothing but Python 3.11+.

Shared by `demo.py`, `check.py`, `bench.py` and the other scripts, so that each can be the first thing a
person runs on a fresh machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"run": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}


def say(text: str) -> None:
    """One line of progress, at once, also where the output is no terminal."""
    print(text, flush=True)


def fail(text: str) -> None:
    """End with a one-line message that says what to do."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _stamp_for(kind: str) -> str:
    digest = hashlib.sha256()
    for path in (LOCKS[kind], ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(f"{sys.version_info[:2]}{VENV}".encode())
    return f"{kind} {digest.hexdigest()}"


def _is_current(kind: str) -> bool:
    stamp = VENV / "sos-environment"
    if not stamp.exists() or not PYTHON.exists():
        return False
    found = stamp.read_text().splitlines()
    # the development environment holds everything that running needs
    return any(_stamp_for(wanted) in found for wanted in {kind, "dev"})


def _create_venv() -> None:
    # of the interpreter that runs this, if that is the environment which is about to go
    python = getattr(sys, "_base_executable", sys.executable)
    say(f"making an environment in {VENV}")
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([python, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if made.returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        # Debian splits venv out of python3: bring the missing half
        say("python3-venv is missing: installing it")
        install_debian_packages(["python3-venv"])
        made = subprocess.run([python, "-m", "venv", str(VENV)], capture_output=True, text=True)
        if made.returncode == 0:
            return
    fail(
        "python cannot make a virtual environment; install the package python3-venv and run this again\n"
        + (made.stderr or made.stdout).strip()
    )


def install_debian_packages(packages: list[str]) -> bool:
    """Install system packages; true when apt-get succeeded. Only called as root on Debian."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = subprocess.run(["apt-get", "update", "-qq"], capture_output=True, env=environment)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    install = subprocess.run(command, capture_output=True, env=environment)
    return update.returncode == 0 and install.returncode == 0


def _pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        fail(
            f"pip {arguments[0]} did not succeed; is a package index reachable?\n{done.stderr.strip()}"
        )


def ensure_environment(kind: str) -> None:
    """Make ``.venv`` hold exactly what the lock file of ``kind`` ("run" or "dev") names, and SOS itself."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older Python meets first
        fail(f"SOS needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    if _is_current(kind):
        return
    _create_venv()
    say(f"installing the packages of {LOCKS[kind].name} (about a minute)")
    _pip("install", "--require-hashes", "-r", str(LOCKS[kind]))
    say("installing sos")
    _pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    (VENV / "sos-environment").write_text(_stamp_for(kind) + "\n")


def run_inside(kind: str) -> None:
    """Return only inside the project's environment: makes it, then replaces this process by itself in it.

    ``execv`` adds no parent process: a signal to the script still reaches what the user started.
    """
    try:
        ensure_environment(kind)
    except KeyboardInterrupt:
        say("stopped; run this again and it begins anew")
        raise SystemExit(130) from None
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(str(PYTHON), [str(PYTHON), *sys.argv])
