"""`sos doctor`: what is wrong with a cluster, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import click
from rich.console import Console

from sos import __version__
from sos.admin.client import AdminUnreachable
from sos.cli.options import admin_option
from sos.cli.status import fetch
from sos.config import Address

_SLOW_SYNC_MS = 100.0  # a leader this slow hands over, if another one is clearly faster
_ROOM_SHARE_MIN = (
    0.1  # of the disk: below it a person should plan, long before the reserve refuses writes
)


class Severity(Enum):
    """``BROKEN``: requests fail now. ``AT_RISK``: the next failure may hurt. ``NOTE``: good to know."""

    BROKEN = "broken"
    AT_RISK = "at risk"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, in words of an operator."""

    severity: Severity
    what: str
    do: str


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="one JSON list")
def doctor(admin: Address, as_json: bool) -> None:
    """Say what is wrong and what to do; exit code 1 if anything is broken or at risk."""
    try:
        findings = diagnose(fetch(admin))
    except AdminUnreachable as error:
        do = (
            "is the node running there? Look at its log; give --admin HOST:PORT of another node to see the rest "
            "of the cluster"
        )
        findings = [Finding(severity=Severity.BROKEN, what=str(error), do=do)]
    if as_json:
        rows = [asdict(found) | {"severity": found.severity.value} for found in findings]
        click.echo(json.dumps(rows, indent=2))
    else:
        _show(findings)
    if any(found.severity is not Severity.NOTE for found in findings):
        raise SystemExit(1)


def _show(findings: list[Finding]) -> None:
    console = Console(width=None if Console().is_terminal else 140)
    if not findings:
        console.print("nothing is wrong: every member is reachable and in sync", markup=False)
    for found in findings:
        console.print(f"{found.severity.value}: {found.what}", markup=False, soft_wrap=True)
        console.print(f"    {found.do}", markup=False, soft_wrap=True)


def diagnose(status: dict[str, Any]) -> list[Finding]:
    """What the JSON of /status tells, the worst first. Pure."""
    found = [*_cluster(status), *_members(status), *_copies(status), *_versions(status)]
    order = list(Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _cluster(status: dict[str, Any]) -> Iterator[Finding]:
    if status["cluster_id"] is None:
        waiting = "; ".join(status.get("waiting", [])) or "no reason is known yet"
        yield Finding(
            severity=Severity.BROKEN,
            what=f"the cluster is not formed: {waiting}",
            do="start every node of the seed list, with the same list and the same cluster key",
        )
        return
    impossible = status.get("quorum_impossible")
    if impossible:
        yield Finding(
            severity=Severity.BROKEN,
            what=f"no majority is possible without: {', '.join(impossible)}",
            do="start these nodes again, with their data directories; only if their disks are lost for good: "
            "stop the survivors and run `sos recover DIR --only NAME,...` on each",
        )
    elif status["leader"] is None:
        yield Finding(
            severity=Severity.BROKEN,
            what="there is no leader",
            do="it takes about a second to elect one; if it stays, the nodes do not reach each other's node "
            "ports: look at their logs for transport.dial.failed",
        )
    elif not status["ready"]:
        yield Finding(
            severity=Severity.BROKEN,
            what=f"{status['node']} does not serve requests, although the cluster has a leader",
            do="it is starting, catching up, or its gateway died: look at its log; clients can use another node",
        )
    for warning in status.get("warnings", []):
        yield Finding(
            severity=Severity.AT_RISK, what=warning, do="the line says what has to be corrected"
        )


def _members(status: dict[str, Any]) -> Iterator[Finding]:
    rows = status["members"]
    voters = sum(bool(row["voter"]) for row in rows)
    for row in rows:
        name = row["name"]
        if not row["reachable"]:
            spare = (voters - 1) // 2 - sum(not other["reachable"] for other in rows)
            rest = "no further node may fail" if spare <= 0 else f"{spare} more may fail"
            yield Finding(
                severity=Severity.AT_RISK,
                what=f"{name} at {row['address']} is not reachable ({rest})",
                do="start it again with its data directory; an empty directory heals by itself; if the machine is "
                f"gone for good: `sos member replace {name} NEW=HOST:PORT`",
            )
        elif not row["in_sync"]:
            yield Finding(
                severity=Severity.AT_RISK,
                what=_behind(row),
                do="wait; stop no other node meanwhile",
            )
        yield from _disk(row, own=status)


def _behind(row: dict[str, Any]) -> str:
    owed, eta = row["blobs_owed"], row["eta_s"]
    if owed is None:
        return f"{row['name']} is not in sync: what it lacks is not compared yet"
    rest = "" if eta is None else f", about {eta:.0f} s"
    return f"{row['name']} is not in sync: {owed} replicas to get{rest}"


def _disk(row: dict[str, Any], *, own: dict[str, Any]) -> Iterator[Finding]:
    sync_ms = row.get("sync_ms")
    if sync_ms is not None and sync_ms >= _SLOW_SYNC_MS:
        yield Finding(
            severity=Severity.AT_RISK,
            what=f"{row['name']} has a slow disk: {sync_ms:.0f} ms a sync; its own clients wait for it",
            do="find out what else uses that disk, or replace it; send clients to other nodes meanwhile",
        )
    if row.get("disk_full"):
        yield Finding(
            severity=Severity.BROKEN,
            what=f"{row['name']} has no room left: it takes no log entries until there is space",
            do="free space on that file system, by hand if deletes are refused, too; it goes on by itself",
        )
        return
    if row.get("disk_low"):
        yield Finding(
            severity=Severity.BROKEN,
            what=f"{row['name']} is below its disk reserve: new writes are refused, deletes and reads go on",
            do="delete objects or enlarge the disk; writes come back by themselves",
        )
        return
    is_own = own["node"].partition("@")[0] == row["name"]
    disk = own.get("disk") or {}
    if (
        is_own
        and disk.get("total_bytes")
        and disk["free_bytes"] < _ROOM_SHARE_MIN * disk["total_bytes"]
    ):
        yield Finding(
            severity=Severity.NOTE,
            what=f"{row['name']} has {disk['free_bytes'] / 1e9:.1f} GB free of {disk['total_bytes'] / 1e9:.1f} GB",
            do="plan for more room before the reserve is reached",
        )


def _copies(status: dict[str, Any]) -> Iterator[Finding]:
    if status.get("unreachable_blobs"):
        yield Finding(
            severity=Severity.BROKEN,
            what=f"{status['unreachable_blobs']} blobs have no reachable copy: their objects answer 503",
            do="start the nodes that hold them",
        )
    if status.get("blobs_at_risk"):
        yield Finding(
            severity=Severity.AT_RISK,
            what=f"{status['blobs_at_risk']} blobs have fewer copies than a write quorum",
            do="wait for the resync; stop no node meanwhile",
        )


def _versions(status: dict[str, Any]) -> Iterator[Finding]:
    versions = {row["name"]: row["version"] for row in status["members"] if row.get("version")}
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        yield Finding(
            severity=Severity.NOTE,
            what=f"the members run different versions: {listed}",
            do="finish the rolling upgrade: one node at a time, waiting for in_sync",
        )
    if status.get("version") and _release(status["version"]) > _release(__version__):
        yield Finding(
            severity=Severity.NOTE,
            what=f"this command is of version {__version__}, the node of {status['version']}",
            do="use the node's version of the command",
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
