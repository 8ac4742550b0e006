"""Three real nodes from the real command line: started, watched, killed, paused and restarted by pid.

Every wait is for a condition, with a deadline; a wait that fails shows the ends of the nodes' logs.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

Found = TypeVar("Found")
REPOSITORY: Final = Path(__file__).parents[2]
CLUSTER_KEY: Final = "test-cluster-key-0123456789"
ROOT_ACCESS_KEY: Final = "SOSTESTROOTKEY"
ROOT_SECRET_KEY: Final = "test-root-secret-key-0123456789"
READY_S: Final = 40.0  # eight test runs may share two cores


def free_ports(count: int, *, pairs: bool = False, beside: Sequence[int] = ()) -> list[int]:
    """Ports from 10000-32767 that can be bound now; with ``pairs`` the next one is free too. ``beside``: pairs drawn before.

    ``SOS_TEST_PORTS=FIRST-LAST`` narrows the range: test runs side by side must not draw the same port.
    """
    first, _, last = os.environ.get("SOS_TEST_PORTS", "10000-32760").partition("-")
    found: list[int] = []
    taken = {port + step for port in beside for step in (0, 1)}
    while len(found) < count:
        port = random.randrange(int(first), int(last))
        wanted = {port, port + 1} if pairs else {port}
        if wanted & taken or not all(_can_bind(p) for p in wanted):
            continue
        taken |= wanted
        found.append(port)
    return found


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass(kw_only=True)
class TestNode:
    """One node's ports, files and supervisor process."""

    __test__ = False

    name: str
    data: Path
    node_port: int
    s3_port: int
    admin_port: int
    environment: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    origin: tuple[str, ...] = ()  # the flags that say whom it belongs to; default: the seed list
    program: Path = REPOSITORY  # whose `sos` it runs
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.data.with_suffix(".log")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.s3_port}"

    def log_tail(self, count: int = 30) -> str:
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-count:])

    # --- admin ------------------------------------------------------------------------------------
    def admin(self, path: str, *, timeout_s: float = 10.0) -> tuple[int, str]:
        """Status code and body of a GET; (0, reason) when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def answers_admin(self, *, timeout_s: float) -> bool:
        """Whether anybody answers on the admin port in time."""
        return self.admin("/healthz", timeout_s=timeout_s)[0] != 0

    def is_ready(self) -> bool:
        return self.admin("/readyz", timeout_s=5.0)[0] == 200

    def status(self) -> dict[str, Any] | None:
        """The JSON of /status; None when nobody answers."""
        code, body = self.admin("/status")
        if code != 200:
            return None
        document: dict[str, Any] = json.loads(body)
        return document

    # --- processes --------------------------------------------------------------------------------
    def children(self) -> dict[str, int]:
        """Pids of the node's processes by module and number: "core", "gateway-0" ... (from /proc)."""
        if self.process is None:
            return {}
        found: dict[str, int] = {}
        gateways = 0
        for pid in child_pids(self.process.pid):
            command = command_line(pid)
            if "sos.core" in command:
                found["core"] = pid
            elif "sos.gateway" in command:
                found[f"gateway-{gateways}"] = pid
                gateways += 1
        return found

    def signal_children(self, number: int) -> None:
        """Send a signal to every process of the node, the supervisor included (SIGSTOP, SIGCONT)."""
        assert self.process is not None
        for pid in [self.process.pid, *self.children().values()]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill -9 of the supervisor; its children must not outlive it."""
        assert self.process is not None
        children = child_pids(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.process = None
        end = time.monotonic() + 5
        while any(is_alive(pid) for pid in children):
            assert time.monotonic() < end, f"children outlived their parent: {children}"
            time.sleep(0.005)


def child_pids(parent: int) -> list[int]:
    """Direct children, from /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(int(entry))
    return sorted(found)


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Cluster:
    """``count`` nodes; nothing runs until ``start``. A context manager that ends every process."""

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        environment: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        test_mode: bool = True,
    ) -> None:
        self.directory = directory
        node_ports = free_ports(count, pairs=True)
        others = free_ports(2 * count, beside=node_ports)
        self.nodes = [
            TestNode(
                name=f"n{number + 1}",
                data=directory / f"n{number + 1}",
                node_port=node_ports[number],
                s3_port=others[2 * number],
                admin_port=others[2 * number + 1],
                flags=list(flags),
            )
            for number in range(count)
        ]
        self.seeds = ",".join(f"{n.name}=127.0.0.1:{n.node_port}" for n in self.nodes)
        self._environment = {
            "SOS_CLUSTER_KEY": CLUSTER_KEY,
            "SOS_ROOT_ACCESS_KEY": ROOT_ACCESS_KEY,
            "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY,
            **({"SOS_TEST_MODE": "1"} if test_mode else {}),
            **(environment or {}),
        }

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            sys.stderr.write(self.describe())
        for node in self.nodes:
            if node.process is not None:
                node.signal_children(signal.SIGCONT)
                node.kill()

    # --- life -------------------------------------------------------------------------------------
    def arguments(self, node: TestNode) -> list[str]:
        """The command line that starts ``node``."""
        return [
            *(sys.executable, "-m", "sos", "serve"),
            *("--data", str(node.data), "--name", node.name),
            *(node.origin or ("--seeds", self.seeds)),
            *("--s3", f"127.0.0.1:{node.s3_port}", "--admin", f"127.0.0.1:{node.admin_port}"),
            *("--gateways", "1", *node.flags),
        ]

    def new_node(self, name: str, *, join: Sequence[TestNode]) -> TestNode:
        """One more node, which asks ``join`` to be admitted; not started."""
        (port,) = free_ports(1, pairs=True)
        s3_port, admin_port = free_ports(2, beside=[port])
        addresses = ",".join(f"127.0.0.1:{node.node_port}" for node in join)
        node = TestNode(
            name=name,
            data=self.directory / name,
            node_port=port,
            s3_port=s3_port,
            admin_port=admin_port,
            origin=("--join", addresses, "--listen", f"127.0.0.1:{port}"),
        )
        self.nodes.append(node)
        return node

    def environment(self, node: TestNode) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SOS_")}
        return {**inherited, **self._environment, **node.environment}

    def start_node(self, node: TestNode) -> None:
        """Start one node and do not wait."""
        assert node.process is None
        node.data.parent.mkdir(parents=True, exist_ok=True)
        with node.log_path.open("ab") as log:
            node.process = subprocess.Popen(
                self.arguments(node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=node.program,
                env=self.environment(node),
            )

    def start(self, *, ready_s: float = READY_S) -> None:
        """Start all nodes and wait until each serves linearizable requests."""
        for node in self.nodes:
            self.start_node(node)
        self.wait_ready(deadline_s=ready_s)

    def stop_node(self, node: TestNode, *, deadline_s: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        assert node.process is not None
        node.process.terminate()
        code = node.process.wait(timeout=deadline_s)
        node.process = None
        return code

    def wait_ready(
        self, nodes: Sequence[TestNode] | None = None, *, deadline_s: float = READY_S
    ) -> None:
        """Wait until every one of ``nodes`` (all) answers /readyz with 200."""
        for node in nodes or self.nodes:
            self.wait(node.is_ready, f"{node.name} is ready", deadline_s=deadline_s)

    def leader(self, *, deadline_s: float = 20.0) -> TestNode:
        """The node that a majority's status calls leader."""

        def find() -> TestNode | None:
            for node in self.nodes:
                if node.process is None:
                    continue
                status = node.status()
                if status is not None and status["leader"] == status["node"] and status["ready"]:
                    return node
            return None

        return self.wait(find, "there is a leader", deadline_s=deadline_s)

    def wait(
        self, condition: Callable[[], Found | None], what: str, *, deadline_s: float = 20.0
    ) -> Found:
        """The first true value of ``condition``. Raises: AssertionError with logs at the deadline."""
        end = time.monotonic() + deadline_s
        while True:
            value = condition()
            if value:
                return value
            for node in self.nodes:
                if node.process is not None and node.process.poll() is not None:
                    code = node.process.returncode
                    raise AssertionError(f"{node.name} ended with {code}\n{node.log_tail()}")
            assert time.monotonic() < end, f"not within {deadline_s} s: {what}\n{self.describe()}"
            time.sleep(0.02)

    def wait_in_sync(self, *, deadline_s: float = 60.0) -> None:
        """Wait until the leader calls every member in sync."""

        def all_in_sync() -> bool:
            status = self.leader().status()
            return status is not None and all(m["in_sync"] for m in status["members"])

        self.wait(all_in_sync, "every member is in sync", deadline_s=deadline_s)

    @contextmanager
    def paused(self, node: TestNode) -> Iterator[None]:
        """SIGSTOP of every process of ``node`` meanwhile."""
        node.signal_children(signal.SIGSTOP)
        try:
            yield
        finally:
            node.signal_children(signal.SIGCONT)

    def describe(self) -> str:
        """The ends of all logs."""
        return "".join(f"--- {node.name}\n{node.log_tail()}\n" for node in self.nodes)
