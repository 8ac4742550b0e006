"""`sos key`: access keys. Proved by the root secret key, which is read, never sent."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sos.admin.client import ask
from sos.cli.credentials import data_option, root_secret
from sos.cli.options import admin_option, fail
from sos.config import Address


@click.group()
def key() -> None:
    """List, create and revoke access keys."""


@key.command("list")
@admin_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="one JSON list")
def list_keys(admin: Address, data: str | None, as_json: bool) -> None:
    """Show every access key, without secrets."""
    rows = _ask(admin, data, "GET", "/keys", None)["keys"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("access key", "kind", "state"):
        table.add_column(column)
    for row in rows:
        kind = "root" if row["root"] else "user"
        table.add_row(row["access_key"], kind, "enabled" if row["enabled"] else "revoked")
    Console().print(table)


@key.command()
@admin_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def create(admin: Address, data: str | None, as_json: bool) -> None:
    """Make a new access key and print it; the secret is shown this once."""
    body = _ask(admin, data, "POST", "/keys", {})
    if as_json:
        click.echo(json.dumps(body, indent=2))
        return
    click.echo(f"access key {body['access_key']}\nsecret key {body['secret_key']}")


@key.command()
@admin_option
@data_option
@click.argument("access_key")
def revoke(admin: Address, data: str | None, access_key: str) -> None:
    """Make ACCESS_KEY invalid on every node, at once."""
    _ask(admin, data, "POST", "/keys/revoke", {"access_key": access_key})
    click.echo(f"revoked {access_key}")


def _ask(
    admin: Address, data: str | None, method: str, path: str, body: dict[str, Any] | None
) -> dict[str, Any]:
    answer = ask(admin, method, path, body=body, root_secret_key=root_secret(data))
    if answer.status != 200 or not isinstance(answer.body, dict):
        text = answer.body.get("error") if isinstance(answer.body, dict) else answer.body
        fail(f"the node at {admin} answered {answer.status}: {text}")
    return answer.body
