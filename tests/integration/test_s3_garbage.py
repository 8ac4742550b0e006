"""Bytes that no client would send: the port answers or closes, logs no error, and goes on (s3.md 11)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest

from tests.compat.raw import Mode, RawClient
from tests.integration.s3_single import Endpoint, serve

ROUNDS = 300
BUCKET = "garbage"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serve(tmp_path_factory.mktemp("node")) as endpoint:
        with endpoint.client() as client:
            assert client.request("PUT", f"/{BUCKET}").status == 200
        yield endpoint


def valid_requests(client: RawClient) -> list[bytes]:
    body = bytes(range(256)) * 50
    parts = [
        client.build("PUT", f"/{BUCKET}/k", body=body),
        client.build("PUT", f"/{BUCKET}/k", body=body, mode=Mode.CHUNKED),
        client.build(
            "PUT", f"/{BUCKET}/k", body=body, mode=Mode.UNSIGNED_TRAILER, transfer_chunked=True
        ),
        client.build("GET", f"/{BUCKET}", query=[("list-type", "2"), ("prefix", "é")]),
        client.build("POST", f"/{BUCKET}", query=[("delete", "")], body=b"<Delete></Delete>"),
    ]
    return [head + sent for head, sent in parts]


def spoil(data: bytes, chance: random.Random) -> bytes:
    """One of the ways in which bytes go wrong."""
    at = chance.randrange(len(data))
    match chance.randrange(5):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[at : at + chance.randrange(1, 50)] * 3 + data[at:]
        case 3:
            return data[:at] + chance.randbytes(chance.randrange(1, 100)) + data[at:]
        case _:
            return data[:at] + data[at + chance.randrange(1, 50) :]


def test_spoilt_requests_end_in_an_answer_or_a_closed_connection(
    endpoint: Endpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing a stranger sends crashes, hangs, or fills the log of an operator (s3.md 11)."""
    chance = random.Random(4)
    with endpoint.client() as template:
        requests = valid_requests(template)

    for _ in range(ROUNDS):
        with endpoint.client() as client:
            client.send(spoil(chance.choice(requests), chance))
            client.end_sending()
            with contextlib.suppress(EOFError):
                answer = client.receive()
                assert answer.status in (100, 200, 204) or 400 <= answer.status <= 501, answer

    with endpoint.client() as client:
        assert client.request("GET", f"/{BUCKET}").status == 200
    assert capfd.readouterr().err == ""


def test_random_bytes(endpoint: Endpoint, capfd: pytest.CaptureFixture[str]) -> None:
    """TLS on the plain port, binary protocols, noise: 400 and the end of the connection."""
    chance = random.Random(5)

    for _ in range(50):
        with endpoint.client() as client:
            client.send(chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
            answer = client.receive()
            assert (answer.status, answer.closes) == (400, True)

    assert capfd.readouterr().err == ""
