"""What a supervisor hands to its children: configuration and listening sockets, by descriptor.

Nothing secret is on a command line or in an environment. A child also ties its life to its parent here.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from sos.config import Config, from_plain, to_plain
from sos.lifeline import die_with_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """A child's start: its configuration, its number among the gateways, its listening sockets.

    ``sockets`` by role: "node" and "admin" for a core, "s3" and "blob" for a gateway. ``link_token``: the
    core takes only gateways that show it, so that one of another supervisor over the same directory,
    whose core is about to be refused, is not served.
    """

    config: Config
    gateway: int
    link_token: str
    sockets: dict[str, socket.socket]


def prepare(
    config: Config, *, gateway: int, sockets: Mapping[str, socket.socket], link_token: str
) -> tuple[int, list[int]]:
    """A descriptor to name on the child's command line, and all descriptors to pass to it.

    The first one is the caller's to close when the child runs. It is a file in memory, so no secret
    reaches a disk.
    """
    descriptors = {role: listener.fileno() for role, listener in sockets.items()}
    document = {
        "config": to_plain(config),
        "gateway": gateway,
        "link_token": link_token,
        "sockets": descriptors,
        "parent": os.getpid(),
    }
    memory = os.memfd_create("sos-inheritance", 0)
    os.write(memory, json.dumps(document).encode())
    return memory, [memory, *descriptors.values()]


def receive(arguments: list[str]) -> Inheritance:
    """What ``prepare`` wrote; the process now dies with its parent, however that dies."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("this module is started by `sos serve`\n")
        raise SystemExit(2)
    memory = int(arguments[0])
    size = os.fstat(memory).st_size
    document = json.loads(os.pread(memory, size, 0))
    os.close(memory)
    die_with_parent(document["parent"])
    return Inheritance(
        config=from_plain(document["config"]),
        gateway=document["gateway"],
        link_token=document["link_token"],
        sockets={role: _adopt(descriptor) for role, descriptor in document["sockets"].items()},
    )


def _adopt(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)  # a probe that the core starts must not keep ports open
    listener.setblocking(False)
    return listener
