"""What a real server's stream says, applied: random transactions end in equal tables."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dsync.protocol import frames
from dsync.sdk import errors, types
from tests.integration.postgres_apply.conftest import LANE, Applier, OpenApplier
from tests.integration.postgres_apply.frames import Op
from tests.integration.stream.test_follow import MARK, followed, until
from tests.support.databases import Database, DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)

_TABLES = ("plain", "toasted", "pairs", "bare", "indexed", "whole", "swapped")
_SCHEMA = (
    "CREATE TABLE plain (id int PRIMARY KEY, n numeric, t text, at timestamptz)",
    "CREATE TABLE toasted (id int PRIMARY KEY, n int, big text, other text)",
    "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
    "ALTER TABLE toasted ALTER other SET STORAGE EXTERNAL",
    "CREATE TABLE pairs (a text, n int, b numeric, PRIMARY KEY (b, a))",
    "CREATE TABLE bare (j json, n numeric)",
    "ALTER TABLE bare REPLICA IDENTITY FULL",
    "CREATE TABLE indexed (id int, u int NOT NULL, t text)",
    "CREATE UNIQUE INDEX indexed_u ON indexed (u)",
    "ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_u",
    "CREATE TABLE whole (id int PRIMARY KEY, big text, n int)",
    "ALTER TABLE whole ALTER big SET STORAGE EXTERNAL",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE swapped (id int PRIMARY KEY, u int UNIQUE DEFERRABLE)",
)
_BIG = "string_agg(md5((g + {n})::text), '') FROM generate_series(1, 90) g"


def _statements(chance: random.Random) -> Iterator[str]:
    """Statements without end."""
    while True:
        n, m = chance.randrange(20), chance.randrange(20)
        big = f"(SELECT {_BIG.format(n=chance.randrange(10**6))})"
        yield chance.choice(
            (
                f"INSERT INTO plain VALUES ({n}, {m}.50, 'a\\b\"c', '2026-01-01') ON CONFLICT DO NOTHING",
                f"UPDATE plain SET n = n + 1, t = t || E'\\n\\t' WHERE id < {n}",
                f"UPDATE plain SET id = id + 100 WHERE id BETWEEN {n} AND {n + 2}",
                "UPDATE plain SET id = id - 100 WHERE id > 100 AND id - 100 NOT IN (SELECT id FROM plain)",
                f"DELETE FROM plain WHERE id = {n}",
                f"INSERT INTO toasted VALUES ({n}, {m}, {big}, {big}) ON CONFLICT (id) DO "
                "UPDATE SET big = EXCLUDED.big",
                f"UPDATE toasted SET n = n + 1 WHERE id % 3 = {n % 3}",
                f"UPDATE toasted SET other = {big} WHERE id = {n}",
                f"UPDATE toasted SET id = {m} WHERE id = {n} AND NOT EXISTS (SELECT FROM toasted WHERE id = {m})",
                f"DELETE FROM toasted WHERE id = {n}",
                f"INSERT INTO pairs VALUES ('k{n % 4}', {m}, {m % 3}.{'0' * (n % 3 + 1)}) ON CONFLICT DO NOTHING",
                f"UPDATE pairs SET n = n + 1, b = b + 0.0{'0' * (n % 2)} WHERE a = 'k{n % 4}'",
                f"DELETE FROM pairs WHERE n % 7 = {n % 7}",
                f"INSERT INTO bare VALUES ('{{\"a\":  {n % 3}}}', {m % 3}.0), ('{{\"a\":  {n % 3}}}', {m % 3}.0)",
                f"UPDATE bare SET n = n + 1 WHERE ctid IN (SELECT ctid FROM bare WHERE n < {m % 5} LIMIT 1)",
                f"DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare WHERE n < {m % 5} LIMIT 1)",
                f"INSERT INTO indexed VALUES ({n}, {m}, 'x') ON CONFLICT DO NOTHING",
                f"UPDATE indexed SET id = id + 1, t = 'y' WHERE u < {m}",
                f"UPDATE indexed SET u = u + 1000 WHERE u = {m}",
                f"DELETE FROM indexed WHERE u % 5 = {m % 5}",
                f"INSERT INTO whole VALUES ({n}, {big}, {m}) ON CONFLICT (id) DO UPDATE SET n = whole.n + 1",
                f"UPDATE whole SET id = {m} WHERE id = {n} AND NOT EXISTS (SELECT FROM whole WHERE id = {m})",
                f"INSERT INTO swapped VALUES ({n}, {m}) ON CONFLICT (id) DO NOTHING",
                f"UPDATE swapped SET u = -u WHERE id = {n}",
                "SAVEPOINT s; INSERT INTO plain VALUES (77); UPDATE toasted SET n = -1; ROLLBACK TO s",
            )
        )


def _write(database: Database, seed: int, transactions: int) -> None:
    chance = random.Random(seed)
    statements = _statements(chance)
    with psycopg.connect(database.uri, autocommit=True) as connection:
        for _ in range(transactions):
            connection.execute("BEGIN")
            try:
                for _ in range(chance.randrange(1, 8)):
                    connection.execute(next(statements).encode())
            except psycopg.errors.IntegrityError:
                connection.execute("ROLLBACK")
            else:
                connection.execute("COMMIT" if chance.random() < 0.9 else "ROLLBACK")


def _content(database: Database) -> dict[str, list[tuple[str]]]:
    return {
        name: database.rows(sql.SQL('SELECT (x.*)::text COLLATE "C" FROM {} x ORDER BY 1').format(sql.Identifier(name)))
        for name in _TABLES
    }


def _cut(frame: types.ChangeFrame, size: int) -> Iterator[types.ChangeFrame]:
    """The frame in smaller ones."""
    for start in range(0, len(frame), size):
        yield frames.cut(frame, start, min(start + size, len(frame)))


async def _apply(applier: Applier, frame: types.ChangeFrame, *, in_order: bool) -> None:
    """As the coordinator does: what meets goes again in order."""
    for is_ordered in (in_order, True):
        request = types.WriteChangesRequest(
            context=applier.sink.context(LANE),
            frame=frame,
            targets=tuple(relation.namespace for relation in frame.relations),
            in_order=is_ordered,
        )
        try:
            written = await applier.sink.side.write_changes(request)
        except errors.LanesMeetError:
            assert not is_ordered
            continue
        assert not written.incomplete
        applier.sink.units[LANE].seq = request.context.seq
        return


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("size", "in_order"),
    [(7, False), (40, False), (10_000, False), (40, True)],
    ids=["tiny", "small", "all", "in-order"],
)
async def test_random_transactions_end_in_equal_tables(
    database: DatabaseFactory, open_applier: OpenApplier, tmp_path: Path, seed: int, size: int, in_order: bool
) -> None:
    """Key changes, unchanged TOAST with and without them, keys of every kind, rows without key, TRUNCATE, rollbacks."""
    source, sink = database(), database()
    for one in (source, sink):
        one.run(*_SCHEMA)
    applier = open_applier(sink)
    await applier.open()
    async with followed(source, tmp_path, *_TABLES) as following, following.stream() as (_, stream):
        _write(source, seed, 100)
        source.run("TRUNCATE plain, toasted")
        _write(source, seed + 100, 100)
        source.run(MARK)
        found = await until(stream, lambda some: any(Op.MARK in frame.operations for frame in some))
    assert {Op.MOVE, Op.PARTIAL_UPDATE, Op.TRUNCATE} <= {number for frame in found for number in frame.operations}
    for frame in found:
        for piece in _cut(frame, size):
            await _apply(applier, piece, in_order=in_order)
    assert _content(sink) == _content(source)
