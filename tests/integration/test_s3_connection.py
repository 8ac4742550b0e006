"""What a client meets on the S3 port besides the operations: framing, waiting, closing (s3.md 2.6)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sos.limits import DRAIN_BYTES_MAX
from tests.compat.raw import Mode, RawClient
from tests.integration.s3_single import Endpoint, serve

BUCKET = "connections"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serve(tmp_path_factory.mktemp("node")) as endpoint:
        with endpoint.client() as client:
            assert client.request("PUT", f"/{BUCKET}").status == 200
            assert client.request("PUT", f"/{BUCKET}/there", body=b"0123456789").status == 200
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[RawClient]:
    with endpoint.client() as client:
        yield client


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        pause.wait(0.02)


def test_continue_is_sent_only_when_nothing_stands_against_the_body(client: RawClient) -> None:
    """100 comes after every check that needs no body; a refusal comes at once, and closes (RFC 9110, 10.1.1)."""
    expect = {"expect": "100-continue"}
    head, body = client.build("PUT", f"/{BUCKET}/k", body=b"x" * 100_000, headers=expect)

    client.send(head)
    first = client.receive("PUT")
    client.send(body)
    second = client.receive("PUT")
    refused_head, _ = client.build("PUT", "/no-such-bucket-here/k", body=b"x", headers=expect)
    client.send(refused_head)
    refused = client.receive("PUT")

    assert first.status == 100
    assert second.status == 200
    assert (refused.status, refused.code, refused.closes) == (404, "NoSuchBucket", True)


def test_continue_comes_before_an_empty_body_too(client: RawClient) -> None:
    """The AWS CLI sends Expect with empty files; a final answer without the 100 made it read the next one wrongly, and
    wait a minute for it. So either the 100 comes, or the connection ends."""
    expect = {"expect": "100-continue"}
    for _ in range(2):
        head, _ = client.build("PUT", f"/{BUCKET}/empty", headers=expect)
        client.send(head)
        assert [client.receive("PUT").status for _ in range(2)] == [100, 200]
    refused_head, _ = client.build("PUT", "/no-such-bucket-here/k", headers=expect)
    client.send(refused_head)
    refused = client.receive("PUT")
    assert (refused.status, refused.closes) == (404, True)


def test_who_does_not_wait_keeps_the_connection(client: RawClient) -> None:
    """A body that came at once needs no 100 (RFC 9110, 10.1.1), and the connection goes on."""
    head, body = client.build(
        "PUT", f"/{BUCKET}/k", body=b"x" * 10, headers={"expect": "100-continue"}
    )
    for _ in range(2):
        client.send(head + body)
        answers = [client.receive("PUT")]
        if answers[0].status == 100:
            answers.append(client.receive("PUT"))
        assert (answers[-1].status, answers[-1].closes) == (200, False)


def test_early_conditions_are_judged_before_the_body(client: RawClient) -> None:
    """A write whose condition fails now is refused before a byte is read (s3.md 4.3)."""
    head, _ = client.build(
        "PUT",
        f"/{BUCKET}/there",
        body=b"x" * 100_000,
        headers={"expect": "100-continue", "if-none-match": "*"},
    )

    client.send(head)

    assert client.receive("PUT").status == 412


def test_pipelined_requests_are_answered_in_order(client: RawClient) -> None:
    """Requests sent at once are answered one after the other (RFC 9112, 9.3.2)."""
    parts = []
    for number in range(50):
        head, body = client.build("PUT", f"/{BUCKET}/p{number % 3}", body=b"%d" % number)
        parts.append(head + body)
        parts.append(client.build("GET", f"/{BUCKET}/p{number % 3}")[0])

    client.send(b"".join(parts))

    for number in range(50):
        assert client.receive("PUT").status == 200
        assert client.receive("GET").body == b"%d" % number


def test_a_request_may_arrive_byte_by_byte(client: RawClient) -> None:
    """TCP splits a stream where it likes."""
    head, body = client.build("PUT", f"/{BUCKET}/slow", body=b"slowly", mode=Mode.CHUNKED)

    for byte in head + body:
        client.send(bytes([byte]))

    assert client.receive("PUT").status == 200
    assert client.request("GET", f"/{BUCKET}/slow").body == b"slowly"


def test_a_refused_body_is_drained_and_the_connection_kept(client: RawClient) -> None:
    """A small unread body is read and dropped: the next request works (s3.md 2.6)."""
    refused = client.request("PUT", "/no-such-bucket-here/k", body=b"x" * (DRAIN_BYTES_MAX // 2))
    kept = client.connect()

    again = client.request("GET", f"/{BUCKET}/there")

    assert refused.status == 404
    assert again.status == 200
    assert client.connect() is kept


def test_a_large_refused_body_gets_its_answer_before_the_close(client: RawClient) -> None:
    """The client can read the refusal although it is still sending (RFC 9112, 9.6)."""
    body = b"x" * (8 * DRAIN_BYTES_MAX)
    head, _ = client.build("PUT", "/no-such-bucket-here/k", body=body)
    client.send(head + body[:100_000])

    refused = client.receive("PUT")

    assert (refused.status, refused.closes) == (404, True)


def test_a_client_that_goes_away_in_mid_body_leaves_nothing(
    endpoint: Endpoint, client: RawClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """No object, no temporary file, no traceback (issue: bad days)."""
    before = endpoint.blob_files()
    head, _ = client.build("PUT", f"/{BUCKET}/gone", body=b"x" * 5_000_000, mode=Mode.UNSIGNED)
    client.send(head + b"x" * 2_000_000)
    eventually(lambda: endpoint.blob_files() != before)

    client.close()

    eventually(lambda: endpoint.blob_files() == before)
    with endpoint.client() as other:
        assert other.request("HEAD", f"/{BUCKET}/gone").status == 404
    assert capfd.readouterr().err == ""


def test_a_silent_body_times_out(endpoint: Endpoint, client: RawClient) -> None:
    """A client that stops sending gets 400 RequestTimeout, and the connection closes (s3.md 2.6)."""
    head, _ = client.build("PUT", f"/{BUCKET}/silent", body=b"x" * 1000, mode=Mode.UNSIGNED)
    client.send(head + b"x" * 10)
    eventually(endpoint.waits_for_a_body)

    endpoint.expire_deadlines()
    answer = client.receive("PUT")

    assert (answer.status, answer.code, answer.closes) == (400, "RequestTimeout", True)


def test_a_slow_head_times_out(endpoint: Endpoint, client: RawClient) -> None:
    """A head that never ends holds a connection for ten seconds only (slowloris)."""
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
    eventually(
        lambda: any(each.is_reading_head for each in endpoint.server.connections()),
    )

    endpoint.expire_deadlines()
    answer = client.receive()

    assert (answer.status, answer.code) == (400, "RequestTimeout")


def test_an_idle_connection_is_closed_without_a_word(endpoint: Endpoint, client: RawClient) -> None:
    """Nobody is told about a deadline of a request that was never begun."""
    assert client.request("GET", f"/{BUCKET}/there").status == 200

    endpoint.expire_deadlines()

    assert client.is_closed_by_server()


def test_endless_heads_are_cut_off(client: RawClient) -> None:
    """Memory per connection is bounded before authentication."""
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x-filler: " + b"f" * 200_000)

    answer = client.receive()

    assert (answer.status, answer.code) == (400, "RequestHeaderSectionTooLarge")
    assert answer.closes


def test_absolute_form_targets(client: RawClient) -> None:
    """``GET http://h/b/k`` is legal (RFC 9112, 3.2.2)."""
    path = f"/{BUCKET}/there"

    got = client.request("GET", path, target=f"http://{client.authority}{path}")

    assert got.body == b"0123456789"


def test_http_1_0_is_answered_and_closed(client: RawClient) -> None:
    """An old client gets its answer and the end of the connection."""
    head, _ = client.build("GET", f"/{BUCKET}/there")

    client.send(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = client.receive()

    assert (answer.body, answer.closes) == (b"0123456789", True)


def test_a_client_that_stops_sending_still_reads_its_answer(client: RawClient) -> None:
    """Half-closed connections are served (RFC 9112, 9.6)."""
    head, _ = client.build("GET", f"/{BUCKET}/there")

    client.send(head)
    client.end_sending()

    assert client.receive().body == b"0123456789"
    assert client.is_closed_by_server()


def test_garbage_behind_a_request_does_not_reach_the_next_one(client: RawClient) -> None:
    """A HEAD has no body: what follows is the next request, and refused as such."""
    head, _ = client.build("HEAD", f"/{BUCKET}/there")

    client.send(head + b"\x16\x03\x01\x02\x00\r\n\r\n")

    assert client.receive("HEAD").status == 200
    assert client.receive().status == 400


def test_drain_answers_what_is_under_way(tmp_path: Path) -> None:
    """On SIGTERM a request under way is answered, idle connections close, new ones are refused (issue 2)."""
    with serve(tmp_path) as endpoint, endpoint.client() as busy, endpoint.client() as idle:
        assert busy.request("PUT", f"/{BUCKET}").status == 200
        assert idle.request("HEAD", f"/{BUCKET}").status == 200
        head, body = busy.build("PUT", f"/{BUCKET}/k", body=b"x" * 1000, mode=Mode.UNSIGNED)
        busy.send(head + body[:10])
        eventually(endpoint.waits_for_a_body)

        closing = endpoint.start(endpoint.server.close(10.0))
        assert idle.is_closed_by_server()
        busy.send(body[10:])
        answer = busy.receive("PUT")
        closing.result(10)

        assert (answer.status, answer.closes) == (200, True)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((endpoint.host, endpoint.port))


def test_a_port_before_formation_answers_503(tmp_path: Path) -> None:
    """Until the cluster is formed: 503 with Retry-After, never a hang (issue: bad days)."""
    with serve(tmp_path, is_open=False) as endpoint, endpoint.client() as client:
        answer = client.request("GET", "/b/k")

        assert (answer.status, answer.code) == (503, "ServiceUnavailable")
        assert answer.header("retry-after") == "1"
