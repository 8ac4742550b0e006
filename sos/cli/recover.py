"""`sos recover`: go on with what survived when a majority of the members is lost for good."""

from __future__ import annotations

import click

from sos.catalog.model import NodeId
from sos.core.recovery import Plan, Survey
from sos.core.recovery import recover as recover_directory
from sos.disk import SystemDisk


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--only", required=True, metavar="NAME,...", help="all members that survived")
@click.option("--yes", is_flag=True, help="do not ask")
def recover(directory: str, only: str, yes: bool) -> None:
    """Go on with the survivors of a lost majority."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    disk = SystemDisk()
    survey, plan = recover_directory(disk, directory, names, is_sure=False)
    for line in _picture(survey, plan):
        click.echo(line)
    if not yes and not plan.is_done:
        click.confirm("Begin a new epoch without the others?", abort=True)
    survey, plan = recover_directory(disk, directory, names, is_sure=True)
    for line in _next(survey.node, plan):
        click.echo(line)


def _picture(survey: Survey, plan: Plan) -> list[str]:
    """Who goes on, and what may be lost."""
    lines = [
        f"members: {', '.join(member.node for member in survey.members.members)}",
        f"go on:   {', '.join(member.node for member in plan.survivors.members)}",
        f"left out for good: {', '.join(plan.lost) or 'nobody more'}",
    ]
    if plan.is_done:
        return [*lines, f"{survey.node} has begun this epoch already"]
    if plan.may_lose:
        acknowledged = survey.members.majority
        return [
            *lines,
            f"MAY BE LOST: what was acknowledged by {acknowledged} members that are all left out. This directory has "
            f"the log up to entry {survey.last_index}; of objects above 16 KiB it has those copies that were on it.",
        ]
    return [*lines, "nothing that was acknowledged is lost, if all of these directories are sound"]


def _next(node: NodeId, plan: Plan) -> list[str]:
    others = [member.node for member in plan.survivors.members if member.node != node]
    lines = [f"{node} goes on in epoch {plan.survivors.epoch >> 32}"]
    if others:
        lines += [
            f"now run on each of {', '.join(others)}, stopped, before any of them is started:",
            f"    sos recover DIR --only {plan.others}",
            "then start all of them: they elect a leader once all are there",
        ]
    return [
        *lines,
        "never start one of those that were left out with its old directory: it is refused; `sos rejoin DIR` makes "
        "it an empty node that `sos member add` lets in again",
    ]
