"""The follower's side: what an append may do, what is acknowledged and when, and what is committed."""

from __future__ import annotations

from collections.abc import Collection
from typing import assert_never

from sos.errors import EXIT_BUG, FatalStop
from sos.raft import messages as m
from sos.raft.api import Log, NodeId
from sos.raft.candidacy import Candidacy
from sos.raft.engine import SosRaft
from sos.raft.membership import Membership
from sos.raft.sanitize import Fresh, Matched, Rejected, WouldCutCommitted, judge_append


class Following:
    """Stands between the leaders' appends and the core (pysyncobj.md, items 4 and 6)."""

    def __init__(
        self,
        *,
        core: SosRaft,
        log: Log,
        membership: Membership,
        candidacy: Candidacy,
        send: m.Send,
    ) -> None:
        self._core = core
        self._log = log
        self._membership = membership
        self._candidacy = candidacy
        self._send = send
        self._replies: list[tuple[NodeId, m.AppendReply]] = []
        self._told_commit = 0  # what a leader committed, as far as our log is known to match
        self._verified = (0, 0)  # (term, index): our log matches that leader's up to here

    # --- what leaders send ------------------------------------------------------------------------
    def on_append(self, peer: NodeId, message: m.Append) -> None:
        """Let only that part of an append reach the core which is new."""
        core = self._core
        if message.term < core.term():
            self._send(peer, m.NewerTerm(core.term()))
            return
        verdict = judge_append(self._log, core.commit_index(), message)
        match verdict:
            case Rejected():
                core.receive(peer, _core_append(message, message.prev_index, message.prev_term, ()))
            case Matched():
                core.heartbeat_from(peer, message.term)
                self.reply(peer, verdict.last_index + 1, reset=False, success=True)
                self._matches(message, verdict.last_index)
            case Fresh():
                self._take(peer, message, verdict)
            case WouldCutCommitted():
                # Perhaps a majority forgot what it had committed: what this node has must not be put aside for it.
                raise FatalStop(
                    f"{peer} would replace committed entry {verdict.index}", exit_code=EXIT_BUG
                )
            case _:
                assert_never(verdict)
        self._candidacy.heard_leader()

    def only_hear(self, peer: NodeId, term: int) -> None:
        """A leader's append that there is no room for: a sign of life and no more.

        Not even a refusal: the leader would begin again and again. Its next append, once there is room, is
        refused for what is missing, and then it goes back.
        """
        if term < self._core.term():
            self._send(peer, m.NewerTerm(self._core.term()))
            return
        self._core.heartbeat_from(peer, term)
        self._candidacy.heard_leader()

    def _take(self, peer: NodeId, message: m.Append, fresh: Fresh) -> None:
        first = fresh.prev_index + 1
        if fresh.cuts:
            self._membership.cut_from(first)
        commands = message.commands[fresh.skip :]
        self._core.receive(peer, _core_append(message, fresh.prev_index, fresh.prev_term, commands))
        self._membership.note(first, commands)
        self._matches(message, fresh.last_index)

    def _matches(self, message: m.Append, last_index: int) -> None:
        """Our log equals the leader's up to ``last_index``; what it committed of that is committed."""
        term, index = self._verified
        if term != message.term:
            index = 0
        self._verified = (message.term, max(index, last_index))
        self.told_commit(min(message.commit_index, last_index))

    def on_need_snapshot(self, peer: NodeId, message: m.NeedSnapshot) -> bool:
        """A heartbeat of a leader whose log begins too late; True if it is right about us."""
        core = self._core
        if message.term < core.term():
            self._send(peer, m.NewerTerm(core.term()))
            return False
        core.heartbeat_from(peer, message.term)
        self._candidacy.heard_leader()
        next_index = max(2, core.commit_index() + 1)
        self.reply(peer, next_index, reset=True, success=False)
        return next_index <= message.first_index

    def on_barrier_answer(self, answer: m.BarrierAnswer) -> bool:
        """As good as a heartbeat, for what our log is known to share with the leader's; True: a turn is due."""
        term, verified = self._verified
        if term == answer.term == self._core.term():
            self.told_commit(min(answer.index, verified))
        return self._told_commit > self._core.commit_index()

    # --- commit -----------------------------------------------------------------------------------
    def told_commit(self, index: int) -> None:
        """Entries up to ``index`` are committed, and our log holds them."""
        self._told_commit = max(self._told_commit, index)

    def advance_commit(self) -> None:
        """Once a turn, after one sync for all that came."""
        if self._told_commit > self._core.commit_index():
            self._log.sync()
            self._core.advance_commit(self._told_commit)

    def installed(self, index: int) -> None:
        """A snapshot replaced the log."""
        self._verified = (0, 0)
        self._told_commit = index

    # --- acknowledgements -------------------------------------------------------------------------
    def reply_of_core(self, node: NodeId, next_index: int, *, reset: bool, success: bool) -> None:
        """The core's own answer to an append; a refusal goes back to what is certainly common, in one step."""
        if not success:
            next_index = max(2, min(next_index, self._core.commit_index() + 1))
        self.reply(node, next_index, reset=reset, success=success)

    def reply(self, peer: NodeId, next_index: int, *, reset: bool, success: bool) -> None:
        """Answer once everything that came before is durable."""
        self._replies.append((peer, m.AppendReply(self._core.term(), next_index, reset, success)))

    def flush_replies(self) -> bool:
        """Acknowledge what is durable now; of several successes to one leader only the last matters.

        Returns: whether there was anything to tell.
        """
        if not self._replies:
            return False
        self._log.sync()
        replies, self._replies = self._replies, []
        term = self._core.term()
        count = len(replies)
        for at, (peer, reply) in enumerate(replies):
            if reply.term != term:
                continue
            if reply.success and at + 1 < count and replies[at + 1][0] == peer:
                following = replies[at + 1][1]
                if following.success and following.next_index >= reply.next_index:
                    continue
            self._send(peer, reply)
        return True


def _core_append(
    message: m.Append, prev_index: int, prev_term: int, commands: Collection[bytes]
) -> dict[str, object]:
    """The library's form of an append, without its commit index: that follows after the sync, once a turn."""
    skip = len(message.commands) - len(commands)
    return {
        "type": "append_entries",
        "term": message.term,
        "commit_index": 0,
        "prevLogIdx": prev_index,
        "prevLogTerm": prev_term,
        "entries": [
            (command, prev_index + at, message.terms[skip + at - 1])
            for at, command in enumerate(commands, 1)
        ],
    }
