"""Imports point to a lower rank only; each library has one door; pure modules stay pure (house style 1)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOS = Path(__file__).parents[2] / "sos"

# The words of the catalog (values and their bytes) are shared by its neighbours of rank 1 and by the link.
WORDS = frozenset(
    {
        "sos.catalog.model",
        "sos.catalog.codec",
        "sos.catalog.commands",
        "sos.catalog.fields",
    }
)
RANKS = {
    "sos.__main__": 7,
    "sos.cli": 6,
    "sos.supervisor": 5,
    "sos.core": 4,
    "sos.gateway": 4,
    "sos.s3": 3,
    "sos.admin": 3,
    "sos.service": 2,
    "sos.catalog": 1,
    "sos.raft": 1,
    "sos.link": 1,
    "sos.blob": 1,
}
# Everything else directly under sos/ is rank 0: config, clock, telemetry, limits, errors, disk, ...

DOORS: dict[str, tuple[str, ...]] = {
    "click": ("sos.cli",),
    "rich": ("sos.cli",),
    "aiohttp": (),  # its server costs 45 us a request, its import 0.3 s: see docs/decisions
    "lmdb": ("sos.catalog.environment",),
    "pysyncobj": ("sos.raft.engine",),
    "msgpack": ("sos.packing",),
    "awscrt": ("sos.checksum",),
    "lxml": ("sos.s3.xml",),
    "prometheus_client": ("sos.telemetry",),
    "uvloop": ("sos.core.__main__", "sos.gateway"),
}
IMPURE = frozenset({"time", "random", "secrets", "asyncio", "socket", "os", "threading"})
PURE = frozenset(
    {
        "sos.limits",
        "sos.errors",
        "sos.packing",
        "sos.catalog.model",
        "sos.catalog.codec",
        "sos.catalog.commands",
        "sos.catalog.fields",
        "sos.catalog.keys",
        "sos.catalog.records",
        "sos.raft.messages",
        "sos.raft.handshake",
        "sos.raft.reads",
        "sos.raft.members",
        "sos.raft.elections",
        "sos.raft.sanitize",
        "sos.raft.snapshot",
        "sos.raft.formation_rules",
        "sos.link.protocol",
        "sos.core.messages",
        "sos.admin.proof",
        "sos.blob.format",
        "sos.blob.inventory",
        "sos.s3.errors",
        "sos.s3.operations",
        "sos.s3.sigv4",
        "sos.s3.chunked",
        "sos.s3.checksums",
        "sos.s3.conditional",
        "sos.s3.listing",
        "sos.s3.xml",
    }
)
PURE_PACKAGES = ("sos.catalog.rules",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    name: str
    tree: ast.Module
    imports: frozenset[str]


def _name_of(path: Path) -> str:
    parts = path.relative_to(SOS.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _read_modules() -> dict[str, Module]:
    modules = {}
    for path in sorted(SOS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = _name_of(path)
        modules[name] = Module(name=name, tree=tree, imports=frozenset(_imports(tree)))
    return modules


MODULES = _read_modules()


def _package(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _rank(name: str) -> int:
    return 0 if name in WORDS else RANKS.get(_package(name), 0)


def _own_imports(module: Module) -> Iterator[str]:
    """Modules of ours that ``module`` imports (names inside them resolved to the module)."""
    for imported in module.imports:
        if imported in MODULES and imported != "sos":
            yield imported


def test_imports_point_to_a_lower_rank() -> None:
    """House style 1: no import upward, none sideways between packages of one rank."""
    wrong = []
    for module in MODULES.values():
        if module.name == "sos":
            continue
        for imported in _own_imports(module):
            if _package(imported) == _package(module.name) or imported in WORDS:
                continue
            own, other = _rank(module.name), _rank(imported)
            if other > own or (other == own and own > 0):
                wrong.append(f"{module.name} ({own}) imports {imported} ({other})")
    assert not wrong, "\n".join(sorted(wrong))


def test_words_import_no_neighbour() -> None:
    """The shared words of the catalog know only each other and rank 0."""
    wrong = [
        f"{name} imports {imported}"
        for name in WORDS & MODULES.keys()
        for imported in _own_imports(MODULES[name])
        if imported not in WORDS and _rank(imported) > 0 and imported != "sos.catalog"
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_each_library_has_one_door() -> None:
    """House style 1: a library is imported behind its door alone."""
    wrong = []
    for module in MODULES.values():
        for imported in module.imports:
            doors = DOORS.get(imported.split(".")[0])
            if doors is None:
                continue
            if not any(module.name == door or module.name.startswith(door + ".") for door in doors):
                wrong.append(f"{module.name} imports {imported}")
    assert not wrong, "\n".join(sorted(wrong))


def _is_pure(name: str) -> bool:
    return name in PURE or name.startswith(PURE_PACKAGES)


def test_pure_modules_exist() -> None:
    """A renamed module must not slip out of the purity check."""
    assert not PURE - MODULES.keys()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _is_pure(name)))
def test_pure_modules_are_pure(name: str) -> None:
    """No I/O, no clock, no randomness, no impure module of ours in a pure one."""
    module = MODULES[name]
    roots = {imported.split(".")[0] for imported in module.imports}
    assert not roots & IMPURE
    calls = {
        node.func.id
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "input", "print"}


def test_no_pickle() -> None:
    """Design 7: nothing that a socket or a file can reach unpickles."""
    wrong = [
        module.name
        for module in MODULES.values()
        if {imported.split(".")[0] for imported in module.imports} & {"pickle", "shelve", "marshal"}
    ]
    assert not wrong


def test_broad_excepts_stand_where_they_may() -> None:
    """House style 6: never ``except Exception`` outside s3/app, worker loops and the stop of the core."""
    allowed = {"sos.s3.app", "sos.blob.peer", "sos.link.client", "sos.admin.http", "sos.raft.node"}
    wrong = [
        module.name
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and isinstance(node.type, ast.Name)
        and node.type.id == "Exception"
        and module.name not in allowed
    ]
    assert not wrong
