"""The `sos` command line: its subcommands, and how each kind of error ends it."""

from __future__ import annotations

import sys
from typing import Final

import click

from sos import __version__
from sos.cli.options import given_flags, node_options
from sos.config import ConfigProblems, describe, load
from sos.errors import SosError, StartRefused


class _Commands(click.Group):
    """Loads a command's module when it is run: `serve` must not pay for rich."""

    _LAZY: Final = {
        "demo": ("sos.cli.demo", "demo"),
        "status": ("sos.cli.status", "status"),
        "doctor": ("sos.cli.doctor", "doctor"),
        "key": ("sos.cli.key", "key"),
        "member": ("sos.cli.member", "member"),
        "recover": ("sos.cli.recover", "recover"),
        "rejoin": ("sos.cli.rejoin", "rejoin"),
        "scrub": ("sos.cli.scrub", "scrub"),
        "verify": ("sos.cli.verify", "verify"),
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
def serve(config_file: str | None, **flags: str | None) -> None:
    """Run one node."""
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


def run() -> None:
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
