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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--bogus"], "No such option"),
        (["serve", "--data"], "requires an argument"),
        (["nonsense"], "No such command"),
        (["member", "add", "n4=127.0.0.1:1"], "comes with the next release"),
        (["scrub", "--now"], "comes with the next release"),
        (["verify", "/tmp"], "comes with the next release"),
        (["rejoin", "/tmp", "--moved"], "comes with the next release"),
        (["recover", "/tmp", "--only", "n1"], "comes with the next release"),
        (["serve", "--data", "x", "--name", "n4", "--join", "a:1"], "comes with the next release"),
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


@pytest.mark.parametrize("name", ["member", "scrub", "verify", "rejoin", "recover"])
def test_a_command_of_the_next_release_has_help(name: str) -> None:
    """Design 4: what comes later says so, also when asked for help."""
    done = _sos([name, "--help"])
    assert done.returncode == 0
    assert "comes with the next release" in done.stdout


def test_rejoin_says_what_to_do_until_it_comes() -> None:
    """A message that names a command of the next release says what helps today."""
    _assert_one_line(_sos(["rejoin", "/tmp"]), "keep its directory aside", "no node to spare")
    assert LOST_DIRECTORY_ADVICE in REJOIN_ADVICE
    for refusal in (damaged("/data/journal", "why"), Refusal(code=RefusalCode.OLD_BOOT).text):
        assert REJOIN_ADVICE in str(refusal)


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
