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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from sos.admin.client import AdminUnreachable, ask
from sos.cli.presign import presign
from sos.config import Address, Config, load
from sos.errors import StartRefused
from sos.supervisor import Node, NodePhase, Supervision

_READY_S_MAX: Final = 120.0
_READY_POLL_S: Final = 0.05
_RESTARTS_MAX: Final = 5  # of one node in a row: then it has a trouble that a person must see
_CALM_S: Final = 30.0
_NODE_PORTS: Final = range(10000, 32760, 2)  # below the ports of outgoing connections
_MEMORY: Final = "demo.json"
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
        self._wait(lambda: node.phase is NodePhase.DEAD, f"node {number} is dead", 10.0)

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

    def wait_ready(self, number: int, deadline_s: float = _READY_S_MAX) -> None:
        """Until the node serves linearizable requests. Raises: StartRefused at the deadline."""
        address = self.nodes[number - 1].config.admin.listen
        self._wait(lambda: _is_ready(address), f"node {number} is ready", deadline_s)

    def status(self, number: int) -> dict[str, object]:
        """The JSON of `sos status` of the node. Raises: AdminUnreachable."""
        body: dict[str, object] = ask(
            self.nodes[number - 1].config.admin.listen, "GET", "/status"
        ).body
        return body

    def finish(self, code: int) -> None:
        """Stop everything; the demo ends with ``code``."""
        self._supervision.post(lambda: self._supervision.finish(code))

    def _wait(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                raise StartRefused(f"not within {deadline_s:.0f} s: {what}")
            time.sleep(_READY_POLL_S)


def _is_ready(address: Address) -> bool:
    try:
        return ask(address, "GET", "/readyz", timeout_s=5.0).status == 200
    except AdminUnreachable:
        return False


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 9), help="how many")
@click.option("--data", metavar="DIR", help="keep the data there (default: temporary)")
@click.option("--s3-port", default=9000, show_default=True, type=click.IntRange(1, 65000))
@click.option("--admin-port", default=9400, show_default=True, type=click.IntRange(1, 65000))
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
    os.makedirs(directory, mode=0o700, exist_ok=True)
    configs = _configs(count, directory, s3_port, admin_port)
    nodes = [
        Node(config, log_path=os.path.join(directory, f"{config.node.name}.log"))
        for config in configs
    ]
    for node in nodes:
        node.open()
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
        for number in range(1, len(control.nodes) + 1):
            control.wait_ready(number)
        control.console.print(f"ready after {time.monotonic() - started:.1f} s")
        if walk is not None:
            code = walk(control)
            if code >= 0:
                control.finish(code)
                return
        show_endpoints(control)
    except (StartRefused, OSError) as error:
        control.console.print(f"sos: {error}")
        control.finish(1)


def show_endpoints(control: DemoControl) -> None:
    """Endpoints, keys, and lines to paste."""
    config = control.nodes[0].config
    keys = control.root_keys()
    first = control.endpoint(1)
    url = f"http://{first}"
    say = control.console.print
    say("\n[bold]S3 endpoints[/bold] (any of them; all answer the same)")
    for node in control.nodes:
        say(
            f"  http://{node.config.s3.listen}   status: sos status --admin {node.config.admin.listen}"
        )
    say("\n[bold]Keys[/bold]")
    say(f"  access key {keys.access_key}\n  secret key {keys.secret_key}")
    say("\n[bold]aws-cli[/bold]", markup=True)
    say(
        f"  export AWS_ACCESS_KEY_ID={keys.access_key} AWS_SECRET_ACCESS_KEY={keys.secret_key}"
        f" AWS_DEFAULT_REGION={config.s3.region} AWS_ENDPOINT_URL={url}\n"
        "  aws s3 mb s3://demo && aws s3 ls",
        markup=False,
    )
    say("\n[bold]boto3[/bold]")
    say(
        f"  import boto3; s3 = boto3.client('s3', endpoint_url='{url}', region_name='{config.s3.region}',"
        f" aws_access_key_id='{keys.access_key}', aws_secret_access_key='{keys.secret_key}')\n"
        "  s3.create_bucket(Bucket='demo2'); s3.put_object(Bucket='demo2', Key='hello', Body=b'world')",
        markup=False,
    )
    say("\n[bold]curl[/bold] (presigned, good for a day)")
    for method, path, option in (
        ("PUT", "/demo3", "-X PUT"),
        ("PUT", "/demo3/hello.txt", "-d 'hello, world' -X PUT"),
        ("GET", "/demo3/hello.txt", ""),
    ):
        signed = presign(
            method,
            first,
            path,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            region=config.s3.region,
        )
        say(f"  curl {option}{' ' if option else ''}'{signed}'", markup=False)
    say("\nCtrl-C stops all.")


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
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        memory = _Memory(cluster_key=document["cluster_key"], ports=document["ports"])
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
