"""The `sos` command and its subcommands."""

from __future__ import annotations

import sys
from typing import Final

import click

from sos import __version__
from sos.cli.options import fail, given_flags, node_options
from sos.config import ConfigProblems, describe, load
from sos.errors import LOST_DIRECTORY_ADVICE, SosError, StartRefused

_NEXT_RELEASE: Final = "comes with the next release"


class _Commands(click.Group):
    """Loads a command's module when it is run: `serve` must not pay for rich."""

    _LAZY: Final = {
        "demo": ("sos.cli.demo", "demo"),
        "status": ("sos.cli.status", "status"),
        "key": ("sos.cli.key", "key"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._LAZY:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        module, name = self._LAZY[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sos")
def sos() -> None:
    """A self-hosted S3 whose compare-and-swap you can trust."""


@sos.command()
@node_options
@click.option("--join", metavar="HOST:PORT,...", help=f"join an existing cluster: {_NEXT_RELEASE}")
def serve(config_file: str | None, join: str | None, **flags: str | None) -> None:
    """Run one node."""
    if join is not None:
        fail(f"--join {_NEXT_RELEASE}; form a new cluster with --seeds")
    config = load(given_flags(flags), file=config_file)
    from sos.supervisor import serve as serve_node

    raise SystemExit(serve_node(config))


@sos.group()
def config() -> None:
    """Look at the configuration."""


@config.command("check")
@node_options
def config_check(config_file: str | None, **flags: str | None) -> None:
    """Print the effective configuration, without secrets."""
    click.echo(describe(load(given_flags(flags), file=config_file)))


_ANYTHING: Final = {"ignore_unknown_options": True, "allow_extra_args": True}


def _later(name: str, text: str, now: str = "") -> None:
    """A command of the contract that this release only names. ``now``: what to do until it comes."""

    @sos.command(
        name,
        context_settings=_ANYTHING,
        help=f"{text} ({_NEXT_RELEASE}).",
        short_help=f"{text} (next release)",
    )
    def later() -> None:
        fail(f"`sos {name}` {_NEXT_RELEASE}{now and '; until then: '}{now}")


_later("member", "List, add, remove, replace or move members")
_later("scrub", "Read every replica again")
_later("verify", "Check a stopped node's directory")
_later("rejoin", "Bring a node back as an empty member", LOST_DIRECTORY_ADVICE)
_later(
    "recover",
    "Go on with the survivors of a lost majority",
    "start the stopped nodes again; every one that comes back with its directory counts",
)


def main() -> None:
    """Run the command line; every error is one line on stderr and an exit code that is not 0."""
    try:
        code = sos.main(standalone_mode=False, prog_name="sos")
        raise SystemExit(code if isinstance(code, int) else 0)
    except ConfigProblems as error:
        for problem in error.problems:
            sys.stderr.write(f"sos: {problem}\n")
        raise SystemExit(error.exit_code) from None
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        raise SystemExit(error.exit_code) from None
    except click.ClickException as error:
        text = " ".join(error.format_message().split())
        sys.stderr.write(f"sos: {text}{_hint(error)}\n")
        raise SystemExit(error.exit_code) from None
    except StartRefused as error:
        sys.stderr.write(f"sos: {error}\n")
        raise SystemExit(error.exit_code) from None
    except (SosError, OSError) as error:
        sys.stderr.write(f"sos: {error}\n")
        raise SystemExit(1) from None
    except (click.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None


def _hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f" (see `{error.ctx.command_path} --help`)"
    return ""
