"""The command line as a contract: one line per error, exit code not 0, nothing written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sos.cli.presign import presign
from sos.config import Address


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
