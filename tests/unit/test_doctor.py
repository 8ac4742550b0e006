"""What `sos doctor` concludes from the JSON of /status."""

from __future__ import annotations

from typing import Any

import pytest

from sos.cli.doctor import Severity, diagnose


def _row(name: str, **changes: object) -> dict[str, Any]:
    return {
        "name": name,
        "address": f"10.0.0.{name[1:]}:7000",
        "s3": "",
        "reachable": True,
        "voter": True,
        "applied_index": 10,
        "in_sync": True,
        "blobs_owed": 0,
        "bytes_owed": 0,
        "eta_s": None,
        "disk_low": False,
        "free_bytes": 10**12,
        "version": "0.1.0",
        **changes,
    }


def _status(*rows: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {
        "cluster_id": "00",
        "node": "n1@0000000000000000",
        "leader": "n1@0000000000000000",
        "ready": True,
        "members": [*rows] or [_row("n1"), _row("n2"), _row("n3")],
        "blobs_at_risk": 0,
        "unreachable_blobs": 0,
        "quorum_impossible": None,
        "version": "0.1.0",
        "disk": {"free_bytes": 10**12, "total_bytes": 2 * 10**12, "low": False},
        "warnings": [],
        **changes,
    }


def test_a_sound_cluster_has_no_finding() -> None:
    """No false alarm: an operator who is woken for nothing stops looking."""
    assert diagnose(_status()) == []


@pytest.mark.parametrize(
    ("status", "severity", "what", "do"),
    [
        (_status(cluster_id=None, members=[], waiting=["waiting for n2"]), Severity.BROKEN, "waiting for n2", "start"),
        (_status(leader=None), Severity.BROKEN, "no leader", "node ports"),
        (_status(ready=False), Severity.BROKEN, "does not serve", "log"),
        (_status(leader=None, quorum_impossible=["n2", "n3"]), Severity.BROKEN, "n2, n3", "sos recover"),
        (_status(_row("n1"), _row("n2"), _row("n3", reachable=False)), Severity.AT_RISK, "no further node may fail", "member replace"),
        (_status(*(_row(f"n{i}") for i in range(1, 5)), _row("n5", reachable=False)), Severity.AT_RISK, "1 more may fail", "start it"),
        (_status(_row("n1"), _row("n2", in_sync=False, blobs_owed=7, eta_s=12.0), _row("n3")), Severity.AT_RISK, "7 replicas to get, about 12 s", "wait"),
        (_status(_row("n1"), _row("n2", in_sync=False, blobs_owed=None), _row("n3")), Severity.AT_RISK, "not compared yet", "wait"),
        (_status(_row("n1"), _row("n2", disk_low=True), _row("n3")), Severity.BROKEN, "n2 is below its disk reserve", "enlarge"),
        (_status(_row("n1"), _row("n2", disk_low=True, disk_full=True), _row("n3")), Severity.BROKEN, "n2 has no room left", "by hand"),
        (_status(_row("n1"), _row("n2", sync_ms=212.4), _row("n3")), Severity.AT_RISK, "n2 has a slow disk: 212 ms", "replace"),
        (_status(disk={"free_bytes": 10**10, "total_bytes": 10**12, "low": False}), Severity.NOTE, "10.0 GB free", "plan"),
        (_status(unreachable_blobs=3), Severity.BROKEN, "3 blobs have no reachable copy", "start"),
        (_status(blobs_at_risk=3), Severity.AT_RISK, "3 blobs have fewer copies", "wait"),
        (_status(warnings=["n2 at 1.2.3.4:1: its clock"]), Severity.AT_RISK, "its clock", "corrected"),
        (_status(_row("n1"), _row("n2", version="0.2.0"), _row("n3")), Severity.NOTE, "n2 0.2.0", "rolling upgrade"),
        (_status(version="99.0.0"), Severity.NOTE, "99.0.0", "version of the command"),
    ],
)  # fmt: skip
def test_each_trouble_is_named_with_what_to_do(
    status: dict[str, Any], severity: Severity, what: str, do: str
) -> None:
    """Issue 5, item 8: says what is wrong and what to do about it."""
    (finding,) = diagnose(status)
    assert finding.severity is severity
    assert what in finding.what
    assert do in finding.do


def test_the_worst_comes_first() -> None:
    """At night the first line counts."""
    rows = [_row("n1"), _row("n2", version="0.2.0", in_sync=False), _row("n3", disk_low=True)]
    found = [finding.severity for finding in diagnose(_status(*rows))]
    assert found == [Severity.BROKEN, Severity.AT_RISK, Severity.NOTE]


def test_unknown_counts_are_no_finding() -> None:
    """``null`` is "not known yet", never a number."""
    assert diagnose(_status(blobs_at_risk=None, unreachable_blobs=None)) == []
