"""A table with a column of every type, and the smallest difference of each."""

from __future__ import annotations

import psycopg

MIB = 1024 * 1024

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN short AS varchar(9);
CREATE TABLE every (
    id bigint PRIMARY KEY, i2 smallint, i4 int, n numeric, n2 numeric(12,3), f4 real, f8 double precision, m money,
    b boolean, c char(6), v varchar(20), t text, by bytea, d date, ti time, tz timetz, ts timestamp, tt timestamptz,
    iv interval, u uuid, j json, jb jsonb, ia int[], ta text[], mo mood, ro pair, sh short, ip inet, net cidr,
    mac macaddr, bi bit(5), vb varbit, po point, bo box, pa path, r int4range, mr int4multirange, q tsvector, x oid,
    l pg_lsn
);
"""
FILL = """
INSERT INTO every
SELECT n, n, n * 3, n / 7.0, n / 9.0, n / 3.0, n / 11.0, n::text::money,
       n % 2 = 0, 'c' || n, 'v' || n, repeat('t' || n, n % 40), decode(md5(n::text), 'hex'), date '2000-01-01' + n,
       time '00:00' + n * interval '7 s', timetz '10:00+02' + n * interval '1 s',
       timestamp '1999-12-31' + n * interval '1 h',
       timestamptz '1999-12-31 00:00+05' + n * interval '61 s', n * interval '1 day 2 s', md5(n::text)::uuid,
       json_build_object('n', n, 'z', 'é'), jsonb_build_object('n', n / 4.0, 'z', array[n]), array[n, NULL, -n],
       array['a' || n, '"', NULL, 'NULL'],
       (array['sad', 'ok', 'happy'])[n % 3 + 1]::mood, row(n, 'r' || n)::pair, 's' || n,
       '10.0.0.1'::inet + n, '10.0.0.0/8', '08:00:2b:01:02:03',
       n::bit(5), n::bit(9)::varbit, point(n, -n), box(point(n, 0), point(0, n)),
       '((0,0),(1,2))', int4range(n, n + 5), int4multirange(int4range(n, n + 5), int4range(n + 9, n + 11)),
       to_tsvector('simple', 'word' || n), n, '0/1A'::pg_lsn
  FROM generate_series(1, 300) n;
INSERT INTO every (id) VALUES (-1);
INSERT INTO every (id, n, f8, f4, tt, d, t, by, ta) VALUES
  (-2, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity', '', '', '{}'),
  (-3, 1e-30, '-0', '0', '4713-01-01 00:00+00 BC',
   '5874897-12-31', E'\\\\\\n\\t\\r"''()', '\\x00ff', '{{a,b},{c,NULL}}');
"""

# Column, then the value at the source and at the target, as COPY reads them.
FAULTS: dict[str, tuple[str, str]] = {
    "numeric scale": ("n", "1.0|1.00"),
    "numeric last digit": ("n", "123456789012345678901234567890.1|123456789012345678901234567890.2"),
    "float bit": ("f8", "0.1|0.10000000000000002"),
    "real bit": ("f4", "0.1|0.100000009"),
    "negative zero": ("f8", "0|-0"),
    "NaN": ("f8", "NaN|0"),
    "NULL and empty": ("t", "\\N|"),
    "NULL and its name": ("t", "\\N|NULL"),
    "trailing blank": ("t", "a|a "),
    "composed and decomposed": ("t", "é|e\u0301"),
    "json spacing": ("j", '{"a":1}|{"a": 1}'),
    "json order": ("j", '{"a":1,"b":2}|{"b":2,"a":1}'),
    "jsonb number scale": ("jb", '{"a":1.0}|{"a":1.00}'),
    "jsonb NULL": ("jb", "null|\\N"),
    "microsecond": ("tt", "2024-01-01 00:00:00+00|2024-01-01 00:00:00.000001+00"),
    "time zone of a timetz": ("tz", "10:00+00|11:00+01"),
    "interval parts": ("iv", "1 day|24 hours"),
    "array bounds": ("ia", "{1,2}|[0:1]={1,2}"),
    "array NULL": ("ta", '{NULL}|{"NULL"}'),
    "composite NULL": ("ro", '(1,)|(1,"")'),
    "byte": ("by", "\\\\x00|\\\\x01"),
    "bit length": ("vb", "101|1010"),
    "infinity": ("d", "infinity|-infinity"),
    "inet mask": ("ip", "10.0.0.1|10.0.0.1/24"),
    "point": ("po", "(1,2)|(1,2.0000000000000004)"),
    "money": ("m", "1.00|1.01"),
    "enum": ("mo", "sad|ok"),
    "toasted value": ("t", f"{'x' * MIB}|{'x' * (MIB - 1)}y"),
}
SAME: dict[str, tuple[str, str]] = {
    "another zone, same instant": ("tt", "2024-01-01 00:00:00+00|2024-01-01 05:30:00+05:30"),
    "padding of char": ("c", "ab|ab   "),
    "jsonb spacing and order": ("jb", '{"a":1,"b":2}|{"b": 2, "a": 1}'),
    "range spelling": ("r", "[1,4]|[1,5)"),
    "uuid case": ("u", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
}


def fill_every(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(TYPES.encode())
        connection.execute(FILL.encode())
        connection.execute("ANALYZE")
