"""The command line as a contract: one line per error, exit code not 0, nothing written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sos.cli.presign import presign
from sos.cli.progress import READY, Progress, node_state
from sos.cli.status import show
from sos.config import Address
from sos.core.status import waiting_status
from sos.errors import LOST_DIRECTORY_ADVICE, REJOIN_ADVICE, StartRefused
from sos.raft.handshake import Refusal, RefusalCode
from sos.raft.journal_load import damaged


def _sos(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SOS_")}
    return subprocess.run(
        [sys.executable, "-m", "sos", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _assert_one_line(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sos: ")
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in lines[0]


# Ctrl-C at the moment when the real module of a name is about to be imported.
_INTERRUPTED_IMPORT = """
import signal, sys
wanted, sys.argv[1:] = sys.argv[1], ["--version"]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from sos.cli.main import main
main()
"""


@pytest.mark.parametrize("module", ["sos.cli.commands", "click", "sos.config"])
def test_ctrl_c_while_modules_load_is_no_traceback(module: str) -> None:
    """Issue 4: a person who stops a command at once sees nothing of its inside; exit code 130 as later on."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, module],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--bogus"], "No such option"),
        (["serve", "--data"], "requires an argument"),
        (["nonsense"], "No such command"),
        (["member", "add", "n4=127.0.0.1:1"], "root secret key is needed"),
        (["member", "add", "n4"], "is not NAME=HOST:PORT"),
        (["member", "move", "n4"], "Missing argument 'HOST:PORT'"),
        (["member", "list", "--admin", "127.0.0.1:1"], "no answer from the admin listener"),
        (["scrub", "--admin", "127.0.0.1:1"], "no answer from the admin listener"),
        (["scrub", "--now", "--data", "/nonexistent"], "cannot be read"),
        (["verify", "/nonexistent"], "no such directory"),
        (["verify", "/usr"], "no data directory of a node"),
        (["rejoin", "/nonexistent", "--yes"], "cannot be used"),
        (["recover", "/nonexistent", "--only", "n1"], "cannot be used"),
        (["recover", "/nonexistent"], "Missing option '--only'"),
        (["serve", "--data", "x", "--name", "n4", "--join", "a"], "expected HOST:PORT"),
        (["status", "--admin", "127.0.0.1:1"], "no answer from the admin listener"),
        (["status", "--admin", "nonsense"], "expected HOST:PORT"),
        (["key", "list", "--data", "/nonexistent"], "cannot be read"),
        (["key", "list"], "root secret key is needed"),
        (["demo", "--nodes", "0"], "not in the range"),
    ],
)
def test_errors_are_one_line(arguments: list[str], expected: str) -> None:
    """Issue 4: unknown or missing flags, and what comes later: one line, exit code not 0."""
    _assert_one_line(_sos(arguments), expected)


def test_a_bad_node_configuration_writes_nothing(tmp_path: Path) -> None:
    """Issue 4: a seed list that does not name the node: nothing written."""
    data = tmp_path / "data"
    seeds = "n2=127.0.0.1:10000,n3=127.0.0.1:10010"
    done = _sos(
        ["serve", "--data", str(data), "--name", "n1", "--seeds", seeds],
        SOS_CLUSTER_KEY="0123456789abcdef",
    )
    _assert_one_line(done, "does not name this node")
    assert not data.exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Issue 4: a port in use, also by a listener with SO_REUSEPORT; nothing written."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        data = tmp_path / "data"
        done = _sos(["serve", "--data", str(data), "--name", "n1", "--s3", address])
        _assert_one_line(done, address, "--s3")
        assert not data.exists()


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    """Issue 4: an unwritable directory (here: a file in its place; root may write everywhere)."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    ports = ["--s3", "127.0.0.1:29001", "--admin", "127.0.0.1:29002", "--listen", "127.0.0.1:29003"]
    done = _sos(["serve", "--data", str(blocker / "x"), "--name", "n1", *ports])
    _assert_one_line(done, "cannot be made")


def test_config_check_shows_no_secret() -> None:
    """Design 4: the effective configuration, without secrets."""
    done = _sos(
        ["config", "check", "--data", "/tmp/x", "--name", "n1"],
        SOS_ROOT_ACCESS_KEY="admin",
        SOS_ROOT_SECRET_KEY="verysecretvalue",
    )
    assert done.returncode == 0
    assert "verysecretvalue" not in done.stdout
    assert 'name = "n1"' in done.stdout


def test_presigned_urls_are_signed_as_amazon_does() -> None:
    """The curl lines of `demo`: same signature as botocore's."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    def parts(url: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in url.partition("?")[2].split("&"))

    for _ in range(3):  # both must fall into one second
        address = Address(host="127.0.0.1", port=9000)
        url = presign(
            "GET",
            address,
            "/demo/hello.txt",
            access_key="AK",
            secret_key="SK",
            region="us-east-1",
            expires_s=60,
        )
        ours = parts(url)
        request = AWSRequest(method="GET", url="http://127.0.0.1:9000/demo/hello.txt")
        signer = S3SigV4QueryAuth(Credentials("AK", "SK"), "s3", "us-east-1", expires=60)
        signer.add_auth(request)
        theirs = parts(request.url)
        if ours["X-Amz-Date"] == theirs["X-Amz-Date"]:
            break
    assert ours == theirs


@pytest.mark.parametrize("arguments", [[], ["key"], ["config"]])
def test_a_command_without_its_subcommand_shows_its_help(arguments: list[str]) -> None:
    """The help as `--help` prints it, line by line; exit code not 0, for nothing was done."""
    done = _sos(arguments)
    asked = _sos([*arguments, "--help"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == asked.stdout
    assert asked.returncode == 0
    assert len(done.stderr.splitlines()) > 5


def test_what_is_damaged_or_stayed_behind_says_what_helps(tmp_path: Path) -> None:
    """Issue 5: each message names the command or the start that heals; nothing is done to what is no directory of a node."""
    _assert_one_line(_sos(["rejoin", str(tmp_path), "--yes"]), "no data directory of a node")
    _assert_one_line(_sos(["recover", str(tmp_path), "--only", "n1"]), "belongs to no cluster")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert LOST_DIRECTORY_ADVICE in REJOIN_ADVICE
    assert REJOIN_ADVICE in str(damaged("/data/journal", "why"))
    for code in (RefusalCode.NEW_EPOCH, RefusalCode.OLD_EPOCH):
        assert "sos rejoin" in Refusal(code=code).text


def test_status_of_an_unformed_node_says_once_that_it_waits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`sos status` before formation: the node's own words, one line per obstacle, not wrapped."""
    line = "waiting for n2 at 127.0.0.1:10010: " + "no answer yet " * 20
    show(waiting_status(node="n1@0", waiting=(line.strip(),)))
    assert capsys.readouterr().out.splitlines() == [
        "n1@0: the cluster is not formed yet",
        f"  {line.strip()}",
    ]


def test_status_tells_of_a_resync_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 5: progress, rate and ETA of a member that gets blobs stand in `sos status`."""
    now = {"blobs_done": 3, "blobs_total": 8, "bytes_done": 3 << 20, "bytes_total": 8 << 20}
    row = {
        "name": "n3",
        "address": "a:1",
        "s3": "a:2",
        "reachable": True,
        "voter": True,
        "applied_index": 7,
        "in_sync": False,
        "blobs_owed": 5,
        "eta_s": 2.0,
        "resync": {**now, "bytes_s": 5 << 19},
    }
    body = {"cluster_id": "c", "node": "n1@1", "leader": "n1@1", "term": 1, "ready": True}
    show({**body, "commit_index": 7, "applied_index": 7, "members": [row]})
    told = "n3 gets blobs: 3 of 8, 3.0 of 8.0 MiB, 2.5 MiB/s, about 2 s left"
    assert told in capsys.readouterr().out.splitlines()


# --- progress ---------------------------------------------------------------------------------------
class _Admin:
    """An admin listener that answers /status with the next of ``answers``; the last one stays."""

    def __init__(self, name: str, answers: list[dict[str, Any]], why: str | None = None) -> None:
        self.name = name
        self._why = why
        outer = self
        self.answers = answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.admin = Address(host="127.0.0.1", port=self.server.server_port)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def ended(self) -> str | None:
        return self._why

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def _body(**changes: object) -> dict[str, Any]:
    return {"ready": False, "cluster_id": "c", "leader": "n1@0", **changes}


def test_progress_names_who_is_waited_for_and_why() -> None:
    """`sos demo` under load: a person sees which node is waited for, not silence; a dead one with its words."""
    waits = _body(cluster_id=None, waiting=["waiting for n2 at a:1: no answer yet"])
    cases = [
        (_Admin("n1", [waits]), "waiting for n2 at a:1: no answer yet"),
        (_Admin("n1", [_body(leader=None)]), "waiting for a leader"),
        (_Admin("n1", [_body()]), "catching up (leader: n1)"),
        (_Admin("n1", [_body()], "ended with 2: sos: no"), "ended with 2: sos: no"),
        (_Admin("n1", [_body(ready=True)]), READY),
    ]
    for admin, expected in cases:
        assert node_state(admin.admin, admin.ended) == expected
        admin.close()
    assert node_state(cases[0][0].admin, lambda: None) == "starting"


def test_progress_ends_with_the_last_node_or_at_the_deadline() -> None:
    """Plain lines where there is no terminal; the deadline's message says what was waited for."""
    output = StringIO()
    progress = Progress(Console(file=output, soft_wrap=True))
    ready, late = _Admin("n1", [_body(ready=True)]), _Admin("n2", [_body(leader=None)])
    try:
        with pytest.raises(StartRefused, match=r"not ready within 1 s: n2 waiting for a leader"):
            progress.wait_ready([ready, late], 1.0)
        assert "n2 waiting for a leader" in output.getvalue()
        assert "n1 " not in output.getvalue()
        late.answers.append(_body(ready=True))
        progress.wait_ready([ready, late], 20.0)
    finally:
        ready.close()
        late.close()


def test_an_unusable_certificate_starts_nothing(tmp_path: Path) -> None:
    """Issue 4: HTTPS by certificate files: one line before any process or file of the node exists."""
    data, certificate = tmp_path / "data", tmp_path / "cert.pem"
    certificate.write_text("no certificate\n")
    tls = ["--s3-tls-cert", str(certificate), "--s3-tls-key", str(certificate)]
    _assert_one_line(
        _sos(["serve", "--data", str(data), "--name", "n1", *tls]), "cannot use the certificate"
    )
    assert not data.exists()
