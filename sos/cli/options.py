"""Flags that several commands share, and the one way a command ends with an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from sos.config import Address, parse_address

Function = TypeVar("Function", bound=Callable[..., Any])

# flag, placeholder, help: every setting that `serve` and `config check` take
_NODE_FLAGS = (
    ("data", "DIR", "directory of this node's files"),
    ("name", "NAME", "which node of the seed list this is"),
    ("seeds", "NAME=HOST:PORT,...", "every first member and its node-to-node address"),
    ("join", "HOST:PORT,...", "node addresses of a cluster to become a member of"),
    ("listen", "HOST:PORT", "where the node port binds (default: its own address in the list)"),
    ("blob-listen", "HOST:PORT", "where blobs are taken (default: node port + 1)"),
    ("s3", "HOST:PORT", "S3 listener (default 127.0.0.1:9000)"),
    ("admin", "HOST:PORT", "admin listener (default 127.0.0.1:9400)"),
    ("gateways", "N", "gateway processes (default: one per core, at most 4)"),
    ("scrub-bytes-s", "BYTES", "how fast the paced scrub re-reads blobs (default 10485760)"),
    ("s3-tls-cert", "FILE", "certificate chain for HTTPS"),
    ("s3-tls-key", "FILE", "its private key"),
    ("region", "NAME", "region of the S3 signatures (default us-east-1)"),
    ("s3-domain", "NAME", "also serve buckets as BUCKET.NAME"),
    ("s3-superset", "true|false", "also accept what the RFCs allow and AWS refuses"),
    ("cluster-key-file", "FILE", "file with the secret that all nodes share (or SOS_CLUSTER_KEY)"),
    (
        "membership-admit",
        "auto|manual",
        "with --join: ask to be admitted, or wait for `sos member add`",
    ),
    ("log-level", "LEVEL", "debug, info, warning or error"),
)


def node_options(function: Function) -> Function:
    """The flags of a node's configuration; the command receives them as ``**flags``."""
    for flag, placeholder, text in reversed(_NODE_FLAGS):
        function = click.option(f"--{flag}", metavar=placeholder, help=text)(function)
    return click.option("--config", "config_file", metavar="FILE", help="TOML file of settings")(
        function
    )


def given_flags(flags: dict[str, str | None]) -> dict[str, str]:
    """The flags that were given, by flag name."""
    return {name.replace("_", "-"): text for name, text in flags.items() if text is not None}


def admin_option(function: Function) -> Function:
    """``--admin HOST:PORT`` of the node to ask."""
    return click.option(
        "--admin",
        "admin",
        metavar="HOST:PORT",
        default=lambda: os.environ.get("SOS_ADMIN", "127.0.0.1:9400"),
        help="admin address of any node (default 127.0.0.1:9400)",
        callback=_parse_admin,
    )(function)


def _parse_admin(context: click.Context, parameter: click.Parameter, value: str) -> Address:
    try:
        return parse_address(value)
    except ValueError as error:
        raise click.UsageError(f"--admin {value!r}: {error}") from error


class CommandFailed(click.ClickException):
    """A command ends with one line and its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self._code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click has a class variable
        return self._code


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """End the command with one line."""
    raise CommandFailed(message, exit_code)
