"""The root secret key of commands that change something: read from a data directory or the environment, never sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sos.cli.options import fail

Function = TypeVar("Function", bound=Callable[..., Any])


def data_option(function: Function) -> Function:
    """``--data DIR`` of a node on this machine."""
    return click.option(
        "--data",
        metavar="DIR",
        help="a node's data directory, to read the root keys from (or set SOS_ROOT_SECRET_KEY)",
    )(function)


def root_secret(data: str | None) -> str:
    """The root secret key; ends the command where there is none."""
    secret = os.environ.get("SOS_ROOT_SECRET_KEY")
    if data is not None:
        path = os.path.join(data, "root-keys")
        try:
            with open(path, encoding="utf-8") as stream:
                rows = dict(line.strip().split("=", 1) for line in stream if "=" in line)
        except OSError as error:
            fail(f"{path}: cannot be read: {error.strerror}")
        secret = rows.get("SOS_ROOT_SECRET_KEY")
    if not secret:
        fail(
            "the root secret key is needed: give --data DIR of a node, or set SOS_ROOT_SECRET_KEY",
            2,
        )
    return secret
