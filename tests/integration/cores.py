"""Real core processes without gateways: the test holds the listening sockets and plays the gateway itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sos.catalog.model import (
    ALWAYS,
    AccessKeyId,
    BlobId,
    Checksum,
    ChecksumAlgorithm,
    InlineBody,
    PutObject,
    StoredHeaders,
    WriteCondition,
)
from sos.clock import SystemClock, SystemIds
from sos.config import Config, load
from sos.inherit import prepare
from sos.link import CoreLink
from tests.integration.cluster import (
    CLUSTER_KEY,
    REPOSITORY,
    ROOT_ACCESS_KEY,
    ROOT_SECRET_KEY,
    free_ports,
)

TOKEN = "token"
ROOT = AccessKeyId(ROOT_ACCESS_KEY)


class CoreNode:
    """One core process. Its ports stay open over restarts, as a supervisor's do."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data = Path(config.node.data)
        self.data.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.sockets = {
            "node": _listen(config.node.listen.port),
            "admin": _listen(config.admin.listen.port),
        }
        self.log_path = self.data.with_suffix(".log")

    def start(self) -> None:
        memory, descriptors = prepare(
            self.config, gateway=0, sockets=self.sockets, link_token=TOKEN
        )
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sos.core", str(memory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                cwd=REPOSITORY,
            )
        os.close(memory)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def assert_alive(self) -> None:
        """A core that ended by itself is a finding."""
        if self.process is not None and self.process.poll() is not None:
            tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])
            raise AssertionError(
                f"{self.config.node.name} ended with {self.process.returncode}\n{tail}"
            )

    def link(self) -> CoreLink:
        """A gateway's link to this core; call inside a loop."""
        link = CoreLink(
            directory=str(self.data), gateway=0, token=TOKEN, clock=SystemClock(), ids=SystemIds()
        )
        link.start()
        return link

    @contextmanager
    def paused(self) -> Iterator[None]:
        assert self.process is not None
        pid = self.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


class Cores:
    """``count`` cores of one cluster; ends them all."""

    def __init__(self, directory: Path, *, count: int = 3, **test_settings: str) -> None:
        ports = free_ports(count, pairs=True)
        others = free_ports(2 * count)
        seeds = ",".join(f"n{i + 1}=127.0.0.1:{port}" for i, port in enumerate(ports))
        environment = {
            "SOS_CLUSTER_KEY": CLUSTER_KEY,
            "SOS_ROOT_ACCESS_KEY": ROOT_ACCESS_KEY,
            "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY,
            "SOS_TEST_MODE": "1",
            **test_settings,
        }
        self.nodes = [
            CoreNode(
                load(
                    {
                        "data": str(directory / f"n{number + 1}"),
                        "name": f"n{number + 1}",
                        "seeds": seeds,
                        "s3": f"127.0.0.1:{others[2 * number]}",
                        "admin": f"127.0.0.1:{others[2 * number + 1]}",
                    },
                    environment=environment,
                )
            )
            for number in range(count)
        ]

    def __enter__(self) -> Cores:
        for node in self.nodes:
            node.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self.nodes:
            if error is not None:
                tail = node.log_path.read_text(errors="replace").splitlines()[-20:]
                sys.stderr.write(f"--- {node.config.node.name}\n" + "\n".join(tail) + "\n")
            if node.process is not None:
                node.kill()
            for listener in node.sockets.values():
                listener.close()

    def assert_alive(self) -> None:
        for node in self.nodes:
            node.assert_alive()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def put_command(
    bucket: str, key: str, data: bytes, *, index: int, condition: WriteCondition = ALWAYS
) -> PutObject:
    """A PutObject with an inline body, as a gateway would propose it."""
    blob = BlobId(index.to_bytes(8, "big") + os.urandom(8))
    return PutObject(
        access_key=ROOT,
        bucket=bucket,
        key=key,
        body=InlineBody(blob=blob, data=data),
        etag=f"{hash(data) & (1 << 64) - 1:032x}",
        md5=bytes(16),
        modified_ms=time.time_ns() // 1_000_000,
        checksum=Checksum(algorithm=ChecksumAlgorithm.CRC64NVME, digest=bytes(8)),
        headers=StoredHeaders(),
        condition=condition,
    )
