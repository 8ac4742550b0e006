"""The mixed load: concurrent clients over all nodes that record what they did and saw as a history.

Outcomes (faults: what may be concluded from an answer): ``ok`` says what it says about one moment between call and
return; ``failed`` had no effect; ``unknown`` may take effect at any later moment, or never. Every attempt is one op.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.etree import ElementTree

from tests.checkers.history import NONE, Kind, Op
from tests.load.client import Answer, Connection, ConnectionLost, Credentials

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
OPS_PER_KEY = 150  # then a fresh key: the checker's cost grows with what is pending on one key
UNKNOWN_PER_KEY = 12
SIZES = (200, 3_000, 20_000, 70_000)  # two inline, two blobs
DEADLINE_S = 13.0  # above the server's own commit deadline, so that it answers by itself


def body_of(op_id: int, size: int) -> bytes:
    """Bytes that can only come from this op: its id, then bytes derived from it."""
    return random.Random(op_id).randbytes(size - 16) + op_id.to_bytes(16, "big")


def etag_of(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


@dataclass(slots=True)
class Group:
    """A few keys that LIST and copy join; replaced by a fresh group when it has served enough."""

    prefix: str
    keys: tuple[str, ...]
    listed: bool
    ops: int = 0
    unknown: int = 0
    last_etag: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Recorder:
    """The history and what came of each op."""

    ops: list[Op] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong_bytes: list[str] = field(default_factory=list)
    odd_answers: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, int] = field(default_factory=dict)  # ETag -> length of every body ever sent
    next_id: int = 0
    success_times: list[float] = field(default_factory=list)

    def fresh_id(self) -> int:
        self.next_id += 1
        return self.next_id


class MixedLoad:
    """``clients`` loops, each with one connection to every node, until ``stop`` is called."""

    def __init__(
        self,
        ports: dict[str, int],
        credentials: Credentials,
        *,
        bucket: str,
        clients: int,
        seed: int,
        sizes: tuple[int, ...] = SIZES,
    ) -> None:
        self.recorder = Recorder()
        self.bucket = bucket
        self._ports = ports
        self._credentials = credentials
        self._clients = clients
        self._sizes = sizes
        self._random = random.Random(seed)
        self._serial = 0
        self._groups = [self._fresh_group(n) for n in range(max(2, clients // 3))]
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def _fresh_group(self, n: int) -> Group:
        self._serial += 1
        prefix = f"g{self._serial:05d}/"
        listed = n % 3 == 0
        count = 3 if listed else 1
        keys = tuple(f"{prefix}k{i}" for i in range(count))
        return Group(prefix=prefix, keys=keys, listed=listed)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._loop(n)) for n in range(self._clients)]

    async def stop(self) -> None:
        """Let every client finish its operation."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _loop(self, n: int) -> None:
        connections = {
            name: Connection("127.0.0.1", port, self._credentials, tag=name)
            for name, port in self._ports.items()
        }
        names = sorted(connections)
        while not self._stopping.is_set():
            at = self._random.randrange(len(self._groups))
            group = self._groups[at]
            group.ops += 1
            if group.ops > OPS_PER_KEY * len(group.keys) or group.unknown > UNKNOWN_PER_KEY:
                self._groups[at] = self._fresh_group(at)
                continue
            connection = connections[self._random.choice(names)]
            outcome = await self._one(connection, group)
            if outcome != "ok":
                # a refused or lost client comes back a little later, as an SDK does
                await asyncio.sleep(0.02 + 0.05 * self._random.random())
        for connection in connections.values():
            connection.close()

    def _draw(self, group: Group) -> Kind:
        draw = self._random.random()
        if group.listed and draw < 0.12:
            return Kind.LIST
        if group.listed and draw < 0.20:
            return Kind.COPY
        if draw < 0.55:
            return Kind.GET
        if draw < 0.75:
            return Kind.PUT
        if draw < 0.88:
            return Kind.CONDITIONAL_PUT
        return Kind.DELETE if draw < 0.95 else Kind.CONDITIONAL_DELETE

    async def _one(self, connection: Connection, group: Group) -> str:
        kind = self._draw(group)
        key = self._random.choice(group.keys)
        op_id = self.recorder.fresh_id()
        headers: tuple[tuple[str, str], ...] = ()
        body, value, condition, source = b"", "", "", ""
        method, query, path = "GET", "", f"/{self.bucket}/{quote(key)}"
        known = group.last_etag.get(key, etag_of(b"never written"))
        if kind in (Kind.PUT, Kind.CONDITIONAL_PUT):
            method = "PUT"
            body = body_of(op_id, self._random.choice(self._sizes))
            value = etag_of(body)
            self.recorder.sizes[value] = len(body)
            if kind is Kind.CONDITIONAL_PUT:
                condition = NONE if self._random.random() < 0.4 else known
                name = (
                    ("if-none-match", "*") if condition == NONE else ("if-match", f'"{condition}"')
                )
                headers = (name,)
        elif kind in (Kind.DELETE, Kind.CONDITIONAL_DELETE):
            method = "DELETE"
            if kind is Kind.CONDITIONAL_DELETE:
                condition = known
                headers = (("if-match", f'"{condition}"'),)
        elif kind is Kind.COPY:
            method = "PUT"
            source = self._random.choice([k for k in group.keys if k != key])
            headers = (("x-amz-copy-source", f"/{self.bucket}/{quote(source)}"),)
        elif kind is Kind.LIST:
            path, query = f"/{self.bucket}", f"list-type=2&prefix={quote(group.prefix, safe='')}"
        answer: Answer | None = None
        called = time.monotonic()
        try:
            got = await connection.request(
                method, path, query=query, body=body, headers=headers, timeout_s=DEADLINE_S
            )
            answer, outcome = got, self._classify(got)
        except ConnectionLost as error:
            outcome = "unknown" if error.sent else "failed"
        except TimeoutError:
            outcome = "unknown"
        returned = time.monotonic()
        self.recorder.outcomes[outcome] += 1
        if outcome == "failed":
            return outcome
        if outcome == "unknown":
            group.unknown += 1
        op = Op(
            id=op_id, kind=kind, called=called, returned=returned if outcome == "ok" else None, key=key,
            keys=group.keys if kind is Kind.LIST else (), source=source, value=value, condition=condition,
            answer=None, node=connection.tag, position=None,
        )  # fmt: skip
        if outcome == "ok":
            assert answer is not None
            if answer.status < 300 and kind not in (Kind.GET, Kind.LIST):
                self.recorder.success_times.append(returned)
            finished = self._finish(op, answer, group)
            if finished is None:
                return outcome
            op = finished
        self.recorder.ops.append(op)
        return outcome

    def _classify(self, answer: Answer) -> str:
        status = answer.status
        if status in (200, 204, 206, 304, 412, 416):
            if status == 200 and b"<Error>" in answer.body[:200]:
                return "unknown"
            return "ok"
        if status == 404:
            if not answer.body or b"<Code>NoSuchKey</Code>" in answer.body:
                return "ok"
            self.recorder.odd_answers["404 without NoSuchKey"] += 1
            return "failed"
        if status in (500, 502, 504):
            return "unknown"
        if status != 503:
            self.recorder.odd_answers[f"{status} {answer.body[:160]!r}"] += 1
        return "failed"

    def _finish(self, op: Op, answer: Answer, group: Group) -> Op | None:
        """The op with what it saw; None where the answer says nothing that a model knows."""
        seen: str | None = None
        listed: dict[str, str] | None = None
        if op.kind is Kind.GET:
            if answer.status == 200:
                seen = answer.headers["etag"].strip('"')
                self._check_bytes(op, seen, answer.body)
                group.last_etag[op.key] = seen
        elif op.kind is Kind.LIST:
            root = ElementTree.fromstring(answer.body)
            listed = {
                c.findtext(f"{NAMESPACE}Key") or "": (c.findtext(f"{NAMESPACE}ETag") or "").strip(
                    '"'
                )
                for c in root.iter(f"{NAMESPACE}Contents")
            }
        elif op.kind is Kind.COPY:
            if answer.status == 200:
                root = ElementTree.fromstring(answer.body)
                seen = (root.findtext(f"{NAMESPACE}ETag") or "").strip('"')
                group.last_etag[op.key] = seen
        elif answer.status < 300:
            seen = "ok"
            if op.value:
                group.last_etag[op.key] = op.value
        else:
            seen = str(answer.status)
        return Op(
            id=op.id, kind=op.kind, called=op.called, returned=op.returned, key=op.key, keys=op.keys,
            source=op.source, value=op.value, condition=op.condition, answer=seen, listed=listed,
            node=op.node, position=_position(answer),
        )  # fmt: skip

    def _check_bytes(self, op: Op, etag: str, body: bytes) -> None:
        """P7: no client ever gets a byte that is not the byte of the ETag it came under."""
        if etag_of(body) != etag or self.recorder.sizes.get(etag, len(body)) != len(body):
            self.recorder.wrong_bytes.append(
                f"op {op.id} {op.key}: {len(body)} bytes are not those of {etag}"
            )


def _position(answer: Answer) -> tuple[int, int] | None:
    text = answer.headers.get("x-sos-index")
    if text is None:
        return None
    index, _, place = text.partition(".")
    return (int(index), int(place or 0))
