"""What the tests of verification on PostgreSQL share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from dsync.verify import Kind, VerifyOptions, VerifyReport, verify
from tests.integration.verify.ends import PgEnd
from tests.support.databases import Database

OpenEnds = Callable[[Database, Database], tuple[PgEnd, PgEnd]]

MIB = 1024 * 1024
STILL = VerifyOptions(live=False, show_values=True)

MILLION = """
CREATE TABLE big (id int PRIMARY KEY, a int, note text);
INSERT INTO big SELECT n, n % 97, 'note of ' || n FROM generate_series(1, {rows}) n;
"""


def fill_million(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(MILLION.format(rows=1_000_000).encode())
        connection.execute("VACUUM ANALYZE big")


async def compare(
    ends: tuple[PgEnd, PgEnd], namespace: str = "public.every", options: VerifyOptions = STILL, **more: Any
) -> VerifyReport:
    return await verify(*ends, {namespace: namespace}, options, **more)


def rows_of(report: VerifyReport) -> dict[tuple[str, ...], tuple[Kind, tuple[str, ...]]]:
    """Key → class and columns, of the only namespace."""
    (namespace,) = report.namespaces
    return {d.key: (d.kind, tuple(column.column for column in d.columns)) for d in namespace.differences}
