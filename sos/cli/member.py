"""`sos member`: who belongs to the cluster, and changes of it.

A change is asked for again and again until the cluster says that it is done: what is done already is not done
again, so a kill of this command, of the node that is asked or of the leader loses nothing, and repeating goes on.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from sos.admin.client import AdminUnreachable, ask
from sos.cli.credentials import data_option, root_secret
from sos.cli.options import CommandFailed, admin_option, fail
from sos.cli.progress import LiveLine
from sos.cli.status import fetch
from sos.config import Address

_ASK_S: Final = 0.5
_ANSWER_S_MAX: Final = 10.0
_SILENT_S_MAX: Final = 20.0  # a node that restarts answers again within this
_INTERRUPTED: Final = "interrupted: the members are as far as the last step that was shown; the same command goes on from there"
_COLUMNS: Final = ("name", "address", "s3", "reachable", "in sync", "state")


@click.group()
def member() -> None:
    """List, add, remove, replace or move members."""


@member.command("list")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="one JSON list")
def list_members(admin: Address, as_json: bool) -> None:
    """Show the members, and nodes that wait to become one."""
    body = fetch(admin)
    rows: list[dict[str, Any]] = body["members"]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column)
    leader = str(body["leader"]).partition("@")[0]
    for row in rows:
        table.add_row(
            row["name"],
            row["address"],
            row["s3"],
            "yes" if row["reachable"] else "NO",
            "yes" if row["in_sync"] else "no",
            _state(row, leader),
        )
    Console(width=None if Console().is_terminal else 140).print(table)


def _state(row: dict[str, Any], leader: str) -> str:
    if row.get("leaving"):
        return "leaving"
    if not row["voter"]:
        return "waits to be admitted"
    return "leader" if row["name"] == leader else "member"


@member.command()
@admin_option
@data_option
@click.argument("node", metavar="NAME=HOST:PORT")
def add(admin: Address, data: str | None, node: str) -> None:
    """Let a node in that was started with --join, or take back that it leaves."""
    name, address = _named_address(node)
    _change(admin, data, {"action": "add", "name": name, "address": address})


@member.command()
@admin_option
@data_option
@click.argument("name", metavar="NAME")
def remove(admin: Address, data: str | None, name: str) -> None:
    """Remove a member, once what it holds lies on enough others."""
    _change(admin, data, {"action": "remove", "name": name})


@member.command()
@admin_option
@data_option
@click.argument("old", metavar="OLD")
@click.argument("node", metavar="NEW=HOST:PORT")
def replace(admin: Address, data: str | None, old: str, node: str) -> None:
    """Add NEW, then remove OLD."""
    new, address = _named_address(node)
    _change(admin, data, {"action": "replace", "name": old, "new": new, "address": address})


@member.command()
@admin_option
@data_option
@click.argument("name", metavar="NAME")
@click.argument("address", metavar="HOST:PORT")
def move(admin: Address, data: str | None, name: str, address: str) -> None:
    """Tell the others that a member's node port is at another address now."""
    _change(admin, data, {"action": "move", "name": name, "address": address})


def _named_address(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not NAME=HOST:PORT")
    return name, address


def _change(admin: Address, data: str | None, document: dict[str, str]) -> None:
    """Ask until it is done. Raises: CommandFailed."""
    secret = root_secret(data)
    has_worked = False
    console = Console(stderr=True)
    try:
        with LiveLine(console) as line:
            answered_at = time.monotonic()
            while True:
                answer = _ask(admin, secret, document)
                now = time.monotonic()
                if answer is not None:
                    answered_at = now
                elif not has_worked or now - answered_at > _SILENT_S_MAX:
                    fail(
                        f"no answer from the admin listener at {admin}: ask another node with --admin; "
                        "the same command goes on from where it is"
                    )
                state = "unknown" if answer is None else answer["state"]
                if state in ("done", "already"):
                    break
                if answer is not None and state == "refused":
                    fail(answer["reason"])
                has_worked |= state == "working"
                line.show("no answer; asking again" if answer is None else _text(answer))
                time.sleep(_ASK_S)
    except KeyboardInterrupt:
        raise CommandFailed(_INTERRUPTED, 130) from None
    assert answer is not None
    what = "done" if has_worked or state == "done" else "already"
    click.echo(f"{what}: {answer['reason']}")


def _ask(admin: Address, secret: str, document: dict[str, str]) -> dict[str, Any] | None:
    """What the node says now; None: nothing. Raises: CommandFailed."""
    try:
        answer = ask(
            admin, "POST", "/member", body=document, root_secret_key=secret, timeout_s=_ANSWER_S_MAX
        )
    except AdminUnreachable:
        return None
    if not isinstance(answer.body, dict):
        fail(f"the node at {admin} answered {answer.status}: {answer.body}")
    if answer.status == 503:
        return {"state": "unknown", "reason": answer.body.get("error", "")}
    if answer.status != 200:
        fail(str(answer.body.get("error")), 2 if answer.status == 400 else 1)
    return answer.body


def _text(answer: dict[str, Any]) -> str:
    """One line of what a change is at."""
    text = str(answer.get("step") or answer.get("reason") or "waiting")
    progress = answer.get("progress") or {}
    if progress:
        text += " (" + ", ".join(f"{what} {count}" for what, count in progress.items()) + ")"
    eta = answer.get("eta_s")
    return text if eta is None else f"{text}, {eta:.0f} s to go"
