"""Overlapping reads: rows are read at any moment after a position, then every change since then is applied again.

The result is the source, whatever was read when (the overlap lemma); the histories are made to break it: values that
are not sent, keys that change places, unique values that wander, rows that go and come again, tables that are emptied.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dsync.coordinator.stream.ahead import FOR_EVER, Ahead
from dsync.protocol import frames
from dsync.sdk import errors, types
from tests.integration.postgres_apply.completing import completed
from tests.integration.postgres_apply.conftest import LANE, Applier, OpenApplier
from tests.integration.postgres_apply.frames import Op
from tests.integration.postgres_apply.test_streamed import _cut
from tests.integration.postgres_sink.support import BINARY
from tests.integration.stream.test_follow import MARK, followed
from tests.support.databases import Database, DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)

_KEYED = ("toasted", "named", "pairs", "whole", "fixed", "own")
_KEYLESS = ("bare",)
_TABLES = (
    "CREATE TABLE toasted (id int, n int, big text, other text, u int)",
    "CREATE TABLE named (id int, u int NOT NULL, v text NOT NULL, big text, n int)",
    "CREATE TABLE pairs (a text, n int, b numeric, big text)",
    "CREATE TABLE whole (id int, big text, n int)",
    "CREATE TABLE fixed (id int, n int GENERATED ALWAYS AS IDENTITY, big text,"
    " twice int GENERATED ALWAYS AS (n * 2) STORED)",
    "CREATE TABLE own (id int GENERATED ALWAYS AS IDENTITY, big text, n int)",
    "CREATE TABLE bare (j json, n numeric)",
    *(f"ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL" for name in _KEYED),
    "ALTER TABLE toasted ALTER other SET STORAGE EXTERNAL",
)
_SOURCE_KEYS = (
    "ALTER TABLE named ADD PRIMARY KEY (id)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "ALTER TABLE bare REPLICA IDENTITY FULL",
)
_KEYS = (
    "ALTER TABLE toasted ADD PRIMARY KEY (id)",
    "CREATE UNIQUE INDEX named_u ON named (u, v)",
    "ALTER TABLE named REPLICA IDENTITY USING INDEX named_u",
    "ALTER TABLE pairs ADD PRIMARY KEY (b, a)",
    "ALTER TABLE whole ADD PRIMARY KEY (id)",
    "ALTER TABLE fixed ADD PRIMARY KEY (id)",
    "ALTER TABLE own ADD PRIMARY KEY (id)",
)
_SECOND_KEYS = ("CREATE UNIQUE INDEX toasted_second ON toasted (u)", "CREATE UNIQUE INDEX whole_second ON whole (n)")
_SINK_SECOND_KEYS = (*_SECOND_KEYS, "CREATE UNIQUE INDEX named_second ON named (id)")


# Two rows change places in a unique index, by way of a third value.
_SWAP = """
DO $$DECLARE a int; b int; BEGIN
  SELECT u INTO a FROM toasted WHERE id = {n}; SELECT u INTO b FROM toasted WHERE id = {m};
  IF {n} <> {m} AND a + b > 0 THEN
    UPDATE toasted SET u = -1 WHERE id = {n}; UPDATE toasted SET u = a WHERE id = {m};
    UPDATE toasted SET u = b WHERE id = {n};
  END IF;
END$$
"""


def _statements(chance: random.Random) -> Iterator[str]:
    """Statements without end."""
    while True:
        n, m, spare = chance.randrange(12), chance.randrange(12), chance.randrange(100, 10**6)
        big = f"(SELECT string_agg(md5((g + {chance.randrange(10**6)})::text), '') FROM generate_series(1, 90) g)"
        table = chance.choice(("toasted", "toasted", "whole", "fixed"))
        yield chance.choice(
            (
                f"INSERT INTO toasted VALUES ({n}, {m}, {big}, {big}, {spare}) ON CONFLICT (id) DO UPDATE SET n = -1",
                f"UPDATE toasted SET n = n + 1 WHERE id % 3 = {n % 3}",
                f"UPDATE toasted SET other = {big} WHERE id = {n}",
                f"UPDATE toasted SET big = NULL WHERE id = {n}",
                f"UPDATE toasted SET big = {big} WHERE big IS NULL",
                # Rows change places, or leave theirs to another and come back to a third.
                f"UPDATE {table} SET id = -7 WHERE id = {n}; UPDATE {table} SET id = {n} WHERE id = {m};"
                f" UPDATE {table} SET id = {m} WHERE id = -7",
                *[f"UPDATE {table} SET id = {spare} WHERE id = {n}; UPDATE {table} SET id = {n} WHERE id = {m}"] * 6,
                *[
                    f"UPDATE {table} SET id = {n} WHERE id = (SELECT min(id) FROM {table} WHERE id > 99) AND NOT EXISTS"
                    f" (SELECT FROM {table} WHERE id = {n})"
                ]
                * 4,
                f"UPDATE {table} SET id = {m} WHERE id = {n}",
                f"WITH gone AS (DELETE FROM {table} WHERE id = {m}) SELECT",
                _SWAP.format(n=n, m=m),
                "UPDATE toasted SET u = u + 1 WHERE id IN (SELECT id FROM toasted ORDER BY u DESC LIMIT 1)",
                f"DELETE FROM toasted WHERE id = {n}",
                f"INSERT INTO named VALUES ({n}, {m}, 'v{n % 2}', {big}, 0) ON CONFLICT DO NOTHING",
                f"UPDATE named SET n = n + 1 WHERE u < {m}",
                f"UPDATE named SET id = id + 100 WHERE u = {m}",
                f"UPDATE named SET u = {m} WHERE u = {n}",
                f"UPDATE named SET v = 'v' || (u % 2) WHERE u = {n}",
                f"DELETE FROM named WHERE u = {m}",
                f"INSERT INTO pairs VALUES ('k{n % 4}', {m}, {m % 3}.{'0' * (n % 3 + 1)}, {big}) ON CONFLICT"
                " DO NOTHING",
                f"UPDATE pairs SET n = n + 1, b = b + 0.0{'0' * (n % 2)} WHERE a = 'k{n % 4}'",
                f"UPDATE pairs SET a = 'k{m % 4}' WHERE a = 'k{n % 4}' AND b = {m % 3}",
                f"DELETE FROM pairs WHERE n % 7 = {n % 7}",
                f"INSERT INTO whole VALUES ({n}, {big}, {spare}) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n",
                f"INSERT INTO fixed (id, big) VALUES ({n}, {big}) ON CONFLICT (id) DO UPDATE SET n = DEFAULT",
                f"UPDATE fixed SET big = {big} WHERE id = {n}",
                f"UPDATE fixed SET n = DEFAULT WHERE id < {n}",
                f"INSERT INTO own (big, n) VALUES ({big}, {m})",
                f"UPDATE own SET n = n + 1 WHERE n < {m}",
                "UPDATE own SET id = DEFAULT WHERE id = (SELECT min(id) FROM own)",
                f"DELETE FROM own WHERE n = {m}",
                f"INSERT INTO bare VALUES ('{{\"a\":  {n % 3}}}', {m % 3}.0), ('{{\"a\":  {n % 3}}}', {m % 3}.0)",
                f"UPDATE bare SET n = n + 1 WHERE ctid IN (SELECT ctid FROM bare WHERE n < {m % 5} LIMIT 1)",
                f"DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare WHERE n < {m % 5} LIMIT 1)",
                *(["TRUNCATE own, toasted"] if n + m == 1 else []),
                *(["TRUNCATE named, fixed RESTART IDENTITY"] if n + m == 2 else []),
            )
        )


@dataclass(kw_only=True)
class Writer:
    """Random transactions, one at a time; somebody may look while one is open."""

    connection: psycopg.Connection
    chance: random.Random
    statements: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self.statements = _statements(self.chance)

    def transaction(self) -> Iterator[None]:
        """One transaction; yields in its midst, and when it has ended."""
        self.connection.execute("BEGIN")
        try:
            for _ in range(self.chance.randrange(1, 6)):
                self.connection.execute(next(self.statements).encode())
                yield
        except psycopg.errors.IntegrityError:
            self.connection.execute("ROLLBACK")
        else:
            self.connection.execute("COMMIT" if self.chance.random() < 0.9 else "ROLLBACK")
        yield


@dataclass(kw_only=True)
class Chunk:
    """Some places of a table, read at some moment, or at several."""

    table: str
    condition: str
    pages: list[types.Page] = field(default_factory=list)


def _chunks(chance: random.Random) -> list[Chunk]:
    """All places of all tables; the last chunk of each is open above."""
    found = []
    for table in _KEYED:
        bounds = ["'(0,0)'", *(f"'({block},{chance.randrange(1, 40)})'" for block in range(chance.randrange(4)))]
        for lower, upper in zip(bounds, [*bounds[1:], None], strict=True):
            below = f" AND ctid < {upper}" if upper else ""
            found.append(Chunk(table=table, condition=f"ctid >= {lower}{below}"))
    return found


def _read(source: Database, columns: dict[str, str], chunk: Chunk) -> None:
    query = f"SELECT {columns[chunk.table]} FROM ONLY {chunk.table} WHERE {chunk.condition}"
    with source.connect() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
            body = b"".join(map(bytes, copy))
        chunk.pages.append(types.Page(type=BINARY, rows=cursor.rowcount, packed=body))


def _columns(database: Database) -> dict[str, str]:
    rows = database.rows(
        "SELECT attrelid::regclass::text, string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attnum > 0 AND attgenerated = '' AND attrelid::regclass::text = ANY (%s) GROUP BY 1",
        [[*_KEYED]],
    )
    return dict(rows)


def _content(database: Database) -> dict[str, list[tuple[str]]]:
    query = sql.SQL('SELECT (x.*)::text COLLATE "C" FROM {} x ORDER BY 1')
    return {name: database.rows(query.format(sql.Identifier(name))) for name in (*_KEYED, *_KEYLESS)}


@dataclass(kw_only=True)
class Replay:
    """Frames applied as a coordinator applies them in an overlap."""

    applier: Applier
    source: Database
    chance: random.Random
    in_order: bool
    cuts: bool
    """What concerns more than one key stands alone; a sink has to bear it among others too."""
    re_read: int = 0
    """How many changes were completed."""
    ahead: Ahead = field(default_factory=lambda: Ahead(all_until=FOR_EVER))

    async def apply(self, frame: types.ChangeFrame, transaction: int = 0) -> None:
        while True:
            request = types.WriteChangesRequest(
                context=self.applier.sink.context(LANE),
                frame=frame,
                targets=tuple(relation.namespace for relation in frame.relations),
                overlap=self.ahead.overlaps(frame, transaction),
                in_order=self.in_order,
            )
            try:
                written = await self.applier.sink.side.write_changes(request)
            except errors.LanesMeetError:
                assert not request.in_order
                written = await self.applier.sink.side.write_changes(replace(request, in_order=True))
            if not written.incomplete:
                assert written.changes == len(frame)
                self.applier.sink.units[LANE].seq = request.context.seq
                return
            assert written.changes == 0
            self.re_read += len(written.incomplete)
            wanted = [one.index for one in written.incomplete]
            answer = completed(self.source, frame, wanted)
            position = self.source.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
            for index in wanted:
                self.ahead.add(frame, index, int(position))
            frame = answer


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unique", [False, True], ids=["later", "unique"])
@pytest.mark.parametrize(("size", "in_order"), [(5, False), (40, True), (10_000, False)], ids=["tiny", "small", "all"])
async def test_rows_read_at_any_moment_become_the_source(
    database: DatabaseFactory,
    open_applier: OpenApplier,
    tmp_path: Path,
    seed: int,
    unique: bool,
    size: int,
    in_order: bool,
) -> None:
    """Nothing is NULL that was only not sent, and nothing belongs to another row.

    Nor does a unique index that the sink has from the start refuse rows of different moments.
    """
    chance = random.Random(1000 * seed + size)
    source, sink = database(), database()
    for one in (source, sink):
        one.run(*_TABLES, *_KEYS)  # type: ignore[arg-type]
    source.run(*_SOURCE_KEYS, *_SECOND_KEYS)
    applier = open_applier(sink)
    await applier.open()
    if unique:
        sink.run(*_SINK_SECOND_KEYS)
    _claim(applier)
    columns = _columns(source)
    with source.connect() as connection:
        writer = Writer(connection=connection, chance=chance)
        for _ in range(30):
            _drain(writer)
        source.run("TRUNCATE bare")
        async with followed(source, tmp_path, *_KEYED, *_KEYLESS) as following, following.stream() as (_, stream):
            await _copy_meanwhile(applier, source, writer, _chunks(chance), columns)
            replay = Replay(applier=applier, source=source, chance=chance, in_order=in_order, cuts=bool(seed % 2))
            await _apply_until_equal(stream, replay, writer, size)
    assert _content(sink) == _content(source)
    if not unique:
        sink.run(*_SINK_SECOND_KEYS)


def _claim(applier: Applier) -> None:
    """The sink knows that it has found all tables empty."""
    applier.sink.database.run(
        sql.SQL(
            "INSERT INTO _dsync.target SELECT {}, 'public.' || relname, oid, true, true, '', {} FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).format(sql.Literal(applier.sink.flow), sql.Literal(applier.sink.run))
    )


def _drain(writer: Writer) -> None:
    for _ in writer.transaction():
        pass


async def _copy_meanwhile(
    applier: Applier, source: Database, writer: Writer, chunks: list[Chunk], columns: dict[str, str]
) -> None:
    """Read each chunk at some moment, some of them twice; they arrive in another order."""
    chance = writer.chance
    waiting = [*chunks, *chance.sample(chunks, 2)]
    chance.shuffle(waiting)
    while waiting:
        for _ in writer.transaction():
            if waiting and chance.random() < 0.1:
                _read(source, columns, waiting.pop())
    pages = [(chunk, page) for chunk in chunks for page in chunk.pages]
    chance.shuffle(pages)
    sink = applier.sink
    await sink.open("page")
    for chunk, page in pages:
        listed = columns[chunk.table].split(", ")
        await sink.write(sink.request(page, "page", namespace=f"public.{chunk.table}", columns=listed, upsert=True))


async def _apply_until_equal(
    stream: AsyncIterator[types.ChangeFrame], replay: Replay, writer: Writer, size: int
) -> None:
    """Until a mark has passed that was set when nothing was written or read again any more."""
    budget = 30
    source = replay.source
    source.run(MARK)
    is_last, re_read = False, 0
    async with asyncio.timeout(120):
        while True:
            frame = await anext(stream)
            for start, end, alone in frames.runs(frame) if replay.cuts else [(0, len(frame), False)]:
                stretch = frames.cut(frame, start, end)
                for piece in [stretch] if alone else _cut(stretch, size):
                    await replay.apply(piece, frames.place_at(frame, end)[0])
                if budget and writer.chance.random() < 0.5:
                    budget -= 1
                    _drain(writer)
            if Op.MARK not in frame.operations:
                continue
            replay.ahead.rest_is_exact()
            if is_last and re_read == replay.re_read:
                return
            is_last, re_read = not budget, replay.re_read
            budget = max(0, budget - 10)
            source.run(MARK)
