"""The first chaos run: three real nodes, a mixed load, and every kind of fault at least once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.chaos.driver import FAULTS, ChaosRun

SECONDS = float(os.environ.get("SOS_CHAOS_SECONDS", "45"))
SEED = int(os.environ.get("SOS_CHAOS_SEED", "1"))


@pytest.mark.timeout(SECONDS + 240)
def test_three_nodes_under_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P1, P2, P3, P7, P8: nothing acknowledged is lost, wrong or stale while nodes die, pause and are cut off."""
    report = asyncio.run(
        ChaosRun(tmp_path, nodes=3, seconds=SECONDS, faults=FAULTS, seed=SEED).run()
    )

    with capsys.disabled():
        sys.stdout.write(f"\nchaos: {report.summary()}\n")
    assert report.problems == [], "\n".join(report.problems[:10])
    assert all(report.faults[fault] > 0 for fault in FAULTS), report.summary()
    assert report.operations_checked > 500, report.summary()
    assert report.positions > 300, "too few answers told a log index to judge freshness by"
    assert report.outcomes["ok"] > 500, report.summary()
    assert report.keys_read_back > 10, report.summary()
    assert report.link_hits > 0, report.summary()
