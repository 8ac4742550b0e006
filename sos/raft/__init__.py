"""Agreement on one order of opaque commands; knows nothing of the catalog.

Owns: the hardened PySyncObj core, its journal, messages, read barriers, member lists, snapshot rules.
Promises: an entry that was applied is durable on a majority and is the same on every node; a barrier's
index covers everything acknowledged before it was asked; any failure inside stops the process.
Refuses to know: what a command means, sockets, disks other than the journal's, wall time.

The facade (``sos.raft.node``; types in ``sos.raft.api``)::

    RaftNode(*, self_id: NodeId, members: MemberList, journal, machine: StateMachine, links: Links,
             clock: Clock, ids: IdSource, settings: RaftSettings | None, installed_at: SnapshotPoint | None)
        installed_at: what the catalog keeps beside an installed copy; finishes an install that a crash cut
        raises StartRefused (LogDetached when journal and catalog do not fit: come back as wiped)
      .wake: Callable[[], None]       set it; called when a tick is due at once (at most once per tick)
      .tick()                         one turn; on events and at least every 20 ms; raises only FatalStop
      .propose(payload, done)         done(Applied(index, term, result) | Refused(reason) | Unknown()); leader only
      .barrier(done)                  any node; done(index) or done(None) after settings.barrier_s_max
      .on_connected(peer) .on_disconnected(peer) .on_frame(peer, frame)   from the links, in the tick thread;
                                      on_frame raises MessageRefused: close that connection
      .send_app(peer, payload) -> bool ; .on_app: Callable[[NodeId, bytes], None]   channel for the core
      .is_leader .leader .term .commit_index .applied_index .members .peers()
      .transfer_leadership() -> bool  starts a hand-over; is_leader turns False when it succeeded
      .set_learners(nodes)            fed while this node leads, never counted
      .compact(durable_index)         the machine holds this durably: the journal may drop older segments
      .hold_log_from(index | None)    while a snapshot is being served
      .snapshot_point(index | None) -> SnapshotPoint | None   boundary entries at that index, default applied
      .on_need_snapshot: Callable[[NodeId, int], None]   on the follower: fetch one from that leader
      .install(point, members, swap) -> InstallDecision  ``swap()`` makes the fetched catalog current, durably
      .close()
    Links:        send(peer: NodeId, frame: bytes) -> bool
    StateMachine: applied() -> (index, term) ; apply(Sequence[LogEntry]) -> Sequence[object]
    LogEntry:     index, term, kind (EntryKind.NOOP | OPERATIONS | MEMBERS), payload (bytes, kind byte included)
"""
