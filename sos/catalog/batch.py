"""One write transaction: decides operations one after the other and writes what they decide.

Later operations see the writes of earlier ones, of their own entry and of entries before it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from sos.catalog import keys, records
from sos.catalog.codec import (
    MEMBERS,
    OPERATIONS,
    command_level,
    decode_command,
    decode_entry,
    decode_member_list,
    encode_formation,
    encode_members,
    encode_result,
)
from sos.catalog.environment import Transaction
from sos.catalog.model import (
    AccessKeyRecord,
    FormationRecord,
    Member,
    Operation,
    Position,
    Rejection,
    Removal,
    Result,
)
from sos.catalog.records import CHECKSUM_BYTES, State
from sos.catalog.rules import decide
from sos.catalog.rules.view import PutAccessKey
from sos.catalog.upload_writer import UploadWriter
from sos.levels import UNKNOWN, check_level
from sos.packing import PackingError

FORMAT_VERSION: Final = 1
CHAIN_BYTES: Final = 16
DIGEST_EVERY: Final = 1024
DIGESTS_KEPT: Final = 64
REMOVALS_KEPT: Final = 1000
_REQUEST_BYTES: Final = 16
_ENTRY: Final = struct.Struct(">QQ")
_TOO_OLD: Final = encode_result(Rejection.TOO_OLD_TO_REMEMBER)


class Entry(Protocol):
    """What is needed of a log entry; the payload's first byte tells its kind, an empty one is a NO_OP."""

    @property
    def index(self) -> int: ...

    @property
    def term(self) -> int: ...

    @property
    def payload(self) -> bytes: ...


class Batch(UploadWriter):
    """Applies entries, in order, in one write transaction."""

    def __init__(self, transaction: Transaction, state: State, *, dedupe_entries: int) -> None:
        super().__init__(transaction, state)
        self._dedupe_entries = dedupe_entries
        self._level = self.level()

    # --- entries ----------------------------------------------------------------------------------
    def apply(self, entry: Entry) -> list[bytes] | None:
        """Apply one entry; for operations their encoded results, in order."""
        state = self.state
        index = entry.index
        assert index == state.index + 1, f"entry {index} does not follow {state.index}"
        state.index, state.term = index, entry.term
        self._trail.clear()
        self._forget_requests(index - self._dedupe_entries - 1)
        if self._dropping:
            self._go_on_dropping()
        self._go_on_releasing()
        payload = entry.payload
        results: list[bytes] | None = None
        if payload:
            if payload[0] == OPERATIONS:
                results = self._apply_operations(index, decode_entry(payload))
            else:
                if payload[0] != MEMBERS:
                    check_level(f"log entry {index}", UNKNOWN)
                epoch, members = decode_member_list(payload)
                self._set_members(index, members, epoch=epoch)
        self._advance_chain(index, entry.term)
        return results

    def _apply_operations(self, index: int, operations: Sequence[Operation]) -> list[bytes]:
        results: list[bytes] = []
        remembered: list[bytes] = []
        oldest = index - self._dedupe_entries
        for ordinal, operation in enumerate(operations):
            request_id = operation.request_id
            encoded = self.stored_result(request_id)
            if encoded is None:
                if operation.first_index < oldest:
                    # Perhaps applied and forgotten. Not stored: every later resend is too old as well.
                    encoded = _TOO_OLD
                    self._trail.append(encoded)
                else:
                    encoded = encode_result(self._decide(operation.command, index, ordinal))
                    row = records.encode_number_and_bytes(index, encoded)
                    self._add(keys.request_key(request_id), row)
                    remembered.append(request_id)
            results.append(encoded)
        if remembered:
            self._add(keys.requests_of_key(index), b"".join(remembered))
        return results

    def _decide(self, data: bytes, index: int, ordinal: int) -> Result:
        level = command_level(data)
        if level > self._level:
            self._raise_level(level, index)
        try:
            command = decode_command(data)
        except PackingError:
            return Rejection.UNKNOWN_COMMAND
        decision = decide(self, command, Position(index=index, ordinal=ordinal))
        for write in decision.writes:
            self.perform(write)
        return decision.result

    def _raise_level(self, level: int, index: int) -> None:
        """The first command of a higher level. Raises: MadeByNewer: other nodes apply what this build cannot.

        To refuse it here, as other bytes that are no command, would make this replica differ from theirs.
        """
        check_level(f"log entry {index}", level)
        self._level = level
        self._replace(keys.LEVEL_KEY, records.encode_level(level))

    def _forget_requests(self, index: int) -> None:
        """Forget the results of the entry that is now too old; no clock, so every node forgets the same."""
        if index < 0:
            return
        value = self._take(keys.requests_of_key(index))
        if value is None:
            return
        for start in range(CHECKSUM_BYTES, len(value), _REQUEST_BYTES):
            removed = self._take(keys.REQUEST + value[start : start + _REQUEST_BYTES])
            assert removed is not None, "a remembered request has no result"

    def _advance_chain(self, index: int, term: int) -> None:
        state = self.state
        trail = b"".join(self._trail)
        content = state.chain + _ENTRY.pack(index, term) + trail
        state.chain = hashlib.blake2b(content, digest_size=CHAIN_BYTES).digest()
        if index % DIGEST_EVERY == 0:
            row = records.encode_number_and_bytes(index, state.chain)
            self._add(keys.digest_key(index), row)
            old = index - DIGEST_EVERY * DIGESTS_KEPT
            if old >= 0:
                self._take(keys.digest_key(old))

    # --- formation and members --------------------------------------------------------------------
    def form(self, record: FormationRecord) -> None:
        """The first state of every member: log index 1, term 0 (the library's own first NO_OP)."""
        state = self.state
        state.index, state.term = 1, 0
        self._add(keys.FORMAT_KEY, records.encode_number_and_bytes(FORMAT_VERSION, b""))
        self._add(keys.FORMATION_KEY, encode_formation(record))
        root = AccessKeyRecord(
            access_key=record.root_access_key,
            secret_key=record.root_secret_key,
            root=True,
            enabled=True,
            created_ms=record.created_ms,
        )
        self.perform(PutAccessKey(root))
        self._voters = ()
        self._set_members(1, record.members)
        self._advance_chain(1, 0)

    def _set_members(self, index: int, members: tuple[Member, ...], *, epoch: int = 0) -> None:
        """Put a list in force. A new member's owed list begins here; a removed one's goes with its counters.

        What a new member misses of older blobs only the full comparison knows (``MemberCopies.since_index``).
        """
        before = {member.node for member in self.members()}
        now = {member.node for member in members}
        for member in members:
            if member.node not in before:
                self._finish_dropping(member.node)
                copies = self.member_copies(member.node)
                sequence = 0 if copies is None else copies.report_sequence
                self._set_copies(member.node, (index, sequence, 0, 0))
        removed = [member for member in self.members() if member.node not in now]
        for member in removed:
            self._drop_copies(member.node)
        if removed:
            self._note_removed(removed)
        row = records.encode_number_and_bytes(index, encode_members(members, epoch=epoch))
        self._replace(keys.MEMBERS_KEY, row)
        self._voters = members

    def _note_removed(self, members: Sequence[Member]) -> None:
        """Remember incarnations that must never come back; they are random, so the oldest may be forgotten."""
        removals = list(self.removals())
        removals += [Removal(node=member.node, leaving=member.leaving) for member in members]
        self._replace(keys.REMOVED_KEY, records.encode_removals(removals[-REMOVALS_KEPT:]))
