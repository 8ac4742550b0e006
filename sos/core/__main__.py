"""`python -m sos.core FD`: a node's core, started by `sos serve`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import Final

import uvloop

from sos import failpoints
from sos.clock import SystemIds, node_clock
from sos.core import start
from sos.core.process import CoreProcess
from sos.disk import SystemDisk
from sos.errors import FatalStop, StartRefused
from sos.inherit import Inheritance, receive
from sos.telemetry import log

# Operations make no cycles, but many objects: by default a full collection comes after 700 * 10 * 10 of them.
_GC_THRESHOLD: Final = 50_000


def main() -> int:
    """Run until SIGTERM; the exit code."""
    inheritance = receive(sys.argv[1:])
    config = inheritance.config
    os.umask(0o077)
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    log.configure(level=config.log.level, node=config.node.name, process="core")
    opened: start.OpenDirectory | None = None
    try:
        failpoints.arm(config.test.failpoints, test_mode=config.test.enabled)
        opened = start.open_directory(config, disk=SystemDisk(), ids=SystemIds())
        log.configure(level=config.log.level, node=opened.directory.identity.node, process="core")
        if start.has_catalog(opened.directory):
            start.probe_catalog(opened.directory)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(inheritance, opened))
    except StartRefused as error:
        sys.stderr.write(f"sos: {error}\n")
        if opened is not None:
            start.remove_unpromised(opened, config.node.data)
        return error.exit_code
    except FatalStop as error:
        log.error("core.fatal", why=str(error), exit_code=error.exit_code)
        return error.exit_code


async def _run(inheritance: Inheritance, opened: start.OpenDirectory) -> int:
    clock = node_clock(inheritance.config.test.clock_file)
    ids, disk = SystemIds(), SystemDisk()
    return await CoreProcess(inheritance, opened, clock=clock, ids=ids, disk=disk).run()


if __name__ == "__main__":
    raise SystemExit(main())
