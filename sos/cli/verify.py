"""`sos verify DIR`: is everything in a stopped node's directory as it was written?"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from sos.cli.options import fail
from sos.cli.progress import LiveLine
from sos.verify.directory import NotVerifiable, verify_directory
from sos.verify.findings import Finding, Progress

_MIB = 1024 * 1024


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def verify(directory: Path, as_json: bool) -> None:
    """Read every record and every blob in DIRECTORY of a stopped node; nothing is changed.

    One line for each finding; exit code 1 when something is damaged.
    """
    console = Console(stderr=as_json, width=None if Console().is_terminal else 140)
    try:
        with LiveLine(console) as line:

            def on_finding(finding: Finding) -> None:
                if not as_json:
                    console.print(finding.line(), soft_wrap=True, markup=False, highlight=False)

            def on_progress(progress: Progress) -> None:
                line.show(_at(progress))

            report = verify_directory(directory, on_progress=on_progress, on_finding=on_finding)
    except NotVerifiable as error:
        fail(str(error))
    damage = sum(finding.is_damage for finding in report.findings)
    if as_json:
        document = {
            "directory": str(directory),
            "node": report.node,
            "clean": report.is_clean,
            "findings": [finding.plain() for finding in report.findings],
            "checked": report.facts,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        facts = report.facts
        read = (
            f"journal {facts.get('journal_first', '?')} to {facts.get('journal_last', '?')}, "
            f"{facts.get('records', '?')} catalog records, {facts.get('replicas', '?')} replicas"
        )
        verdict = f"{damage} damaged" if damage else "clean"
        console.print(
            f"{report.node or directory}: {verdict} ({read})", soft_wrap=True, markup=False
        )
    if damage:
        raise SystemExit(1)


def _at(progress: Progress) -> str:
    if progress.unit == "bytes":
        done, total = progress.done // _MIB, progress.total // _MIB
        return f"{progress.part}: {done} of {total} MiB"
    return f"{progress.part}: {progress.done} of {progress.total} {progress.unit}"
