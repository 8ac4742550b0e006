"""Pre-vote and stickiness: who may start an election, and who would help. Pure.

Without them any higher term deposes a healthy leader, and a node with one broken link disturbs all for
ever (pysyncobj.md 1.6; Raft dissertation 9.6 and 4.2.3).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field


@dataclass(slots=True)
class PreVoteRound:
    """The candidate's side: grants of one round, which ends after ``round_s``."""

    round_s: float
    resend_s: float
    term: int = 0
    _started_s: float = float("-inf")
    _sent_s: float = float("-inf")
    _granted: set[str] = field(default_factory=set)

    def due(
        self, *, now_s: float, term: int, voters: Set[str], self_node: str, needs_all: bool = False
    ) -> bool:
        """Whether a majority of ``voters`` would vote for us in ``term``; consumes the round if so.

        ``needs_all``: no entry that any of them has may be missing here, so each must say that none is.
        """
        if self.term != term or now_s - self._started_s >= self.round_s:
            self.term, self._started_s, self._sent_s = term, now_s, float("-inf")
            self._granted = {self_node}
        granted = len(self._granted & voters)
        if granted * 2 <= len(voters) or (needs_all and granted < len(voters)):
            return False
        self.term = 0
        return True

    def ask(self, *, now_s: float) -> bool:
        """Whether to send the question (again): one that came too early was not answered."""
        if now_s - self._sent_s < self.resend_s:
            return False
        self._sent_s = now_s
        return True

    def granted_by(self, node: str, term: int) -> None:
        if term == self.term:
            self._granted.add(node)


def grants_pre_vote(
    *,
    candidate_log: tuple[int, int],
    own_log: tuple[int, int],
    leader_heard_s_ago: float,
    election_s_min: float,
    leads_with_quorum: bool,
) -> bool:
    """Whether to help a candidate; logs are (last term, last index).

    The list in force is not asked: votes are granted by log alone (protocols.md 1.5).
    """
    if candidate_log < own_log:
        return False
    return leader_heard_s_ago >= election_s_min and not leads_with_quorum
