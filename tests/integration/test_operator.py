"""An operator's bad days at the command line: one line that says what to do, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration.cluster import REPOSITORY, Cluster, free_ports, is_alive


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SOS_")}
    return subprocess.run(
        [sys.executable, "-m", "sos", "demo", *arguments],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_demo_on_a_taken_port_names_its_own_flag_and_leaves_nothing(tmp_path: Path) -> None:
    """Issue 4: a taken port is a clear message; nothing written, not even for the nodes before it."""
    s3, admin = free_ports(2)
    with socket.create_server(("127.0.0.1", admin + 2)):
        done = _demo(
            *("--s3-port", str(s3), "--admin-port", str(admin), "--data", str(tmp_path / "demo"))
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"sos: cannot listen on 127.0.0.1:{admin + 2} for administration: Address already in use; "
        "stop what uses it or choose another with --admin-port"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_demo_keeps_all_its_files_private(tmp_path: Path) -> None:
    """Faults 89: 0600 and 0700, the logs too, also in a directory that everybody may enter."""
    data = tmp_path / "demo"
    data.mkdir(mode=0o755)
    s3, admin = free_ports(2)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sos", "demo", "--nodes", "1", "--data", str(data)),
            *("--s3-port", str(s3), "--admin-port", str(admin)),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("SOS_")},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("Ctrl-C stops all" in line for line in process.stdout)
        modes = {path: path.lstat().st_mode & 0o077 for path in data.rglob("*")}
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert data / "n1.log" in modes
    assert not any(modes.values()), [str(path) for path, mode in modes.items() if mode]


def test_a_demo_over_a_file_or_without_its_memory_is_one_line(tmp_path: Path) -> None:
    """Issue 4: an unusable directory: what to do, no traceback."""
    (tmp_path / "file").write_text("")
    (tmp_path / "demo.json").write_text('{"cluster_key": "')
    over_a_file = _demo("--data", str(tmp_path / "file"))
    torn = _demo("--data", str(tmp_path))
    assert [over_a_file.returncode, torn.returncode] == [2, 2]
    assert f"--data {tmp_path / 'file'}: cannot be made" in over_a_file.stderr
    assert f"{tmp_path / 'demo.json'} cannot be read" in torn.stderr
    for done in (over_a_file, torn):
        assert len(done.stderr.splitlines()) == 1


def test_a_node_of_another_region_does_not_take_part(tmp_path: Path) -> None:
    """Its gateway would refuse every signature that the others take: refused before anything forms."""
    with Cluster(tmp_path) as cluster:
        odd = cluster.nodes[1]
        odd.flags = ["--region", "eu-west-1"]
        for node in cluster.nodes:
            cluster.start_node(node)
        assert odd.process is not None
        assert odd.process.wait(timeout=60) == 2
        assert odd.log_tail(1) == (
            "sos: --region eu-west-1: n1, which makes the cluster, has region us-east-1: "
            "start every node with the same --region"
        )
        assert not odd.data.exists()
        odd.process, odd.flags = None, []
        cluster.start_node(odd)
        cluster.wait_ready()


def test_a_stopped_node_leaves_files_and_no_sockets(tmp_path: Path) -> None:
    """Its directory can be copied and archived as it is; no process, no port and no socket stays behind."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        pids = list(node.children().values())
        assert cluster.stop_node(node) == 0
        assert not any(is_alive(pid) for pid in pids)
        assert not any(path.is_socket() for path in node.data.rglob("*"))
        for port in (node.s3_port, node.admin_port, node.node_port, node.node_port + 1):
            with socket.create_server(("127.0.0.1", port)):
                continue


def test_ctrl_c_while_the_environment_is_made_is_no_traceback(tmp_path: Path) -> None:
    """The first minute of `python3 scripts/demo.py` is an installation: it can be stopped like the rest."""
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    process = subprocess.Popen(
        [sys.executable, "scripts/demo.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert "making an environment" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == "stopped; run this again and it begins anew\n"
