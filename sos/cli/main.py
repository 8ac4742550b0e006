"""The `sos` command's entry. It imports nothing at its top: Ctrl-C in the first tenths of a second is no traceback."""

from __future__ import annotations


def main() -> None:
    """Run the command line; Ctrl-C ends it with 130 from here on."""
    try:
        from sos.cli.commands import run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
