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
        "sos.catalog.upload_commands",
    }
)
RANKS = {
    "sos.__main__": 7,
    "sos.cli": 6,
    "sos.supervisor": 5,
    "sos.verify": 5,
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

# Exactly these modules import a library: one less is as wrong here as one more.
DOORS: dict[str, frozenset[str]] = {
    "click": frozenset(
        {
            "sos.cli.demo",
            "sos.cli.doctor",
            "sos.cli.key",
            "sos.cli.member",
            "sos.cli.credentials",
            "sos.cli.commands",
            "sos.cli.options",
            "sos.cli.recover",
            "sos.cli.rejoin",
            "sos.cli.scrub",
            "sos.cli.status",
            "sos.cli.verify",
        }
    ),
    "rich": frozenset(
        {
            "sos.cli.demo",
            "sos.cli.doctor",
            "sos.cli.key",
            "sos.cli.member",
            "sos.cli.paste",
            "sos.cli.progress",
            "sos.cli.scrub",
            "sos.cli.status",
            "sos.cli.verify",
        }
    ),
    "aiohttp": frozenset(),  # its server costs 45 us a request, its import 0.3 s: docs/decisions
    "lmdb": frozenset({"sos.catalog.environment"}),
    "pysyncobj": frozenset({"sos.raft.engine"}),
    "msgpack": frozenset({"sos.packing"}),
    "awscrt": frozenset({"sos.checksum"}),
    "lxml": frozenset({"sos.s3.xml"}),
    "prometheus_client": frozenset({"sos.telemetry"}),
    "uvloop": frozenset({"sos.core.__main__", "sos.gateway"}),
}
IMPURE = frozenset(
    {
        *("time", "random", "secrets", "uuid", "os", "pathlib", "shutil", "tempfile", "fcntl"),
        *("asyncio", "socket", "ssl", "select", "signal", "threading", "concurrent", "subprocess"),
        *("http", "urllib.request", "logging", "contextvars", "locale", "platform", "mmap"),
    }
)
# Libraries without I/O, clock or state: their one door may be pure.
PURE_LIBRARIES = frozenset({"msgpack", "awscrt", "lxml"})
# What a pure module may know of a clock: that it may be given one.
CLOCK_PROTOCOLS = frozenset({"Clock", "IdSource"})
PURE = frozenset(
    {
        *("sos.limits", "sos.errors", "sos.packing", "sos.checksum", "sos.settings", "sos.values"),
        "sos.levels",
        "sos.catalog.model",
        "sos.catalog.codec",
        "sos.catalog.commands",
        "sos.catalog.fields",
        "sos.catalog.keys",
        "sos.catalog.records",
        "sos.catalog.upload_commands",
        "sos.catalog.upload_records",
        "sos.raft.api",
        "sos.raft.elections",
        "sos.raft.formation_messages",
        "sos.raft.formation_rules",
        "sos.raft.founding",
        "sos.raft.frames",
        "sos.raft.handshake",
        "sos.raft.journal_format",
        "sos.raft.members",
        "sos.raft.messages",
        "sos.raft.reads",
        "sos.raft.sanitize",
        "sos.raft.snapshot",
        "sos.link.protocol",
        "sos.core.messages",
        "sos.core.admission",
        "sos.core.change_rules",
        "sos.core.change_words",
        "sos.core.changes",
        "sos.core.handover",
        "sos.core.newcomers",
        "sos.core.floor",
        "sos.admin.proof",
        "sos.blob.format",
        "sos.blob.wire",
        "sos.verify.findings",
        "sos.s3.attributes",
        "sos.s3.bodies",
        "sos.s3.canonical",
        "sos.s3.checksums",
        "sos.s3.chunked",
        "sos.s3.conditional",
        "sos.s3.cors",
        "sos.s3.dates",
        "sos.s3.errors",
        "sos.s3.form",
        "sos.s3.head",
        "sos.s3.limited_keys",
        "sos.s3.listing",
        "sos.s3.listing_xml",
        "sos.s3.metadata",
        "sos.s3.multipart",
        "sos.s3.multipart_xml",
        "sos.s3.operations",
        "sos.s3.parsing",
        "sos.s3.post_policy",
        "sos.s3.refusals",
        "sos.s3.sigv4",
        "sos.s3.subresources",
        "sos.s3.tagging",
        "sos.s3.target",
        "sos.s3.version_ids",
        "sos.s3.wire",
        "sos.s3.xml",
    }
)
# Where the wall clock is read: the source itself, log lines, and the command line as a client.
WALL_CLOCK = frozenset({"sos.clock", "sos.telemetry", "sos.admin.client", "sos.cli.presign"})
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


def test_each_library_has_exactly_its_doors() -> None:
    """House style 1: a library is imported behind its door alone, and every door is in use."""
    found: dict[str, set[str]] = {library: set() for library in DOORS}
    for module in MODULES.values():
        for imported in module.imports:
            library = imported.split(".")[0]
            if library in DOORS:
                found[library].add(module.name)
    assert found == {library: set(doors) for library, doors in DOORS.items()}


def _is_pure(name: str) -> bool:
    return name in PURE or name.startswith(PURE_PACKAGES)


def test_pure_modules_exist() -> None:
    """A renamed module must not slip out of the purity check."""
    assert not PURE - MODULES.keys()


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        is_for_types = (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        if not is_for_types:
            yield child
            yield from _runtime_nodes(child)


def _impurities(name: str, tree: ast.Module) -> list[str]:
    """What of ``tree`` a pure module must not have."""
    found = []
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if not _may_import(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            names = [alias.name for alias in node.names]
            if node.module == "sos.clock" and CLOCK_PROTOCOLS.issuperset(names):
                continue
            whole = [f"{node.module}.{one}" for one in names]
            are_modules = all(one in MODULES for one in whole)
            found += [
                one for one in (whole if are_modules else [node.module]) if not _may_import(one)
            ]
        elif isinstance(node, ast.Call):
            found += [text for text in [ast.unparse(node.func)] if _is_impure_call(text)]
    return [f"{name}: {what}" for what in found]


def _may_import(imported: str) -> bool:
    root = imported.split(".")[0]
    if root == "sos":
        return _is_pure(imported)
    return (
        root not in IMPURE
        and imported not in IMPURE
        and (root not in DOORS or root in PURE_LIBRARIES)
    )


def _is_impure_call(function: str) -> bool:
    return function in {"open", "input", "print"} or (
        function.split(".")[-1] in {"now", "utcnow", "today"} and "date" in function
    )


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _is_pure(name)))
def test_pure_modules_are_pure(name: str) -> None:
    """No I/O, no clock, no randomness, no impure module of ours in a pure one."""
    assert not _impurities(name, MODULES[name].tree)


@pytest.mark.parametrize(
    "text",
    [
        "import uuid",
        "import os.path",
        "from time import monotonic",
        "import urllib.request",
        "from sos.clock import SystemClock",
        "from sos.clock import Clock, SystemIds",
        "import sos.clock",
        "from sos import disk",
        "from sos.disk import SystemDisk",
        "from sos.config import load",
        "import lmdb",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime\nx = datetime.date.today()",
        "x = open('file')",
    ],
)
def test_the_check_of_purity_sees(text: str) -> None:
    """The check itself: each of these makes a module impure."""
    assert _impurities("sos.example", ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "from sos.clock import IdSource",
        "from sos import errors",
        "from sos.catalog.model import BlobId",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket",
        "from datetime import datetime\nx = datetime.fromtimestamp(0)",
        "from urllib.parse import quote",
    ],
)
def test_the_check_of_purity_allows(text: str) -> None:
    """And none of these."""
    assert not _impurities("sos.example", ast.parse(text))


def test_the_wall_clock_has_one_source() -> None:
    """House style 7, 9: what orders, expires or judges asks a clock that a test can set."""
    calls = {"time.time", "time.time_ns", "time.gmtime", "time.localtime"}
    found = {
        module.name
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and (
            (ast.unparse(node.func) in calls)
            or (
                ast.unparse(node.func).endswith((".now", ".utcnow", ".today"))
                and "date" in ast.unparse(node.func)
            )
        )
    }
    names = {module.name for module in MODULES.values() if module.imports & {*calls, "uuid"}}
    assert found == WALL_CLOCK
    assert not names


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
