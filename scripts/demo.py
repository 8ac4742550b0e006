"""From nothing to a running three-node S3 on this machine, with a walk that shows what it does.

    python3 scripts/demo.py              environment, install, cluster, the walk; stays up until Ctrl-C
    python3 scripts/demo.py --once       ends after the walk: 0 if every step held
    python3 scripts/demo.py --s3-port N  node k serves S3 on N + k - 1 (default 9000)

Needs nothing but Python 3.11+ and a package index.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from _environment import ROOT, run_inside

if TYPE_CHECKING:
    from sos.cli.demo import DemoControl

BUCKET = "walk"
LARGE_BYTES = 64 * 1024 * 1024
STAY = -1  # the demo goes on after the walk
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class StepFailed(Exception):
    """One step of the walk did not show what it has to."""


class Walk:
    """Stores real files through one node, reads them through another, kills a node, brings it back."""

    def __init__(self, *, once: bool) -> None:
        self._once = once
        self._stored: dict[str, str] = {}  # key -> SHA-256

    def __call__(self, control: DemoControl) -> int:
        """The exit code; negative: stay up."""
        self._control = control
        self._keys = control.root_keys()
        self._region = control.nodes[0].config.s3.region
        try:
            self._run()
        except (StepFailed, OSError, http.client.HTTPException) as error:
            control.console.print(f"[bold red]failed[/]: {error}")
            return 1
        control.console.print("[bold green]every step held[/]")
        return 0 if self._once else STAY

    # --- steps ---
    def _run(self) -> None:
        files = {
            path.relative_to(ROOT).as_posix(): path.read_bytes()
            for path in sorted(ROOT.glob("docs/**/*.md"))
        }
        files["large.bin"] = os.urandom(LARGE_BYTES)
        answer = self._ask(1, "PUT", "")
        if answer[0] not in (200, 409):
            raise StepFailed(f"no bucket: {answer}")
        self._step(
            f"stored {len(files)} files, one of 64 MiB, through node 1",
            lambda: self._store(1, files),
        )
        self._step("read every one byte for byte through node 2", lambda: self._read(2))
        self._step("listed them through node 3", lambda: self._list(3))
        self._step("killed node 1 (SIGKILL)", lambda: self._control.kill(1))
        self._step(
            "stored another file through node 2",
            lambda: self._store(2, {"after-the-kill.txt": b"still here\n"}),
        )
        self._step("read everything through node 3", lambda: self._read(3))
        self._step("started node 1 again; it serves", lambda: self._back(1))
        self._step("read everything through node 1", lambda: self._read(1))
        self._step("node 1 holds every blob again", lambda: self._in_sync("n1"))

    def _step(self, what: str, action: Callable[[], None]) -> None:
        start = time.monotonic()
        action()
        self._control.console.print(
            f"  [green]ok[/] {what} [dim]({time.monotonic() - start:.1f} s)[/]"
        )

    def _store(self, node: int, files: dict[str, bytes]) -> None:
        for key, body in files.items():
            status, _, _ = self._retried(node, "PUT", key, body)
            if status != 200:
                raise StepFailed(f"PUT {key} through node {node}: {status}")
            self._stored[key] = hashlib.sha256(body).hexdigest()

    def _read(self, node: int) -> None:
        for key, digest in self._stored.items():
            status, body, _ = self._retried(node, "GET", key)
            if status != 200 or hashlib.sha256(body).hexdigest() != digest:
                raise StepFailed(f"GET {key} through node {node}: {status}, {len(body)} bytes")

    def _list(self, node: int) -> None:
        status, body, _ = self._retried(node, "GET", "", query=(("list-type", "2"),))
        keys = {e.text for e in ElementTree.fromstring(body).iter(f"{_NAMESPACE}Key")}
        if status != 200 or not keys.issuperset(self._stored):
            raise StepFailed(f"node {node} lists {len(keys)} of {len(self._stored)} keys")

    def _back(self, node: int) -> None:
        self._control.bring_back(node)
        self._control.wait_ready(node)

    def _in_sync(self, name: str) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            members = self._control.status(2)["members"]
            assert isinstance(members, list)
            if any(member["name"] == name and member["in_sync"] for member in members):
                return
            time.sleep(0.1)
        raise StepFailed(f"{name} is not in sync after 60 s")

    # --- requests ---
    def _retried(
        self,
        node: int,
        method: str,
        key: str,
        body: bytes = b"",
        query: tuple[tuple[str, str], ...] = (),
    ) -> tuple[int, bytes, str]:
        """As any S3 client: a 503 (certainly not applied) or a 500 is asked again for a while."""
        end = time.monotonic() + 20
        while True:
            answer = self._ask(node, method, key, body, query)
            if answer[0] not in (500, 503) or time.monotonic() > end:
                return answer
            time.sleep(0.1)

    def _ask(
        self,
        node: int,
        method: str,
        key: str,
        body: bytes = b"",
        query: tuple[tuple[str, str], ...] = (),
    ) -> tuple[int, bytes, str]:
        from sos.cli.presign import presign

        path = f"/{BUCKET}/{quote(key, safe='/-_.~')}" if key else f"/{BUCKET}"
        url = presign(
            method, self._control.endpoint(node), path,
            access_key=self._keys.access_key, secret_key=self._keys.secret_key, region=self._region, query=query,
        )  # fmt: skip
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        try:
            connection.request(method, f"{parts.path}?{parts.query}", body=body or None)
            response = connection.getresponse()
            return response.status, response.read(), response.headers.get("ETag", "")
        finally:
            connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end after the walk")
    parser.add_argument(
        "--s3-port", type=int, default=9000, help="S3 port of node 1 (default 9000)"
    )
    parser.add_argument(
        "--admin-port", type=int, default=9400, help="admin port of node 1 (default 9400)"
    )
    arguments = parser.parse_args()
    run_inside("run")
    from sos.cli.demo import run_demo
    from sos.errors import StartRefused

    try:
        return run_demo(
            s3_port=arguments.s3_port,
            admin_port=arguments.admin_port,
            walk=Walk(once=arguments.once),
        )
    except StartRefused as error:
        print(f"sos: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the cluster's own handling of Ctrl-C began
        sys.exit(130)
