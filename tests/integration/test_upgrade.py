"""A rolling upgrade from the release before, and back, under load (issue 5, 7).

``tests/upgrade/previous`` names the commit whose nodes run beside those of this tree; they are told apart in `sos
status` by a version that only this test gives them. Skipped where git or that commit is not at hand (a shallow clone).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sos import __version__
from sos.cli.doctor import diagnose
from sos.errors import EXIT_USAGE
from sos.verify.directory import NotVerifiable, verify_directory
from tests.integration.cluster import REPOSITORY, Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    check_all,
    content,
    delete_ok,
    get_settled,
    make_bucket,
    put,
    put_ok,
    request,
)

PREVIOUS = Path(__file__).parents[1] / "upgrade" / "previous"
PREVIOUS_VERSION = "0.0.9"
SIZES = (200, 30 * KIB)  # an inline body, a blob
ATTEMPTS = 6  # about what clients do by themselves
PERIOD_S = 0.04


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the code of the release before."""
    commit = PREVIOUS.read_text().strip()
    tree = tmp_path_factory.mktemp("previous")
    try:
        packed = subprocess.run(
            ["git", "-C", str(REPOSITORY), "archive", commit, "sos"],
            capture_output=True,
            check=True,
        )
        subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"commit {commit} is not here: {error}")
    module = tree / "sos" / "__init__.py"
    named = re.sub(
        '__version__(.*)"[^"]*"', f'__version__\\1"{PREVIOUS_VERSION}"', module.read_text()
    )
    module.write_text(named)
    return tree


class Load:
    """One client that writes new objects through all nodes in turn, and tries another node when one fails."""

    def __init__(self, nodes: list[TestNode]) -> None:
        self.acknowledged: dict[str, bytes] = {}
        self.failed: list[str] = []
        self._nodes = nodes
        self._is_over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _run(self) -> None:
        number = 0
        while not self._is_over.wait(PERIOD_S):
            key = f"load-{number}"
            body = content(key, SIZES[number % len(SIZES)])
            if self._put(number, key, body):
                self.acknowledged[key] = body
            else:
                self.failed.append(key)
            number += 1

    def _put(self, number: int, key: str, body: bytes) -> bool:
        for attempt in range(ATTEMPTS):
            node = self._nodes[(number + attempt) % len(self._nodes)]
            if put(node, key, body) == 200:
                return True
            self._is_over.wait(0.1 * 2**attempt)
        return False


class Rolling:
    """Replaces nodes one at a time, as docs/operations.md tells an operator to."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster = cluster
        self._load = load
        self._checked: set[str] = set()

    def replace(self, node: TestNode, program: Path) -> None:
        """Stop, start with the other release, wait until every member is in sync; then read what was written since."""
        cluster = self._cluster
        assert cluster.stop_node(node) == 0
        node.program = program
        cluster.start_node(node)
        cluster.wait_ready([node])
        self.wait_versions()
        self.check_new()

    def wait_versions(self) -> None:
        """Every member is in sync, and every node's status tells the versions that run."""
        expected = {node.name: _version(node) for node in self._cluster.nodes}

        def is_told() -> bool:
            for node in self._cluster.nodes:
                status = node.status()
                rows = [] if status is None else status["members"]
                if {row["name"]: row["version"] for row in rows} != expected:
                    return False
                if not all(row["in_sync"] for row in rows):
                    return False
                assert status is not None
                notes = [found.what for found in diagnose(status)]
                is_mixed = len(set(expected.values())) > 1
                assert any("different versions" in note for note in notes) == is_mixed, notes
            return True

        self._cluster.wait(is_told, f"in sync, with versions {expected}")

    def check_new(self) -> None:
        """P1: what was acknowledged since the last look, through every node."""
        acknowledged = dict(self._load.acknowledged)
        check_all(
            self._cluster, {k: body for k, body in acknowledged.items() if k not in self._checked}
        )
        self._checked |= acknowledged.keys()


def _version(node: TestNode) -> str:
    return __version__ if node.program == REPOSITORY else PREVIOUS_VERSION


def test_a_rolling_upgrade_and_back(tmp_path: Path, previous: Path) -> None:
    """P1, P2: three old nodes become new ones and old again, one by one; a retry hides every interruption."""
    with Cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            node.program = previous
        cluster.start()
        make_bucket(cluster.nodes[0])
        load = Load(cluster.nodes)
        rolling = Rolling(cluster, load)
        rolling.wait_versions()

        with load.running():
            for program in (REPOSITORY, previous):
                for node in cluster.nodes:
                    rolling.replace(node, program)

        assert load.failed == []
        assert len(load.acknowledged) > 20
        check_all(cluster, load.acknowledged)


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a release after this one: it encodes DeleteObject in a way that only it knows, of level 3."""
    tree = tmp_path_factory.mktemp("next")
    shutil.copytree(
        REPOSITORY / "sos", tree / "sos", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    _patch(tree / "sos" / "levels.py", "LEVEL: Final = SECOND", "LEVEL: Final = 3")
    commands = tree / "sos" / "catalog" / "commands.py"
    _patch(commands, "return (5, 1, *plain)", "return (5, 3, *plain)")
    _patch(
        commands,
        "    (5, 1): _delete_object,",
        "    (5, 1): _delete_object, (5, 3): _delete_object,",
    )
    _patch(
        commands,
        "\n_LEVEL_OF_START",
        "\nCOMMAND_LEVELS[5, 3] = 3\n_LEVEL_OF_START",
    )
    return tree


def _patch(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file} has no longer: {old}"
    file.write_text(text.replace(old, new))


def test_a_new_operation_waits_for_the_last_member(tmp_path: Path, next_release: Path) -> None:
    """What the oldest member cannot apply is refused before it is proposed (501), and works once all are upgraded;
    from then on the older release does not start on the directory."""
    with Cluster(tmp_path, count=2) as cluster:
        new, old = cluster.nodes
        new.program = next_release
        cluster.start()
        make_bucket(new)
        for key in ("a", "b"):
            put_ok(new, key, b"body")
        assert _levels(cluster, new) == (1, {"n1": 3, "n2": 2})

        refused = request(new, "DELETE", f"/{BUCKET}/a")
        assert refused.status == 501
        assert b"<Code>NotImplemented</Code>" in refused.body
        assert b"Not every node" in refused.body
        assert get_settled(new, "a").status == 200
        delete_ok(old, "b")  # the operation as it always was

        assert cluster.stop_node(old) == 0
        old.program = next_release
        cluster.start_node(old)
        cluster.wait_ready()
        delete_ok(new, "a")
        assert _levels(cluster, new) == (3, {"n1": 3, "n2": 3})

        assert cluster.stop_node(old) == 0
        old.program = REPOSITORY
        assert _refusal(cluster, old) == [
            "sos: the catalog was made by a newer sos (feature level 3): use that version"
        ]

        with pytest.raises(NotVerifiable, match="feature level 3"):
            verify_directory(old.data)
        _make_newer(old.data / "identity")
        before = _files(old.data)
        assert _refusal(cluster, old) == [
            "sos: the data directory was made by a newer sos (version 9): use that version"
        ]
        with pytest.raises(NotVerifiable, match="version 9"):
            verify_directory(old.data)
        assert _files(old.data) == before, "nothing is touched"


def _make_newer(identity: Path) -> None:
    """Version 9 under a right checksum."""
    document = json.loads(identity.read_bytes().partition(b"\n")[0]) | {"version": 9}
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    identity.write_bytes(body + f"{zlib.crc32(body):08x}\n".encode())


def _levels(cluster: Cluster, node: TestNode) -> tuple[int, dict[str, int]]:
    """The level that the catalog has, and what each member applies."""

    def look() -> tuple[int, dict[str, int]] | None:
        status = node.status()
        if status is None or any(row.get("level") is None for row in status["members"]):
            return None
        return status["level"], {row["name"]: row["level"] for row in status["members"]}

    return cluster.wait(look, "every member told its level")


def _refusal(cluster: Cluster, node: TestNode) -> list[str]:
    """What a start that is refused says to the person who started it."""
    node.log_path.unlink()
    cluster.start_node(node)
    assert node.process is not None
    assert node.process.wait(timeout=20) == EXIT_USAGE
    node.process = None
    return [line for line in node.log_tail().splitlines() if line.startswith("sos: ")]


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }
