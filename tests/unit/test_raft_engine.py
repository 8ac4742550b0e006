"""The tripwire on the library, and what of it must never be reached."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pysyncobj import syncobj

from sos.errors import StartRefused
from sos.raft import engine
from sos.raft.engine import PeerNode, SosRaft, check_library

RAFT = Path(engine.__file__).parent


def test_the_library_is_the_one_we_know() -> None:
    """The pin holds: SHA-256 of ``syncobj.py`` and every name that we hook (pysyncobj.md, item 1)."""
    check_library()


def test_another_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade must not go unnoticed."""
    monkeypatch.setattr(engine, "LIBRARY_SHA256", "0" * 64)

    with pytest.raises(StartRefused, match="pysyncobj"):
        check_library()


def test_a_missing_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook whose name the library does not look up is no hook."""
    monkeypatch.setattr(engine, "_METHODS", ["noSuchMethod"])

    with pytest.raises(StartRefused, match="noSuchMethod"):
        check_library()


def test_every_hook_overrides_a_name_of_the_library() -> None:
    """Each ``_SyncObj__`` method of the subclass exists in the library and is in the tripwire's list."""
    hooks = [name for name in vars(SosRaft) if name.startswith("_SyncObj__")]

    assert len(hooks) >= 13
    assert all(hasattr(syncobj.SyncObj, name) for name in hooks)
    assert all(name.removeprefix("_SyncObj__") in engine._METHODS for name in hooks)


def test_nothing_of_ours_unpickles() -> None:
    """P20, D8: no module of the package imports a pickle; the library's own is never handed foreign bytes."""
    for path in RAFT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pickle" not in ast.unparse(node), path


def test_nodes_hash_alike_in_every_run() -> None:
    """Determinism: the library iterates sets of nodes."""
    assert hash(PeerNode("n1@0000000000000001")) == 3719586399
    assert PeerNode("a") == PeerNode("a")
    assert PeerNode("a") != PeerNode("b")
