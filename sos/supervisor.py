"""`serve` and `demo`: starts a node's core and gateways, restarts a dead gateway, stops all together.

Owns listening sockets and child processes, nothing else: it imports no server and no database, because
it starts first and stays small. One thread: children must be spawned by the main thread, whose end
(not the process's) is what their death signal watches (design, section 3).
"""

from __future__ import annotations

import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import FrameType
from typing import Final

from sos.child import child_command
from sos.config import Address, Config
from sos.errors import (
    DAMAGE_NOTE_NAME,
    EXIT_DAMAGE,
    EXIT_DISK,
    EXIT_REMOVED,
    EXIT_USAGE,
    StartRefused,
)
from sos.inherit import prepare
from sos.limits import DRAIN_S_MAX

_BACKLOG: Final = 1024  # connections that wait while a gateway restarts
_CORE_STOP_S: Final = 2.0  # of the drain: hand the leadership over, close the catalog
_KILL_S: Final = 0.5  # of the drain: what SIGKILL takes
_GATEWAY_BACKOFF_S: Final = (0.0, 0.1, 0.5, 1.0)  # back within a second (faults.md 90)
# A damaged core comes back as a wiped member with its next start; damage soon after that is that of its disk.
_DAMAGE_CALM_S: Final = 60.0
_GATEWAY_CALM_S: Final = 10.0  # a gateway that ran this long has not failed in a row
# A gateway that ends so will end so again; one that was killed or hit a bug is started again.
_NODE_ENDING_CODES: Final = frozenset({EXIT_USAGE, EXIT_DISK, EXIT_DAMAGE, EXIT_REMOVED})
_PORT_FLAGS: Final = {"s3": "--s3", "admin": "--admin", "node": "--listen", "blob": "--blob-listen"}
_SECRET_ENV: Final = ("SOS_ROOT_ACCESS_KEY", "SOS_ROOT_SECRET_KEY", "SOS_CLUSTER_KEY")


class NodePhase(Enum):
    """Where a node is in its life."""

    IDLE = "idle"
    RUNNING = "running"
    DRAINING = "draining"  # gateways finish their requests
    STOPPING = "stopping"  # the core ends
    DEAD = "dead"


def open_listener(address: Address, *, purpose: str, flag: str) -> socket.socket:
    """A listening socket that this process alone has. Raises: StartRefused that names ``flag``.

    Without SO_REUSEPORT: two programs that share a port get along silently, each seeing half the clients.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        resolved = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StartRefused(
            f"{flag} {address}: the host is not known here: {error.strerror}"
        ) from error
    listener = socket.socket(resolved[0][0], socket.SOCK_STREAM)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # past connections in TIME_WAIT
        listener.bind(resolved[0][4])
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StartRefused(
            f"cannot listen on {address} for {purpose}: {error.strerror}; "
            f"stop what uses it or choose another with {flag}"
        ) from error
    return listener


def raise_descriptor_limit() -> None:
    """As many open files as this user may have: the usual 1,024 are few for a server. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_private(path: str, flags: int) -> int:
    """Logs name buckets and keys: they are as private as the data beside them."""
    return os.open(path, flags, 0o600)


def prepare_directory(path: str) -> bool:
    """Make the data directory, 0700, or prove that it can be written; whether it is new.

    Raises: StartRefused.
    """
    is_new = not os.path.exists(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartRefused(f"--data {path}: cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK | os.R_OK):
        raise StartRefused(f"--data {path}: not writable by this user; change its owner or mode")
    return is_new


class _Child:
    """One process, and when it started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.started = time.monotonic()


class Node:
    """One node's processes. Driven by ``Supervision``; every method runs in the main thread."""

    def __init__(
        self,
        config: Config,
        *,
        log_path: str | None = None,
        flags: Mapping[str, str] = _PORT_FLAGS,
    ) -> None:
        """``flags``: by which flag a person moves a port, by role."""
        self.config = config
        self.phase = NodePhase.IDLE
        self.exit_code = 0
        self._log_path = log_path
        self._flags = flags
        self._sockets: dict[str, socket.socket] = {}
        self._core: _Child | None = None
        self._gateways: dict[int, _Child] = {}
        self._gateway_failures: dict[int, int] = {}
        self._restarts: dict[int, float] = {}  # gateway -> when to start it again
        self._deadline: float | None = None
        self._link_token = ""
        self._is_new = False  # the data directory, until a core has kept something in it

    # --- start ------------------------------------------------------------------------------------
    def open(self) -> None:
        """Prove every port and the directory, and hold them. Raises: StartRefused."""
        config = self.config
        try:
            for role, address, purpose in (
                ("s3", config.s3.listen, "S3"),
                ("admin", config.admin.listen, "administration"),
                ("node", config.node.listen, "other nodes"),
                ("blob", config.node.blob_listen, "blobs"),
            ):
                self._sockets[role] = open_listener(
                    address, purpose=purpose, flag=self._flags[role]
                )
            self._is_new = prepare_directory(config.node.data)
        except StartRefused:
            self.close()
            raise

    def start(self) -> None:
        """Spawn the core and the gateways; they wait for each other. Raises: StartRefused."""
        if not self._sockets:
            self.open()
        self.phase = NodePhase.RUNNING
        self.exit_code = 0
        self._deadline = None
        self._link_token = secrets.token_hex(16)
        self._core = self._spawn("sos.core", 0, ("node", "admin"))
        for number in range(self.config.node.gateways):
            self._gateway_failures[number] = 0
            self._gateways[number] = self._spawn("sos.gateway", number, ("s3", "blob"))

    def _spawn(self, module: str, gateway: int, roles: Sequence[str]) -> _Child:
        sockets = {role: self._sockets[role] for role in roles}
        memory, descriptors = prepare(
            self.config, gateway=gateway, sockets=sockets, link_token=self._link_token
        )
        environment = {k: v for k, v in os.environ.items() if k not in _SECRET_ENV}
        log = None if self._log_path is None else open(self._log_path, "ab", opener=_open_private)  # noqa: SIM115
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module names
                child_command(module, str(memory)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                env=environment,
                process_group=0,  # a terminal's Ctrl-C reaches the supervisor alone
            )
        finally:
            os.close(memory)
            if log is not None:
                log.close()
        return _Child(process)

    # --- life -------------------------------------------------------------------------------------
    def kill(self) -> None:
        """End the node as a power cut would: SIGKILL to every process."""
        for child in [*self._gateways.values(), *([self._core] if self._core else [])]:
            child.process.kill()

    def stop(self) -> None:
        """Begin the drain: gateways first, then the core; within ``DRAIN_S_MAX``."""
        if self.phase is NodePhase.RUNNING:
            self.phase = NodePhase.DRAINING
            self._restarts.clear()
            self._deadline = time.monotonic() + DRAIN_S_MAX - _CORE_STOP_S - _KILL_S
            for child in self._gateways.values():
                child.process.terminate()
            # The gateways close their copies: a new client is refused instead of left waiting.
            for role in ("s3", "blob"):
                self._sockets.pop(role).close()

    def hurry(self) -> None:
        """End the drain now: requests under way are cut off, the core still closes in order."""
        if self.phase is NodePhase.DRAINING:
            self._deadline = time.monotonic()

    def check(self) -> None:
        """Reap what ended and do what is due; called after SIGCHLD and when ``next_due`` passes."""
        if self.phase in (NodePhase.IDLE, NodePhase.DEAD):
            return
        now = time.monotonic()
        self._reap_gateways(now)
        if self._core is not None and self._core.process.poll() is not None:
            self._core_ended(self._core.process.returncode)
            return
        if self.phase is NodePhase.RUNNING:
            for number in [n for n, due in self._restarts.items() if due <= now]:
                del self._restarts[number]
                self._gateways[number] = self._spawn("sos.gateway", number, ("s3", "blob"))
            return
        is_late = self._deadline is not None and now >= self._deadline
        if self.phase is NodePhase.DRAINING and (is_late or not self._gateways):
            for child in self._gateways.values():
                child.process.kill()
            self.phase = NodePhase.STOPPING
            self._deadline = now + _CORE_STOP_S
            if self._core is not None:
                self._core.process.terminate()
        elif self.phase is NodePhase.STOPPING and is_late and self._core is not None:
            self._core.process.kill()
            self._deadline = None

    def next_due(self) -> float | None:
        """When ``check`` has to run even without a signal."""
        dues = [*self._restarts.values()]
        if self._deadline is not None:
            dues.append(self._deadline)
        return min(dues, default=None)

    def _reap_gateways(self, now: float) -> None:
        for number, child in list(self._gateways.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._gateways[number]
            if self.phase is not NodePhase.RUNNING:
                continue
            if code in _NODE_ENDING_CODES:
                self.exit_code = code
                self.stop()
                continue
            calm = now - child.started >= _GATEWAY_CALM_S
            failures = 0 if calm else self._gateway_failures[number]
            self._gateway_failures[number] = failures + 1
            wait = _GATEWAY_BACKOFF_S[min(failures, len(_GATEWAY_BACKOFF_S) - 1)]
            self._restarts[number] = now + wait

    def _core_ended(self, code: int) -> None:
        """The node ends with its core: gateways without one could only refuse."""
        for child in self._gateways.values():
            child.process.kill()
        for child in self._gateways.values():
            child.process.wait()
        is_ordered = self.phase is NodePhase.STOPPING
        ending = code if code >= 0 else 128 - code  # as a shell tells a signal
        if not (is_ordered and self.exit_code):
            # SIGTERM: it had not come far enough to handle it; SIGKILL: it was too slow.
            is_expected = code in (0, -signal.SIGTERM, -signal.SIGKILL)
            self.exit_code = 0 if is_ordered and is_expected else ending
        self._core = None
        self._gateways.clear()
        self._restarts.clear()
        self._deadline = None
        self.phase = NodePhase.DEAD
        self.close()  # who connects to a dead node is refused instead of left waiting
        if self._is_new and code == EXIT_USAGE:
            self._remove_directory()

    def _remove_directory(self) -> None:
        """A refused first start leaves nothing behind, if the core left the directory empty."""
        try:
            os.rmdir(self.config.node.data)
        except OSError:
            return  # something is in it: it stays

    def close(self) -> None:
        """Give the ports back."""
        for listener in self._sockets.values():
            listener.close()
        self._sockets.clear()


class Supervision:
    """The main thread's loop over one or more nodes, until ``finish`` or a signal has stopped all."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self.on_dead: Callable[[Node], None] | None = None  # told when a node died unasked
        self._is_finishing = False
        self._code = 0
        self._posted: deque[Callable[[], None]] = deque()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)

    def post(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the main thread; may be called from any thread."""
        self._posted.append(action)
        self._wake()

    def finish(self, code: int = 0) -> None:
        """Stop all nodes; ``run`` then returns ``code``. Main thread only (``post`` it)."""
        if not self._is_finishing:
            self._is_finishing = True
            self._code = code
            for node in self.nodes:
                node.stop()

    def _hurry(self) -> None:
        for node in self.nodes:
            node.hurry()

    def run(self) -> int:
        """Supervise until everything has ended; the exit code to end with."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._on_signal)
        poller = select.poll()
        poller.register(self._wakee, select.POLLIN)
        while True:
            poller.poll(self._wait_ms())
            self._drain_wakee()
            while self._posted:
                self._posted.popleft()()
            self._check_nodes()
            if self._is_finishing and all(
                node.phase in (NodePhase.IDLE, NodePhase.DEAD) for node in self.nodes
            ):
                for node in self.nodes:
                    node.close()
                return self._code or next((n.exit_code for n in self.nodes if n.exit_code), 0)

    def _check_nodes(self) -> None:
        for node in self.nodes:
            was_alive = node.phase is not NodePhase.DEAD
            node.check()
            if was_alive and node.phase is NodePhase.DEAD and not self._is_finishing:
                if self.on_dead is None:
                    self.finish(node.exit_code)
                else:
                    self.on_dead(node)

    def _wait_ms(self) -> int | None:
        dues = [due for node in self.nodes if (due := node.next_due()) is not None]
        if not dues:
            return None
        return max(0, int((min(dues) - time.monotonic()) * 1000) + 1)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._is_finishing:
            self._posted.append(self._hurry)  # a person who presses Ctrl-C again means it
        elif number != signal.SIGCHLD:
            self._posted.append(self.finish)

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # it is awake already

    def _drain_wakee(self) -> None:
        try:
            while self._wakee.recv(4096):
                pass
        except BlockingIOError:
            return


class _Reviver:
    """Starts a node again that left a note of damage: it comes back as a wiped member (protocols.md 1.2)."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._started = float("-inf")

    def on_dead(self, node: Node) -> None:
        """Once; a node that is damaged again at once stays down, so that nothing spins."""
        now = time.monotonic()
        is_noted = os.path.exists(os.path.join(node.config.node.data, DAMAGE_NOTE_NAME))
        if node.exit_code != EXIT_DAMAGE or not is_noted or now - self._started < _DAMAGE_CALM_S:
            self._supervision.finish(node.exit_code)
            return
        self._started = now
        try:
            node.start()
        except StartRefused as error:
            sys.stderr.write(f"sos: {error}\n")
            self._supervision.finish(error.exit_code)


def serve(config: Config) -> int:
    """Run one node until it ends or is told to; the exit code. Raises: StartRefused."""
    raise_descriptor_limit()
    node = Node(config)
    node.open()
    node.start()
    supervision = Supervision([node])
    supervision.on_dead = _Reviver(supervision).on_dead
    return supervision.run()
