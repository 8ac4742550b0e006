"""Log lines and metrics."""

from __future__ import annotations

import asyncio
import io
import json

from sos.telemetry import Log, Metrics, render, request_context


def test_log_lines_are_json_with_common_fields() -> None:
    """House style 9: stable event, fields, node and request id on each line."""
    stream = io.StringIO()
    log = Log(stream=stream)
    log.configure(level="info", node="n1@0", process="core")

    log.debug("hidden.event")
    with request_context("req-1"):
        log.info("blob.write.done", blob=b"\x01\xff", count=3)

    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document["event"] == "blob.write.done"
    assert document["level"] == "info"
    assert document["node"] == "n1@0"
    assert document["request_id"] == "req-1"
    assert document["blob"] == "01ff"
    assert document["count"] == 3


def test_lines_that_come_by_the_thousand_leave_together_and_in_order() -> None:
    """House style 9: one line per request, at a price per moment; nothing overtakes them."""
    stream = io.StringIO()
    log = Log(stream=stream)

    async def run() -> None:
        log.info_soon("request.done", number=1)
        log.info_soon("request.done", number=2)
        assert stream.getvalue() == ""
        log.warning("disk.low", number=3)
        log.info_soon("request.done", number=4)
        log.flush()

    asyncio.run(run())
    log.info_soon("request.done", number=5)  # no loop, no later

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[2]["event"] == "disk.low"


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    """A closed stderr must not end a node."""
    stream = io.StringIO()
    stream.close()
    Log(stream=stream).error("disk.failed")


def test_an_exception_is_logged_with_its_traceback_on_one_line() -> None:
    """A bug leaves its traceback in the log, as a field."""
    stream = io.StringIO()
    log = Log(stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        log.error("bug", exc_info=True)  # noqa: G201 - our own log
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["traceback"]


def test_metrics_of_all_processes_are_rendered_once() -> None:
    """Design 4: /metrics shows the whole node in Prometheus' format."""
    metrics = Metrics()
    requests = metrics.counter("sos_requests", "Requests", "operation")
    requests.add(2, "PutObject")
    metrics.gauge("sos_depth", "Depth", lambda: 7)
    seconds = metrics.histogram("sos_seconds", "Time", bounds=(0.1, 1.0))
    for value in (0.05, 0.5, 5.0):
        seconds.observe(value)
    samples = json.loads(json.dumps(metrics.samples()))  # they travel as plain values

    text = render({"core": samples, "gateway-0": samples}).decode()

    assert 'sos_requests_total{operation="PutObject",process="core"} 2.0' in text
    assert 'sos_depth{process="gateway-0"} 7.0' in text
    assert 'sos_seconds_bucket{le="0.1",process="core"} 1.0' in text
    assert 'sos_seconds_bucket{le="+Inf",process="core"} 3.0' in text
    assert text.count("# TYPE sos_requests_total counter") == 1
