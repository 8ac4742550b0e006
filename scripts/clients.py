"""Runs unmodified S3 clients from their registries against three real nodes, and says what each did.

    python3 scripts/clients.py                    every client, once plain and once while a node restarts
    python3 scripts/clients.py rclone boto3       some of them
    python3 scripts/clients.py --list             what there is
    python3 scripts/clients.py --markdown         the table of docs/clients.md

Each client gets one endpoint, behind which each connection goes to the next node. It is installed below `.clients/`
from what `tests/compat/clients/` pins (Python packages, npm, Go and Java modules, OpenTofu and litestream built from theirs) or from Debian
(rclone, restic, s3cmd);
what cannot be installed is shown with the reason. A scenario ends at the first thing that is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _environment import ROOT, install_debian_packages, run_inside, say

HERE = ROOT / "tests" / "compat" / "clients"
SCENARIOS = HERE / "scenarios"
HOME = ROOT / ".clients"
SCENARIO_S_MAX = 420.0
INSTALL_S_MAX = 1500.0
RESTARTS_MIN = 2
# Some clients try three times in two seconds, and a third of new connections meet the node that starts.
RESTART_EVERY_S = 2.5


class NotInstalled(Exception):
    """Why a client cannot be run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client and its scenario. ``prepare``: installs it, and returns the command to run."""

    name: str
    what: str  # of the scenario, for people
    prepare: Callable[[], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    client: str
    mode: str
    result: str  # "passed", "failed: ...", "not run: ..."
    version: str
    seconds: float


def _run(command: list[str], *, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotInstalled(f"{' '.join(command[:3])}: {' '.join(last)[:200]}")


# --- installing -------------------------------------------------------------------------------------
def _python(group: str) -> Path:
    """The interpreter of an environment with the packages of ``requirements/GROUP.txt``."""
    pinned = HERE / "requirements" / f"{group}.txt"
    home = HOME / group
    stamp = home / "installed"
    python = home / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != pinned.read_text():
        shutil.rmtree(home, ignore_errors=True)
        say(f"installing {pinned.name}")
        _run([sys.executable, "-m", "venv", str(home)])
        _run(
            [
                str(python),
                "-m",
                "pip",
                "-q",
                "--disable-pip-version-check",
                "install",
                "-r",
                str(pinned),
            ]
        )
        stamp.write_text(pinned.read_text())
    return python


def python_script(script: str, group: str = "python") -> Callable[[], list[str]]:
    return lambda: [str(_python(group)), str(SCENARIOS / script)]


def shell_script(script: str, *tools: str, group: str = "") -> Callable[[], list[str]]:
    """A shell scenario; ``tools`` come from Debian, or from the environment ``group``."""

    def prepare() -> list[str]:
        path = os.environ["PATH"]
        if group:
            path = f"{_python(group).parent}:{path}"
        missing = [tool for tool in tools if shutil.which(tool, path=path) is None]
        if missing and os.geteuid() == 0 and shutil.which("apt-get"):
            say(f"installing {', '.join(missing)}")
            install_debian_packages(missing)
        for tool in tools:
            if shutil.which(tool, path=path) is None:
                raise NotInstalled(f"{tool} is not here, and not to be had as a Debian package")
        return ["env", f"PATH={path}", "bash", str(SCENARIOS / script)]

    return prepare


def javascript() -> list[str]:
    home = HOME / "javascript"
    if shutil.which("npm") is None:
        raise NotInstalled("npm is not here")
    if not (home / "node_modules").exists():
        home.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "requirements" / name, home / name)
        say("installing npm packages")
        _run(["npm", "ci", "--silent"], cwd=home)
    return ["env", f"SOS_MODULES={home}", "node", str(SCENARIOS / "javascript_client.mjs")]


def go() -> list[str]:
    home = HOME / "go"
    if shutil.which("go") is None:
        raise NotInstalled("go is not here")
    home.mkdir(parents=True, exist_ok=True)
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / "requirements" / name, home / name)
    shutil.copy(SCENARIOS / "go_client.go", home / "main.go")
    say("building the Go client")
    _run(["go", "build", "-o", "client", "."], cwd=home)
    return [str(home / "client")]


def go_tool(script: str, tool: str, module: str, package: str) -> Callable[[], list[str]]:
    """A shell scenario of a program that is built from its module (``path@version``), in the module's own directory."""

    def prepare() -> list[str]:
        home = HOME / "tools"
        if not (home / tool).exists():
            if shutil.which("go") is None:
                raise NotInstalled("go is not here")
            say(f"building {module} (minutes)")
            source = HOME / f"{tool}-source"
            done = subprocess.run(
                ["go", "mod", "download", "-json", module],
                env={**os.environ, "GOFLAGS": "-mod=mod"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise NotInstalled(f"go mod download {module}: {done.stderr.strip()[-200:]}")
            shutil.rmtree(source, ignore_errors=True)
            shutil.copytree(json.loads(done.stdout)["Dir"], source)
            _run(["chmod", "-R", "u+w", str(source)])
            _run(["go", "build", "-o", str(home / tool), package], cwd=source)
        path = f"{home}:{os.environ['PATH']}"
        return ["env", f"PATH={path}", "bash", str(SCENARIOS / script)]

    return prepare


def java() -> list[str]:
    home = HOME / "java"
    if shutil.which("mvn") is None:
        raise NotInstalled("mvn is not here")
    shutil.copytree(SCENARIOS / "java", home, dirs_exist_ok=True)
    say("building the Java client")
    _run(["mvn", "-q", "-B", "package", "dependency:copy-dependencies"], cwd=home)
    classes = f"{home / 'target' / 'classes'}:{home / 'target' / 'dependency'}/*"
    return ["java", "-cp", classes, "Client"]


CLIENTS = (
    Client(name="boto3", what="parts, odd names, managed copy, conditional creation, delete many", prepare=python_script("boto3_client.py")),
    Client(name="aws-cli", what="`mb cp sync ls mv presign rm`, `s3api` conditional, versioning, tagging, attributes", prepare=shell_script("awscli_client.sh", "aws", "curl", group="python")),
    Client(name="minio (Python)", what="odd names, parts of unknown length, copy, compose, tags, versions, remove many", prepare=python_script("minio_client.py")),
    Client(name="s3fs, pandas", what="odd names, parts, ranges, `mv`, exclusive create, parquet, csv, `rm -r`", prepare=python_script("s3fs_client.py")),
    Client(name="pyarrow", what="writes and reads in parts, datasets, copy, move, delete", prepare=python_script("pyarrow_client.py")),
    Client(name="obstore", what="odd names, create, update, parts, ranges, copy, rename, list from an offset", prepare=python_script("obstore_client.py")),
    Client(name="deltalake", what="four writers at once: no acknowledged commit lost, none twice", prepare=python_script("deltalake_client.py")),
    Client(name="lancedb", what="table, appends, vector search", prepare=python_script("lancedb_client.py")),
    Client(name="pyiceberg", what="table, four appends, scan, history", prepare=python_script("pyiceberg_client.py")),
    Client(name="smart_open", what="streams in parts, gzip, seek", prepare=python_script("smart_open_client.py")),
    Client(name="DuckDB httpfs", what="parquet written and read by glob", prepare=python_script("duckdb_client.py")),
    Client(name="s3cmd", what="`mb sync cp mv get ls info du del rb`, parts", prepare=shell_script("s3cmd_client.sh", "s3cmd")),
    Client(name="rclone", what="1,000 files with odd names: sync and check both ways; parts, move, `rcat`, purge", prepare=shell_script("rclone_client.sh", "rclone")),
    Client(name="restic", what="init, two backups, `check --read-data`, restore, forget with prune", prepare=shell_script("restic_client.sh", "restic")),
    Client(name="OpenTofu", what="state with `use_lockfile`: init, apply, a second apply kept out, plan, destroy", prepare=go_tool("opentofu_client.sh", "tofu", "github.com/opentofu/opentofu@v1.10.6", "./cmd/tofu")),
    Client(name="litestream", what="SQLite replicated while it is written to, restored and compared", prepare=go_tool("litestream_client.sh", "litestream", "github.com/benbjohnson/litestream@v0.5.18", "./cmd/litestream")),
    Client(name="AWS SDK for JavaScript v3", what="parts in parallel, odd names, conditional, presigned, delete many", prepare=javascript),
    Client(name="AWS SDK for Go v2", what="upload manager, odd names, conditional, presigned, delete many", prepare=go),
    Client(name="AWS SDK for Java v2", what="parts, part numbers, odd names, conditional, delete many", prepare=java),
)  # fmt: skip


# --- running ----------------------------------------------------------------------------------------
def run_client(
    client: Client, command: list[str], endpoint: str, keys: tuple[str, str], mode: str
) -> Outcome:
    """One scenario in a directory of its own."""
    started = time.monotonic()
    word = "".join(letter for letter in client.name.lower() if letter.isalnum())
    with tempfile.TemporaryDirectory(prefix="sos-client-") as work:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SOS_"))},
            "SOS_ENDPOINT": endpoint,
            "SOS_BUCKET": f"{word}-{mode}-{time.time_ns() // 1000 % 10**9}",
            "SOS_WORK": work,
            "HOME": work,
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=work,
                capture_output=True,
                text=True,
                timeout=SCENARIO_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(
                client=client.name,
                mode=mode,
                result=f"failed: not done after {SCENARIO_S_MAX:.0f} s",
                version="",
                seconds=SCENARIO_S_MAX,
            )
    seconds = time.monotonic() - started
    if done.returncode == 0:
        version = done.stdout.strip().splitlines()[-1]
        return Outcome(
            client=client.name, mode=mode, result="passed", version=version, seconds=seconds
        )
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no output"]
    return Outcome(
        client=client.name,
        mode=mode,
        result=f"failed: {' | '.join(lines[-8:])[:900]}",
        version="",
        seconds=seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="clients, by the start of their names"
    )
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--plain", action="store_true", help="not while a node restarts")
    parser.add_argument("--json", metavar="F", help="write the outcomes to F")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of docs/clients.md"
    )
    arguments = parser.parse_args()
    if arguments.list:
        for client in CLIENTS:
            say(f"{client.name:28} {client.what}")
        return
    run_inside("dev")
    sys.path.insert(0, str(ROOT))
    wanted = [
        client
        for client in CLIENTS
        if not arguments.names
        or any(client.name.lower().startswith(name.lower()) for name in arguments.names)
    ]
    if not wanted:
        raise SystemExit("no such client; see --list")
    outcomes = run_all(wanted, plain_only=arguments.plain)
    if arguments.json:
        rows = [
            {
                "client": o.client,
                "mode": o.mode,
                "result": o.result,
                "version": o.version,
                "seconds": round(o.seconds, 1),
            }
            for o in outcomes
        ]
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.markdown:
        _print_markdown(outcomes)
    failed = [outcome for outcome in outcomes if outcome.result.startswith("failed")]
    raise SystemExit(1 if failed else 0)


def run_all(clients: list[Client], *, plain_only: bool) -> list[Outcome]:
    """Every client through the nodes in turn; then again while one of them restarts."""
    from tests.compat.clients.turns import Turns
    from tests.integration.cluster import (
        ROOT_ACCESS_KEY,
        ROOT_SECRET_KEY,
        Cluster,
    )

    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="sos-clients-") as directory,
        Cluster(Path(directory)) as cluster,
    ):
        cluster.start()
        with Turns([node.s3_port for node in cluster.nodes]) as turns:
            endpoint = f"http://127.0.0.1:{turns.port}"
            for client in clients:
                try:
                    command = client.prepare()
                except NotInstalled as error:
                    outcomes.append(
                        Outcome(
                            client=client.name,
                            mode="plain",
                            result=f"not run: {error}",
                            version="",
                            seconds=0.0,
                        )
                    )
                    _say(outcomes[-1])
                    continue
                keys = (ROOT_ACCESS_KEY, ROOT_SECRET_KEY)
                outcomes.append(run_client(client, command, endpoint, keys, "plain"))
                _say(outcomes[-1])
                if plain_only:
                    continue
                with Restarts(cluster) as restarts:
                    outcome = run_client(client, command, endpoint, keys, "restart")
                    # a short scenario again, so that restarts really happened under it
                    while outcome.result == "passed" and restarts.count < RESTARTS_MIN:
                        again = run_client(client, command, endpoint, keys, "restart")
                        outcome = replace(again, seconds=outcome.seconds + again.seconds)
                outcomes.append(outcome)
                cluster.wait_ready()
                _say(outcomes[-1])
    return outcomes


class Restarts:
    """Stops and starts one node after the other, until the end of the ``with``."""

    def __init__(self, cluster: Any) -> None:  # noqa: ANN401 - its type is known only inside the environment
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> Restarts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(RESTART_EVERY_S):
            node = self._cluster.nodes[self.count % len(self._cluster.nodes)]
            self._cluster.stop_node(node)
            self._cluster.start_node(node)
            self._cluster.wait_ready()
            self.count += 1


def _say(outcome: Outcome) -> None:
    say(
        f"{outcome.client:28} {outcome.mode:8} {outcome.seconds:6.1f} s  {outcome.version:12} {outcome.result}"
    )


def _print_markdown(outcomes: list[Outcome]) -> None:
    what = {client.name: client.what for client in CLIENTS}
    say(
        "| client | version | what was run | result | while a node restarts |\n|---|---|---|---|---|"
    )
    for plain in (outcome for outcome in outcomes if outcome.mode == "plain"):
        again = next(
            (o.result for o in outcomes if o.client == plain.client and o.mode == "restart"),
            "not run",
        )
        say(
            f"| {plain.client} | {plain.version} | {what[plain.client]} | {plain.result} | {again} |"
        )


if __name__ == "__main__":
    main()
