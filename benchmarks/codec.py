"""Rows to BSON and back, in one process without server or network: ours against the plain way, one object a value."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import bson
import psycopg
from bson import Decimal128
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from dsync_postgres.documents import RowDecoder, RowEncoder
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from benchmarks.tables import Table
from dsync.quickstart.servers import EmbeddedPostgres

_ROWS = 6000
_REPEATS = 5
_HEADER_BYTES = 19
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """CPU time a row."""

    table: str
    way: str
    encode_us: float
    decode_us: float


@dataclass(frozen=True, kw_only=True)
class _Column:
    name: str
    type: str
    oid: int
    key_position: int


def speeds(server: EmbeddedPostgres, table: Table) -> list[Speed]:
    """Both ways on the first rows of a table."""
    with psycopg.connect(server.uri(table.database)) as connection:
        columns = _columns(connection, table)
        query = sql.SQL("COPY (SELECT * FROM {} LIMIT {}) TO STDOUT (FORMAT binary)")
        with connection.cursor().copy(query.format(sql.Identifier(table.name), sql.Literal(_ROWS))) as copy:
            page = b"".join(map(bytes, copy))
    encoder, decoder = RowEncoder(columns), RowDecoder(columns)
    packed, rows = encoder.encode_copy_binary(page)
    plain = _Plain(columns)
    documents = plain.encode(page)
    return [
        Speed(
            table=table.title,
            way="ours",
            encode_us=_cpu_us(lambda: encoder.encode_copy_binary(page), rows),
            decode_us=_cpu_us(lambda: decoder.decode(packed), rows),
        ),
        Speed(
            table=table.title,
            way="an object a value",
            encode_us=_cpu_us(lambda: plain.encode(page), rows),
            decode_us=_cpu_us(lambda: plain.decode(documents), rows),
        ),
    ]


def markdown(found: list[Speed]) -> str:
    """The table of all of them."""
    lines = [
        "### rows to BSON and back, CPU µs a row",
        "",
        "| table | way | to BSON | back |",
        "| --- | --- | ---: | ---: |",
    ]
    lines += [f"| {speed.table} | {speed.way} | {speed.encode_us:.2f} | {speed.decode_us:.2f} |" for speed in found]
    return "\n".join(lines)


def _cpu_us(work: Callable[[], object], rows: int) -> float:
    best_s = float("inf")
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        best_s = min(best_s, time.process_time() - started)
    return best_s / rows * 1e6


def _columns(connection: psycopg.Connection, table: Table) -> list[_Column]:
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), atttypid FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table.name],
    )
    return [_Column(name=n, type=t, oid=oid, key_position=int(n == table.key)) for n, t, oid in rows]


class _Plain:
    """What a connector looks like that uses the drivers' own conversions."""

    def __init__(self, columns: list[_Column]) -> None:
        self._columns = columns
        self._transformer = Transformer()
        self._loaders = [self._transformer.get_loader(column.oid, Format.BINARY).load for column in columns]

    def encode(self, page: bytes) -> list[bytes]:
        """A dict a row, encoded by pymongo."""
        documents = []
        position, last = _HEADER_BYTES, len(page) - 2
        while position < last:
            position += 2
            document: dict[str, Any] = {}
            for column, load in zip(self._columns, self._loaders, strict=True):
                (length,) = struct.unpack_from(">i", page, position)
                position += 4
                if length < 0:
                    document[column.name] = None
                    continue
                document[column.name] = _to_bson(load(page[position : position + length]))
                position += length
                if column.key_position:
                    document["_id"] = document[column.name]
            documents.append(bson.encode(document, codec_options=_OPTIONS))
        return documents

    def decode(self, documents: list[bytes]) -> bytes:
        """A dict a document, its values dumped by psycopg."""
        parts = []
        formats = [PyFormat.BINARY] * len(self._columns)
        for document in documents:
            fields = bson.decode(document, _OPTIONS)
            values = [_to_postgres(fields[column.name], column.type) for column in self._columns]
            parts.append(struct.pack(">h", len(values)))
            for value in self._transformer.dump_sequence(values, formats):
                parts.append(b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + bytes(value))
        return b"".join(parts)


def _to_bson(value: Any) -> Any:
    if isinstance(value, Decimal):
        return Decimal128(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _to_postgres(value: Any, printed: str) -> Any:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, datetime) and printed == "date":
        return value.date()
    if isinstance(value, dict):
        return Jsonb(value)
    return value
