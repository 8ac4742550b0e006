"""What a call to another member's blob port can end in."""

from __future__ import annotations

from sos.errors import Corruption, Unavailable


class PeerUnreachable(Unavailable):
    """No connection, no answer in time, or the connection broke: says nothing about what the peer holds."""


class PeerRefused(Unavailable):
    """The peer answers, but not this: another key, cluster or incarnation, or it will not do what was asked."""


class PeerFull(Unavailable):
    """The peer's disk has no room for another blob."""


class NotHere(Corruption):
    """The peer has no such blob: for a listed holder that is a lost copy."""


class Damaged(Corruption):
    """The peer has the blob, and its copy fails the checks."""
