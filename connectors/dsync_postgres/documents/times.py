"""Dates and times: a BSON date where that is exact, ISO 8601 text where it is not.

PostgreSQL counts microseconds (or days) from 2000-01-01 and has two infinities; BSON counts milliseconds from
1970-01-01. A timestamp with a part below the millisecond, and an infinity, therefore become strings:
`2024-01-02T03:04:05.123456Z` (without the Z where the column has no time zone), `infinity`, `-infinity`.
"""

from __future__ import annotations

import re
import struct
from datetime import datetime
from functools import lru_cache

from dsync_postgres.documents.bson import DATE, STRING, Decode, Encode, Misfit, read_int64, string_element, string_text

EPOCH_DAYS = 10957
"""Days from 1970-01-01 to 2000-01-01."""
EPOCH_MS = EPOCH_DAYS * 86_400_000
DAY_MS = 86_400_000
DAYS_MIN, DAYS_END = -2451545, 2145031949
"""PostgreSQL's dates: 4713-11-24 BC up to, not including, 5874898-01-01 (src/include/datatype/timestamp.h)."""
MICROS_MIN, MICROS_END = -211813488000000000, 9223371331200000000
"""PostgreSQL's timestamps: from the same day up to, not including, 294277-01-01."""
TIMESTAMP_MS_MIN, TIMESTAMP_MS_END = MICROS_MIN // 1000 + EPOCH_MS, MICROS_END // 1000 + EPOCH_MS

_DAY_US = DAY_MS * 1000
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")
_MS = struct.Struct("<q")
_DAYS_INFINITY = {(1 << 31) - 1: b"infinity", -(1 << 31): b"-infinity"}
_MICROS_INFINITY = {(1 << 63) - 1: b"infinity", -(1 << 63): b"-infinity"}
_DAYS_OF_TEXT = {text.decode(): days for days, text in _DAYS_INFINITY.items()}
_MICROS_OF_TEXT = {text.decode(): micros for micros, text in _MICROS_INFINITY.items()}
_DATE = re.compile(r"([+-]?\d{4,7})-(\d\d)-(\d\d)", re.ASCII)
_TIME = re.compile(
    r"([+-]?\d{4,7}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:(Z)|([+-])(\d\d):?(\d\d)?)?", re.ASCII
)
_EPOCH = datetime.fromisoformat("2000-01-01T00:00:00")
_EPOCH_UTC = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
_MONTH_STARTS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)


def encode_date(name: bytes, raw: bytes) -> bytes:
    """A BSON date at midnight UTC, or the name of an infinity."""
    (days,) = _I32.unpack(raw)
    if days in _DAYS_INFINITY:
        return string_element(name, _DAYS_INFINITY[days])
    return b"\x09" + name + _MS.pack((days + EPOCH_DAYS) * DAY_MS)


def timestamp_encoder(*, with_zone: bool) -> Encode:
    """A function from a binary timestamp to a BSON date, or a string where that would lose something."""
    suffix = b"Z" if with_zone else b""

    def encode(name: bytes, raw: bytes) -> bytes:
        (micros,) = _I64.unpack(raw)
        ms, below = divmod(micros, 1000)
        if not below:
            return b"\x09" + name + _MS.pack(ms + EPOCH_MS)
        if micros in _MICROS_INFINITY:
            return string_element(name, _MICROS_INFINITY[micros])
        days, of_day = divmod(micros, _DAY_US)
        seconds, fraction = divmod(of_day, 1_000_000)
        minutes, second = divmod(seconds, 60)
        text = b"%bT%02d:%02d:%02d.%06d%b" % (_day_text(days), *divmod(minutes, 60), second, fraction, suffix)
        return string_element(name, text)

    return encode


def moment_text(ms: int) -> bytes:
    """A BSON date in ISO 8601, without zone; a part of a second only where there is one."""
    days, of_day = divmod(ms, DAY_MS)
    seconds, fraction = divmod(of_day, 1000)
    minutes, second = divmod(seconds, 60)
    text = b"%bT%02d:%02d:%02d" % (_day_text(days - EPOCH_DAYS), *divmod(minutes, 60), second)
    return text + b".%03d" % fraction if fraction else text


def date_decoder() -> Decode:
    """A function from a BSON date at midnight, or a day's text, to a binary date."""

    def decode(kind: int, value: bytes) -> bytes:
        if kind == DATE:
            days, of_day = divmod(read_int64(value), DAY_MS)
            if of_day:
                raise Misfit("a date with a time of day does not fit date")
            return _days_field(days - EPOCH_DAYS)
        if kind == STRING:
            text = string_text(value)
            if text in _DAYS_OF_TEXT:
                return b"\0\0\0\x04" + _I32.pack(_DAYS_OF_TEXT[text])
            return _days_field(_days_of(text))
        raise Misfit.of(kind, "date")

    return decode


def timestamp_decoder(*, with_zone: bool, fraction_digits: int) -> Decode:
    """A function from a BSON date or ISO 8601 text to a binary timestamp with that many digits of a second."""
    step = 10 ** (6 - fraction_digits)
    target = "timestamp with time zone" if with_zone else "timestamp without time zone"
    # The length of what `timestamp_encoder` writes: only that is left to the quick parser, which is too lenient.
    usual_length = len("2000-01-01T00:00:00.000000") + with_zone

    def decode(kind: int, value: bytes) -> bytes:
        if kind == DATE:
            micros = (read_int64(value) - EPOCH_MS) * 1000
        elif kind == STRING:
            text = string_text(value)
            if text in _MICROS_OF_TEXT:
                return b"\0\0\0\x08" + _I64.pack(_MICROS_OF_TEXT[text])
            micros = _usual_micros(text, with_zone) if len(text) == usual_length else _micros_of(text, with_zone)
        else:
            raise Misfit.of(kind, target)
        if micros % step:
            raise Misfit(f"a time with more than {fraction_digits} digits of a second")
        if not MICROS_MIN <= micros < MICROS_END:
            raise Misfit(f"a time out of the range of {target}")
        return b"\0\0\0\x08" + _I64.pack(micros)

    return decode


def _days_field(days: int) -> bytes:
    if not DAYS_MIN <= days < DAYS_END:
        raise Misfit("a day out of the range of date")
    return b"\0\0\0\x04" + _I32.pack(days)


def _usual_micros(text: str, with_zone: bool) -> int:
    if text[10] != "T" or text[19] != ".":
        return _micros_of(text, with_zone)
    try:
        moment = datetime.fromisoformat(text)
        since = moment - (_EPOCH_UTC if with_zone else _EPOCH)
    except (ValueError, TypeError):
        # TypeError: one of the two has a zone and the other has none.
        return _micros_of(text, with_zone)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _micros_of(text: str, with_zone: bool) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise Misfit("a string that is not an ISO 8601 time")
    if (match[6] or match[7] or "") and not with_zone:
        raise Misfit("a time with a zone does not fit timestamp without time zone")
    if with_zone and not (match[6] or match[7]):
        raise Misfit("a time without a zone does not fit timestamp with time zone")
    hour, minute, second = int(match[2]), int(match[3]), int(match[4])
    if hour > 23 or minute > 59 or second > 59:
        raise Misfit("a string that is not an ISO 8601 time")
    offset = (int(match[8]) * 60 + int(match[9] or 0)) * (-1 if match[7] == "-" else 1) if match[7] else 0
    seconds = (_days_of(match[1]) * 24 + hour) * 3600 + (minute - offset) * 60 + second
    return seconds * 1_000_000 + int((match[5] or "").ljust(6, "0"))


def _days_of(text: str) -> int:
    """Days since 2000-01-01 of a day in the proleptic Gregorian calendar; year 0 is 1 BC."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise Misfit("a string that is not an ISO 8601 date")
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12 or not 1 <= day <= _month_days(month, is_leap):
        raise Misfit("a string that is not an ISO 8601 date")
    return _year_start(year) + _MONTH_STARTS[month - 1] + (is_leap and month > 2) + day - 1


def _month_days(month: int, is_leap: bool) -> int:
    return _MONTH_STARTS[month] - _MONTH_STARTS[month - 1] + (is_leap and month == 2)


def _year_start(year: int) -> int:
    """Days from 2000-01-01 to the first of January of a year."""
    before = year - 1
    return 365 * (year - 2000) + (before // 4 - before // 100 + before // 400) - 484


@lru_cache(maxsize=4096)
def _day_text(days: int) -> bytes:
    """`2024-01-02`; years below 0 and above 9999 carry a sign, as ISO 8601 wants."""
    # 146,097 days are 400 years: the average gives the year or the one after it.
    year = 2000 + days * 400 // 146097
    while _year_start(year) > days:
        year -= 1
    while _year_start(year + 1) <= days:
        year += 1
    of_year = days - _year_start(year)
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    month = 1
    while of_year >= _month_days(month, is_leap):
        of_year -= _month_days(month, is_leap)
        month += 1
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04d}-{month:02d}-{of_year + 1:02d}".encode()
