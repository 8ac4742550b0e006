"""The mutual handshake of two cores under the cluster key, as a machine without I/O.

Both sides prove the key over fresh nonces of both (HMAC-SHA-256) and state who they are; every message has
a fixed size, so nothing is allocated, and nothing but the hello is looked at, before its MAC was checked:

    dialer    hello: magic, versions, nonce                     (40 bytes)
    acceptor  hello
    dialer    claim: who I am, whom I want, MAC over all so far (170 bytes)
    acceptor  claim or refusal, MAC over all so far
    dialer    acceptance or refusal, MAC over all so far

A hello names the highest and the lowest version of the node protocol that its sender speaks, and stays as it is in
all of them; the highest that both speak is used. What goes over the connection afterwards (claims, frames, kinds of
Raft messages) belongs to that version. Both hellos are under the MACs, so nobody in between can lower it.

Each direction then has a session key of its own (``sos.raft.frames``). There is no secrecy: what must not
be read on the wire waits for node TLS (design, section 7). Rules of refusal: protocols.md 1.4 to 1.6.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sos.limits import CLOCK_SKEW_S_MAX
from sos.raft.api import NodeId

VERSION: Final = 1  # the highest that this release speaks
VERSION_LOWEST: Final = 1
NONCE_BYTES: Final = 32
SESSION_BYTES: Final = 8

ANY_NAME: Final = ""  # dialed: whoever answers at an address to join

_MAGIC: Final = b"SOSN"
_HELLO: Final = struct.Struct(">4sBB2x32s")  # magic, highest and lowest version, nonce
_CLAIM: Final = struct.Struct(">B16sQQ8sQQ32s16s32s")
_REFUSAL: Final = struct.Struct(">BBQ")
_BODY_BYTES: Final = _CLAIM.size
_MAC_BYTES: Final = 32
HELLO_BYTES: Final = _HELLO.size
MESSAGE_BYTES: Final = _BODY_BYTES + _MAC_BYTES  # claim, refusal and acceptance alike
_UNFORMED: Final = bytes(16)
_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
_INCARNATION: Final = re.compile(r"[0-9a-f]{16}")


class _Kind(Enum):
    CLAIM = 1
    REFUSAL = 2
    ACCEPTANCE = 3


class RefusalCode(Enum):
    """Why two cores do not talk; the value travels, never reuse one."""

    NO_KNOWN_REASON = 0  # a number that this release does not know
    OTHER_KEY = 1
    OTHER_VERSION = 2
    SELF = 3
    DUPLICATE_IDENTITY = 4
    NAME_TAKEN = 5
    OTHER_NAME = 6
    OTHER_CLUSTER = 7
    CLOCK_SKEW = 8
    OLD_EPOCH = 9
    NEW_EPOCH = 10
    REMOVED = 11
    OLD_BOOT = 12
    STALE_CONNECTION = 13
    CROSSING_CONNECTION = 14
    NOT_A_NODE = 15
    SAME_NAME = 16


# Part of ordinary life when both sides dial at once: nobody has to do anything.
HARMLESS: Final = frozenset({RefusalCode.STALE_CONNECTION, RefusalCode.CROSSING_CONNECTION})

_TEXTS: Final[Mapping[RefusalCode, str]] = {
    RefusalCode.NO_KNOWN_REASON: "it refuses, for a reason that only a newer sos knows: look at its log",
    RefusalCode.OTHER_KEY: "its cluster key is another one: give every node the same SOS_CLUSTER_KEY",
    RefusalCode.OTHER_VERSION: "it speaks another version of the node protocol: run one version of sos",
    RefusalCode.SELF: "the address leads back to this node: correct the seed list",
    RefusalCode.DUPLICATE_IDENTITY: "two processes run with one identity: a data directory was copied; stop one of them",
    RefusalCode.SAME_NAME: "it carries this node's own name: give each node of a cluster a name of its own",
    RefusalCode.NAME_TAKEN: "two nodes carry this name: give each node of a cluster a name of its own",
    RefusalCode.OTHER_NAME: "another node answers at this address: correct the seed list",
    RefusalCode.OTHER_CLUSTER: "it belongs to another cluster",
    RefusalCode.CLOCK_SKEW: "the clocks differ by more than 15 minutes: set them",
    RefusalCode.OLD_EPOCH: "it stayed behind a `sos recover` of this cluster: run `sos rejoin DIR` there",
    RefusalCode.NEW_EPOCH: "this node stayed behind a `sos recover` of its cluster: stop it and run `sos rejoin DIR`",
    RefusalCode.REMOVED: "this incarnation was removed from the cluster",
    RefusalCode.OLD_BOOT: "its disk was put back to an older state: it has to come back as an empty member",
    RefusalCode.STALE_CONNECTION: "a newer connection is open",
    RefusalCode.CROSSING_CONNECTION: "both sides dialed at once",
    RefusalCode.NOT_A_NODE: "it does not speak the node protocol of sos",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A refusal as it travels. ``detail``: the connection number that a stale dialer has to exceed."""

    code: RefusalCode
    detail: int = 0

    @property
    def text(self) -> str:
        """What is wrong and what to do, for a log line or a status."""
        return _TEXTS[self.code]


class HandshakeFailed(Exception):
    """The peer did not prove the key, or is no peer at all: close the connection."""

    def __init__(self, code: RefusalCode, text: str = "") -> None:
        super().__init__(text or _TEXTS[code])
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalIdentity:
    """Who this node is. ``cluster_id is None``: not formed. ``boot`` rises with every start (protocols.md 1.3)."""

    node: NodeId
    boot: int
    cluster_id: bytes | None
    epoch: int = 0

    def __post_init__(self) -> None:
        name, _, incarnation = self.node.partition("@")
        assert _NAME.fullmatch(name)
        assert _INCARNATION.fullmatch(incarnation)
        assert self.cluster_id is None or (
            len(self.cluster_id) == 16 and self.cluster_id != _UNFORMED
        )

    @property
    def name(self) -> str:
        return self.node.partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one side says of itself, bound by the MAC to both nonces."""

    node: NodeId
    boot: int
    cluster_id: bytes | None
    epoch: int
    session: bytes  # 8 random bytes of the process: tells a second process with one identity
    wall_ms: int
    connection: int  # the dialer numbers its attempts; the acceptor repeats the number
    wanted: str  # the dialer: name that should answer; the acceptor: ""

    @property
    def name(self) -> str:
        return self.node.partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The dialer agrees: the connection is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeys:
    """One key per direction, of this connection only."""

    send: bytes
    receive: bytes


class Handshake:
    """The bytes of one handshake. The caller moves them and decides; order as in the module's docstring."""

    def __init__(self, *, dialing: bool, key: bytes, nonce: bytes) -> None:
        assert len(nonce) == NONCE_BYTES
        self._key = key
        self._dialing = dialing
        self._own_hello = _HELLO.pack(_MAGIC, VERSION, VERSION_LOWEST, nonce)
        self.version = 0  # of the node protocol, once the other hello was taken
        self._transcript = self._own_hello if dialing else b""

    def hello(self) -> bytes:
        """The first message of this side; an acceptor calls ``take_hello`` first."""
        return self._own_hello

    def take_hello(self, data: bytes) -> None:
        """Raises: HandshakeFailed for anything that is not a hello, or if no version is common to both sides."""
        magic, highest, lowest, _ = _HELLO.unpack(data)
        if magic != _MAGIC:
            raise HandshakeFailed(RefusalCode.NOT_A_NODE)
        lowest = lowest or highest  # what stands there was zero before it had a meaning
        common = min(highest, VERSION)
        if common < max(lowest, VERSION_LOWEST):
            theirs, ours = _range(lowest, highest), _range(VERSION_LOWEST, VERSION)
            raise HandshakeFailed(
                RefusalCode.OTHER_VERSION,
                f"it speaks version {theirs} of the node protocol, this node version {ours}: upgrade the older of the "
                "two by way of a release that speaks both",
            )
        self.version = common
        # Both transcripts read dialer first, whoever computes them.
        self._transcript += data if self._dialing else data + self._own_hello

    def claim(self, claim: Claim) -> bytes:
        """This side's claim as a message."""
        name, _, incarnation = claim.node.partition("@")
        body = _CLAIM.pack(
            _Kind.CLAIM.value,
            claim.cluster_id or _UNFORMED,
            claim.epoch,
            claim.boot,
            claim.session,
            claim.wall_ms,
            claim.connection,
            name.encode(),
            incarnation.encode(),
            claim.wanted.encode(),
        )
        return self._seal(body)

    def refusal(self, refusal: Refusal) -> bytes:
        """This side's refusal as a message; the connection is closed after it."""
        body = _REFUSAL.pack(_Kind.REFUSAL.value, refusal.code.value, refusal.detail)
        return self._seal(body.ljust(_BODY_BYTES, b"\0"))

    def acceptance(self) -> bytes:
        """The dialer's last message."""
        return self._seal(bytes([_Kind.ACCEPTANCE.value]).ljust(_BODY_BYTES, b"\0"))

    def open(self, message: bytes) -> Claim | Refusal | Acceptance:
        """The peer's message, after its MAC was checked.

        Raises: HandshakeFailed(OTHER_KEY) if the MAC is wrong; (NOT_A_NODE) if an authenticated body is nonsense.
        """
        body, mac = message[:_BODY_BYTES], message[_BODY_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body, by_dialer=not self._dialing)):
            raise HandshakeFailed(RefusalCode.OTHER_KEY)
        self._transcript += message
        try:
            return _parse(body)
        except ValueError as error:
            raise HandshakeFailed(RefusalCode.NOT_A_NODE) from error

    def session_keys(self) -> SessionKeys:
        """Keys bound to both claims. Call it when the acceptor's claim was sent (acceptor) or opened (dialer)."""
        master = hmac.digest(self._key, b"sos node session" + self._transcript, "sha256")
        from_dialer = hmac.digest(master, b"dialer", "sha256")
        from_acceptor = hmac.digest(master, b"acceptor", "sha256")
        if self._dialing:
            return SessionKeys(send=from_dialer, receive=from_acceptor)
        return SessionKeys(send=from_acceptor, receive=from_dialer)

    def _seal(self, body: bytes) -> bytes:
        message = body + self._mac(body, by_dialer=self._dialing)
        self._transcript += message
        return message

    def _mac(self, body: bytes, *, by_dialer: bool) -> bytes:
        # The role is in the MAC: a message reflected to its sender proves nothing.
        role = b"sos node dialer" if by_dialer else b"sos node acceptor"
        return hmac.digest(self._key, role + self._transcript + body, "sha256")


def _parse(body: bytes) -> Claim | Refusal | Acceptance:
    kind = _Kind(body[0])
    if kind is _Kind.ACCEPTANCE:
        return Acceptance()
    if kind is _Kind.REFUSAL:
        _, code, detail = _REFUSAL.unpack_from(body)
        return Refusal(code=_refusal_code(code), detail=detail)
    _, cluster, epoch, boot, session, wall_ms, connection, name, incarnation, wanted = (
        _CLAIM.unpack(body)
    )
    node_name = _text(name)
    node_incarnation = _text(incarnation)
    if not _NAME.fullmatch(node_name) or not _INCARNATION.fullmatch(node_incarnation):
        raise ValueError("not a node id")
    return Claim(
        node=f"{node_name}@{node_incarnation}",
        boot=boot,
        cluster_id=None if cluster == _UNFORMED else cluster,
        epoch=epoch,
        session=session,
        wall_ms=wall_ms,
        connection=connection,
        wanted=_text(wanted),
    )


def _refusal_code(number: int) -> RefusalCode:
    try:
        return RefusalCode(number)
    except ValueError:
        return RefusalCode.NO_KNOWN_REASON


def _range(lowest: int, highest: int) -> str:
    return f"{highest}" if lowest == highest else f"{lowest} to {highest}"


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLink:
    """What a verdict needs to know of an open connection."""

    node: NodeId
    boot: int
    session: bytes
    connection: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquaintances:
    """What this node knows of others when it judges a claim."""

    members: Collection[NodeId] = ()
    removed: Collection[NodeId] = ()
    boots: Mapping[NodeId, int] = field(default_factory=dict)  # highest boot number seen
    live: Collection[LiveLink] = ()


def skew_ms(claim: Claim, wall_ms: int) -> int:
    """How far the peer's clock is ahead of ours, the way of the message included."""
    return claim.wall_ms - wall_ms


def judge(
    local: LocalIdentity,
    session: bytes,
    claim: Claim,
    *,
    wanted: str | None,
    wall_ms: int,
    known: Acquaintances,
) -> Refusal | None:
    """Whether to talk to whoever proved the key and makes ``claim`` (protocols.md 1.3, 1.4, 1.6).

    ``wanted``: the name that was dialed, or ANY_NAME; ``None`` on the accepting side. An incarnation that is merely unknown
    is welcome: refusing it blocks for ever (model S5). Clocks matter only while one of the two is unformed.
    """
    code = _identity_trouble(local, session, claim, wanted) or _cluster_trouble(
        local, claim, wall_ms, known
    )
    if code is not None:
        return Refusal(code=code)
    return _live_trouble(claim, known)


def _identity_trouble(
    local: LocalIdentity, session: bytes, claim: Claim, wanted: str | None
) -> RefusalCode | None:
    if claim.node == local.node:
        return RefusalCode.SELF if claim.session == session else RefusalCode.DUPLICATE_IDENTITY
    if claim.name == local.name:
        return RefusalCode.SAME_NAME
    if (wanted and claim.name != wanted) or claim.wanted not in ("", local.name):
        return RefusalCode.OTHER_NAME
    return None


def _cluster_trouble(
    local: LocalIdentity, claim: Claim, wall_ms: int, known: Acquaintances
) -> RefusalCode | None:
    if local.cluster_id is None or claim.cluster_id is None:
        if abs(skew_ms(claim, wall_ms)) > CLOCK_SKEW_S_MAX * 1000:
            return RefusalCode.CLOCK_SKEW
    elif claim.cluster_id != local.cluster_id:
        return RefusalCode.OTHER_CLUSTER
    elif claim.epoch < local.epoch:
        return RefusalCode.OLD_EPOCH
    elif claim.epoch > local.epoch:
        return RefusalCode.NEW_EPOCH
    if claim.node in known.removed:
        return RefusalCode.REMOVED
    if claim.boot < known.boots.get(claim.node, 0):
        return RefusalCode.OLD_BOOT
    return None


def _live_trouble(claim: Claim, known: Acquaintances) -> Refusal | None:
    for link in known.live:
        if link.node == claim.node:
            if link.session == claim.session:
                if claim.connection <= link.connection:
                    return Refusal(code=RefusalCode.STALE_CONNECTION, detail=link.connection)
            elif link.boot == claim.boot:
                return Refusal(code=RefusalCode.DUPLICATE_IDENTITY)
        elif link.node.partition("@")[0] == claim.name and (
            # A listed member may take its name back from a stranger, not the other way round.
            claim.node not in known.members or link.node in known.members
        ):
            return Refusal(code=RefusalCode.NAME_TAKEN)
    return None
