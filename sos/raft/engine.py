"""The PySyncObj subclass: the one door to its core, and every hook that makes it safe.

Kept of the library: elections, vote rules, the log matching of a sanitized append, the commit rule, the
no-op at a term's start, stepping down. Replaced: journal, transport, apply, snapshots, compaction, membership,
commands and the sending of entries (decision record 1 says why; tests/sim/switches.py turns each hook off).

Inside the library ``self.__x`` is looked up as ``self._SyncObj__x``, so a method of that name overrides it.
"""

from __future__ import annotations

import hashlib
import inspect
import zlib
from collections.abc import Iterable, Mapping
from random import Random
from typing import Final, Protocol

from pysyncobj import SyncObj, SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from sos.clock import Clock
from sos.errors import EXIT_BUG, StartRefused
from sos.raft.api import Entry, Log, NodeId, RaftSettings

LIBRARY_VERSION: Final = "0.3.17"
LIBRARY_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
COMMAND: Final = (
    b"\x00"  # syncobj._COMMAND_TYPE.REGULAR: the first byte of an entry that carries a payload
)
NO_OP: Final = b"\x01"  # syncobj._COMMAND_TYPE.NO_OP: the whole entry

_METHODS: Final = [
    "connectedToAnyone",
    "applyLogEntries",
    "sendAppendEntries",
    "getEntries",
    "getCurrentLogIndex",
    "getCurrentLogTerm",
    "generateRaftTimeout",
    "tryLogCompaction",
    "loadDumpFile",
    "parseChangeClusterRequest",
    "doChangeCluster",
    "changeCluster",
    "doApplyCommand",
    "onBecomeLeader",
    "onMessageReceived",
]
_FIELDS: Final = [
    "raftLog",
    "raftState",
    "raftLeader",
    "raftCurrentTerm",
    "raftCommitIndex",
    "raftLastApplied",
    "raftNextIndex",
    "raftMatchIndex",
    "raftElectionDeadline",
    "lastResponseTime",
    "newAppendEntriesTime",
    "needLoadDumpFile",
    "noopIDx",
    "otherNodes",
    "readonlyNodes",
    "connectedNodes",
]


class CoreHooks(Protocol):
    """What the core asks of the node around it, in the tick thread."""

    def may_campaign(self) -> bool:
        """The election deadline has passed: start an election now?"""
        ...

    def apply_committed(self) -> bool:
        """Apply what is committed; True: tell the followers the commit index now."""
        ...

    def send_appends(self) -> None:
        """Send entries, or a heartbeat, to everybody."""
        ...

    def before_leading(self) -> None:
        """The election is won; nothing was sent yet."""
        ...

    def core_send(self, node: NodeId, message: Mapping[str, object]) -> None:
        """A vote, a request for one, or an answer to an append."""
        ...


def check_library() -> None:
    """The tripwire: the installed library is, byte for byte, the one that these hooks were made for.

    Raises: StartRefused.
    """
    source = inspect.getsourcefile(syncobj)
    assert source is not None
    with open(source, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if digest != LIBRARY_SHA256:
        raise StartRefused(
            f"pysyncobj is not the {LIBRARY_VERSION} that this was made for: reinstall from requirements.lock",
            exit_code=EXIT_BUG,
        )
    missing = [name for name in _METHODS if not hasattr(SyncObj, f"_SyncObj__{name}")]
    if missing:
        raise StartRefused(f"pysyncobj lacks {', '.join(missing)}", exit_code=EXIT_BUG)


def _given_journal(journal: object) -> object:
    # a path or nothing would get one of the library's, which are not durable
    assert not isinstance(journal, str | None), "only our own journal is durable"
    return journal


syncobj.createJournal = _given_journal  # used once, in SyncObj.__init__, with conf.journalFile


class PeerNode(Node):  # type: ignore[misc]  # the library has no types
    """A node by its id. The hash does not vary between runs: the library iterates sets of these."""

    def __init__(self, node: NodeId) -> None:
        super().__init__(node)
        self._hash = zlib.crc32(node.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, PeerNode) and self._id == other._id)


class _CoreTransport(Transport):  # type: ignore[misc]
    """Hands the core's messages to the node. Utility messages have no way in: nothing calls their callbacks."""

    def __init__(self, hooks: CoreHooks) -> None:
        super().__init__(None, None, [])
        self._hooks = hooks

    def send(self, node: PeerNode, message: Mapping[str, object]) -> bool:
        self._hooks.core_send(node.id, message)
        return True


class _NoPoller:
    """The loop that calls ``tick`` watches the sockets."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


def _library_settings(journal: object, settings: RaftSettings) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=settings.heartbeat_s,
        appendEntriesBatchSizeBytes=settings.batch_bytes,
        raftMinTimeout=settings.election_s_min,
        raftMaxTimeout=settings.election_s_max,
        leaderFallbackTimeout=settings.leader_fallback_s,
        connectionTimeout=max(settings.election_s_max, 1.0),
        dynamicMembershipChange=False,
        useFork=False,
        logCompactionSplit=False,
        fullDumpFile=None,
        password=None,
    )


class SosRaft(SyncObj):  # type: ignore[misc]
    """The core with its hooks. Methods, never properties: the library calls ``getattr`` on all names of ``dir``."""

    _SyncObj__raftElectionDeadline: float

    def __init__(
        self,
        *,
        self_id: NodeId,
        journal: Log,
        hooks: CoreHooks,
        clock: Clock,
        random: Random,
        settings: RaftSettings,
    ) -> None:
        self._hooks = hooks
        self._clock = clock
        self._random = random
        self._settings = settings
        self._log = journal
        self._nodes: dict[NodeId, PeerNode] = {}
        self.use_clock()
        super().__init__(
            self.node(self_id),
            [],
            _library_settings(journal, settings),
            transport=_CoreTransport(hooks),
            nodeClass=PeerNode,
        )
        missing = [name for name in _FIELDS if not hasattr(self, f"_SyncObj__{name}")]
        assert not missing, f"pysyncobj lacks {missing}"
        self._poller = _NoPoller()
        self._SyncObj__needLoadDumpFile = False

    def use_clock(self) -> None:
        """Make the library read this node's clock; before every entry into it, for its clock is a module global."""
        syncobj.monotonicTime = self._clock.monotonic

    def node(self, node: NodeId) -> PeerNode:
        """The one object of a node id: equality in the library's sets is then identity."""
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = PeerNode(node)
        return known

    # --- state ------------------------------------------------------------------------------------
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == syncobj._RAFT_STATE.LEADER)  # noqa: SLF001

    def leader(self) -> NodeId | None:
        """Whom this node follows, or itself; only a hint for routing."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    def own_term_committed(self) -> bool:
        """Whether this leader committed an entry of its own term: only then is its commit index current."""
        noop = self._SyncObj__noopIDx
        return self.is_leader() and noop is not None and noop <= self._SyncObj__raftCommitIndex

    def start_at(self, applied_index: int, commit_index: int) -> None:
        """The state machine holds all up to ``applied_index``."""
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__raftCommitIndex = commit_index

    def set_applied(self, index: int) -> None:
        assert self._SyncObj__raftLastApplied < index <= self._SyncObj__raftCommitIndex
        self._SyncObj__raftLastApplied = index

    def advance_commit(self, index: int) -> None:
        """On a follower: the leader committed ``index``, which this log holds, durably."""
        assert index <= self._log.last_index
        if index > self._SyncObj__raftCommitIndex:
            self._SyncObj__raftCommitIndex = index
            self._SyncObj__raftLog.setRaftCommitIndex(index)

    # --- peers ------------------------------------------------------------------------------------
    def set_peers(self, voters: Iterable[NodeId], fed: Iterable[NodeId]) -> None:
        """Count ``voters`` (self is left out: the library always counts itself) and feed ``fed`` as well."""
        # sorted: the order in which a set is filled shows when it is iterated
        others = {self.node(node) for node in sorted(voters)} - {self._SyncObj__selfNode}
        learners = {self.node(node) for node in sorted(fed)} - others - {self._SyncObj__selfNode}
        self._SyncObj__otherNodes = others
        self._SyncObj__readonlyNodes = learners
        now = self._clock.monotonic()
        for node in others | learners:
            self._SyncObj__raftNextIndex.setdefault(node, self._log.last_index + 1)
            self._SyncObj__raftMatchIndex.setdefault(node, 0)
            self._SyncObj__lastResponseTime.setdefault(node, now)
        for table in (
            self._SyncObj__raftNextIndex,
            self._SyncObj__raftMatchIndex,
            self._SyncObj__lastResponseTime,
        ):
            for node in [node for node in table if node not in others and node not in learners]:
                del table[node]

    def set_connected(self, node: NodeId, connected: bool) -> None:
        """A link to ``node`` is up or down; also nodes that are no members."""
        if connected:
            self._SyncObj__connectedNodes.add(self.node(node))
        else:
            self._SyncObj__connectedNodes.discard(self.node(node))

    def is_connected(self, node: NodeId) -> bool:
        return self.node(node) in self._SyncObj__connectedNodes

    def next_index(self, node: NodeId) -> int:
        return int(self._SyncObj__raftNextIndex[self.node(node)])

    def set_next_index(self, node: NodeId, index: int) -> None:
        self._SyncObj__raftNextIndex[self.node(node)] = index

    def match_index(self, node: NodeId) -> int:
        """The highest index that ``node`` is known to hold durably; 0 on a node that never led."""
        return int(self._SyncObj__raftMatchIndex.get(self.node(node), 0))

    def heard_s_ago(self, node: NodeId) -> float:
        """Seconds since the last answer to an append."""
        return self._clock.monotonic() - float(
            self._SyncObj__lastResponseTime.get(self.node(node), float("-inf"))
        )

    # --- turns ------------------------------------------------------------------------------------
    def library_tick(self) -> None:
        """Elections, the commit rule, apply, heartbeats, stepping down: the library's own turn."""
        self._onTick(0.0)

    def receive(self, node: NodeId, message: dict[str, object]) -> None:
        """Give the core a message that passed the sanitizer."""
        self._SyncObj__onMessageReceived(self.node(node), message)

    def adopt_term(self, node: NodeId, term: int) -> None:
        """Step down into a higher term, granting nothing: no log is behind term -1."""
        assert term > self.term()
        self.receive(
            node, {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": 0}
        )

    def heartbeat_from(self, node: NodeId, term: int) -> None:
        """``node`` leads ``term``; nothing is said about the log."""
        self.receive(node, {"type": "append_entries", "term": term, "commit_index": 0})

    def next_heartbeat_in(self, seconds: float) -> None:
        self._SyncObj__newAppendEntriesTime = self._clock.monotonic() + seconds

    def campaign_within(self, seconds: float) -> None:
        """Bring the election deadline forward; never back."""
        deadline = self._clock.monotonic() + seconds
        if deadline < self._SyncObj__raftElectionDeadline:
            self._SyncObj__raftElectionDeadline = deadline

    def random_s(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    # --- hooks: names that the library looks up -----------------------------------------------------
    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._random.uniform(self._settings.election_s_min, self._settings.election_s_max)

    def _SyncObj__connectedToAnyone(self) -> bool:
        # asked exactly when the election deadline has passed (syncobj.py:635)
        return self._hooks.may_campaign()

    def _SyncObj__applyLogEntries(self) -> bool:
        return self._hooks.apply_committed()

    def _SyncObj__sendAppendEntries(self) -> None:
        self._hooks.send_appends()

    def _SyncObj__onBecomeLeader(self) -> None:
        self._hooks.before_leading()
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__getCurrentLogIndex(self) -> int:
        return self._log.last_index

    def _SyncObj__getCurrentLogTerm(self) -> int:
        log = self._log
        return log.term_at(log.last_index)

    def _SyncObj__getEntries(
        self,
        fromIDx: int | None,
        count: int | None = None,
        maxSizeBytes: int | None = None,
    ) -> list[Entry]:
        # what is left of the library reads terms and whether anything follows; it would slice, and so
        # read from disk, the whole rest of the log for each message
        assert maxSizeBytes is None, "entries are sent by our own feed"
        log = self._log
        if fromIDx is None or not log.first_index <= fromIDx <= log.last_index:
            return []
        stop = min(log.last_index, fromIDx + (1 if count is None else min(count, 2) - 1))
        return [(b"", index, log.term_at(index)) for index in range(fromIDx, stop + 1)]

    def _checkCommandsToApply(self) -> None:
        """Proposals have their own queue: no forwarding, no callback that is never called."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """The journal is cut below what the state machine holds durably, by ``RaftNode.compact`` alone."""

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        """The library would unpickle a log entry here."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise AssertionError("snapshots travel out of band")

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        raise AssertionError("apply goes through the hook")

    def _SyncObj__doChangeCluster(self, request: object, reverse: bool = False) -> bool:
        raise AssertionError("member lists are ours")

    def _SyncObj__changeCluster(self, request: object) -> bool:
        raise AssertionError("member lists are ours")

    def _applyCommand(
        self,
        command: bytes,
        callback: object,
        commandType: int | None = None,
    ) -> None:
        raise AssertionError("proposals have their own queue")
