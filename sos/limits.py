"""Every bound of SOS with its unit and its reason, and assertions on how the bounds relate."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# --- commands and the log -----------------------------------------------------------------------
INLINE_BYTES_MAX: Final = 16 * KIB  # one journal fsync covers the body; larger ones become blobs
COMMAND_BYTES_MAX: Final = 2 * MIB  # a DeleteObjects of 1,000 long keys is 1.07 MiB
ENTRY_BYTES_TARGET: Final = 1 * MIB  # grouping of operations into one log entry stops here
ENTRY_BYTES_MAX: Final = ENTRY_BYTES_TARGET + COMMAND_BYTES_MAX + 64 * KIB
RAFT_BATCH_BYTES: Final = 4 * MIB  # PySyncObj takes a broken path for entries over its batch size
FRAME_BYTES_MAX: Final = 8 * MIB  # cap of one node-to-node frame, checked before any allocation
LINK_FRAME_BYTES_MAX: Final = 4 * MIB  # cap of one gateway-core frame
PEER_UNACKED_BYTES_MAX: Final = 16 * MIB  # unacknowledged Raft bytes on the way to one peer
PROPOSALS_QUEUED_MAX: Final = 4096  # operations waiting in a core; beyond that 503 SlowDown
DEDUPE_ENTRIES: Final = 1_000_000  # a result is remembered for this many log entries
JOURNAL_SEGMENT_BYTES: Final = 64 * MIB
JOURNAL_KEPT_BYTES_MIN: Final = 1 * GIB  # a member that was away this long catches up by log
JOURNAL_KEPT_BYTES_MAX: Final = 8 * GIB  # while a snapshot is being served

BLOB_RESERVE_BYTES: Final = (
    256 * MIB
)  # no blob write begins below this: journal and catalog share the disk

# --- time, in seconds ---------------------------------------------------------------------------
ELECTION_S_MIN: Final = 0.5
ELECTION_S_MAX: Final = 1.0
HEARTBEAT_S: Final = 0.1
LEADER_FALLBACK_S: Final = 1.5
READ_BARRIER_S_MAX: Final = 3.0  # then 503
COMMIT_S_MAX: Final = 10.0  # then 500, outcome unknown
BODY_S_MAX: Final = 6 * 3600.0
BODY_IDLE_S_MAX: Final = 20.0  # a silent client: 400 RequestTimeout
CLIENT_BYTES_S_MIN: Final = 1 * KIB  # a client that sends or reads less than this ...
CLIENT_SLOW_S_MAX: Final = 30.0  # ... of the time that we waited for it, is cut off
HEADERS_S_MAX: Final = 10.0
ORPHAN_AGE_S_MIN: Final = 7 * 3600.0  # exceeds BODY_S_MAX and every deadline
UNLINK_DELAY_S: Final = 10.0  # a forgotten blob's file stays this long for readers on their way
DRAIN_S_MAX: Final = 10.0  # SIGTERM
CLOCK_SKEW_S_MAX: Final = 15 * 60.0
PEER_CONNECT_S_MAX: Final = 1.0
PEER_DEAD_S: Final = 2.0
PEER_PING_S: Final = 0.5
BLOB_DURABLE_S_MAX: Final = (
    30.0  # the syncs of a complete blob: most of it was written while it streamed
)
PEER_BODY_IDLE_S_MAX: Final = (
    30.0  # a blob under way between nodes stands still: longer than a silent client may
)

# --- resync and upkeep --------------------------------------------------------------------------
# Per returning member: at 390 MiB/s the p99 of 4 KiB requests beside it rose fivefold on two cores.
RESYNC_BYTES_S_MAX: Final = 150 * MIB
RESYNC_PARALLEL: Final = 16  # small blobs under way to one member at a time: they wait for syncs
RESYNC_BUNDLE_BLOBS: Final = 32  # ... and those that come together from one holder, each of at most
RESYNC_BUNDLE_BLOB_BYTES: Final = 128 * KIB
RESYNC_PARALLEL_BUNDLES: Final = 4  # half of them come while the others are synced
RESYNC_PARALLEL_LARGE: Final = 4  # and blobs larger than a block: each holds a few MiB
RESYNC_BATCH_BLOBS: Final = (
    1024  # blobs asked for in one message: a kill repeats at most the unreported ones
)
RESYNC_BATCH_BYTES: Final = 64 * MIB
SNAPSHOT_KEPT_S: Final = 600.0  # an unread copy of the catalog is removed after this
SNAPSHOT_COPIES_MAX: Final = 2

# A terabyte in 30 hours, and 1 % of what a slow disk gives: rot grows over months (a setting, `scrub-bytes-s`).
SCRUB_BYTES_S: Final = 10 * MIB
SCRUB_FILE_BYTES_MIN: Final = (
    128 * KIB
)  # what a small replica counts as: a seek costs a disk as much
SCRUB_PERIOD_S: Final = 24 * 3600.0  # from the end of one paced pass to the start of the next
SCRUB_START_S: Final = 300.0  # a node that just started has its log and its blobs to catch up with
SCRUB_PARALLEL: Final = 2  # unpaced: one waits for the disk while the other computes
SCRUB_REPAIR_S_MAX: Final = (
    90.0  # what a pass that was asked for waits until its finds are made again
)

# --- objects and requests -----------------------------------------------------------------------
BLOCK_BYTES: Final = 1 * MIB
OBJECT_BYTES_MAX: Final = 5 * GIB  # one PutObject (S3 API: PutObject)
PARTS_MAX: Final = 10_000  # of a multipart upload (UG: qfacts)
PART_BYTES_MIN: Final = 5 * MIB  # but of the last one
MULTIPART_BYTES_MAX: Final = 50 * 1000**4  # of an object uploaded in parts
FINISHED_UPLOAD_MS: Final = (
    24 * 3600 * 1000
)  # how long a Complete or Abort is answered again the same
PARTS_RELEASED_MAX: Final = 256  # of forgotten objects, with each log entry: about 5 ms
KEY_BYTES_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 2048
HEADER_BYTES_MAX: Final = 8 * KIB
REQUEST_LINE_BYTES_MAX: Final = 16 * KIB
LIST_KEYS_MAX: Final = 1000
DELETE_KEYS_MAX: Final = 1000
XML_BYTES_MAX: Final = 8 * MIB
XML_CONFIG_BYTES_MAX: Final = 1 * MIB
STREAMED_BYTES_MAX: Final = (
    64 * MIB
)  # blocks of answers in a gateway's memory: 100 clients that did not read 32 MiB each held 400 MiB for 20 s
DRAIN_BYTES_MAX: Final = 1 * MIB  # an unread request body is read this far to keep the connection

assert INLINE_BYTES_MAX < COMMAND_BYTES_MAX
assert ENTRY_BYTES_MAX < RAFT_BATCH_BYTES
assert RAFT_BATCH_BYTES < FRAME_BYTES_MAX
assert COMMAND_BYTES_MAX < LINK_FRAME_BYTES_MAX
assert ORPHAN_AGE_S_MIN > BODY_S_MAX + COMMIT_S_MAX
assert HEARTBEAT_S * 3 < ELECTION_S_MIN  # PySyncObj demands it
assert BODY_IDLE_S_MAX < PEER_BODY_IDLE_S_MAX

# Outgoing connections take ports from here (Linux's default); a listener among them fails to bind now and then.
EPHEMERAL_PORTS: Final = range(32768, 60999 + 1)
