"""Hostile values for each type, as text that the server reads."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

# The server's UTF-8 has no NUL and no lone surrogates.
_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
texts = st.text(_CHARACTERS, max_size=40)


def _integers(bits: int) -> st.SearchStrategy[str]:
    end = 1 << (bits - 1)
    return st.one_of(st.integers(-end, end - 1), st.sampled_from([-end, end - 1, 0, -1])).map(str)


def _floats(width: int) -> st.SearchStrategy[str]:
    return st.floats(width=width).map(repr)  # type: ignore[arg-type]  # 16, 32 and 64 are what it takes


_digits = st.text("0123456789", min_size=1, max_size=60)
_numerics = st.one_of(
    st.builds(lambda sign, whole, part: f"{sign}{whole}.{part}", st.sampled_from(["", "-"]), _digits, _digits),
    st.builds(lambda sign, whole: f"{sign}{whole}", st.sampled_from(["", "-"]), _digits),
    st.builds(lambda number, power: f"{number}e{power}", st.integers(-(10**18), 10**18), st.integers(-200, 200)),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "0.000", "1e131071", "-1e-16383", "9" * 34, "1" + "0" * 34]),
)
_limited_numerics = st.decimals(min_value=-9_999_999_999, max_value=9_999_999_999, places=4, allow_nan=False).map(str)

_times = st.one_of(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)).map(datetime.isoformat),
    st.datetimes().map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000).isoformat()),
    st.sampled_from(
        [
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "4714-11-24 00:00:00.000001 BC",
            "0044-03-15 12:00:00.123456 BC",
            "0001-12-31 23:59:59.999999 BC",
            "1969-12-31 23:59:59.999999",
            "10000-01-01 00:00:00.000001",
            "12345-02-28 01:02:03.5",
            "294276-12-31 23:59:59.999999",
        ]
    ),
)
_zoned_times = st.one_of(_times, st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat))
_dates = st.one_of(
    st.integers(0, 4_000_000).map(lambda day: f"J{day}"),
    st.sampled_from(["infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "0001-01-01", "2000-02-29"]),
)
# Rounded up it would be a time that the server prints and refuses to read.
_LAST = "294276-12-31 23:59:59.999999"
_uuids = st.uuids().map(str)
_byteas = st.binary(max_size=60).map(lambda value: "\\x" + value.hex())

_numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds(lambda whole, part: f"{whole}.{part}", st.integers(-(10**9), 10**9), _digits),
    st.sampled_from(["1.0", "1.50", "0.00000015", "1e-300", "1e300", "-0.0", "9" * 35, "0." + "3" * 40]),
)
_names = st.one_of(texts, st.sampled_from(["$json", "", "_id", "a.b", "$set", "0"]))
_json_texts = st.recursive(
    st.one_of(_numbers, texts.map(json.dumps), st.sampled_from(["null", "true", "false"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda members: "[" + ",".join(members) + "]"),
        st.lists(st.tuples(_names, inner), max_size=4).map(
            lambda members: "{" + ", ".join(f"{json.dumps(name)}:{member}" for name, member in members) + "}"
        ),
    ),
    max_leaves=8,
)
_jsons = st.one_of(
    _json_texts,
    st.sampled_from(["null", '{"$json": "null"}', '{"$json": 1, "a": 2}', "[" * 90 + "]" * 90, ' {"a":1,  "a":2} ']),
)

_unsigned = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**31, 2**32 - 1])).map(str)
_wide_unsigned = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1])).map(str)
_money = st.integers(-(2**63), 2**63 - 1).map(lambda cents: f"{'-' if cents < 0 else ''}{_hundredths(abs(cents))}")
_clocks = st.one_of(
    st.times().map(str), st.times().map(lambda t: t.replace(microsecond=0).isoformat()), st.just("24:00:00")
)
_zones = st.builds(
    lambda sign, hour, minute, second: f"{sign}{hour:02d}:{minute:02d}:{second:02d}",
    st.sampled_from("+-"),
    st.integers(0, 15),
    st.integers(0, 59),
    st.sampled_from([0, 0, 1, 59]),
)
_zoned_clocks = st.builds(lambda clock, zone: clock + zone, _clocks, _zones)
_spans = st.one_of(
    st.builds(
        lambda months, days, micros: f"{months} months {days} days {micros} microseconds",
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.one_of(st.integers(-(2**52), 2**52), st.integers(-(10**7), 10**7)),
    ),
    st.sampled_from(["0", "-0.5 seconds", "-1 month 1 day", "1 year -1 month", "-178000000 years", "59.999999 s"]),
)
_bits = st.text("01", max_size=40)
_inets = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.builds(lambda address, mask: f"{address}/{mask}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda address, mask: f"{address}/{mask}", st.ip_addresses(v=6), st.integers(0, 128)),
    st.sampled_from(["::ffff:1.2.3.4", "::1.2.3.4/96", "0.0.0.0/0", "::/0"]),
)
_cidrs = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.builds(lambda number, mask: f"{number % 256}.0.0.0/{mask}", st.integers(0, 255), st.integers(8, 32)),
    st.sampled_from(["::/0", "2001:db8::/32", "::ffff:1.2.3.0/120", "0.0.0.0/0"]),
)
_snapshots = st.sampled_from(["1:1:", "10:20:10,14,15", "9223372036854775806:9223372036854775807:"])
_words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
_lexemes = st.builds(
    lambda word, places: "'" + word.replace("'", "''").replace("\\", "\\\\") + "'" + places,
    _words,
    st.sampled_from(["", ":1", ":3A,7B,9", ":16383C"]),
)
_coordinates = st.floats(allow_nan=True, allow_infinity=True).map(repr)
_finite = st.floats(min_value=-1e100, max_value=1e100).map(repr)
_pairs = st.builds(lambda x, y: f"({x},{y})", _coordinates, _coordinates)
_points = st.lists(_pairs, min_size=1, max_size=4).map(",".join)


def _ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Ranges with bounds of every sort, and the empty one."""
    pairs = st.tuples(bounds, bounds).map(sorted)
    full = st.builds(
        lambda left, pair, right: f'{left}"{pair[0]}","{pair[1]}"{right}',
        st.sampled_from("[("),
        pairs,
        st.sampled_from("])"),
    )
    half = st.one_of(bounds.map(lambda bound: f'[,"{bound}")'), bounds.map(lambda bound: f'("{bound}",]'))
    return st.one_of(full, half, st.sampled_from(["empty", "(,)"]))


def _hundredths(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


SCALARS: dict[str, st.SearchStrategy[str]] = {
    "smallint": _integers(16),
    "integer": _integers(32),
    "bigint": _integers(64),
    "real": _floats(32),
    "double precision": _floats(64),
    "numeric": _numerics,
    "numeric(14,4)": _limited_numerics,
    "numeric(3,-2)": st.integers(-999, 999).map(lambda number: f"{number}00"),
    "boolean": st.sampled_from(["t", "f"]),
    "text": texts,
    "character varying": texts,
    "character varying(5)": st.text(_CHARACTERS, max_size=5),
    "character(7)": st.text(_CHARACTERS, max_size=7),
    "date": _dates,
    "timestamp without time zone": _times,
    "timestamp with time zone": _zoned_times,
    "timestamp(3) without time zone": _times.filter(lambda text: text != _LAST),
    "timestamp(0) with time zone": _zoned_times.filter(lambda text: text != _LAST),
    "uuid": _uuids,
    "bytea": _byteas,
    "json": _jsons,
    "jsonb": _jsons,
    "oid": _unsigned,
    "xid": _unsigned,
    "cid": _unsigned,
    "xid8": _wide_unsigned,
    "money": _money,
    "name": st.text(_CHARACTERS, max_size=15),
    '"char"': st.one_of(st.text(_CHARACTERS, max_size=1).filter(lambda text: len(text.encode()) < 2), st.just("ü")),
    "refcursor": texts,
    "time without time zone": _clocks,
    "time(2) without time zone": _clocks,
    "time with time zone": _zoned_clocks,
    "interval": _spans,
    "interval(2)": _spans,
    "interval year": _spans,
    "interval year to month": _spans,
    "interval day": _spans,
    "interval day to hour": _spans,
    "interval hour to minute": _spans,
    "interval day to second(1)": _spans,
    "inet": _inets,
    "cidr": _cidrs,
    "macaddr": st.binary(min_size=6, max_size=6).map(lambda value: value.hex(":")),
    "macaddr8": st.binary(min_size=8, max_size=8).map(lambda value: value.hex(":")),
    "bit(5)": st.text("01", min_size=5, max_size=5),
    "bit varying": _bits,
    "bit varying(40)": _bits,
    "jsonpath": st.sampled_from(["$", "$.a[*] ? (@ > 1)", 'strict $."ü"', "lax $.**{2 to last}.a"]),
    "pg_lsn": st.builds(lambda high, low: f"{high:X}/{low:X}", st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    "tid": st.builds(lambda block, item: f"({block},{item})", st.integers(0, 2**32 - 1), st.integers(0, 65535)),
    "pg_snapshot": _snapshots,
    "txid_snapshot": _snapshots,
    "tsvector": st.lists(_lexemes, max_size=5).map(" ".join),
    "tsquery": st.sampled_from(["", "'fat' & ( 'cat' | !'rat':* )", "'ü''x' <-> 'b':AB"]),
    "point": _pairs,
    "line": st.builds(lambda a, b: f"{{{a},1,{b}}}", _finite, _finite),
    "lseg": st.builds(lambda a, b: f"[{a},{b}]", _pairs, _pairs),
    "box": st.builds(lambda a, b: f"{a},{b}", _pairs, _pairs),
    "path": st.one_of(_points.map(lambda text: f"[{text}]"), _points.map(lambda text: f"({text})")),
    "polygon": _points.map(lambda text: f"({text})"),
    "circle": st.builds(lambda center, radius: f"<{center},{radius}>", _pairs, st.floats(0, 1e300).map(repr)),
    "int4range": _ranges(st.integers(-(10**9), 10**9)),
    "int8range": _ranges(st.integers(-(10**18), 10**18)),
    "numrange": _ranges(st.integers(-(10**40), 10**40).map(lambda number: Decimal(number).scaleb(-9))),
    "tsrange": _ranges(st.datetimes()),
    "daterange": _ranges(st.dates(max_value=date(9999, 12, 30))),
    "tstzrange": st.sampled_from(["empty", "(,infinity)", "[-infinity,infinity]", "(,)", "[2024-01-01 00:00+00,)"]),
    "int4multirange": st.lists(_ranges(st.integers(-(10**6), 10**6)), max_size=4).map(
        lambda members: "{" + ",".join(members) + "}"
    ),
    "nummultirange": st.sampled_from(["{}", "{(,)}", "{[1.10,2.20],(3,4)}", "{(,-1),(5,)}"]),
    "regclass": st.sampled_from(["pg_class", "pg_type", "pg_catalog.pg_proc"]),
    "oidvector": st.sampled_from(["", "1 2 3", "4294967295"]),
    "int2vector": st.sampled_from(["", "1 2 3", "-32768"]),
}
"""Strategies of texts, by the type's printed name."""


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(dimensions: tuple[tuple[int, int], ...], members: list[str | None]) -> str:
    """An array literal; each dimension is a lower bound and a size."""

    def nested(sizes: tuple[int, ...], values: list[str]) -> str:
        if len(sizes) == 1:
            return "{" + ",".join(values) + "}"
        step = len(values) // sizes[0]
        return "{" + ",".join(nested(sizes[1:], values[at : at + step]) for at in range(0, len(values), step)) + "}"

    if not members:
        return "{}"
    bounds = "".join(f"[{lower}:{lower + size - 1}]" for lower, size in dimensions)
    return f"{bounds}=" + nested(tuple(size for _, size in dimensions), [_quoted(member) for member in members])


def arrays_of(element: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Literals of arrays with one to three dimensions, with NULLs, and with lower bounds of 1 and others."""
    bounds = st.sampled_from([1, 1, 1, 0, -3, 5])
    shapes = st.lists(st.tuples(bounds, st.integers(1, 3)), min_size=1, max_size=3).map(tuple)
    nullable = st.one_of(st.none(), element)

    def filled(shape: tuple[tuple[int, int], ...]) -> st.SearchStrategy[str]:
        count = 1
        for _, size in shape:
            count *= size
        return st.lists(nullable, min_size=count, max_size=count).map(lambda members: _literal(shape, members))

    flat = st.lists(nullable, max_size=12).map(lambda members: _literal(((1, len(members)),), members))
    return st.one_of(flat, shapes.flatmap(filled))
