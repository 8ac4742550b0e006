"""Routes of the admin listener, in the core's loop.

`/healthz`, `/readyz`, `/status`, `/metrics` and `GET /scrub` tell no secret and need no proof; the listener is on
loopback unless a person says otherwise. `POST /scrub`, `POST /member` and `/keys` need the root secret key: the
request carries an HMAC of method, path, time and body under it (``proof.sign``), at most five minutes old.
"""

from __future__ import annotations

import hmac
import json
import socket
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from sos.admin.http import HttpServer, Request, Response
from sos.admin.proof import SIGNATURE_HEADER, TIME_HEADER, sign
from sos.clock import Clock
from sos.errors import OutcomeUnknown, Unavailable

_AGE_S_MAX: Final = 300
_NOT_PROVED: Final = "not signed with the root secret key, or at a time that this node's clock says is over 5 minutes away"
_PROMETHEUS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """An access key as it is shown: never its secret."""

    access_key: str
    root: bool
    enabled: bool
    name: str = ""
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a new access key is called, and what it may do. Empty: not limited."""

    name: str = ""
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


class Keys(Protocol):
    """Access keys through the log. Raises: Unavailable, OutcomeUnknown."""

    async def list_keys(self) -> list[KeyRow]: ...

    async def create(self, limits: KeyLimits) -> tuple[str, str]: ...

    async def rotate(self, access_key: str, *, revoke: bool) -> tuple[str, str] | None:
        """A new key with the limits of an old one, which goes if ``revoke``. None: no such key, or a root key."""

    async def revoke(self, access_key: str) -> bool: ...


class AdminHandler(Protocol):
    """What the routes ask of the core."""

    async def is_ready(self) -> bool: ...

    async def status(self) -> dict[str, Any]: ...

    async def scrape(self) -> bytes: ...

    def root_secret_key(self) -> str | None:
        """None until the node belongs to a cluster."""

    def access_keys(self) -> Keys | None: ...

    def scrub_states(self) -> list[dict[str, Any]]:
        """How the scrub of each member goes; empty until the node belongs to a cluster."""

    async def change_members(self, document: object) -> dict[str, Any] | None:
        """Where a change of the members is; asking is what keeps it going. None until the node belongs to a cluster.

        Raises: ValueError with one line on what is wrong.
        """

    def start_scrub(self) -> str | None:
        """Have all replicas read now; the id of the request, None until the node belongs to a cluster."""


class AdminServer:
    """Serves the routes on an inherited socket."""

    def __init__(self, handler: AdminHandler, *, listener: socket.socket, clock: Clock) -> None:
        self._handler = handler
        self._clock = clock
        self._server = HttpServer(self._serve, listener=listener)

    async def start(self) -> None:
        await self._server.start()

    async def close(self) -> None:
        await self._server.close()

    async def _serve(self, request: Request) -> Response:
        try:
            return await self._route(request)
        except Unavailable as error:
            return _json(503, {"error": str(error)}, ("Retry-After", "1"))
        except OutcomeUnknown as error:
            return _json(500, {"error": f"perhaps done: {error}"})

    async def _route(self, request: Request) -> Response:
        method, path = request.method, request.path
        if path.startswith("/keys"):
            return await self._keys(request)
        if path == "/member" and method == "POST":
            return await self._change_members(request)
        if path == "/scrub" and method == "POST":
            return self._start_scrub(request)
        if method not in ("GET", "HEAD"):
            return _json(405, {"error": "only GET"})
        if path == "/healthz":
            return Response(status=200, body=b"ok\n")
        if path == "/readyz":
            is_ready = await self._handler.is_ready()
            if is_ready:
                return Response(status=200, body=b"ready\n")
            return Response(status=503, body=b"not ready\n", headers=(("Retry-After", "1"),))
        if path == "/status":
            return _json(200, await self._handler.status())
        if path == "/metrics":
            body = await self._handler.scrape()
            return Response(status=200, body=body, content_type=_PROMETHEUS_TYPE)
        if path == "/scrub":
            return _json(200, {"nodes": self._handler.scrub_states()})
        return _json(404, {"error": "no such route"})

    async def _change_members(self, request: Request) -> Response:
        if not self._is_proved(request):
            return _json(403, {"error": _NOT_PROVED})
        try:
            answer = await self._handler.change_members(json.loads(request.body))
        except ValueError as error:
            return _json(400, {"error": str(error)})
        if answer is None:
            raise Unavailable("this node does not belong to a cluster yet")
        return _json(200, answer)

    def _start_scrub(self, request: Request) -> Response:
        if not self._is_proved(request):
            return _json(403, {"error": _NOT_PROVED})
        started = self._handler.start_scrub()
        if started is None:
            raise Unavailable("the cluster is not formed yet")
        return _json(200, {"request": started})

    async def _keys(self, request: Request) -> Response:
        if not self._is_proved(request):
            return _json(403, {"error": _NOT_PROVED})
        keys = self._handler.access_keys()
        if keys is None:
            raise Unavailable("the cluster is not formed yet")
        route = (request.method, request.path)
        if route == ("GET", "/keys"):
            return _json(200, {"keys": [asdict(row) for row in await keys.list_keys()]})
        if route == ("POST", "/keys"):
            try:
                limits = _limits(json.loads(request.body))
            except ValueError as error:
                return _json(400, {"error": str(error)})
            access, secret = await keys.create(limits)
            return _json(200, {"access_key": access, "secret_key": secret})
        if route == ("POST", "/keys/rotate"):
            return await self._rotate(keys, request.body)
        if route == ("POST", "/keys/revoke"):
            return await self._revoke(keys, request.body)
        return _json(404, {"error": "no such route"})

    async def _rotate(self, keys: Keys, body: bytes) -> Response:
        try:
            document = json.loads(body)
            access_key, revoke = document["access_key"], document.get("revoke", False)
        except (ValueError, KeyError, TypeError, AttributeError):
            access_key, revoke = None, False
        if not isinstance(access_key, str) or not isinstance(revoke, bool):
            return _json(400, {"error": "access_key is missing"})
        made = await keys.rotate(access_key, revoke=revoke)
        if made is None:
            return _json(404, {"error": f"no such access key that can be rotated: {access_key}"})
        return _json(200, {"access_key": made[0], "secret_key": made[1]})

    async def _revoke(self, keys: Keys, body: bytes) -> Response:
        try:
            access_key = json.loads(body)["access_key"]
        except (ValueError, KeyError, TypeError):
            access_key = None
        if not isinstance(access_key, str):
            return _json(400, {"error": "access_key is missing"})
        if not await keys.revoke(access_key):
            return _json(404, {"error": f"no such access key: {access_key}"})
        return _json(200, {"access_key": access_key})

    def _is_proved(self, request: Request) -> bool:
        secret = self._handler.root_secret_key()
        stamp = request.headers.get(TIME_HEADER.lower(), "")
        proof = request.headers.get(SIGNATURE_HEADER.lower(), "")
        if secret is None or not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12:
            return False
        if abs(self._clock.wall_ms() / 1000 - int(stamp)) > _AGE_S_MAX:
            return False
        expected = sign(
            secret,
            method=request.method,
            path=request.path,
            time_s=int(stamp),
            body=request.body,
        )
        return hmac.compare_digest(expected.encode(), proof.encode("utf-8", "replace"))


_NAME_CHARS_MAX: Final = 64
_LIMITS_MAX: Final = 100
_LIMIT_CHARS_MAX: Final = 1024


def _limits(document: object) -> KeyLimits:
    """Raises: ValueError with one line on what is wrong."""
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    known = {"name", "read_only", "buckets", "prefixes"}
    if unknown := sorted(document.keys() - known):
        raise ValueError(f"unknown: {', '.join(unknown)}")
    name, read_only = document.get("name", ""), document.get("read_only", False)
    if not isinstance(name, str) or len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(f"a name has at most {_NAME_CHARS_MAX} printable characters")
    if not isinstance(read_only, bool):
        raise ValueError("read_only is true or false")
    return KeyLimits(
        name=name,
        read_only=read_only,
        buckets=_texts(document, "buckets"),
        prefixes=_texts(document, "prefixes"),
    )


def _texts(document: dict[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name, [])
    if not isinstance(value, list) or len(value) > _LIMITS_MAX:
        raise ValueError(f"{name} is a list of at most {_LIMITS_MAX}")
    for text in value:
        if not isinstance(text, str) or not 0 < len(text) <= _LIMIT_CHARS_MAX:
            raise ValueError(f"{name}: not a text that can be one: {text!r:.80}")
    return tuple(value)


def _json(status: int, document: dict[str, Any], *headers: tuple[str, str]) -> Response:
    return Response(
        status=status,
        body=json.dumps(document).encode() + b"\n",
        content_type="application/json",
        headers=headers,
    )
