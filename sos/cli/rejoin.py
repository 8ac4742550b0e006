"""`sos rejoin`: a stopped node comes back as an empty member, or its directory is declared to be no copy."""

from __future__ import annotations

import click

from sos.clock import SystemClock, SystemIds
from sos.core.returning import declare_moved, rejoin_empty
from sos.disk import SystemDisk


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--moved", is_flag=True, help="the directory was moved; nothing newer ever ran")
@click.option("--yes", is_flag=True, help="do not ask")
def rejoin(directory: str, moved: bool, yes: bool) -> None:
    """Bring a stopped node back as an empty member."""
    if moved:
        question = (
            f"Did no node ever run on a newer state of {directory} than this one? If one did, writes that were "
            "acknowledged may be lost"
        )
    else:
        question = (
            f"Make {directory} an empty member? What it has is put into {directory}/quarantine, blobs stay, and the "
            "other nodes heal it"
        )
    if not yes:
        click.confirm(question, abort=True)
    disk = SystemDisk()
    if moved:
        click.echo(declare_moved(disk, directory))
    else:
        click.echo(rejoin_empty(disk, directory, ids=SystemIds(), clock=SystemClock()))
