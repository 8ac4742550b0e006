"""`sos status`: who leads, who is in sync."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sos.admin.client import ask
from sos.cli.options import admin_option, fail
from sos.config import Address


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def status(admin: Address, as_json: bool) -> None:
    """Show the cluster as one node sees it."""
    answer = ask(admin, "GET", "/status")
    if answer.status != 200 or not isinstance(answer.body, dict):
        fail(f"the node at {admin} answered {answer.status}: {answer.body}")
    if as_json:
        click.echo(json.dumps(answer.body, indent=2))
        return
    show(answer.body)


def show(body: dict[str, Any]) -> None:
    """Print the JSON of /status for a person."""
    console = Console(width=None if Console().is_terminal else 140)
    if body["cluster_id"] is None:
        console.print(f"{body['node']}: the cluster is not formed yet", soft_wrap=True)
        for line in body.get("waiting", []):
            console.print(f"  {line}", soft_wrap=True)
        return
    ready = "ready" if body["ready"] else "NOT ready"
    console.print(
        f"cluster {body['cluster_id']}  node {body['node']} ({ready})  leader {body['leader']}  "
        f"term {body['term']}  commit {body['commit_index']}  applied {body['applied_index']}"
    )
    table = Table(box=None, pad_edge=False)
    for column in (
        "member",
        "address",
        "s3",
        "reachable",
        "applied",
        "in sync",
        "blobs owed",
        "eta",
    ):
        table.add_column(column)
    for member in body["members"]:
        owed = member["blobs_owed"]
        eta = member["eta_s"]
        table.add_row(
            member["name"] + ("" if member["voter"] else " (no vote)"),
            member["address"],
            member["s3"],
            "yes" if member["reachable"] else "NO",
            str(member["applied_index"]),
            "yes" if member["in_sync"] else "no",
            "?" if owed is None else str(owed),
            "" if eta is None else f"{eta:.0f} s",
        )
    console.print(table)
    for warning in body.get("warnings", []):
        console.print(f"warning: {warning}", soft_wrap=True)
    if body.get("quorum_impossible"):
        console.print(f"no majority is possible without: {', '.join(body['quorum_impossible'])}")
