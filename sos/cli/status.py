"""`sos status`: who leads, who is in sync."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sos.admin.client import AdminUnreachable, ask
from sos.cli.options import admin_option, fail
from sos.config import Address

_MIB: Final = 1 << 20
_PIPE_WIDTH: Final = 140  # where the output is no terminal


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.option("--watch", is_flag=True, help="keep showing it until Ctrl-C")
@click.option(
    "--every", metavar="SECONDS", type=click.FloatRange(min=0.1), default=1.0, show_default=True,
    help="with --watch: how often to ask",
)  # fmt: skip
def status(admin: Address, as_json: bool, watch: bool, every: float) -> None:
    """Show the cluster as one node sees it."""
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other: call --json in a loop")
    if watch:
        _watch(admin, every)
    body = fetch(admin)
    if as_json:
        click.echo(json.dumps(body, indent=2))
    else:
        show(body)


def fetch(admin: Address) -> dict[str, Any]:
    """The JSON of /status. Raises: AdminUnreachable, CommandFailed."""
    answer = ask(admin, "GET", "/status")
    if answer.status != 200 or not isinstance(answer.body, dict):
        fail(f"the node at {admin} answered {answer.status}: {answer.body}")
    return answer.body


def show(body: dict[str, Any]) -> None:
    """Print the JSON of /status for a person."""
    _console().print(render(body), soft_wrap=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def _watch(admin: Address, every_s: float) -> None:
    """Until Ctrl-C. A node that does not answer is said so, and asked again."""
    console = _console()
    if not console.is_terminal:
        while True:
            console.print(_now(admin), soft_wrap=True)
            time.sleep(every_s)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(_now(admin), refresh=True)
            time.sleep(every_s)


def _now(admin: Address) -> RenderableType:
    stamp = Text(time.strftime("%H:%M:%S"))
    try:
        return Group(stamp, render(fetch(admin)))
    except AdminUnreachable as error:
        return Group(stamp, Text(str(error)))


def render(body: dict[str, Any]) -> RenderableType:
    """The JSON of /status for a person."""
    if body["cluster_id"] is None:
        lines = [f"{body['node']}: the cluster is not formed yet"]
        return Text("\n  ".join([*lines, *body.get("waiting", [])]))
    ready = "ready" if body["ready"] else "NOT ready"
    parts: list[RenderableType] = [
        Text(
            f"cluster {body['cluster_id']}  node {body['node']} ({ready})  leader {body['leader']}  "
            f"term {body['term']}  commit {body['commit_index']}  applied {body['applied_index']}"
        ),
        _members(body["members"]),
    ]
    parts += [Text(_resync(row)) for row in body["members"] if row.get("resync")]
    parts += [Text(f"warning: {warning}") for warning in body.get("warnings", [])]
    if body.get("quorum_impossible"):
        names = ", ".join(body["quorum_impossible"])
        parts.append(Text(f"no majority is possible without: {names}"))
        parts.append(Text("start them; only if they are lost for good: `sos recover`"))
    return Group(*parts)


def _resync(row: dict[str, Any]) -> str:
    """What a member gets now, how far that is and how fast."""
    now, eta = row["resync"], row["eta_s"]
    left = "" if eta is None else f", about {eta:.0f} s left"
    return (
        f"{row['name']} gets blobs: {now['blobs_done']} of {now['blobs_total']}, "
        f"{now['bytes_done'] / _MIB:.1f} of {now['bytes_total'] / _MIB:.1f} MiB, "
        f"{now['bytes_s'] / _MIB:.1f} MiB/s{left}"
    )


def _mark(row: dict[str, Any]) -> str:
    if row.get("leaving"):
        return " (leaving)"
    return "" if row["voter"] else " (no vote)"


def _members(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = ("member", "address", "s3", "reachable", "applied", "in sync", "blobs owed", "eta")
    for column in (*columns, "free", "version"):
        table.add_column(column)
    for row in rows:
        owed, eta, free = row["blobs_owed"], row["eta_s"], row.get("free_bytes")
        low = " FULL" if row.get("disk_full") else " LOW" if row.get("disk_low") else ""
        table.add_row(
            row["name"] + _mark(row),
            row["address"],
            row["s3"],
            "yes" if row["reachable"] else "NO",
            str(row["applied_index"]),
            "yes" if row["in_sync"] else "no",
            "?" if owed is None else str(owed),
            "" if eta is None else f"{eta:.0f} s",
            "?" if free is None else f"{free / 1e9:.1f} GB{low}",
            row.get("version") or "?",
        )
    return table
