"""What a copy costs by number of tables, rows and readers: where time goes that is not in the rows.

`python -m benchmarks.curve [--quick] [--rounds N]` copies 1, 10 and 100 tables with 10 thousand to 10 million rows
together, and the largest of them with 1 to 8 readers, and prints seconds and rows a second as medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import psycopg
from psycopg import sql

from benchmarks.measure import CommandFailedError
from benchmarks.tables import Servers, servers
from benchmarks.ways import environment_is_clean, run_dsync
from dsync.quickstart.servers import EmbeddedPostgres

_TABLES = (1, 10, 100)
_ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
_QUICK_ROWS = (10_000, 100_000)
_READERS = (1, 2, 4, 8)


@dataclass(kw_only=True)
class Point:
    """One combination, over all rounds."""

    tables: int
    rows: int
    readers: int
    """0: as many as dsync takes by itself."""
    seconds: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        taken_s = median(self.seconds)
        return [
            str(self.tables),
            f"{self.rows:,}",
            str(self.readers or "default"),
            f"{taken_s:.2f}",
            f"{self.rows / taken_s:,.0f}",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the curve and print it as a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.curve", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="up to a hundred thousand rows: for a first look")
    parser.add_argument("--rounds", type=int, default=3, help="how often each combination is copied")
    options = parser.parse_args(arguments)
    if not environment_is_clean():
        print("unset the PG* variables first: they change what every program here connects to", file=sys.stderr)
        return 2
    sizes = _QUICK_ROWS if options.quick else _ROWS
    points = [Point(tables=tables, rows=rows, readers=0) for rows in sizes for tables in _TABLES]
    points += [Point(tables=tables, rows=sizes[-1], readers=readers) for tables in (1, 10) for readers in _READERS]
    with servers(None) as pair:
        for tables, rows in dict.fromkeys((point.tables, point.rows) for point in points):
            _make(pair.source, tables, rows)
        for number in range(1, options.rounds + 1):
            _one_round(pair, points, number)
    header = ["tables", "rows", "readers", "seconds", "rows/s"]
    print("| " + " | ".join(header) + " |", "| ---: " * len(header) + "|", sep="\n")
    for point in points:
        print("| " + " | ".join(point.cells()) + " |")
    return 0


def _one_round(pair: Servers, points: Sequence[Point], number: int) -> None:
    target: str | None = None
    for point in points:
        print(f"round {number}: {point.tables} tables, {point.rows:,} rows …", end=" ", file=sys.stderr, flush=True)
        target = pair.fresh_target(target)
        source = pair.source.uri(_database(point.tables, point.rows))
        readers = ("--parallel", str(point.readers)) if point.readers else ()
        cost, rows = run_dsync(source, pair.sink.uri(target), *readers, servers=pair.postmasters)
        if rows != point.rows:
            raise CommandFailedError(f"{rows:,} rows of {point.rows:,} have arrived")
        point.seconds.append(cost.elapsed_s)
        print(f"{cost.elapsed_s:.2f} s", file=sys.stderr)


def _database(tables: int, rows: int) -> str:
    return f"curve_{tables}_{rows}"


def _make(source: EmbeddedPostgres, tables: int, rows: int) -> None:
    """Tables like pgbench_accounts, of equal size, frozen so that no run pays for hint bits."""
    uri = source.create_database(_database(tables, rows))
    with psycopg.connect(uri, autocommit=True) as connection:
        for number in range(tables):
            name = sql.Identifier(f"accounts_{number}")
            connection.execute(
                sql.SQL("CREATE TABLE {} (aid int PRIMARY KEY, bid int, abalance int, filler char(84))").format(name)
            )
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT n, n / 1000, 0, '' FROM generate_series(1, {}) n").format(
                    name, sql.Literal(rows // tables)
                )
            )
        connection.execute("VACUUM (FREEZE, ANALYZE)")


if __name__ == "__main__":
    sys.exit(main())
