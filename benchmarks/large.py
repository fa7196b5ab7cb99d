"""What following takes of memory where transactions and rows are large: the sum over all processes of a flow.

Run it with `python -m benchmarks.large [--rows N]... [--wide N]... [--postgres MAJOR]`. Each number is a transaction of
its own, followed by a flow of its own: so many rows inserted, and so many rows of 4 MiB. What is to be seen is that the
peak is the same, however many there are.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import psycopg

from benchmarks.stream import dsync
from benchmarks.tables import Servers, servers

_MIB = 1024 * 1024
_POLL_S = 0.1
_LONGEST_S = 3600.0
_ROWS = (100_000, 1_000_000, 5_000_000)
_WIDE = (8, 64)
_WIDE_BYTES = 4 * _MIB

_SCHEMA = """
CREATE TABLE narrow (id bigint PRIMARY KEY, filling text);
CREATE TABLE wide (id int PRIMARY KEY, body text);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
INSERT INTO narrow VALUES (0, 'there');
"""
_MANY = "INSERT INTO narrow SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, {count}) g"
_LARGE = f"INSERT INTO wide SELECT g, repeat(md5(g::text), {_WIDE_BYTES // 32}) FROM generate_series(1, {{count}}) g"
_SAME = {"narrow": "SELECT count(*), sum(hashtext(t::text)) FROM narrow t", "wide": "SELECT count(*) FROM wide"}


@dataclass(frozen=True, kw_only=True)
class Large:
    """What one transaction has cost."""

    what: str
    count: int
    idle_bytes: int
    """The peak before it: the start of the flow, and a copy of one row."""
    peak_bytes: int
    elapsed_s: float
    """From its beginning at the source to its arrival."""


def follow(pair: Servers, what: str, count: int) -> Large:
    """Make one transaction at the source of a flow that streams, and wait for its end at the sink."""
    name = f"{what}_{count}"
    source, target = f"source_{name}", f"sink_{name}"
    with psycopg.connect(pair.source.create_database(source), autocommit=True) as connection:
        connection.execute(_SCHEMA.encode())
    pair.sink.create_database(target)
    table, statement = ("narrow", _MANY) if what == "rows" else ("wide", _LARGE)
    try:
        with dsync()(pair, source, target) as watch, pair.source.connect(source) as writer:
            assert watch is not None, "dsync has processes to watch"
            idle_bytes, watch.peak_bytes = watch.peak_bytes, 0
            started_s = time.perf_counter()
            writer.execute(statement.format(count=count).encode())
            _await(pair, target, table, count + (table == "narrow"))
            elapsed_s = time.perf_counter() - started_s
        with pair.source.connect(source) as here, pair.sink.connect(target) as there:
            query = _SAME[table].encode()
            assert here.execute(query).fetchone() == there.execute(query).fetchone(), "the sink has other rows"
        return Large(what=what, count=count, idle_bytes=idle_bytes, peak_bytes=watch.peak_bytes, elapsed_s=elapsed_s)
    finally:
        pair.source.drop_database(source)
        pair.sink.drop_database(target)


def _await(pair: Servers, target: str, table: str, count: int) -> None:
    deadline = time.monotonic() + _LONGEST_S
    with pair.sink.connect(target) as connection:
        # The largest key is looked up in the index, since counting takes time from what is measured; lanes end apart.
        last = count - (table == "narrow")
        query = (
            f"SELECT CASE WHEN max(id) >= {last} THEN (SELECT count(*) = {count} FROM {table}) END FROM {table}"
        ).encode()
        while connection.execute(query).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{table} did not arrive")
            time.sleep(_POLL_S)


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="rows of a transaction; repeatable")
    parser.add_argument("--wide", type=int, action="append", help="rows of 4 MiB in a transaction; repeatable")
    parser.add_argument("--postgres", type=int, help="the servers' major version")
    options = parser.parse_args()
    chosen = options.rows or options.wide
    cases = [("rows", n) for n in options.rows or (() if chosen else _ROWS)]
    cases += [("wide", n) for n in options.wide or (() if chosen else _WIDE)]
    print("| one transaction of | before it | at most | until it is at the sink |\n| ---: | ---: | ---: | ---: |")
    with servers(options.postgres) as pair:
        for what, count in cases:
            print(f"{what} {count} …", file=sys.stderr, flush=True)
            found = follow(pair, what, count)
            name = f"{count:,} rows" + " of 4 MiB" * (what == "wide")
            before, peak = found.idle_bytes // _MIB, found.peak_bytes // _MIB
            print(f"| {name} | {before} MiB | {peak} MiB | {found.elapsed_s:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
