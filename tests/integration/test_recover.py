"""A majority is lost for good: `sos recover` goes on with the survivors, and with nothing else (protocols.md 3.7)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from sos.errors import EXIT_USAGE
from tests.integration.cluster import REPOSITORY, Cluster, TestNode
from tests.integration.stores import (
    KIB,
    content,
    get,
    make_bucket,
    put_ok,
    wait_in_sync,
)

OBJECTS = {f"k{n}": content(f"k{n}", size) for n, size in enumerate((100, 20 * KIB) * 3)}


def _sos(*arguments: str) -> tuple[int, str]:
    """Run a command; its exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "sos", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _wait_refused(cluster: Cluster, node: TestNode, word: str) -> None:
    cluster.wait(
        lambda: word in str((node.status() or {}).get("warnings")),
        f"{node.name} is told of {word}",
    )


def test_survivors_go_on_and_others_join_them_again(tmp_path: Path) -> None:
    """3.7; P1: two of three lose nothing and wait for each other; the last one serves all that it holds.

    Who stayed behind is refused, and comes back by `sos rejoin` and `sos member add`.
    """
    with Cluster(tmp_path) as cluster:
        cluster.start()
        first, second, third = cluster.nodes
        make_bucket(first)
        for key, body in OBJECTS.items():
            put_ok(first, key, body)
        wait_in_sync(cluster, second)
        code, text = _sos("recover", str(first.data), "--only", "n1", "--yes")
        assert (code, "in use by another process" in text) == (EXIT_USAGE, True)
        third.kill()
        for node in (first, second):
            assert cluster.stop_node(node) == 0
        shutil.rmtree(third.data)
        code, text = _sos("recover", str(first.data), "--only", "n1,n4", "--yes")
        assert (code, text.count("\n")) == (EXIT_USAGE, 1), text

        code, text = _sos("recover", str(first.data), "--only", "n1,n2", "--yes")
        assert code == 0, text
        assert "nothing that was acknowledged is lost" in text
        command = next(line.split() for line in text.splitlines() if "sos recover DIR" in line)
        cluster.start_node(first)
        cluster.start_node(second)
        _wait_refused(cluster, second, "sos recover")
        assert cluster.stop_node(second) == 0
        code, text = _sos("recover", str(second.data), "--yes", *command[3:])
        assert code == 0, text
        cluster.start_node(second)
        cluster.wait_ready([first, second])
        for node in (first, second):
            for key, body in OBJECTS.items():
                assert get(node, key).body == body

        for node in (first, second):
            assert cluster.stop_node(node) == 0
        code, text = _sos("recover", str(second.data), "--only", "n2", "--yes")
        assert code == 0, text
        cluster.start_node(second)
        cluster.wait_ready([second])
        put_ok(second, "after", b"recovered")
        cluster.start_node(first)
        _wait_refused(cluster, first, "sos rejoin")
        assert not first.is_ready()
        assert cluster.stop_node(first) == 0
        code, text = _sos("rejoin", str(first.data), "--yes")
        assert (code, text.count("\n")) == (0, 1), text
        cluster.start_node(first)
        admin = ("--admin", f"127.0.0.1:{second.admin_port}", "--data", str(second.data))
        code, text = _sos("member", "add", f"n1=127.0.0.1:{first.node_port}", *admin)
        assert code == 0, text
        cluster.wait_ready([first])
        for key, body in {**OBJECTS, "after": b"recovered"}.items():
            assert get(first, key).body == body
