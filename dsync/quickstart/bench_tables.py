"""Tables to measure on: narrow rows as pgbench makes them, and wide ones of mixed types."""

import psycopg
from psycopg import sql

_PGBENCH_ROWS_PER_SCALE = 100_000
# The same definition as `pgbench -i`, so that figures compare with others'.
_PGBENCH_ACCOUNTS = """
    CREATE TABLE public.pgbench_accounts
        (aid integer NOT NULL, bid integer, abalance integer, filler character(84)) WITH (fillfactor = 100)
"""
_PGBENCH_ROWS = """
    INSERT INTO public.pgbench_accounts
    SELECT aid, (aid - 1) / 100000 + 1, 0, '' FROM generate_series(1, {rows}) AS aid
"""
_MIXED = """
    CREATE TABLE public.mixed (
        id bigint NOT NULL,
        small_number integer,
        large_number bigint,
        price numeric(14,4),
        title text,
        code varchar(24),
        created_at timestamp with time zone,
        day date,
        token uuid,
        active boolean,
        document jsonb,
        digest bytea,
        ratio double precision,
        numbers integer[]
    )
"""
_MIXED_ROWS = """
    INSERT INTO public.mixed
    SELECT g,
        CASE WHEN g % 11 > 0 THEN (hashint8(g) & 1048575) END,
        hashint8extended(g, 1),
        ((hashint8extended(g, 2) & 9999999999)::numeric / 10000)::numeric(14,4),
        CASE WHEN g % 13 > 0 THEN 'Title of row ' || g || ' größer ' || md5(g::text) END,
        'C-' || lpad((g % 1000000)::text, 10, '0'),
        to_timestamp(1600000000 + g * 17 + 0.125),
        date '2000-01-01' + (g % 9000)::integer,
        md5('token ' || g)::uuid,
        g % 3 = 0,
        jsonb_build_object('n', g, 'kind', 'k' || g % 7, 'tags', jsonb_build_array('red', g % 10), 'ok', g % 2 = 0),
        decode(md5('digest ' || g), 'hex'),
        (hashint8(g) & 16777215) / 3.0,
        ARRAY[(g % 100)::integer, 2, NULL, hashint8(g)]
    FROM generate_series(1::bigint, {rows}) AS g
"""


def create_pgbench_accounts(uri: str, scale: int) -> int:
    """Create `public.pgbench_accounts` as pgbench does at that scale and return its number of rows.

    One row is 114 bytes of binary COPY.
    """
    rows = scale * _PGBENCH_ROWS_PER_SCALE
    _create(uri, table="pgbench_accounts", key="aid", ddl=_PGBENCH_ACCOUNTS, insert=_PGBENCH_ROWS, rows=rows)
    return rows


def create_mixed(uri: str, rows: int) -> int:
    """Create `public.mixed`, fourteen columns of as many types, and return its number of rows.

    One row is about 322 bytes of binary COPY.
    """
    _create(uri, table="mixed", key="id", ddl=_MIXED, insert=_MIXED_ROWS, rows=rows)
    return rows


def _create(uri: str, *, table: str, key: str, ddl: str, insert: str, rows: int) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SET maintenance_work_mem = '256MB'")
        connection.execute(ddl.encode())
        connection.execute(insert.replace("{rows}", str(int(rows))).encode())
        name = sql.Identifier("public", table)
        connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, sql.Identifier(key)))
        # The first reader would otherwise write hint bits, and only the first of the ways that are compared.
        connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(name))
