"""Times of day and intervals, as strings: BSON knows moments only.

A time is what the server prints, `23:59:59.5` or, with a zone, `23:59:59.5+05:30`. An interval is ISO 8601 as the
server prints it under `intervalstyle = iso_8601`: months, days and microseconds stay apart, since a month is no number
of days.
"""

from __future__ import annotations

import re
import struct

from dsync_postgres.documents.texts import FromText, ToText
from dsync_postgres.documents.types import ColumnType, Kind

_I64 = struct.Struct(">q")
_ZONED = struct.Struct(">qi")
_INTERVAL = struct.Struct(">qii")
_FINEST = {"hour": 3_600_000_000, "minute": 60_000_000}
_DAY_US = 86_400_000_000
_HOUR_US, _MINUTE_US, _SECOND_US = 3_600_000_000, 60_000_000, 1_000_000
_CLOCK = r"(\d\d):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?"
_TIME = re.compile(_CLOCK, re.ASCII)
_TIME_WITH_ZONE = re.compile(_CLOCK + r"([+-])(\d\d)(?::([0-5]\d)(?::([0-5]\d))?)?", re.ASCII)
_ISO = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?"
    r"(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d{1,6}))?S)?)?",
    re.ASCII,
)
_INFINITY = _INTERVAL.pack((1 << 63) - 1, (1 << 31) - 1, (1 << 31) - 1)
_MINUS_INFINITY = _INTERVAL.pack(-(1 << 63), -(1 << 31), -(1 << 31))
_INFINITE = {_INFINITY: b"infinity", _MINUS_INFINITY: b"-infinity"}
_INFINITE_OF_TEXT = {"infinity": _INFINITY, "-infinity": _MINUS_INFINITY}


def to_text(column_type: ColumnType) -> ToText:
    """From the binary form of a time or interval to text."""
    if column_type.kind is Kind.TIME:
        return _time_to_text
    if column_type.kind is Kind.TIMETZ:
        return _zoned_to_text
    knows_infinity = column_type.has_infinite_interval

    def interval_to_text(raw: bytes) -> bytes:
        return _INFINITE[raw] if knows_infinity and raw in _INFINITE else _finite_to_text(raw)

    return interval_to_text


def from_text(column_type: ColumnType) -> FromText:
    """From text to the binary form of a time or interval; what the server would round is a ValueError."""
    step = 10 ** (6 - column_type.fraction_digits)
    if column_type.kind is Kind.INTERVAL:
        return _interval_from_text(column_type, step)
    with_zone = column_type.kind is Kind.TIMETZ
    pattern = _TIME_WITH_ZONE if with_zone else _TIME

    def time_from_text(text: str) -> bytes:
        match = pattern.fullmatch(text)
        if match is None:
            raise ValueError
        micros = _clock_micros(match[1], match[2], match[3], match[4])
        if micros > _DAY_US or micros % step:
            raise ValueError
        if not with_zone:
            return _I64.pack(micros)
        zone_s = int(match[6]) * 3600 + int(match[7] or 0) * 60 + int(match[8] or 0)
        return _ZONED.pack(micros, zone_s if match[5] == "-" else -zone_s)

    return time_from_text


def _time_to_text(raw: bytes) -> bytes:
    return _clock(*_I64.unpack(raw)).encode()


def _zoned_to_text(raw: bytes) -> bytes:
    """The zone is kept in seconds west of Greenwich."""
    micros, west_s = _ZONED.unpack(raw)
    minutes, seconds = divmod(abs(west_s), 60)
    hours, minutes = divmod(minutes, 60)
    tail = f":{minutes:02d}:{seconds:02d}" if seconds else f":{minutes:02d}" if minutes else ""
    return f"{_clock(micros)}{'-' if west_s > 0 else '+'}{hours:02d}{tail}".encode()


def _clock(micros: int) -> str:
    seconds, fraction = divmod(micros, _SECOND_US)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def _clock_micros(hours: str, minutes: str, seconds: str, fraction: str | None) -> int:
    return (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * _SECOND_US + int((fraction or "").ljust(6, "0"))


def _finite_to_text(raw: bytes) -> bytes:
    micros, days, months = _INTERVAL.unpack(raw)
    years, months = _split(months, 12)
    hours, rest = _split(micros, _HOUR_US)
    minutes, rest = _split(rest, _MINUTE_US)
    date = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
    if rest:
        seconds, fraction = divmod(abs(rest), _SECOND_US)
        shown = f"{seconds}.{fraction:06d}".rstrip("0") if fraction else str(seconds)
        time += f"{'-' if rest < 0 else ''}{shown}S"
    return (f"P{date}T{time}" if time else f"P{date}" if date else "PT0S").encode()


def _split(number: int, unit: int) -> tuple[int, int]:
    """How many whole units and what is left, both with the sign of the number."""
    whole, rest = divmod(abs(number), unit)
    return (-whole, -rest) if number < 0 else (whole, rest)


def _interval_from_text(column_type: ColumnType, step: int) -> FromText:
    keeps = _Keeper(column_type.fields, step)
    knows_infinity = column_type.has_infinite_interval

    def interval_from_text(text: str) -> bytes:
        if text in _INFINITE_OF_TEXT:
            if not knows_infinity:
                raise ValueError
            return _INFINITE_OF_TEXT[text]
        match = _ISO.fullmatch(text)
        if match is None or text[-1] in "PT":
            raise ValueError
        years, months, days, hours, minutes = (int(match[at] or 0) for at in range(1, 6))
        seconds = int(match[7] or 0) * _SECOND_US + int((match[8] or "").ljust(6, "0"))
        micros = hours * _HOUR_US + minutes * _MINUTE_US + (-seconds if match[6] else seconds)
        months += 12 * years
        raw = _INTERVAL.pack(micros, days, months)
        if not keeps(months, days, micros) or (knows_infinity and raw in _INFINITE):
            raise ValueError
        return raw

    return interval_from_text


class _Keeper:
    """Whether a type keeps an interval as it is (AdjustIntervalForTypmod in src/backend/utils/adt/timestamp.c)."""

    def __init__(self, fields: str, step: int) -> None:
        last = fields.rpartition(" ")[2]
        self._months_of = 12 if last == "year" else 1
        self._has_days = last not in ("year", "month")
        self._time_step = 0 if last in ("year", "month", "day") else _FINEST.get(last, step)

    def __call__(self, months: int, days: int, micros: int) -> bool:
        if months % self._months_of or (days and not self._has_days):
            return False
        return not micros if not self._time_step else not micros % self._time_step
