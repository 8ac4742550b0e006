"""What an operator sees: metrics, alert rules and dashboard that fit each other, status and doctor."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import REPOSITORY, Cluster, TestNode

DEPLOY = REPOSITORY / "docs" / "deploy"
_NAME = re.compile(r"\bsos_[a-z0-9_]*[a-z0-9]\b(?!_\*)")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("monitoring")) as cluster:
        cluster.start()
        cluster.wait_in_sync()
        yield cluster


def _exported(node: TestNode) -> set[str]:
    """Families, as their HELP lines name them: one without a sample yet counts too."""
    code, text = node.admin("/metrics")
    assert code == 200
    return {line.split(" ")[2] for line in text.splitlines() if line.startswith("# HELP ")}


@pytest.mark.parametrize(
    "path", [DEPLOY / "alerts.yml", DEPLOY / "grafana.json", REPOSITORY / "docs" / "operations.md"],
    ids=lambda path: path.name,
)  # fmt: skip
def test_every_metric_that_the_documents_name_is_exported(cluster: Cluster, path: Path) -> None:
    """An alert on a name that no node exports never fires."""
    exported = _exported(cluster.leader())

    named = set(_NAME.findall(path.read_text()))

    assert len(named) >= 8
    unknown = {name for name in named if name not in exported and _family(name) not in exported}
    assert not unknown


def _family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count|total)$", "", name)


def test_the_dashboard_is_json_that_grafana_imports() -> None:
    """Each panel asks something, and no two lie on each other."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())

    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_doctor_finds_nothing_and_then_the_node_that_is_gone(cluster: Cluster) -> None:
    """It says what is wrong and what to do, and its exit code tells a script."""
    leader = cluster.leader()
    healthy = _sos("doctor", "--admin", f"127.0.0.1:{leader.admin_port}")
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert "nothing is wrong" in healthy.stdout

    victim = next(node for node in cluster.nodes if node is not leader)
    victim.kill()
    cluster.wait(
        lambda: _sos("doctor", "--admin", f"127.0.0.1:{leader.admin_port}").returncode == 1,
        "the doctor sees the loss",
    )
    told = _sos("doctor", "--admin", f"127.0.0.1:{leader.admin_port}", "--json")
    (finding,) = [row for row in json.loads(told.stdout) if "may fail" in row["what"]]
    assert victim.name in finding["what"]
    assert finding["severity"] == "at risk"
    assert "no further node may fail" in finding["what"]
    assert "start it again" in finding["do"]

    nobody = _sos("doctor", "--admin", f"127.0.0.1:{victim.admin_port}")
    assert nobody.returncode == 1
    assert "no answer from the admin listener" in nobody.stdout

    cluster.start_node(victim)
    cluster.wait_in_sync()


def test_status_watch_shows_again_and_ends_quietly_with_ctrl_c(cluster: Cluster) -> None:
    """A live view; Ctrl-C is its normal end."""
    node = cluster.nodes[0]
    admin = f"127.0.0.1:{node.admin_port}"
    watching = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sos",
            "status",
            "--watch",
            "--every",
            "0.1",
            "--admin",
            admin,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        text=True,
    )
    assert watching.stdout is not None
    shown = 0
    for line in watching.stdout:
        shown += line.startswith("cluster ")
        if shown == 3:
            break
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert errors.strip() == ""  # click ends the line of the ^C


def _sos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sos", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("SOS_")}
