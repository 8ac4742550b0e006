"""SOS: a self-hosted S3 for one to a handful of machines whose compare-and-swap you can trust.

The parts, lowest rank first: limits, errors, clock, disk, config, telemetry | catalog, raft, link, blob |
service | s3, admin | core, gateway | supervisor | cli. Imports point to a lower rank only.
"""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
