"""`python -m sos.core FD`: a node's core, started by `sos serve`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from dataclasses import replace
from typing import Final

import uvloop

from sos import failpoints
from sos.clock import SystemIds, node_clock
from sos.config import Config
from sos.core import start
from sos.core.process import CoreProcess
from sos.core.returning import note_damage, without_advice
from sos.core.sync_times import SyncTimes, TimedDisk
from sos.disk import SystemDisk, is_no_space, no_space
from sos.errors import EXIT_DAMAGE, FatalStop, MadeByNewer, StartRefused
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
        clock = node_clock(config.test.clock_file)
        opened = start.open_directory(config, disk=SystemDisk(), ids=SystemIds(), clock=clock)
        log.configure(level=config.log.level, node=opened.directory.identity.node, process="core")
        if start.has_catalog(opened.directory):
            opened = replace(opened, listed=start.probe_catalog(opened.directory))
        start.check_parts(opened.directory)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(inheritance, opened))
    except (StartRefused, MadeByNewer) as error:
        if opened is not None:
            start.remove_unpromised(opened, config.node.data)
        if opened is None or not _note_damage(config, opened, error):
            sys.stderr.write(f"sos: {error}\n")
        return error.exit_code
    except OSError as error:
        if not is_no_space(error):
            raise
        refused = no_space(config.node.data)
        sys.stderr.write(f"sos: {refused}\n")
        return refused.exit_code
    except FatalStop as error:
        log.error("core.fatal", why=str(error), exit_code=error.exit_code)
        if opened is not None:
            _note_damage(config, opened, error)
        return error.exit_code


def _note_damage(
    config: Config, opened: start.OpenDirectory, error: StartRefused | FatalStop
) -> bool:
    """Whether the next start comes back as a wiped member for this."""
    if error.exit_code != EXIT_DAMAGE:
        return False
    identity, why = opened.directory.identity, str(error)
    is_noted = note_damage(
        config, disk=SystemDisk(), identity=identity, listed=opened.listed, why=why
    )
    if is_noted:
        log.error("core.damaged", why=without_advice(why), exit_code=error.exit_code)
    return is_noted


async def _run(inheritance: Inheritance, opened: start.OpenDirectory) -> int:
    clock = node_clock(inheritance.config.test.clock_file)
    disk = TimedDisk(SyncTimes(clock))
    return await CoreProcess(inheritance, opened, clock=clock, ids=SystemIds(), disk=disk).run()


if __name__ == "__main__":
    raise SystemExit(main())
