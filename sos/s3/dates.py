"""The three date forms of HTTP, and those of S3's XML and of SigV4. Whole seconds; pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

_DAY_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_TIME: Final = r"(?P<h>\d\d):(?P<i>\d\d):(?P<s>\d\d)"
_HTTP_FORMS: Final = (  # RFC 9110, 5.6.7: IMF-fixdate, RFC 850, asctime
    re.compile(
        rf"[A-Z][a-z]{{2}}, (?P<d>\d\d) (?P<m>[A-Z][a-z]{{2}}) (?P<y>\d{{4}}) {_TIME} GMT", re.ASCII
    ),
    re.compile(
        rf"[A-Z][a-z]+day, (?P<d>\d\d)-(?P<m>[A-Z][a-z]{{2}})-(?P<y>\d\d) {_TIME} GMT", re.ASCII
    ),
    re.compile(
        rf"[A-Z][a-z]{{2}} (?P<m>[A-Z][a-z]{{2}}) (?P<d>[ \d]\d) {_TIME} (?P<y>\d{{4}})", re.ASCII
    ),
)
_AMZ_FORM: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
# Caches hold what strangers send, so longer texts stay out of them.
_HTTP_DATE_CHARS_MAX: Final = 33  # Wednesday, 06-Nov-94 08:49:37 GMT
_AMZ_DATE_CHARS: Final = 16
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def parse_http_date(text: str) -> int | None:
    """Seconds since the epoch, or ``None`` if ``text`` is none of the three forms of RFC 9110, 5.6.7."""
    return _parse_http_date(text) if len(text) <= _HTTP_DATE_CHARS_MAX else None


@lru_cache(maxsize=1024)
def _parse_http_date(text: str) -> int | None:
    for form in _HTTP_FORMS:
        found = form.fullmatch(text)
        if found is None:
            continue
        year, month = int(found["y"]), found["m"]
        if len(found["y"]) == 2:
            year += 1900 if year >= 70 else 2000
        if month not in _MONTHS:
            return None
        clock = (int(found["h"]), int(found["i"]), int(found["s"]))
        return _seconds(year, _MONTHS.index(month) + 1, int(found["d"]), *clock)
    return None


def parse_amz_date(text: str) -> int | None:
    """Seconds since the epoch of ``20261125T101112Z``, or ``None``."""
    return _parse_amz_date(text) if len(text) == _AMZ_DATE_CHARS else None


@lru_cache(maxsize=1024)
def _parse_amz_date(text: str) -> int | None:
    found = _AMZ_FORM.fullmatch(text)
    return None if found is None else _seconds(*map(int, found.groups()))


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    try:
        moment = datetime(
            year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC
        )
    except ValueError:
        return None
    return int(moment.timestamp()) + (1 if second == 60 else 0)


@lru_cache(maxsize=4096)
def format_http_date(seconds: int) -> str:
    """IMF-fixdate, as in ``Last-Modified``."""
    day, rest = divmod(seconds, 86400)
    when = date.fromordinal(day + _EPOCH_DAY)
    return (
        f"{_DAY_NAMES[when.weekday()]}, {when.day:02d} {_MONTHS[when.month - 1]} {when.year:04d}"
        f" {rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d} GMT"
    )


@lru_cache(maxsize=4096)
def format_iso(seconds: int) -> str:
    """``2026-11-23T08:20:00.000Z``, as in XML: the same instant as the header shows."""
    day, rest = divmod(seconds, 86400)
    return f"{_iso_day(day)}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.000Z"


@lru_cache(maxsize=256)
def _iso_day(day: int) -> str:
    return date.fromordinal(day + _EPOCH_DAY).isoformat()


def format_amz_date(seconds: int) -> str:
    """``20261125T101112Z``, as SigV4 signs it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
