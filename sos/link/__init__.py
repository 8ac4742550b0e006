"""The unix socket between a gateway and the core of its own node.

Owns the frames, the batching and the resends of one request id. Promises: ``propose`` answers only
with the stored result of its own request id, ``Unavailable`` (certainly not applied) or
``OutcomeUnknown``; ``barrier`` answers only from a round that began after the call. Refuses to know
Raft and what a command means.

Gateway side:
    link = CoreLink(directory="DATA", gateway=0, token=inheritance.link_token, clock=SystemClock(), ids=SystemIds())
    link.start(); await link.wait_formed(); ...; await link.close()
    await link.propose(command, deadline_s=10.0) -> Result       raises Unavailable, OutcomeUnknown
    await link.barrier() -> Barrier(generation, index)           raises Unavailable
    await link.report_holders(gained, lost)                      raises Unavailable
    link.report_damage("table objects, key ...")                 the core stops as for an I/O error
    link.state -> NodeState (newest the core pushed)             link.on_state(callback)
    link.on_job(handler)                                         async handler(Job, JobProgress) -> dict
    link.on_metrics(callable -> list of plain samples)           answered when the core is scraped
Core side: ``LinkServer(directory=..., token=..., handler=LinkHandler)``; see ``server.py``.
"""

from __future__ import annotations

from sos.link.client import CoreLink, JobProgress
from sos.link.protocol import Barrier, Job, MemberState, NodeState, ProtocolError
from sos.link.server import Connection, LinkHandler, LinkServer

__all__ = [
    "Barrier",
    "Connection",
    "CoreLink",
    "Job",
    "JobProgress",
    "LinkHandler",
    "LinkServer",
    "MemberState",
    "NodeState",
    "ProtocolError",
]
