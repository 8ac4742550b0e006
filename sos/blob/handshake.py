"""Both sides of the blob port's mutual handshake (``wire.py`` has the messages)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from sos.blob.connection import Connection
from sos.blob.peer_errors import PeerRefused
from sos.blob.wire import (
    NONCE_BYTES,
    PROOF_BYTES,
    Frame,
    Hello,
    NoCommonVersion,
    Proofs,
    WireError,
    decode_hello,
    encode_hello,
)
from sos.catalog.model import NodeId
from sos.clock import IdSource

Admit = Callable[[NodeId], str | None]
_REASON_CHARS_MAX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """Who this node is to its peers. ``cluster_key`` never appears in logs."""

    cluster_id: bytes
    node: NodeId
    cluster_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A member and where its blob port is: ``HOST:PORT``."""

    node: NodeId
    address: str


async def greet(
    connection: Connection, identity: PeerIdentity, receiver: NodeId, ids: IdSource
) -> None:
    """The caller's side. Raises: PeerRefused (with what is wrong), PeerUnreachable, WireError."""
    hello = encode_hello(
        Hello(
            nonce=ids.random_bytes(NONCE_BYTES),
            cluster_id=identity.cluster_id,
            sender=identity.node,
            receiver=receiver,
        )
    )
    connection.write_frame(Frame.HELLO, hello)
    challenge = await _expect(connection, Frame.CHALLENGE)
    if len(challenge) != NONCE_BYTES + PROOF_BYTES:
        raise WireError("malformed challenge")
    proofs = Proofs(identity.cluster_key, hello, challenge[:NONCE_BYTES])
    if not hmac.compare_digest(proofs.server(), challenge[NONCE_BYTES:]):
        raise PeerRefused(f"{receiver} has another cluster key")
    connection.write_frame(Frame.PROOF, proofs.client())
    await _expect(connection, Frame.READY)
    connection.trust(seal_in=proofs.server_seal(), seal_out=proofs.client_seal())


async def receive(
    connection: Connection, identity: PeerIdentity, admit: Admit, ids: IdSource
) -> NodeId:
    """The called side; returns who called. A refusal is sent before this raises. Raises: PeerRefused, PeerUnreachable, WireError."""
    payload = await _expect(connection, Frame.HELLO)
    try:
        hello = decode_hello(payload)
    except NoCommonVersion as error:
        raise _refuse(connection, str(error)) from error
    if hello.cluster_id != identity.cluster_id:
        raise _refuse(connection, "this node belongs to another cluster")
    if hello.receiver != identity.node:
        raise _refuse(connection, f"this is {identity.node}, not {hello.receiver}")
    nonce = ids.random_bytes(NONCE_BYTES)
    proofs = Proofs(identity.cluster_key, payload, nonce)
    connection.write_frame(Frame.CHALLENGE, nonce + proofs.server())
    proof = await _expect(connection, Frame.PROOF)
    if not hmac.compare_digest(proofs.client(), proof):
        raise _refuse(connection, "wrong cluster key")
    # Only now: what a stranger says of itself decides nothing.
    reason = admit(hello.sender)
    if reason is not None:
        raise _refuse(connection, reason)
    connection.write_frame(Frame.READY, b"")
    connection.trust(seal_in=proofs.client_seal(), seal_out=proofs.server_seal())
    return hello.sender


async def _expect(connection: Connection, wanted: Frame) -> bytes:
    kind, payload = await connection.read_frame()
    if kind is Frame.REFUSED:
        reason = bytes(payload[: 4 * _REASON_CHARS_MAX]).decode("utf-8", "replace")
        raise PeerRefused(f"refused: {reason[:_REASON_CHARS_MAX]}")
    if kind is not wanted:
        raise WireError(f"unexpected frame {kind.name}")
    return bytes(payload)


def _refuse(connection: Connection, reason: str) -> PeerRefused:
    connection.write_frame(Frame.REFUSED, reason.encode())
    return PeerRefused(reason)
