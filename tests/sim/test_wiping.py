"""Lost disks under all faults: nothing acknowledged is lost, no second leader, everybody is a member again."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.sim.bed import Bed
from tests.sim.wiping import run_wiping_seed

SECONDS = float(os.environ.get("SOS_SIM_SECONDS", "25")) / 3
FIRST = int(os.environ.get("SOS_SIM_FIRST", "0"))
SOME_SEEDS = 6


@pytest.mark.timeout(SECONDS + 120)
def test_a_lost_disk_costs_nothing() -> None:
    """P1 P8 P9 P12 P16; scenarios 54 to 58: three and five engines, one disk lost at a time, again and again."""
    stop = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    seed = FIRST
    while time.monotonic() < stop:
        bed = run_wiping_seed(seed, nodes=5 if seed % 4 == 3 else 3)
        violations = bed.checker.violations
        assert not violations, f"run_wiping_seed({seed}): {violations[0]}"
        counts += bed.world.counts
        seed += 1
    if seed - FIRST >= SOME_SEEDS:
        for name in ("disk_lost", "list_proposed", "snapshot_install", "election"):
            assert counts[name], name


def test_a_leader_that_lost_its_disk_may_still_be_heard() -> None:
    """The bed itself: an append of an incarnation that is gone, on its way when its disk was lost."""
    assert not run_wiping_seed(63, nodes=5).checker.violations


def test_the_search_notices_who_comes_back_under_its_old_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P1, P9; protocols.md 1.1: an incarnation that forgot what it promised loses writes or elects two leaders."""
    monkeypatch.setattr(Bed, "next_incarnation", lambda self, name: name)
    assert any(run_wiping_seed(seed, seconds=12.0).checker.violations for seed in range(30))
