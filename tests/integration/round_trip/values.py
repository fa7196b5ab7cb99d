"""Values at the edges of every built-in type, as text that the server reads.

Those of a type in `ASCENDING` stand in the type's order, so that two of them bound a range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hypothesis import strategies as st

_CONTROLS = "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f"
# One character of each plane, the noncharacters that end the first and the last, and what goes together.
_PLANES = "".join(chr(plane * 0x10000 + 0x1234) for plane in range(17)) + "\uffff\U0010ffff"
TEXTS = (
    "",
    " ",
    "a",
    "a ",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "\n\\.\n",
    "\\",
    "\\\\n\\x41\\101",
    "\t",
    "\r\n",
    "'",
    '"',
    '""',
    "{}",
    '{"a",NULL}',
    "(,)",
    "%s %(a)s %%",
    "$1 $$",
    "\b\f\v",
    _CONTROLS,
    _PLANES,
    "é",
    "e\u0301",
    "\ufeffbom",
    "\u202eltr\u202c",
    "👩‍👩‍👧🏳️‍🌈",
    "x" * 3000,
)

_JSON = (
    "null",
    "true",
    '""',
    "0",
    "-0",
    "1.0",
    "1.00",
    "1e400",
    "-1E-400",
    "123456789012345678901234567890.123456789012345678901234567890",
    '{"a": 1, "a": 2,  "b" : [ ] }',
    '{"": {"😀": "\\u00e9\\ud83d\\ude00\\n\\t\\"\\\\/"}}',
    '"\\u0000"',
    "[[[[[[[[1]]]]]]]]",
    '[1, null, {}, "x"]',
)

ASCENDING: Mapping[str, tuple[str, ...]] = {
    "smallint": ("-32768", "-1", "0", "1", "32767"),
    "integer": ("-2147483648", "-1", "0", "1", "42", "2147483647"),
    "bigint": ("-9223372036854775808", "-4294967297", "-1", "0", "1", "4294967296", "9223372036854775807"),
    "numeric": (
        "-Infinity",
        "-1e1000",
        "-0.0000000000000000000000000000000000001",
        "0",
        "0.000",
        "1",
        "1.500",
        "3.14159265358979323846264338327950288419716939937510",
        "99999999999999999999999999999999999999",
        "1e130000",
        "Infinity",
        "NaN",
    ),
    "real": ("-Infinity", "-3.4028235e+38", "-1e-45", "-0", "1e-45", "0.1", "16777217", "Infinity", "NaN"),
    "double precision": (
        "-Infinity",
        "-1.7976931348623157e308",
        "-4.9e-324",
        "-0",
        "4.9e-324",
        "0.1",
        "0.30000000000000004",
        "9007199254740993",
        "Infinity",
        "NaN",
    ),
    "date": ("-infinity", "4713-01-01 BC", "0001-12-31 BC", "1970-01-01", "2000-02-29", "5874897-12-31", "infinity"),
    "timestamp": (
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "0001-12-31 23:59:59.999999 BC",
        "1970-01-01 00:00:00",
        "2024-02-29 23:59:59.123456",
        "294276-12-31 23:59:59.999999",
        "infinity",
    ),
    "timestamptz": (
        "-infinity",
        "4713-01-01 00:00:00+00 BC",
        "1900-01-01 00:00:00+00:17:30",
        "1970-01-01 00:00:00+00",
        "2024-03-31 01:30:00.000001+02",
        "294276-12-31 23:59:59.999999+00",
        "infinity",
    ),
    "uuid": (
        "00000000-0000-0000-0000-000000000000",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    "time": ("00:00:00", "00:00:00.000001", "23:59:59.999999", "24:00:00"),
    "oid": ("0", "1", "2147483648", "4294967295"),
    "pg_lsn": ("0/0", "0/1A", "FFFFFFFF/FFFFFFFF"),
    "boolean": ("f", "t"),
    "text": ("", " ", "a", "a ", "e\u0301", "é"),
}

_POINTS = ("(0,0)", "(-0,1e-300)", "(NaN,Infinity)", "(-Infinity,1.7976931348623157e308)", "(0.1,0.2)")

OTHERS: Mapping[str, tuple[str, ...]] = {
    "text": TEXTS,
    "varchar": TEXTS,
    "bpchar": TEXTS,
    "name": ("", "a", "é" * 31, "select", "😀", "\\N"),
    '"char"': ("", "a", "\\", "\x01", "\x7f"),
    "bytea": ("\\x", "\\x00", "\\x" + bytes(range(256)).hex(), "\\x5c4e", "\\x" + "00ff" * 2000),
    "interval": (
        "0",
        "178000000 years",
        "-178000000 years",
        "1 mon -1 day 00:00:00.000001",
        "1 day -24:00:00",
        "-2147483647 days",
        "infinity",
        "-infinity",
    ),
    "timetz": ("00:00:00+15:59:59", "24:00:00-15:59:59", "12:00:00.123456+00", "12:00:00.123456+01"),
    "money": ("-92233720368547758.08", "0", "0.01", "92233720368547758.07"),
    "json": (*_JSON, '"\\ud800"', " [ 1 ,\n\t2 ] "),
    "jsonb": _JSON,
    "jsonpath": ("$", 'strict $."a b"[*] ? (@ > 1.5 && exists (@.x))', '$."\\u00e9"', "lax $[last - 1]"),
    "xml": ("", "text", "<a b='c'>é<!-- x --></a>", "<?xml version='1.0'?><a/>"),
    "inet": ("0.0.0.0/0", "10.1.2.3", "10.1.2.3/8", "::", "::ffff:1.2.3.4/96", "fe80::1/64"),
    "cidr": ("0.0.0.0/0", "10.0.0.0/8", "::/0", "2001:db8::/32"),
    "macaddr": ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"),
    "macaddr8": ("00:00:00:00:00:00:00:00", "08:00:2b:01:02:03:04:05"),
    "bit": ("0", "1"),
    "varbit": ("", "1", "0" * 9, "10" * 5000),
    "point": _POINTS,
    "lseg": ("[(0,0),(1,2)]", "[(-0,0),(NaN,1)]"),
    "line": ("{1,-1,0}", "{0,1,3}"),
    "box": ("(1,1),(0,0)", "(Infinity,1),(-Infinity,-0)"),
    "path": ("[(0,0)]", "((0,0),(1,1),(2,0))", "[(0,0),(1,1e-300)]"),
    "polygon": ("((0,0))", "((0,0),(1,1),(2,0))"),
    "circle": ("<(0,0),0>", "<(-1,1e300),0.1>"),
    "tsvector": ("", "'a':1A,2B 'b' '''q':16383", "'😀' '\\\\'"),
    "tsquery": ("", "'a' & !('b':AB <2> 'c':*) | '''q'", "!!'x'"),
    "txid_snapshot": ("1:1:", "10:20:10,14,15"),
    "pg_snapshot": ("1:1:", "10:20:10,14,15"),
    "xid": ("0", "3", "4294967295"),
    "cid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    "tid": ("(0,0)", "(4294967295,65535)"),
    "int2vector": ("", "1", "-32768 0 32767"),
    "oidvector": ("", "4294967295", "1 2 3"),
    "refcursor": ("", "a cursor", "😀"),
    "aclitem": ("=r/postgres", "postgres=a*rwdDxt/postgres"),
    "regclass": ("-", "pg_class", "pg_catalog.pg_type", "information_schema.tables", "99999999"),
    "regtype": ("-", "integer", "integer[]", "pg_catalog.pg_class", '"char"', "99999999"),
    "regproc": ("-", "now", "99999999"),
    "regprocedure": ("-", "abs(integer)", "lower(text)", "99999999"),
    "regoper": ("0", "||/", "99999999"),
    "regoperator": ("0", "+(integer,integer)", "!!(NONE,tsquery)", "99999999"),
    "regconfig": ("-", "english", "simple"),
    "regdictionary": ("-", "simple"),
    "regrole": ("-", "postgres", "pg_monitor", "99999999"),
    "regnamespace": ("-", "pg_catalog", "public", "99999999"),
    "regcollation": ("-", '"C"', '"POSIX"'),
    # Only the server makes values of these.
    "gtsvector": (),
    "pg_node_tree": (),
    "pg_ndistinct": (),
    "pg_dependencies": (),
    "pg_mcv_list": (),
    "pg_brin_bloom_summary": (),
    "pg_brin_minmax_multi_summary": (),
}

POOLS: Mapping[str, tuple[str, ...]] = {**ASCENDING, **OTHERS}
"""Values of every built-in type that a column may have, ranges excepted."""

WITHOUT_VALUES = frozenset(name for name, pool in OTHERS.items() if not pool)

RANGES: Mapping[str, tuple[str, str]] = {
    "int4range": ("integer", "int4multirange"),
    "int8range": ("bigint", "int8multirange"),
    "numrange": ("numeric", "nummultirange"),
    "daterange": ("date", "datemultirange"),
    "tsrange": ("timestamp", "tsmultirange"),
    "tstzrange": ("timestamptz", "tstzmultirange"),
}
"""Of each built-in range the type of its bounds, and its multirange."""

MODIFIED: Mapping[str, tuple[str, ...]] = {
    "numeric(10,3)": ("NaN", "-9999999.999", "0.001", "1.5"),
    "numeric(3,-2)": ("99900", "-100", "0"),
    "numeric(3,5)": ("0.00999", "-0.00001"),
    "numeric(1000,1000)": ("0.5", "0." + "0" * 999 + "1"),
    "varchar(3)": ("", "a  ", "😀😀😀", "\\N"),
    "char(4)": ("", "ab", "ab  ", "é"),
    "bit(3)": ("101", "000"),
    "varbit(7)": ("", "1010101"),
    "timestamp(0)": ("1970-01-01 00:00:00", "infinity"),
    "timestamptz(3)": ("2024-02-29 23:59:59.999+00", "4713-01-01 00:00:00+00 BC"),
    "time(2)": ("23:59:59.99", "24:00:00"),
    "timetz(1)": ("12:00:00.1+03:30",),
    "interval(1)": ("1.5 seconds", "-1 mon"),
    "interval day to second": ("5 days 03:04:05",),
    "interval year": ("7 years",),
}
"""Types with a modifier, and values that it leaves alone."""


def _jsons() -> st.SearchStrategy[str]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts()
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3), max_leaves=8
    )
    return values.map(lambda value: json.dumps(value, ensure_ascii=False))


def texts() -> st.SearchStrategy[str]:
    """Any text that a database in UTF-8 can hold."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


DRAWN: Mapping[str, st.SearchStrategy[str]] = {
    "text": texts(),
    "varchar": texts(),
    "bpchar": texts(),
    "bytea": st.binary(max_size=40).map(lambda value: "\\x" + value.hex()),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str),
    "real": st.floats(width=32).map(repr),
    "double precision": st.floats().map(repr),
    "date": st.dates().map(str),
    "timestamptz": st.datetimes().map(lambda value: f"{value}+00"),
    "interval": st.timedeltas().map(lambda value: f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"),
    "inet": st.ip_addresses().map(str),
    "jsonb": _jsons(),
    "json": _jsons(),
}
"""More values of some types, to be drawn for each example."""
