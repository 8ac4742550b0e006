"""The order of effects around a write: what is dropped, what is kept, what is tried again (design 5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from sos import failpoints
from sos.blob.fetch import BlobReader
from sos.blob.handshake import PeerAddress
from sos.blob.replicas import BlobWriter
from sos.blob.upload import WrittenBlob
from sos.catalog.model import (
    ALWAYS,
    AccessKeyId,
    BlobBody,
    BlobId,
    Checksum,
    ChecksumAlgorithm,
    Command,
    CopyObject,
    DeleteObject,
    Done,
    InlineBody,
    NodeId,
    ObjectRecord,
    PutObject,
    Rejection,
    Result,
    Stored,
    StoredHeaders,
)
from sos.clock import ManualClock, ManualIds
from sos.errors import Corruption, OutcomeUnknown, Unavailable
from sos.limits import INLINE_BYTES_MAX
from sos.link.protocol import Barrier, MemberState, NodeState
from sos.service.access import CatalogAccess
from sos.service.copied import Copier
from sos.service.members import MemberAddresses
from sos.service.objects import ObjectService
from sos.service.requests import CopyRequest, Found, PutRequest, Target, UploadDigests
from sos.service.storing import BodyStore

CHECKSUM = Checksum(algorithm=ChecksumAlgorithm.CRC32, digest=b"crc.")
TARGET = Target(access_key=AccessKeyId("key"), bucket="bucket", key="k")
PUT = PutRequest(target=TARGET, headers=StoredHeaders())
STORED = Stored(etag="e", modified_ms=1, checksum=CHECKSUM, commit_index=7)
LARGE = b"x" * (INLINE_BYTES_MAX + 1)


def member(name: str) -> MemberState:
    return MemberState(
        node=NodeId(f"{name}@0"),
        name=name,
        address=f"{name}:1",
        blob_address=f"{name}:2",
        s3_address=f"{name}:3",
        is_reachable=True,
        is_voter=True,
    )


class ScriptedLink:
    """Answers proposals from a script."""

    def __init__(self, *answers: Result | Exception) -> None:
        self.answers = list(answers)
        self.commands: list[Command] = []
        self.state = NodeState(
            members=tuple(map(member, ("n1", "n2", "n3"))), write_quorum=2, is_formed=True
        )
        self.applied_index = 41

    async def propose(self, command: Command, *, deadline_s: float = 1.0) -> Result:
        self.commands.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def barrier(self) -> Barrier:
        raise AssertionError("no write needs a barrier")

    def report_damage(self, text: str) -> None:
        raise AssertionError(text)


@dataclass
class RecordingWriter:
    """``BlobWriter`` that keeps what it is given."""

    written: list[bytes] = field(default_factory=list)
    dropped: list[BlobId] = field(default_factory=list)
    failure: Exception | None = None

    async def write(
        self,
        chunks: AsyncIterator[bytes],
        *,
        blob_id: BlobId,
        members: Sequence[PeerAddress],
        quorum: int,
    ) -> WrittenBlob:
        data = b"".join([bytes(chunk) async for chunk in chunks])
        if self.failure is not None:
            raise self.failure
        self.written.append(data)
        return WrittenBlob(
            blob_id=blob_id,
            size_bytes=len(data),
            crc64=b"8 bytes.",
            holders=tuple(address.node for address in members[:quorum]),
        )

    async def drop(self, blob_id: BlobId, members: Sequence[PeerAddress]) -> None:
        assert len(members) == 3
        self.dropped.append(blob_id)


class Stream:
    """``BlobStream`` over bytes."""

    def __init__(self, data: bytes) -> None:
        self._left = [memoryview(data)]

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> memoryview:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        return


@dataclass
class ScriptedReader:
    data: bytes = LARGE
    failure: Exception | None = None
    asked: list[BlobId] = field(default_factory=list)

    async def open(self, *, blob_id: BlobId, **_: object) -> Stream:
        self.asked.append(blob_id)
        if self.failure is not None:
            raise self.failure
        return Stream(self.data)


class Body:
    """An upload in two pieces."""

    def __init__(
        self, data: bytes, *, failure: Exception | None = None, announced: bool = True
    ) -> None:
        self._data = data
        self._failure = failure
        self.expected_bytes = len(data) if announced else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        middle = len(self._data) // 2
        for piece in (self._data[:middle], self._data[middle:]):
            if piece:
                yield piece
        if self._failure is not None:
            raise self._failure

    async def read_whole(self) -> bytes:
        return b"".join([piece async for piece in self])

    def digests(self) -> UploadDigests:
        return UploadDigests(md5=b"m" * 16, checksum=CHECKSUM)


def service(
    link: ScriptedLink,
    writer: RecordingWriter,
    reader: ScriptedReader | None = None,
    *,
    copier: Copier | None = None,
) -> ObjectService:
    access, members = CatalogAccess(link, cast("Any", None)), MemberAddresses(link)
    blobs = cast("BlobReader", reader or ScriptedReader())
    return ObjectService(
        access,
        bodies=BodyStore(
            access,
            members=members,
            writer=cast("BlobWriter", writer),
            reader=blobs,
            ids=ManualIds(),
        ),
        copier=cast("Copier", copier),
        members=members,
        reader=blobs,
        clock=ManualClock(),
    )


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES_MAX])
def test_small_bodies_travel_in_the_command(size: int, announced: bool) -> None:
    """Up to INLINE_BYTES_MAX the command carries the bytes, and no file is written (design 5.2)."""
    link, writer = ScriptedLink(STORED), RecordingWriter()
    data = b"s" * size

    result = asyncio.run(service(link, writer).put(PUT, Body(data, announced=announced)))

    (command,) = link.commands
    assert isinstance(command, PutObject)
    assert command.etag == (b"m" * 16).hex()
    if size:
        assert isinstance(command.body, InlineBody)
        assert command.body.data == data
        assert command.body.blob[:8] == (41).to_bytes(8, "big")
    else:
        assert command.body is None
    assert result is STORED
    assert writer.written == []


@pytest.mark.parametrize("announced", [True, False])
def test_large_bodies_are_durable_before_the_command_names_them(announced: bool) -> None:
    """The command names a blob and the holders that made it durable (design 5.4)."""
    link, writer = ScriptedLink(STORED), RecordingWriter()

    asyncio.run(service(link, writer).put(PUT, Body(LARGE, announced=announced)))

    (command,) = link.commands
    assert isinstance(command, PutObject)
    assert isinstance(command.body, BlobBody)
    assert command.body.holders == (NodeId("n1@0"), NodeId("n2@0"))
    assert writer.written == [LARGE]
    assert writer.dropped == []


@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_a_body_that_fails_is_never_proposed(size: int) -> None:
    """Nothing is committed before the body was verified to its end (s3.md 8)."""
    link, writer = ScriptedLink(), RecordingWriter()

    with pytest.raises(ValueError, match="digest"):
        asyncio.run(service(link, writer).put(PUT, Body(b"x" * size, failure=ValueError("digest"))))

    assert link.commands == []


@pytest.mark.parametrize(
    ("answer", "drops"),
    [
        (STORED, False),
        (Rejection.NO_SUCH_BUCKET, True),
        (Rejection.PRECONDITION_FAILED_IF_MATCH, True),
        (Rejection.BLOB_ALREADY_NAMED, False),
        (Unavailable("no leader"), True),
        (OutcomeUnknown("deadline"), False),
    ],
)
def test_only_what_is_certainly_refused_is_dropped(answer: Result | Exception, drops: bool) -> None:
    """After an unknown outcome the holders keep the blob: the sweep decides (design 5.6)."""
    link, writer = ScriptedLink(answer), RecordingWriter()
    work = service(link, writer).put(PUT, Body(LARGE))

    if isinstance(answer, Exception):
        with pytest.raises(type(answer)):
            asyncio.run(work)
    else:
        assert asyncio.run(work) is answer

    assert bool(writer.dropped) == drops


def test_too_few_holders_write_the_bytes_again_as_another_blob() -> None:
    """HOLDERS_TOO_FEW: more copies, a new command; the first blob is dropped (design 5.4)."""
    link, writer = ScriptedLink(Rejection.HOLDERS_TOO_FEW, STORED), RecordingWriter()

    result = asyncio.run(service(link, writer).put(PUT, Body(LARGE)))

    first, second = link.commands
    assert isinstance(first, PutObject)
    assert isinstance(second, PutObject)
    assert isinstance(first.body, BlobBody)
    assert isinstance(second.body, BlobBody)
    assert first.body.blob != second.body.blob
    assert writer.written == [LARGE, LARGE]
    assert writer.dropped == [first.body.blob]
    assert result is STORED


@pytest.mark.parametrize("failure", [Unavailable("all away"), Corruption("all gone")])
def test_bytes_that_cannot_be_read_again_are_a_definite_refusal(failure: Exception) -> None:
    """The refusal was definite, so the client is told 503, and nothing stays behind."""
    link, writer = ScriptedLink(Rejection.HOLDERS_TOO_FEW), RecordingWriter()
    reader = ScriptedReader(failure=failure)

    with pytest.raises(Unavailable):
        asyncio.run(service(link, writer, reader).put(PUT, Body(LARGE)))

    assert writer.dropped == reader.asked


def test_too_few_holders_again_and_again_end_in_a_refusal() -> None:
    """A write does not go round for ever."""
    link, writer = ScriptedLink(*[Rejection.HOLDERS_TOO_FEW] * 9), RecordingWriter()

    result = asyncio.run(service(link, writer).put(PUT, Body(LARGE)))

    assert result is Rejection.HOLDERS_TOO_FEW
    assert len(writer.dropped) == len(writer.written)


def copying(
    answers: Sequence[Result], sources: Sequence[Found], on_compute: Callable[[bytes], None]
) -> tuple[Result, list[Command]]:
    link = ScriptedLink(*answers)
    left = list(sources)

    class Hash:
        def update(self, data: bytes) -> None:
            on_compute(data)

        def digest(self) -> bytes:
            return CHECKSUM.digest

    async def find(*_: object, **__: object) -> Found:
        return left.pop(0)

    request = CopyRequest(
        target=TARGET,
        source=Target(TARGET.access_key, "b", "s"),
        headers=None,
        algorithm=CHECKSUM.algorithm,
    )
    with ThreadPoolExecutor(1) as executor:
        objects = service(link, RecordingWriter(), copier=Copier(lambda _: Hash(), executor))
        objects.find = find  # type: ignore[method-assign]
        return asyncio.run(objects.copy(request)), link.commands


def found(commit_index: int, data: bytes) -> Found:
    record = ObjectRecord(
        blob=BlobId(b"b" * 16),
        inline=True,
        size_bytes=len(data),
        etag="e",
        md5=b"m" * 16,
        modified_ms=1,
        checksum=CHECKSUM,
        headers=StoredHeaders(),
        commit_index=commit_index,
    )
    return Found(record=record, data=data, crc64=b"", holders=())


def test_a_copy_whose_source_changed_starts_over() -> None:
    """Bytes read beforehand count only if apply still finds that source (s3.md 1.1.6)."""
    read: list[bytes] = []

    result, commands = copying(
        [Rejection.SOURCE_CHANGED, STORED], [found(3, b"old"), found(5, b"new")], read.append
    )

    assert result is STORED
    assert read == [b"old", b"new"]
    indexes = [each.expect_commit_index for each in commands if isinstance(each, CopyObject)]
    assert indexes == [3, 5]


def test_a_gateway_that_dies_after_a_delete_has_deleted() -> None:
    """Scenario 5 for DELETE: at ``delete.after_commit`` the answer is lost, and a plain retry is a success."""
    link = ScriptedLink(Done(), Done())
    work = service(link, RecordingWriter())
    failpoints.arm("delete.after_commit=eio", test_mode=True)
    try:
        with pytest.raises(OSError, match=r"delete\.after_commit"):
            asyncio.run(work.delete(TARGET, ALWAYS))
    finally:
        failpoints.arm(None, test_mode=False)
    assert link.answers == [Done()]  # the command was committed before the point

    assert asyncio.run(work.delete(TARGET, ALWAYS)) == Done()
    assert [type(command) for command in link.commands] == [DeleteObject, DeleteObject]
