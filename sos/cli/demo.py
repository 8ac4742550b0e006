"""`sos demo`: a real cluster on loopback in one process tree."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from sos.admin.client import ask
from sos.cli.paste import show_endpoints
from sos.cli.progress import Progress
from sos.config import Address, Config, load
from sos.errors import StartRefused
from sos.supervisor import Node, NodePhase, Supervision, prepare_directory

_READY_S_MAX: Final = 120.0
_DEAD_S_MAX: Final = 10.0
_DEAD_POLL_S: Final = 0.02
_RESTARTS_MAX: Final = 5  # of one node in a row: then it has a trouble that a person must see
_CALM_S: Final = 30.0
_NODE_PORTS: Final = range(10000, 32760, 2)  # below the ports of outgoing connections
_MEMORY: Final = "demo.json"
# Node ports are remembered in the directory, so another directory means other ports.
_PORT_FLAGS: Final = {
    "s3": "--s3-port",
    "admin": "--admin-port",
    "node": "--data",
    "blob": "--data",
}
# Of the environment only what concerns the demo itself: data, names and ports are its own.
_PASSED_ENV: Final = ("SOS_ROOT_", "SOS_LOG_LEVEL", "SOS_REGION", "SOS_TEST_", "SOS_FAILPOINTS")

Walk = Callable[["DemoControl"], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKeys:
    access_key: str
    secret_key: str


class DemoControl:
    """What a script may do with a running demo; callable from its own thread."""

    def __init__(self, nodes: list[Node], supervision: Supervision, console: Console) -> None:
        self.nodes = nodes
        self.console = console
        self._progress = Progress(console)
        self._supervision = supervision
        self._held: set[Node] = set()

    def endpoint(self, number: int) -> Address:
        """The S3 address of node ``number`` (from 1)."""
        return self.nodes[number - 1].config.s3.listen

    def root_keys(self) -> RootKeys:
        """The cluster's root keys, as node 1 wrote them."""
        path = os.path.join(self.nodes[0].config.node.data, "root-keys")
        with open(path, encoding="utf-8") as stream:
            rows = dict(line.strip().split("=", 1) for line in stream)
        return RootKeys(
            access_key=rows["SOS_ROOT_ACCESS_KEY"], secret_key=rows["SOS_ROOT_SECRET_KEY"]
        )

    def kill(self, number: int) -> None:
        """SIGKILL to every process of the node; it stays dead until ``bring_back``."""
        node = self.nodes[number - 1]
        done = threading.Event()

        def action() -> None:
            self._held.add(node)
            node.kill()
            done.set()

        self._supervision.post(action)
        done.wait()
        end = time.monotonic() + _DEAD_S_MAX
        while node.phase is not NodePhase.DEAD:
            if time.monotonic() > end:
                raise StartRefused(f"{node.config.node.name} does not end after SIGKILL")
            time.sleep(_DEAD_POLL_S)

    def bring_back(self, number: int) -> None:
        """Start the node again; returns at once."""
        node = self.nodes[number - 1]
        done = threading.Event()

        def action() -> None:
            self._held.discard(node)
            self.start(node)
            done.set()

        self._supervision.post(action)
        done.wait()

    def start(self, node: Node) -> None:
        """Start a dead node; a refusal ends the demo. Main thread only."""
        try:
            node.start()
        except StartRefused as error:
            self.console.print(f"sos: {error}")
            self._supervision.finish(error.exit_code)

    def is_held(self, node: Node) -> bool:
        return node in self._held

    def wait_ready(self, *numbers: int, deadline_s: float = _READY_S_MAX) -> None:
        """Until the nodes serve linearizable requests; says meanwhile what each is at.

        Raises: StartRefused at the deadline.
        """
        self._progress.wait_ready([_Watched(self.nodes[n - 1]) for n in numbers], deadline_s)

    def status(self, number: int) -> dict[str, object]:
        """The JSON of `sos status` of the node. Raises: AdminUnreachable."""
        body: dict[str, object] = ask(
            self.nodes[number - 1].config.admin.listen, "GET", "/status"
        ).body
        return body

    def finish(self, code: int) -> None:
        """Stop everything; the demo ends with ``code``."""
        self._supervision.post(lambda: self._supervision.finish(code))


class _Watched:
    """A node of the demo as its progress is watched."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.name = node.config.node.name
        self.admin = node.config.admin.listen

    def ended(self) -> str | None:
        if self._node.phase is not NodePhase.DEAD:
            return None
        return f"ended with {self._node.exit_code}: {_last_line(self._node)}"


@click.command()
@click.option(
    "--nodes",
    metavar="N",
    default=3,
    type=click.IntRange(1, 9),
    help="how many nodes, 1 to 9 (default 3)",
)
@click.option("--data", metavar="DIR", help="keep the data there (default: temporary)")
@click.option(
    "--s3-port",
    metavar="PORT",
    default=9000,
    type=click.IntRange(1, 65000),
    help="S3 port of the first node, the others follow (default 9000)",
)
@click.option(
    "--admin-port",
    metavar="PORT",
    default=9400,
    type=click.IntRange(1, 65000),
    help="admin port of the first node, the others follow (default 9400)",
)
def demo(nodes: int, data: str | None, s3_port: int, admin_port: int) -> None:
    """Run a whole cluster on this machine; Ctrl-C stops it."""
    code = run_demo(nodes=nodes, data=data, s3_port=s3_port, admin_port=admin_port)
    raise SystemExit(code)


def run_demo(
    *,
    nodes: int = 3,
    data: str | None = None,
    s3_port: int = 9000,
    admin_port: int = 9400,
    walk: Walk | None = None,
) -> int:
    """Run until Ctrl-C or SIGTERM, or until ``walk`` ends with a code that is not negative.

    Must be called in the main thread (children die with it); ``walk`` runs in another one once all nodes
    are ready. A dead node is started again, except one that the walk killed. Raises: StartRefused.
    """
    console = Console(highlight=False, soft_wrap=True)
    directory = data or tempfile.mkdtemp(prefix="sos-demo-")
    try:
        return _run(console, nodes, directory, s3_port, admin_port, walk)
    finally:
        if data is None:
            shutil.rmtree(directory, ignore_errors=True)


def _run(
    console: Console,
    count: int,
    directory: str,
    s3_port: int,
    admin_port: int,
    walk: Walk | None,
) -> int:
    nodes = _open(count, directory, s3_port, admin_port)
    supervision = Supervision(nodes)
    control = DemoControl(nodes, supervision, console)
    supervision.on_dead = _Restarter(control, supervision)
    console.print(f"starting {count} node{'s' if count > 1 else ''}, data in {directory}")
    for node in nodes:
        node.start()
    shower = threading.Thread(target=_show, args=(control, walk), daemon=True)
    shower.start()
    code = supervision.run()
    console.print("stopped")
    return code


def _open(count: int, directory: str, s3_port: int, admin_port: int) -> list[Node]:
    """The nodes with their ports and directories. Raises: StartRefused; then nothing new stays behind."""
    is_new = prepare_directory(directory)
    memory = os.path.join(directory, _MEMORY)
    is_first = not os.path.exists(memory)
    configs: list[Config] = []
    try:
        configs = _configs(count, directory, s3_port, admin_port)
        nodes = [
            Node(
                config,
                log_path=os.path.join(directory, f"{config.node.name}.log"),
                flags=_PORT_FLAGS,
            )
            for config in configs
        ]
        for node in nodes:
            node.open()
    except StartRefused:
        if is_first:
            with suppress(OSError):
                os.unlink(memory)
            for path in [
                *(config.node.data for config in configs),
                *([directory] if is_new else []),
            ]:
                with suppress(OSError):  # somebody else's, or not empty
                    os.rmdir(path)
        raise
    return nodes


class _Restarter:
    """Starts a node again that died, unless it is held dead or keeps dying."""

    def __init__(self, control: DemoControl, supervision: Supervision) -> None:
        self._control = control
        self._supervision = supervision
        self._deaths: dict[Node, list[float]] = {}

    def __call__(self, node: Node) -> None:
        name, console = node.config.node.name, self._control.console
        if self._control.is_held(node):
            return
        now = time.monotonic()
        deaths = [at for at in self._deaths.get(node, []) if now - at < _CALM_S] + [now]
        self._deaths[node] = deaths
        if len(deaths) > _RESTARTS_MAX:
            console.print(f"{name} keeps ending with {node.exit_code}: {_last_line(node)}")
            self._supervision.finish(node.exit_code or 1)
            return
        console.print(f"{name} died ({node.exit_code}); starting it again")
        self._control.start(node)


def _last_line(node: Node) -> str:
    path = Path(node.config.node.data).parent / f"{node.config.node.name}.log"
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    told = [line for line in lines if line.startswith("sos: ")]
    return (told or lines or [""])[-1]


def _show(control: DemoControl, walk: Walk | None) -> None:
    """Wait, print, walk; a trouble ends the demo with one line."""
    try:
        started = time.monotonic()
        control.wait_ready(*range(1, len(control.nodes) + 1))
        control.console.print(f"ready after {time.monotonic() - started:.1f} s")
        if walk is not None:
            code = walk(control)
            if code >= 0:
                control.finish(code)
                return
        keys = control.root_keys()
        show_endpoints(
            control.console,
            [node.config for node in control.nodes],
            access_key=keys.access_key,
            secret_key=keys.secret_key,
        )
    except (StartRefused, OSError) as error:
        control.console.print(f"sos: {error}")
        control.finish(1)


# --- configuration --------------------------------------------------------------------------------
def _configs(count: int, directory: str, s3_port: int, admin_port: int) -> list[Config]:
    """One configuration per node; ports between nodes and the cluster key are remembered in the directory."""
    memory = _remembered(count, directory)
    names = [f"n{number}" for number in range(1, count + 1)]
    seeds = ",".join(
        f"{name}=127.0.0.1:{port}" for name, port in zip(names, memory.ports, strict=True)
    )
    environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ENV)}
    environment["SOS_CLUSTER_KEY"] = memory.cluster_key
    return [
        load(
            {
                "data": os.path.join(directory, name),
                "name": name,
                "seeds": seeds,
                "gateways": "1",
                "s3": f"127.0.0.1:{s3_port + offset}",
                "admin": f"127.0.0.1:{admin_port + offset}",
            },
            environment=environment,
        )
        for offset, name in enumerate(names)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What a demo with ``--data`` needs again at its next start."""

    cluster_key: str
    ports: list[int]


def _remembered(count: int, directory: str) -> _Memory:
    path = os.path.join(directory, _MEMORY)
    if os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as stream:
                document = json.load(stream)
            memory = _Memory(
                cluster_key=str(document["cluster_key"]), ports=[int(p) for p in document["ports"]]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StartRefused(
                f"{path} cannot be read, and without its keys and ports the nodes beside it do not find "
                "each other: put it back, or choose another --data"
            ) from error
        if len(memory.ports) != count:
            raise StartRefused(
                f"{directory} holds a demo of {len(memory.ports)} nodes: start it with "
                f"--nodes {len(memory.ports)}, or choose another --data"
            )
        return memory
    memory = _Memory(cluster_key=secrets.token_hex(32), ports=_free_ports(count))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump({"cluster_key": memory.cluster_key, "ports": memory.ports}, stream)
    return memory


def _free_ports(count: int) -> list[int]:
    """Pairs of free ports (node, blobs), from a random place so that two demos do not meet."""
    start = random.randrange(len(_NODE_PORTS))  # noqa: S311 - no secret
    found: list[int] = []
    for step in range(len(_NODE_PORTS)):
        port = _NODE_PORTS[(start + step) % len(_NODE_PORTS)]
        if _is_free(port) and _is_free(port + 1):
            found.append(port)
            if len(found) == count:
                return found
    raise StartRefused("no free ports between 10000 and 32767 for the traffic between nodes")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
