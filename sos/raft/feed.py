"""How a leader feeds its peers: pipelined appends within a window of unacknowledged bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sos.raft.api import Entry, Log, NodeId, RaftSettings
from sos.raft.engine import SosRaft
from sos.raft.messages import AppendReply, NeedSnapshot, encode, encode_append

ENTRIES_PER_APPEND: Final = 4096


@dataclass(slots=True)
class _Peer:
    """What is on the way to one peer.

    ``probing``: after a refusal or on a new connection only heartbeats go, until one is accepted. Otherwise
    each of many refusals in flight would send the same megabytes again.
    """

    probing: bool = False
    unacked_bytes: int = 0
    sent: deque[tuple[int, int]] = field(
        default_factory=deque
    )  # (last index, bytes) of each append

    def clear(self) -> None:
        self.unacked_bytes = 0
        self.sent.clear()

    def acked(self, index: int) -> None:
        while self.sent and self.sent[0][0] <= index:
            self.unacked_bytes -= self.sent.popleft()[1]


class Feed:
    """Sends what each peer lacks; knows nothing of votes or commit."""

    def __init__(
        self,
        *,
        core: SosRaft,
        log: Log,
        send: Callable[[NodeId, bytes], bool],
        settings: RaftSettings,
    ) -> None:
        self._core = core
        self._log = log
        self._send = send
        self._settings = settings
        self._peers: dict[NodeId, _Peer] = {}
        self._limits: dict[NodeId, int] = {}
        self._frame_key: tuple[int, ...] = ()
        self._frame = b""
        self.unacked_bytes_peak = 0

    def reset(self) -> None:
        """A new leader assumes that everybody holds its log; refusals correct that."""
        self._peers.clear()

    def set_limits(self, limits: dict[NodeId, int]) -> None:
        """A member that an uncommitted list removes gets nothing from that list's index on (protocols.md 3.4)."""
        self._limits = limits

    def set_limit(self, peer: NodeId, last_index: int) -> None:
        """Let one such member have entries up to ``last_index``."""
        self._limits[peer] = last_index

    def connected(self, peer: NodeId) -> None:
        """Whatever was on the way is gone."""
        state = self._peers.setdefault(peer, _Peer())
        state.clear()
        state.probing = True
        match = self._core.match_index(peer)
        if match:
            self._core.set_next_index(peer, match + 1)

    def replied(self, peer: NodeId, reply: AppendReply) -> bool:
        """Take an answer of this term; True if more can be sent now."""
        core = self._core
        state = self._peers.setdefault(peer, _Peer())
        next_before = core.next_index(peer)
        core.receive(
            peer,
            {
                "type": "next_node_idx",
                "next_node_idx": reply.next_index,
                "reset": reply.reset,
                "success": reply.success,
            },
        )
        match = core.match_index(peer)
        if reply.success:
            state.probing = False
            state.acked(match)
            # the library goes back to what is acknowledged and sends again what is still on its way
            core.set_next_index(peer, max(next_before, match + 1))
        elif reply.reset:
            state.probing = True
            state.clear()
            core.set_next_index(
                peer, max(match + 1, min(reply.next_index, self._log.last_index + 1))
            )
        next_index = core.next_index(peer)
        if next_index <= self._log.first_index:
            return False  # it needs a snapshot; heartbeats tell it so
        return state.probing or next_index <= self._log.last_index

    def catch_up(self, peer: NodeId) -> None:
        """Send ``peer`` entries, or a probe, if it lacks any; no heartbeat for its own sake."""
        if self._peers.setdefault(peer, _Peer()).probing or (
            self._core.next_index(peer) <= self._log.last_index
        ):
            self.send_to(peer)

    def send_to(self, peer: NodeId) -> None:
        """Send ``peer`` all that its window allows, at least a heartbeat."""
        core, log, settings = self._core, self._log, self._settings
        state = self._peers.setdefault(peer, _Peer())
        next_index = core.next_index(peer)
        if next_index <= log.first_index:
            self._send(peer, encode(NeedSnapshot(core.term(), log.first_index)))
            return
        stop = min(log.last_index, self._limits.get(peer, log.last_index)) + 1
        is_first = True
        while is_first or next_index < stop:
            entries: list[Entry] = []
            size_bytes = 0
            room = settings.unacked_bytes_max - state.unacked_bytes
            if next_index < stop and room > 0 and not state.probing:
                entries = self._read(next_index, stop, min(room, settings.batch_bytes))
                size_bytes = sum([len(entry[0]) for entry in entries])
                if size_bytes > room and state.unacked_bytes:
                    entries, size_bytes = [], 0  # one entry larger than what is left of the window
            if not entries and not is_first:
                return
            if not self._send(peer, self._append_frame(next_index - 1, entries)):
                return
            is_first = False
            if not entries:
                return
            next_index = entries[-1][1] + 1
            core.set_next_index(peer, next_index)
            state.sent.append((next_index - 1, size_bytes))
            state.unacked_bytes += size_bytes
            self.unacked_bytes_peak = max(self.unacked_bytes_peak, state.unacked_bytes)

    def _read(self, first: int, stop: int, bytes_max: int) -> list[Entry]:
        return self._log.read_entries(first, min(stop - first, ENTRIES_PER_APPEND), bytes_max)

    def _append_frame(self, prev_index: int, entries: Sequence[Entry]) -> bytes:
        """The frame; the same for all peers that are equally far, so it is packed once."""
        core = self._core
        key = (core.term(), core.commit_index(), prev_index, len(entries))
        if key != self._frame_key:
            commands = [entry[0] for entry in entries]
            terms = [entry[2] for entry in entries]
            prev_term = self._log.term_at(prev_index)
            self._frame = encode_append(key[0], key[1], prev_index, prev_term, terms, commands)
            self._frame_key = key
        return self._frame
