"""Strangers and impatient clients at the admin port: short answers, no traceback, nothing that ends the core."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sos.admin.http import HttpServer, Request, Response
from tests.integration.cluster import free_ports


@asynccontextmanager
async def _served() -> AsyncIterator[
    tuple[int, list[dict[str, Any]], asyncio.Event, asyncio.Event]
]:
    """A server whose handler sets one event and answers once the other is set; what the loop was told meanwhile."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    asked, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        asked.set()
        await release.wait()
        return Response(status=200, body=request.path.encode())

    (port,) = free_ports(1)
    listener = socket.create_server(("127.0.0.1", port))
    server = HttpServer(handler, listener=listener)
    await server.start()
    try:
        yield port, told, asked, release
    finally:
        await server.close()
        await asyncio.sleep(0)  # asyncio's own callback of an ended connection runs now


def test_connections_that_are_open_at_the_end_are_no_bug() -> None:
    """Issue 4, SIGTERM: an idle client and an unanswered one must not turn the end into exit code 70."""

    async def scenario() -> list[dict[str, Any]]:
        async with _served() as (port, told, asked, _):
            _, idle = await asyncio.open_connection("127.0.0.1", port)
            _, waiting = await asyncio.open_connection("127.0.0.1", port)
            waiting.write(b"GET /status HTTP/1.1\r\n\r\n")
            await asked.wait()
        idle.close()
        waiting.close()
        return told

    assert asyncio.run(scenario()) == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000, b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 65537", b"413"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", b"400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked", b"411"),
        (b"GET / HTTP/0.9", b"400"),
        (b"GET http://x/ HTTP/1.1", b"400"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000, b"431"),
        (b"GET / HTTP/1.1\r\n folded: x", b"400"),
        (b"\xff\xfe / HTTP/1.1", b"400"),
    ],
)
def test_what_is_no_request_gets_a_short_refusal(
    head: bytes, status: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Faults 88: refused and closed, no traceback in the log."""

    async def scenario() -> tuple[bytes, list[dict[str, Any]]]:
        async with _served() as (port, told, _, release):
            release.set()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        return answer, told

    answer, told = asyncio.run(scenario())
    assert answer.split(b" ")[1] == status
    assert told == []
    assert capfd.readouterr().err == ""
