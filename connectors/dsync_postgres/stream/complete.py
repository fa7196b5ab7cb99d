"""Completing changes: reading again, by their key, the rows of changes whose values were not all sent.

A value that an update has not touched and that is stored outside of the row (TOAST) is not in the stream. Where the
sink does not have it either, or must not take it from what it has, the row as it is by now takes the change's place.
The changes that have come since follow in the stream, and are written over it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import errors as pg
from psycopg import pq, sql

from dsync.sdk import errors, types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import AS_BYTES, Connection, Sessions, begin_reading, keeps_bytes
from dsync_postgres.sink.apply.records import UNSENT, Value, Values, read_record
from dsync_postgres.stream.keys import KeyHash, key_hash, read_table_keys
from dsync_postgres.stream.messages import Relation, RelationColumn
from dsync_postgres.stream.slots import committing_transactions, wait_until_ended, write_out

Op = types.Operation

_WAIT_S = 60.0
_READ = frozenset((Op.INSERT, Op.UPDATE, Op.PARTIAL_UPDATE, Op.MOVE))
_OPERATION = "reading changed rows again"
_u16, _u32 = struct.Struct(">H").pack, struct.Struct(">I").pack

# With the operator by which the index of the replica identity, or of the primary key, compares a column: `=` alone
# would be looked for in pg_catalog, where types of extensions have none, or another one.
_COLUMNS = b"""
SELECT a.attname::text, a.atttypid::int8, a.atttypmod, format_type(a.atttypid, a.atttypmod),
       format_type(a.atttypid, -1), k.namespace, k.operator
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN LATERAL (
    SELECT opn.nspname::text AS namespace, op.oprname::text AS operator
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) u(number, class)
    JOIN pg_opclass oc ON oc.oid = u.class
    JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
    JOIN pg_amop o ON o.amopfamily = oc.opcfamily AND o.amopstrategy = 3
         AND o.amoplefttype = oc.opcintype AND o.amoprighttype = oc.opcintype
    JOIN pg_operator op ON op.oid = o.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
    WHERE i.indrelid = c.oid AND i.indisvalid AND u.number = a.attnum
      AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
    LIMIT 1) k ON true
WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r'
"""


class _Column(NamedTuple):
    """A column as the catalogue has it."""

    type_oid: int
    modifier: int
    type: str
    plain_type: str
    operator_schema: str | None
    operator: str | None


class _Given(NamedTuple):
    """A change that is to be completed."""

    old: Values | None
    key: Values
    """The new row's, in key order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """How one relation's rows are read."""

    relation: types.ChangeRelation
    key: tuple[int, ...]
    query: bytes
    hash: KeyHash

    def given(self, record: bytes) -> _Given:
        """What a change says; a key that was not sent has not changed, and then the old one was."""
        old, new, _ = read_record(record, 0, len(record), len(self.relation.columns))
        if new is None:
            raise errors.RequestError(f"{_OPERATION}: a change of {self.relation.namespace} has no row to be read")
        key = [old[index] if new[index] is UNSENT and old is not None else new[index] for index in self.key]
        return _Given(old=old, key=key)

    def key_of(self, values: Values) -> tuple[Value, ...]:
        """A row's key, in key order."""
        return tuple(values[index] for index in self.key)


class Completer:
    """Made from the connector's sessions on first use."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        # Every transaction whose commit lies before is visible to new readers.
        self._visible_lsn = 0

    async def complete(self, frame: types.ChangeFrame) -> types.ChangeFrame:
        """The same changes, each with the row that its key has by now, or as a delete where there is none.

        A change that moves a row stays an update, with the old key, which has to go; the others are inserts.

        Raises:
            NamespaceChangedError: a table has not the columns of the change any more.
            VisibilityError: transactions do not end of which the changes may be.
            CapacityError: the rows do not fit into one message; ask for fewer at a time.
        """
        if frame.type is not types.ChangeType.PG_OUTPUT:
            raise errors.UnsupportedError(f"{_OPERATION}: changes come in PostgreSQL's own form only")
        await self._pass_visibility_barrier(frame.transaction)
        limit_bytes = self._sessions.request.max_message_bytes
        answer = await self._sessions.run(_OPERATION, lambda connection: _complete(connection, frame, limit_bytes))
        # A commit that has not waited for the disk could be undone by a crash, and nothing would undo it at the sink.
        position = await write_out(self._sessions)
        return types.ChangeFrame(
            type=frame.type,
            cursor=frame.cursor,
            transaction=frame.transaction,
            index=frame.index,
            relations=frame.relations,
            operations=bytes(answer.operations),
            relation_of=frame.relation_of,
            key_hashes=b"".join(answer.hashes),
            sizes=b"".join([len(record).to_bytes(4, "little") for record in answer.records]),
            body=b"".join(answer.records),
            time=frame.time,
            position=position,
        )

    async def _pass_visibility_barrier(self, transaction: int) -> None:
        """A commit is sent before readers see it: what would be read too early lacks the very change."""
        if 0 < transaction < self._visible_lsn:
            return
        until_lsn, running = await committing_transactions(self._sessions)
        await wait_until_ended(self._sessions, running, timeout_s=_WAIT_S)
        self._visible_lsn = max(self._visible_lsn, until_lsn)


@dataclass(slots=True)
class _Answer:
    """What comes in the place of the changes, one each."""

    operations: list[int]
    hashes: list[bytes]
    records: list[bytes]


def _complete(connection: Connection, frame: types.ChangeFrame, limit_bytes: int) -> _Answer:
    begin_reading(connection, "")
    try:
        if keeps_bytes(connection):
            connection.execute(AS_BYTES)
        return _read_all(connection, frame, limit_bytes)
    finally:
        connection.rollback()


def _read_all(connection: Connection, frame: types.ChangeFrame, limit_bytes: int) -> _Answer:
    count, answer, start, size_bytes = len(frame), _Answer([], [], []), 0, 0
    body = bytes(frame.body)
    numbers, sizes = struct.unpack(f"<{count}H", frame.relation_of), struct.unpack(f"<{count}I", frame.sizes)
    readers: dict[int, _Reader] = {}
    for index, (operation, number, size) in enumerate(zip(frame.operations, numbers, sizes, strict=True)):
        record, key_hash = body[start : start + size], frame.key_hashes[8 * index : 8 * index + 8]
        start += size
        if operation in _READ:
            reader = readers.get(number)
            if reader is None:
                reader = readers[number] = _reader(connection, frame.relations[number])
            operation, key_hash, record = _read_again(connection, reader, record, key_hash)
        size_bytes += len(record)
        if size_bytes > limit_bytes:
            raise errors.CapacityError(
                f"{_OPERATION}: {count:,} rows of {', '.join(item.namespace for item in frame.relations)} weigh more "
                f"than one message may ({limit_bytes:,} bytes); lower --page-bytes, or leave the table out with "
                "--exclude"
            )
        answer.operations.append(operation)
        answer.hashes.append(key_hash)
        answer.records.append(record)
    return answer


def _read_again(connection: Connection, reader: _Reader, record: bytes, new_hash: bytes) -> tuple[int, bytes, bytes]:
    """The operation, the key's hash and the record that take a change's place."""
    given = reader.given(record)
    before = None if given.old is None else reader.key_of(given.old)
    moved = before is not None and before != tuple(given.key)
    found = _row(connection, reader, given.key)
    if found is not None:
        new = b"N" + _tuple(found)
        return (Op.UPDATE, new_hash, _old(reader, given.old) + new) if moved else (Op.INSERT, new_hash, new)
    if not moved or before is None or given.old is None:
        return Op.DELETE, new_hash, _key(reader, given.key)
    return Op.DELETE, reader.hash(before).to_bytes(8, "little"), _old(reader, given.old)


def _row(connection: Connection, reader: _Reader, key: Values) -> list[Value] | None:
    """The row with this key, each value as its type prints it; None where there is none."""
    # Not by the driver's own way: values are bytes here, whatever the encoding is.
    result = connection.pgconn.exec_params(reader.query, list(key))
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise pg.error_from_result(result, encoding="utf-8")
    if not result.ntuples:
        return None
    return [result.get_value(0, column) for column in range(result.nfields)]


def _reader(connection: Connection, relation: types.ChangeRelation) -> _Reader:
    """Find the relation's columns in the catalogue.

    Raises:
        NamespaceChangedError: it has another shape by now.
    """
    name = TableName.parse(relation.namespace)
    rows = connection.execute(_COLUMNS, [name.schema, name.name]).fetchall()
    columns = {row[0]: _Column(*row[1:]) for row in rows}
    for column in relation.columns:
        known = columns.get(column.name)
        if known is None or (column.type and known.type != column.type):
            raise errors.NamespaceChangedError(
                f"{_OPERATION}: column {column.name} of {name} was dropped or altered since the change, so that its "
                f"values cannot be had any more; `dsync resync FLOW --table {relation.namespace}` copies the table anew"
            ).about(relation.namespace)
    placed = sorted(
        (column.key_position, index) for index, column in enumerate(relation.columns) if column.key_position
    )
    key = tuple(index for _, index in placed)
    if not key:
        raise errors.RequestError(f"{_OPERATION}: {name} has no key to read its rows by")
    return _Reader(
        relation=relation,
        key=key,
        query=_query(name, relation, key, columns).as_bytes(connection),
        hash=_hash(connection, name, relation, key, columns),
    )


def _query(
    name: TableName, relation: types.ChangeRelation, key: Sequence[int], columns: dict[str, _Column]
) -> sql.Composed:
    conditions = []
    for place, index in enumerate(key, start=1):
        column = relation.columns[index].name
        known = columns[column]
        # Without an index of the catalogue's own, as after a change of the replica identity, by the usual operator.
        schema, operator = known.operator_schema or "pg_catalog", known.operator or "="
        conditions.append(
            sql.SQL(f"t.{{}} OPERATOR({{}}.{operator}) CAST(${place} AS {known.plain_type})").format(
                sql.Identifier(column), sql.Identifier(schema)
            )
        )
    return sql.SQL("SELECT {} FROM ONLY {} AS t WHERE {}").format(
        sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(column.name)) for column in relation.columns),
        name.identifier,
        sql.SQL(" AND ").join(conditions),
    )


def _hash(
    connection: Connection,
    name: TableName,
    relation: types.ChangeRelation,
    key: tuple[int, ...],
    columns: dict[str, _Column],
) -> KeyHash:
    """As the stream's own: a key that is deleted may belong to another lane than the one that it has become."""
    row = connection.execute(
        "SELECT c.oid::int8, c.relreplident::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [name.schema, name.name],
    ).fetchone()
    assert row is not None, "its columns were there a moment ago"
    described = tuple(
        RelationColumn(
            name=column.name,
            type_oid=columns[column.name].type_oid,
            modifier=columns[column.name].modifier,
            is_identity=bool(column.key_position),
        )
        for column in relation.columns
    )
    return key_hash(
        Relation(oid=row[0], schema=name.schema, name=name.name, identity=row[1], columns=described, key=key),
        read_table_keys(connection),
    )


def _old(reader: _Reader, old: Values | None) -> bytes:
    """The old row's key, as it comes before an update or in a delete."""
    assert old is not None, "so says the caller"
    return _key(reader, reader.key_of(old))


def _key(reader: _Reader, key: Sequence[Value]) -> bytes:
    values: list[Value] = [None] * len(reader.relation.columns)
    for index, value in zip(reader.key, key, strict=True):
        values[index] = value
    return b"K" + _tuple(values)


def _tuple(values: Sequence[Value]) -> bytes:
    parts = [b"n" if value is None else b"t" + _u32(len(value)) + value for value in values]
    return _u16(len(values)) + b"".join(parts)
