"""What a node tells about itself: JSON log lines on stderr, counters and histograms.

Log: ``log.info("blob.write.done", blob=..., ms=...)``: a stable dotted event, values only as fields.
``error``: a person must act. ``warning``: degraded but handled. ``info``: one line per request and per
state change. Keys, signatures and bodies never appear. ``exc_info=True`` adds the traceback of the exception in handling.

Metrics are plain numbers in each process; the core asks its gateways for theirs when it is scraped, and
only then the Prometheus client, whose one door this is, is loaded.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import sys
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from json.encoder import encode_basestring_ascii as encode_string
from math import isfinite
from typing import Any, Final, TextIO

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_REQUEST_ID: ContextVar[str] = ContextVar("sos_request_id", default="")
_SOON_S: Final = 0.05  # how long a line of ``info_soon`` may wait
_SOON_LINES_MAX: Final = 200
_EVENTS_MAX: Final = 1000  # events are names in the code; messages of libraries are not


# --- log ------------------------------------------------------------------------------------------
class Log:
    """Writes one JSON object per line. One instance, ``log``, serves a process."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._threshold = _LEVELS["info"]
        self._common: dict[str, object] = {}
        self._encode = json.JSONEncoder(default=_plain).encode
        self._beginnings: dict[tuple[str, str], str] = {}
        self._soon: list[str] = []
        self._second = -1
        self._second_text = ""

    def configure(self, *, level: str, **common: object) -> None:
        """Set the lowest level that is written and the fields that every line carries.

        What libraries log by way of ``logging``, from warnings on, leaves in the same form.
        """
        self._threshold = _LEVELS[level]
        self._common = common
        self._beginnings.clear()
        atexit.register(self.flush)
        logging.basicConfig(handlers=[_Bridge(self)], level=logging.WARNING, force=True)

    def debug(self, event: str, /, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write("error", event, fields)

    def info_soon(self, event: str, /, **fields: object) -> None:
        """As ``info``, for lines that come by the thousand: those of a moment leave in one write, in order."""
        if _LEVELS["info"] < self._threshold:
            return
        if not self._soon:
            try:
                asyncio.get_running_loop().call_later(_SOON_S, self.flush)
            except RuntimeError:
                self._write("info", event, fields)
                return
        self._soon.append(self._line("info", event, fields))
        if len(self._soon) >= _SOON_LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write the lines that waited."""
        lines, self._soon = self._soon, []
        if lines:
            self._emit("".join(lines))

    def is_enabled(self, level: str) -> bool:
        """Whether a line of ``level`` would be written: spares the work of building its fields."""
        return _LEVELS[level] >= self._threshold

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if _LEVELS[level] < self._threshold:
            return
        lines, self._soon = self._soon, []
        lines.append(self._line(level, event, fields))
        self._emit("".join(lines))

    def _line(self, level: str, event: str, fields: dict[str, object]) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        if fields.pop("exc_info", False):
            fields = {"traceback": traceback.format_exc(), **fields}
        if request_id := _REQUEST_ID.get():
            fields = {"request_id": request_id, **fields}
        beginning = self._beginnings.get((level, event)) or self._begin(level, event)
        stamp = f"{self._second_text}.{int(now * 1000) % 1000:03d}Z"
        rest = "".join(
            [
                f", {encode_string(name)}: {encode_string(value) if type(value) is str else self._text(value)}"
                for name, value in fields.items()
            ]
        )
        return f'{{"time": "{stamp}", {beginning}{rest}}}\n'

    def _text(self, value: object) -> str:
        """A value that is no plain text, in JSON. The encoder's set-up would cost more than a number."""
        if type(value) is int or (type(value) is float and isfinite(value)):
            return repr(value)
        return self._encode(value)

    def _begin(self, level: str, event: str) -> str:
        """What all lines of an event share, as it stands in them."""
        text = self._encode({"level": level, "event": event, **self._common})[1:-1]
        if len(self._beginnings) < _EVENTS_MAX:
            self._beginnings[level, event] = text
        return text

    def _emit(self, text: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            return  # nobody reads the log any more; that must not stop a node


class _Bridge(logging.Handler):
    """Lines of ``logging`` as lines of ours; what came as ``extra`` becomes fields."""

    _KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def __init__(self, log_: Log) -> None:
        super().__init__()
        self._log = log_

    def emit(self, record: logging.LogRecord) -> None:
        fields = {k: v for k, v in vars(record).items() if k not in self._KNOWN}
        if record.exc_info:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(record.getMessage(), source=record.name, **fields)


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)


log: Final = Log()


class request_context:
    """Log lines written inside carry ``request_id``. A class, for a generator would cost 2 us a request."""

    __slots__ = ("_request_id", "_token")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def __enter__(self) -> None:
        self._token: Token[str] = _REQUEST_ID.set(self._request_id)

    def __exit__(self, *_: object) -> None:
        _REQUEST_ID.reset(self._token)


# --- metrics --------------------------------------------------------------------------------------
# Seconds; from a barrier on loopback (0.2 ms) to the commit deadline (10 s).
SECONDS_BUCKETS: Final = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class Counter:
    """A number that only grows, per combination of label values."""

    __slots__ = ("_values", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1.0, *label_values: str) -> None:
        self._values[label_values] = self._values.get(label_values, 0.0) + amount

    def sample(self) -> list[Any]:
        rows = [[list(labels), value] for labels, value in self._values.items()]
        return ["counter", self.name, self.help, list(self.labels), rows]


class Gauge:
    """Numbers that are read when someone asks, one per combination of label values."""

    __slots__ = ("_read", "help", "labels", "name")

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...],
        read: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
    ) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self._read = read

    def sample(self) -> list[Any]:
        rows = [[list(labels), float(value)] for labels, value in self._read()]
        return ["gauge", self.name, self.help, list(self.labels), rows]


class Histogram:
    """Counts of observations up to each bound, per combination of label values."""

    __slots__ = ("_bounds", "_rows", "help", "labels", "name")

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], bounds: Sequence[float]
    ) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self._bounds = tuple(bounds)
        self._rows: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *label_values: str) -> None:
        row = self._rows.get(label_values)
        if row is None:
            row = self._rows[label_values] = ([0] * (len(self._bounds) + 1), [0.0])
        row[0][bisect_left(self._bounds, value)] += 1
        row[1][0] += value

    def sample(self) -> list[Any]:
        rows = [[list(labels), counts, total[0]] for labels, (counts, total) in self._rows.items()]
        return ["histogram", self.name, self.help, list(self.labels), rows, list(self._bounds)]


class Metrics:
    """The numbers of one process."""

    def __init__(self) -> None:
        self._all: list[Counter | Gauge | Histogram] = []

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        metric = Counter(name, help_text, labels)
        self._all.append(metric)
        return metric

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> Gauge:
        return self.gauges(name, help_text, (), lambda: [((), read())])

    def gauges(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...],
        read: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
    ) -> Gauge:
        metric = Gauge(name, help_text, labels, read)
        self._all.append(metric)
        return metric

    def histogram(
        self, name: str, help_text: str, *labels: str, bounds: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        metric = Histogram(name, help_text, labels, bounds)
        self._all.append(metric)
        return metric

    def samples(self) -> list[Any]:
        """Plain values that ``render`` understands: they travel over the link."""
        return [metric.sample() for metric in self._all]


def render(processes: dict[str, list[Any]]) -> bytes:
    """The samples of all processes of a node in Prometheus' text format, each labelled with its process."""
    from prometheus_client import CollectorRegistry, generate_latest  # 190 ms: only when scraped
    from prometheus_client.core import Metric

    families: dict[str, Metric] = {}
    for process, samples in sorted(processes.items()):
        for kind, name, help_text, labels, rows, *bounds in samples:
            family = families.setdefault(name, Metric(name, help_text, kind))
            for row in rows:
                values = dict(zip(labels, row[0], strict=True)) | {"process": process}
                if kind == "histogram":
                    _add_histogram(family, name, values, row, bounds[0])
                else:
                    family.add_sample(
                        name + ("_total" if kind == "counter" else ""), values, row[1]
                    )

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return families.values()

    registry = CollectorRegistry()
    registry.register(Collected())
    return generate_latest(registry)


def _add_histogram(
    family: Any,  # noqa: ANN401 - prometheus_client is loaded only when scraped
    name: str,
    labels: dict[str, str],
    row: list[Any],
    bounds: list[float],
) -> None:
    total = 0
    for bound, count in zip([*map(str, bounds), "+Inf"], row[1], strict=True):
        total += count
        family.add_sample(f"{name}_bucket", {**labels, "le": bound}, total)
    family.add_sample(f"{name}_count", labels, total)
    family.add_sample(f"{name}_sum", labels, row[2])
