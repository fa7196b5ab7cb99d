"""ChecksumService for PostgreSQL: counts and sums of row hashes, computed by the server that holds the rows.

Every call reads in a read-only REPEATABLE READ transaction, which sees the copy's snapshot while that is held. The
caller decides how much runs at a time, so a statement here takes no parallel workers of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres import large_objects as large
from dsync_postgres.checksums.ranges import plan_ranges
from dsync_postgres.checksums.statements import (
    HASHTEXT,
    MD5,
    XID_HALF_CIRCLE,
    HashedRows,
    Hashing,
    Relation,
    combine,
    key_equals,
    written_since,
)
from dsync_postgres.identity import read_identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.relation import find_relation
from dsync_postgres.sessions import AS_BYTES, Connection, Session, Sessions, keeps_bytes
from dsync_postgres.source.snapshots import Snapshot, current_position

_HASH_BYTES = 16
_BATCH_ROWS = 1000
"""A key takes at most 2.7 kB (a B-tree entry), so a batch stays under gRPC's 4 MiB."""
_ROWS_BYTES = 8 * 1024 * 1024
"""More than one row of `get_rows` together weigh no more than this."""

# What this server's hash function gives for texts of every length up to 200 must have this digest (the same on 15, 16
# and 18): the manual promises no stable hashes, so whether two servers agree is found out, not guessed from versions.
_VECTORS = sql.SQL(
    "SELECT hashtextextended(left(repeat('dsync äß€ 0123456789 ', 12), n) COLLATE \"C\", seed)"
    " FROM generate_series(0, 200) n, generate_series(0, 2) seed ORDER BY n, seed"
)
_VECTORS_SHA256 = "f13a15a9f6d313084d1b92a32c7ecc20ded475a18709cae59531a68e9697ac99"


class Checksums:
    """What verification asks of a PostgreSQL database."""

    def __init__(self, sessions: Sessions) -> None:
        """Use these sessions; nothing is contacted yet."""
        self._sessions = sessions
        self._is_parent: dict[str, bool] = {}
        self._hashes_as_known: bool | None = None

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[types.KeyRange]:
        """Ranges of the key of about so many rows; one open range where the table cannot be cut well."""
        async with self._reading() as session:
            return await session.run(
                f"planning key ranges of {namespace}",
                lambda connection: plan_ranges(
                    connection, self._relation(connection, namespace), tuple(key), rows_per_range
                ),
            )

    async def get_checksum(self, request: types.ChecksumRequest) -> list[types.Bucket]:
        """Count and sum of each bucket that has rows, in one scan; with one bucket always exactly that.

        Raises:
            UnsupportedError: the algorithm would not hash here as it does elsewhere; take another.
        """
        async with self._reading() as session:
            return await session.run(
                f"computing checksums of {request.namespace}", lambda connection: self._sum(connection, request)
            )

    async def get_row_hashes(self, request: types.ChecksumRequest) -> AsyncGenerator[list[types.RowHash], None]:
        """Hash of each row by key, or without a key each hash with its multiplicity. Closing it stops the server."""
        operation = f"reading row hashes of {request.namespace}"
        fetch = _fetch_keyed if request.key else _fetch_counted
        async with self._reading() as session:
            await session.run(operation, lambda connection: self._open_hashes(connection, request))
            while batch := await session.run(operation, fetch):
                yield batch

    async def get_rows(self, request: types.RowsRequest) -> list[types.TextRow]:
        """The rows with these keys as text.

        Raises:
            CapacityError: they weigh too much together; ask for fewer. One row alone is always given.
        """
        if not request.keys:
            return []
        async with self._reading() as session:
            return await session.run(
                f"reading rows of {request.namespace}",
                lambda connection: _read_rows(connection, self._relation(connection, request.namespace), request),
            )

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Session]:
        """A session under the copy's snapshot. Once that is lost, whoever relied on it is told; later calls go without.

        Raises:
            SnapshotLostError: it has been lost since the last call.
        """
        name = self._sessions.snapshot_name
        try:
            async with self._sessions.reading() as session:
                yield session
        except errors.SnapshotLostError:
            if self._sessions.snapshot_name == name:
                self._sessions.snapshot_name = ""
            raise

    def _relation(self, connection: Connection, namespace: str) -> Relation:
        """What is read under a name; its kind is remembered, since that never changes for one that stays."""
        table = TableName.parse(namespace)
        self._sessions.learn_conditions(connection)
        if namespace not in self._is_parent:
            self._is_parent[namespace] = find_relation(connection, table, "looking up").kind == "p"
        return Relation(
            table=table,
            is_parent=self._is_parent[namespace],
            condition=self._sessions.filter_of(namespace),
        )

    def _sum(self, connection: Connection, request: types.ChecksumRequest) -> list[types.Bucket]:
        rows = self._hashed_rows(connection, request)
        return [
            types.Bucket(bucket=bucket, count=count, sum=combine(int(high), int(low)))
            for bucket, count, high, low in connection.execute(rows.sums())
        ]

    def _open_hashes(self, connection: Connection, request: types.ChecksumRequest) -> None:
        rows = self._hashed_rows(connection, request)
        # All of it is fetched: plan for the whole and not for the first tenth.
        connection.execute("SET LOCAL cursor_tuple_fraction = 1.0")
        connection.execute(sql.SQL("DECLARE hashes NO SCROLL CURSOR FOR {}").format(rows.each()))

    def _hashed_rows(self, connection: Connection, request: types.ChecksumRequest) -> HashedRows:
        relation = self._relation(connection, request.namespace)
        hashing = self._hashing(connection, request.algorithm)
        connection.execute("SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off")
        return HashedRows(relation=relation, hashing=hashing, request=request)

    def _hashing(self, connection: Connection, algorithm: str) -> Hashing:
        # Bytes without an encoding are compared as they are: nothing can convert them.
        is_utf8 = connection.info.parameter_status("server_encoding") in ("UTF8", "SQL_ASCII")
        if algorithm in ("", MD5):
            return Hashing(algorithm=MD5, is_utf8=is_utf8)
        if algorithm != HASHTEXT:
            raise errors.RequestError(f"checksum algorithm {algorithm!r} is not known; use {HASHTEXT} or {MD5}")
        if self._hashes_as_known is None:
            self._hashes_as_known = is_utf8 and _digest_of_vectors(connection) == _VECTORS_SHA256
        if not self._hashes_as_known:
            raise errors.UnsupportedError(
                f"checksum algorithm {HASHTEXT}: this server's encoding or hash function is another one; use {MD5}"
            )
        return Hashing(algorithm=HASHTEXT, is_utf8=True)


def _is_large(relation: Relation) -> bool:
    return relation.table == large.NAME


def _digest_of_vectors(connection: Connection) -> str:
    text = "\n".join(str(value) for (value,) in connection.execute(_VECTORS))
    return hashlib.sha256(text.encode()).hexdigest()


_FETCH = sql.SQL("FETCH FORWARD {} FROM hashes").format(sql.Literal(_BATCH_ROWS))


def _fetch_keyed(connection: Connection) -> list[types.RowHash]:
    try:
        result = connection.execute(_FETCH).pgresult
    except psycopg.errors.CharacterNotInRepertoire as exc:
        raise errors.UnsupportedError(
            "reading row hashes: tables differ, and a key holds text that is not UTF-8, in a database without an "
            "encoding (SQL_ASCII), so rows cannot be named; compare counts (--quick), or convert the text"
        ) from exc
    assert result is not None, "FETCH gives a result"
    value = result.get_value
    columns = range(2, result.nfields)
    return [
        types.RowHash(
            # As the server wrote it: a cast to text would strip the padding of char(n), and drivers' types reformat.
            key=tuple((value(row, column) or b"").decode() for column in columns),
            hash=_hash_bytes(int(value(row, 0) or 0), int(value(row, 1) or 0)),
        )
        for row in range(result.ntuples)
    ]


def _fetch_counted(connection: Connection) -> list[types.RowHash]:
    batch = []
    for high, low, count in connection.execute(_FETCH):
        row_hash = _hash_bytes(high, low)
        batch.append(types.RowHash(key=(row_hash.hex(),), hash=row_hash, count=count))
    return batch


def _hash_bytes(high: int, low: int) -> bytes:
    return combine(high, low).to_bytes(_HASH_BYTES, "big")


def _read_rows(connection: Connection, relation: Relation, request: types.RowsRequest) -> list[types.TextRow]:
    """Through COPY, which hands out one row at a time and each value as the type itself writes it."""
    columns = sql.SQL(", ").join(map(sql.Identifier, (*request.key, *request.columns)))
    firsts = sorted((key[:1] for key in request.keys), key=lambda first: int(first[0])) if _is_large(relation) else [()]
    if keeps_bytes(connection):
        connection.execute(AS_BYTES)
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE {} AND {} AND {}) TO STDOUT").format(
        columns,
        relation.within(firsts[0], firsts[-1]),
        relation.kept,
        key_equals(_key_types(connection, relation, request.key), request.keys),
        _changed_since(connection, relation, request.changed_since) if request.changed_since else sql.SQL("true"),
    )
    rows: list[types.TextRow] = []
    size_bytes = 0
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for values in copy.rows():
            row = tuple(_shown(value) if isinstance(value, bytes) else value for value in values)
            size_bytes += sum(len(value) for value in row if value is not None)
            if rows and size_bytes > _ROWS_BYTES:
                raise errors.CapacityError(
                    f"reading rows of {request.namespace}: {len(request.keys)} rows are more than "
                    f"{_ROWS_BYTES} bytes; ask for fewer at a time"
                )
            rows.append(row)
    return rows


def _shown(value: bytes) -> str:
    """Text of a database without an encoding: what is not UTF-8 as its bytes, behind a character that says so."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"\N{REPLACEMENT CHARACTER}\\x{value.hex()}"


def _changed_since(connection: Connection, relation: Relation, snapshot: bytes) -> sql.Composable:
    """The condition that a row was written since, or may have been: where versions cannot be compared, any may."""
    if _is_large(relation):
        # Their pieces are made up and have no version.
        return sql.SQL("true")
    then = Snapshot.decode(snapshot)
    identity = read_identity(connection)
    row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    is_comparable = (
        identity.id == then.endpoint
        and identity.timeline == then.timeline
        and current_position(connection) >= then.position
        and int(row[0]) - then.xmin < XID_HALF_CIRCLE
    )
    return written_since(then.xmin) if is_comparable else sql.SQL("true")


def _key_types(connection: Connection, relation: Relation, key: Sequence[str]) -> list[tuple[str, bool]]:
    """The key's columns, each with whether `=` finds its operator under our search_path."""
    if _is_large(relation):
        return [(column, True) for column in key]
    found: dict[str, bool] = dict(
        connection.execute(
            "SELECT a.attname::text, coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace"
            " OR t.typtype IN ('e', 'r') FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)"
            " WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s)",
            [relation.table.identifier.as_string(connection), list(key)],
        ).fetchall()
    )
    return [(column, bool(found.get(column))) for column in key]
