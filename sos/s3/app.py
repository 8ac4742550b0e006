"""From a connection's request to its answer: id, gate, dispatch, errors rendered once.

The order of checks is s3.md 1.0: framing (``connection``), target, authentication, syntax and features
(``operations``), then whatever depends on the catalog (the handlers).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from sos.catalog.model import AccessKeyId
from sos.errors import Corruption, OutcomeUnknown, Unavailable
from sos.s3.dates import format_http_date
from sos.s3.errors import (
    BadRequest,
    InternalError,
    RequestHeaderSectionTooLarge,
    RequestTimeout,
    S3Error,
    ServiceUnavailable,
    SlowDown,
)
from sos.s3.exchange import XML, Exchange, RequestIds, Response
from sos.s3.head import parse_head, printable
from sos.s3.refusals import unavailable_error
from sos.s3.request_body import BodyIdle, ClientGone
from sos.s3.sending import AnswerSender
from sos.s3.target import Kind, parse_target
from sos.s3.wire import render_head
from sos.s3.xml import render_error
from sos.service.access import SERVED_INDEX
from sos.telemetry import log, request_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sos.clock import Clock, IdSource
    from sos.s3.connection import Connection
    from sos.s3.gate import Gate
    from sos.s3.head import RequestHead
    from sos.s3.request_body import RequestBody
    from sos.s3.target import S3Settings, Target
    from sos.s3.wire import WireError, WireHead
    from sos.telemetry import Metrics

_BODYLESS: Final = frozenset({204, 304})  # RFC 9110, 15.3.5, 15.4.5


class S3App:
    """Answers requests: 503 until ``open``. ``shows_index``: test mode, answers carry ``x-sos-index``."""

    def __init__(
        self,
        *,
        settings: S3Settings,
        ids: IdSource,
        metrics: Metrics,
        clock: Clock,
        shows_index: bool = False,
    ) -> None:
        self._clock = clock
        self._gate: Gate | None = None
        self._dispatch: Callable[[Exchange], Awaitable[Response]] | None = None
        self._cors: CrossOrigin | None = None
        self._forms: Forms | None = None
        self._settings = settings
        self._ids = RequestIds(ids)
        self._sender = AnswerSender()
        self._shows_index = shows_index
        self._date_s = 0
        self._date_text = ""
        self._requests = metrics.counter(
            "sos_s3_requests", "Answered S3 requests.", "operation", "status"
        )
        self._seconds = metrics.histogram(
            "sos_s3_request_seconds", "From request head to end of answer.", "operation"
        )

    def open(
        self,
        gate: Gate,
        dispatch: Callable[[Exchange], Awaitable[Response]],
        *,
        cors: CrossOrigin,
        forms: Forms,
    ) -> None:
        """The cluster is formed: admit requests by ``gate`` and run them by ``dispatch``."""
        self._gate = gate
        self._dispatch = dispatch
        self._cors = cors
        self._forms = forms

    # --- what a connection calls ----------------------------------------------------------------
    async def handle(self, wire: WireHead, body: RequestBody, connection: Connection) -> None:
        """Answer one request. Never raises."""
        request_id = self._ids.next()
        with request_context(request_id):
            started = time.perf_counter()
            seen = _Seen()
            SERVED_INDEX.set(0)
            try:
                response = await self._respond(wire, body, connection, request_id, seen)
                if seen.cors and wire.method != "OPTIONS":
                    response = response._replace(headers=[*response.headers, *seen.cors])
                await self._send(response, wire.method, request_id, connection)
                status = response.status
            except ClientGone:
                status = 499  # for the log alone: nobody is left to be answered
            except (Corruption, Unavailable) as error:
                log.warning("s3.stream.cut", resource=seen.resource, reason=str(error))
                status = 500
                connection.abort()  # the head is out already: only a cut is honest
            except Exception as error:  # noqa: BLE001 - the last line of defence: our bug, told as 500
                log.error("s3.request.failed", error=repr(error), operation=seen.operation)
                status = 500
                connection.abort()
            self._record(seen, wire, status, time.perf_counter() - started)

    def refuse(self, error: WireError | BodyIdle, connection: Connection) -> None:
        """Answer what is no request. Never raises."""
        refusal: S3Error
        if isinstance(error, BodyIdle):
            refusal = RequestTimeout(close=True)
        elif error.too_large:
            refusal = RequestHeaderSectionTooLarge("8192", close=True)
        else:
            refusal = BadRequest(
                message=f"An error occurred when parsing the HTTP request: {error}"
            )
        connection.close_after_answer()
        request_id = self._ids.next()
        response = self._error_response(refusal, "", request_id)
        connection.write(self._render(response, request_id, closes=True) + response.body)
        self._requests.add(1, "None", str(refusal.status))

    # --- one request ----------------------------------------------------------------------------
    async def _respond(
        self,
        wire: WireHead,
        body: RequestBody,
        connection: Connection,
        request_id: str,
        seen: _Seen,
    ) -> Response:
        """The answer, whatever happens but a lost client."""
        try:
            return await self._serve(wire, body, seen)
        except S3Error as error:
            refusal = error
        except Unavailable as error:
            log.debug("s3.request.unavailable", reason=str(error))
            refusal = unavailable_error(error)
        except OutcomeUnknown as error:
            log.warning("s3.request.unknown", operation=seen.operation, reason=str(error))
            refusal = InternalError()
        except Corruption as error:
            log.error("s3.object.damaged", resource=seen.resource, reason=str(error))
            refusal = InternalError()
        except ClientGone:
            raise
        except MemoryError:
            log.error("s3.request.memory", operation=seen.operation)
            # of a read it is certain that it changed nothing
            refusal = SlowDown() if wire.method in ("GET", "HEAD") else InternalError()
        except Exception as error:  # noqa: BLE001 - our bug: the client gets a 500 with the request id
            log.error("s3.request.bug", error=repr(error), operation=seen.operation, exc_info=True)
            refusal = InternalError()
        if refusal.close:
            connection.close_after_answer()
        return self._error_response(refusal, seen.resource, request_id)

    async def _serve(self, wire: WireHead, body: RequestBody, seen: _Seen) -> Response:
        head = parse_head(wire)
        seen.resource = printable(head.path)
        target = parse_target(head, self._settings)
        seen.see(target)
        if self._gate is None or self._dispatch is None:
            # Ends the connection: behind a balancer the next attempt may reach a node that serves.
            raise ServiceUnavailable(message="The cluster is not formed yet.", close=True)
        if "origin" in head.headers and self._cors is not None:
            seen.cors = await self._cors.cors_headers(head, target)
            if target.kind is Kind.PREFLIGHT:
                return await self._cors.preflight(head, target)
        if target.kind is Kind.POST_OBJECT and self._forms is not None:
            return await self._forms.post(head, target, body)
        verified, key = await self._gate.admit(head)
        return await self._dispatch(
            Exchange(
                head=head,
                target=target,
                verified=verified,
                access_key=AccessKeyId(verified.access_key),
                key=key,
                raw_body=body,
            )
        )

    def _error_response(self, error: S3Error, resource: str, request_id: str) -> Response:
        document = render_error(
            error, resource=resource, request_id=request_id, host_id=self._ids.host_id(request_id)
        )
        body = document.encode() if isinstance(document, str) else document
        return Response(status=error.status, headers=[XML, *error.headers], body=body)

    # --- the answer -----------------------------------------------------------------------------
    def _render(self, response: Response, request_id: str, *, closes: bool) -> bytes:
        own_lines = (
            f"x-amz-request-id: {request_id}\r\nx-amz-id-2: {self._ids.host_id(request_id)}\r\n"
            f"Date: {self._date()}\r\nServer: SOS\r\n"
        )
        headers = [*response.headers]
        if response.status not in _BODYLESS:
            length = response.content_length
            headers.append(
                ("Content-Length", str(len(response.body) if length is None else length))
            )
        if closes:
            headers.append(("Connection", "close"))
        if self._shows_index and (index := SERVED_INDEX.get()):
            headers.append(("x-sos-index", str(index)))
        return render_head(response.status, headers, own_lines)

    async def _send(
        self, response: Response, method: str, request_id: str, connection: Connection
    ) -> None:
        """Write head and body. Raises: ClientGone; whatever the stream raises."""
        head = self._render(response, request_id, closes=connection.answer_closes())
        stream = response.stream
        if method == "HEAD" or response.status in _BODYLESS:
            connection.write(head)
        elif stream is None:
            connection.write(head + response.body if response.body else head)
            await connection.drain()
            return
        else:
            connection.write(head)
            try:
                assert response.content_length is not None, "a stream tells its length"
                await self._sender.send(stream, response.content_length, connection)
            finally:
                await stream.aclose()
            return
        if stream is not None:
            await stream.aclose()

    def _date(self) -> str:
        now_s = self._clock.wall_ms() // 1000
        if now_s != self._date_s:
            self._date_s = now_s
            self._date_text = format_http_date(now_s)
        return self._date_text

    def _record(self, seen: _Seen, wire: WireHead, status: int, seconds: float) -> None:
        self._requests.add(1, seen.operation, str(status))
        self._seconds.observe(seconds, seen.operation)
        if log.is_enabled("info"):
            log.info_soon(
                "s3.request.done",
                operation=seen.operation,
                method=wire.method,
                resource=seen.resource,
                status=status,
                ms=round(seconds * 1000, 3),
            )


class Forms(Protocol):
    """Browser forms, which prove themselves (``handlers.post.PostHandlers``)."""

    async def post(self, head: RequestHead, target: Target, raw: RequestBody) -> Response: ...


class CrossOrigin(Protocol):
    """What browsers are told (``handlers.settings.SettingHandlers``)."""

    async def preflight(self, head: RequestHead, target: Target) -> Response: ...

    async def cors_headers(
        self, head: RequestHead, target: Target
    ) -> Sequence[tuple[str, str]]: ...


class _Seen:
    """What is known about a request so far, for its log line and its error document."""

    __slots__ = ("cors", "operation", "resource")

    def __init__(self) -> None:
        self.cors: Sequence[tuple[str, str]] = ()
        self.operation = "None"
        self.resource = ""

    def see(self, target: Target) -> None:
        self.operation = target.kind.value
