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
    """List, create, rotate and revoke access keys."""


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
    for column in ("access key", "name", "kind", "state", "may"):
        table.add_column(column)
    for row in rows:
        kind = "root" if row["root"] else "user"
        state = "enabled" if row["enabled"] else "revoked"
        table.add_row(row["access_key"], row.get("name", ""), kind, state, _may(row))
    Console().print(table)


@key.command()
@admin_option
@data_option
@click.option("--name", default="", help="for people, shown by list")
@click.option("--bucket", "buckets", multiple=True, help="only this bucket (may be repeated)")
@click.option(
    "--prefix", "prefixes", multiple=True, help="only keys that start so (may be repeated)"
)
@click.option("--read-only", is_flag=True, help="no writes, no deletes")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def create(
    admin: Address,
    data: str | None,
    name: str,
    buckets: tuple[str, ...],
    prefixes: tuple[str, ...],
    read_only: bool,
    as_json: bool,
) -> None:
    """Make a new access key and print it; the secret is shown this once."""
    limits = {"name": name, "buckets": buckets, "prefixes": prefixes, "read_only": read_only}
    _show_new(_ask(admin, data, "POST", "/keys", {k: v for k, v in limits.items() if v}), as_json)


@key.command()
@admin_option
@data_option
@click.option("--revoke", is_flag=True, help="make ACCESS_KEY invalid at once")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.argument("access_key")
def rotate(admin: Address, data: str | None, revoke: bool, as_json: bool, access_key: str) -> None:
    """Make a new access key with the limits of ACCESS_KEY, which stays valid until it is revoked."""
    body = {"access_key": access_key, "revoke": revoke}
    _show_new(_ask(admin, data, "POST", "/keys/rotate", body), as_json)


def _may(row: dict[str, Any]) -> str:
    """What a key may do, in a few words."""
    words = ["read" if row.get("read_only") else "read, write"]
    if buckets := row.get("buckets"):
        words.append(f"in {', '.join(buckets)}")
    if prefixes := row.get("prefixes"):
        words.append(f"below {', '.join(prefixes)}")
    return " ".join(words)


def _show_new(body: dict[str, Any], as_json: bool) -> None:
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
