"""`sos scrub`: how the re-reading of all replicas goes; with `--now` one pass on every node, as fast as disks give."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from sos.admin.client import AdminUnreachable, ask
from sos.cli.credentials import data_option, root_secret
from sos.cli.options import admin_option, fail
from sos.cli.progress import LiveLine
from sos.config import Address

_ASK_S: Final = 0.25
_SILENT_S_MAX: Final = 15.0  # nodes tell every 2 s; a gateway that restarts takes a second
_MIB: Final = 1024 * 1024


@click.command()
@admin_option
@data_option
@click.option(
    "--now", is_flag=True, help="read every replica of every node now; needs the root secret key"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def scrub(admin: Address, data: str | None, now: bool, as_json: bool) -> None:
    """Show how the nodes re-read their replicas, or have them do it now.

    The whole cluster: the node that is asked passes it on to every member that it reaches. Exit code 1 after --now when
    damage was found that could not be repaired, or a node could not be scrubbed.
    """
    console = Console(width=None if Console().is_terminal else 140, stderr=as_json)
    if not now:
        rows = _rows(admin)
        if as_json:
            click.echo(json.dumps({"nodes": rows}, indent=2))
        else:
            _show(console, rows)
        return
    answer = ask(admin, "POST", "/scrub", body={}, root_secret_key=root_secret(data))
    if answer.status != 200 or not isinstance(answer.body, dict):
        text = answer.body.get("error") if isinstance(answer.body, dict) else answer.body
        fail(f"the node at {admin} answered {answer.status}: {text}")
    rows = _follow(console, admin, answer.body["request"])
    problems = _problems(rows, answer.body["request"])
    if as_json:
        click.echo(json.dumps({"nodes": rows, "problems": problems}, indent=2))
    else:
        _show(console, rows)
        for problem in problems:
            console.print(problem, soft_wrap=True, markup=False)
    if problems:
        raise SystemExit(1)


def _rows(admin: Address) -> list[dict[str, Any]]:
    answer = ask(admin, "GET", "/scrub")
    if answer.status != 200 or not isinstance(answer.body, dict):
        fail(f"the node at {admin} answered {answer.status}: {answer.body}")
    rows: list[dict[str, Any]] = answer.body["nodes"]
    if not rows:
        fail(f"the node at {admin} does not belong to a cluster yet")
    return rows


def _follow(console: Console, admin: Address, request: str) -> list[dict[str, Any]]:
    """Until every node ended its pass, or is silent for too long; the last rows."""
    started = heard = time.monotonic()
    rows: list[dict[str, Any]] = []
    with LiveLine(console) as line:
        while True:
            try:
                rows = _rows(admin)
                heard = time.monotonic()
            except AdminUnreachable:
                if time.monotonic() - heard > _SILENT_S_MAX:
                    raise
            waiting = [row for row in rows if not _is_settled(row, request, started)]
            if rows and not waiting:
                return rows
            line.show("; ".join(_at(row) for row in waiting) or "asking")
            time.sleep(_ASK_S)


def _is_settled(row: dict[str, Any], request: str, started: float) -> bool:
    """Its pass of this request ended, or nothing more is to be heard of it."""
    if row.get("request") == request and row.get("is_done"):
        return True
    silent_s = row["age_s"]
    if time.monotonic() - started < _SILENT_S_MAX:
        return False
    return silent_s is None or silent_s > _SILENT_S_MAX or row.get("request") != request


def _at(row: dict[str, Any]) -> str:
    done, total = row.get("bytes_done", 0), row.get("bytes_total", 0)
    if row.get("running") != "now":
        return f"{row['name']} begins or waits for repairs"
    share = f"{100 * done / total:.0f} %" if total else "0 %"
    rate = row.get("bytes_s")
    pace = f" at {rate / _MIB:.0f} MiB/s" if rate else ""
    if row.get("reads") == "catalog":
        return f"{row['name']} reads its catalog"
    if total and done >= total:
        return f"{row['name']} waits for {row.get('unrepaired', 0)} repairs"
    return f"{row['name']} {share}{pace}, {row.get('found', 0)} bad"


def _problems(rows: list[dict[str, Any]], request: str) -> list[str]:
    """One line each for what needs a person."""
    problems = []
    objects: dict[str, None] = {}
    for row in rows:
        name = row["name"]
        if row.get("request") != request or not row.get("is_done"):
            problems.append(f"{name}: not scrubbed: not reached, or it stopped in the middle")
        elif row.get("error"):
            problems.append(f"{name}: not scrubbed to the end: {row['error']}")
        elif row.get("unrepaired", 0) > row.get("damaged_blobs", 0):
            problems.append(f"{name}: {row['unrepaired']} bad replicas are not made again yet")
        objects |= dict.fromkeys(row.get("damaged_objects", ()))
    count = max((row.get("damaged_blobs", 0) for row in rows), default=0)
    if count:
        problems.append(
            f"{count} blobs are damaged on all members; write these objects again, or delete them: "
            + (", ".join(objects) or "not known yet")
        )
    return problems


def _show(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = "member", "scrub", "last full pass", "read", "rate", "eta"
    for column in (*columns, "found", "repaired", "unrepaired", "damaged"):
        table.add_column(column)
    for row in rows:
        if row["age_s"] is None or "running" not in row:
            table.add_row(row["name"], "not heard of")
            continue
        rate, eta, last = row["bytes_s"] or row["last_bytes_s"], row["eta_s"], row["last_pass_ms"]
        table.add_row(
            row["name"],
            row["running"] if row["age_s"] < _SILENT_S_MAX else "not reachable",
            "none yet" if last is None else f"{datetime.fromtimestamp(last / 1000, UTC):%F %T}Z",
            _read(row),
            "" if rate is None else f"{rate / _MIB:.0f} MiB/s",
            "" if eta is None else f"{eta:.0f} s",
            *(str(row[name]) for name in ("found", "repaired", "unrepaired", "damaged_blobs")),
        )
    console.print(table)
    for field, what in (("damaged", "blobs"), ("damaged_objects", "objects")):
        names = sorted({name for row in rows for name in row.get(field, ())})
        if names:
            text = f"{what} damaged on all members: {', '.join(names)}"
            console.print(text, soft_wrap=True, markup=False)


def _read(row: dict[str, Any]) -> str:
    if row["running"] != "resting":
        return f"{row['bytes_done'] / _MIB:.0f} of {row['bytes_total'] / _MIB:.0f} MiB"
    return f"{row['last_bytes'] / _MIB:.0f} MiB" if row["last_bytes_s"] else ""
