"""What identifies a table's rows in a stream, and a hash that is equal for equal keys.

Keys that the server takes to be equal may be printed differently (1.0 and 1.00, strings under a collation that ignores
case). Their changes must not meet in different lanes, so only columns are hashed whose text decides.

Rows that can be in each other's way although their keys are unlike have one hash for the whole table: what a unique
index or an exclusion constraint beside the key allows depends on the order of changes of unlike keys. Were one lane
ahead of another, which a crash or a refusal leaves so, no order of what is left would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xxhash

from dsync_postgres.sessions import Connection
from dsync_postgres.stream.decoder import identity_columns
from dsync_postgres.stream.messages import IDENTITY_FULL, Key, Relation

_PLAIN, _NUMERIC, _PADDED = "plain", "numeric", "padded"
# Types whose values are equal exactly if their text is, under the settings of our sessions: numbers without fraction,
# bool, "char", bytea, date, timestamps, uuid, networks, hardware addresses, pg_lsn, xid8.
_EXACT = frozenset({16, 17, 18, 20, 21, 23, 26, 1082, 1114, 1184, 2950, 829, 774, 869, 650, 3220, 5069})
_NUMERIC_OID, _PADDED_OID = 1700, 1042

KeyHash = Callable[[Key], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKey:
    """What the catalogue knows of a table, and the stream does not say."""

    columns: tuple[str, ...] = ()
    """The primary key, in its order."""
    forms: Mapping[str, str]
    """How a column's text can be hashed; columns that cannot be are absent."""
    rows_meet: bool = False
    """Another index than the key's is unique, or excludes rows by others."""


_KEYS = """
SELECT c.oid::int8,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                 WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.place <= i.indnkeyatts), '{}'),
       coalesce((SELECT array_agg(ARRAY[a.attname::text, base.oid::text])
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 JOIN pg_type base ON base.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
                 LEFT JOIN pg_collation l ON l.oid = a.attcollation
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND coalesce(l.collisdeterministic, true)), '{}'),
       (SELECT count(*) > 1 OR bool_or(i.indisexclusion) FROM pg_index i
        WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
_TEXTS = frozenset({19, 25, 1043})


def read_table_keys(connection: Connection) -> dict[int, TableKey]:
    """The keys of all tables that could be in a stream, by oid; one query."""
    found = {}
    for oid, columns, types, rows_meet in connection.execute(_KEYS.encode()).fetchall():
        forms = {name: _form(int(type_oid), is_collated=False) for name, type_oid in types}
        found[oid] = TableKey(
            columns=tuple(columns),
            forms={name: form for name, form in forms.items() if form},
            rows_meet=bool(rows_meet),
        )
    return found


def _form(type_oid: int, *, is_collated: bool) -> str:
    """How values of a type are hashed; empty: not at all."""
    if type_oid in _EXACT:
        return _PLAIN
    if type_oid == _NUMERIC_OID:
        return _NUMERIC
    # Whether a collation takes unlike strings to be equal is in the catalogue alone.
    if is_collated:
        return ""
    return _PLAIN if type_oid in _TEXTS else _PADDED if type_oid == _PADDED_OID else ""


def key_of(relation: Relation, tables: Mapping[int, TableKey]) -> tuple[int, ...]:
    """The columns that identify the table's rows; none where whole rows have to do.

    With REPLICA IDENTITY FULL the stream marks every column, so the primary key is the catalogue's.
    """
    if relation.identity != IDENTITY_FULL:
        return identity_columns(relation)
    known = tables.get(relation.oid)
    places = {column.name: index for index, column in enumerate(relation.columns)}
    if known is None or not all(name in places for name in known.columns):
        return ()
    return tuple(places[name] for name in known.columns)


def key_hash(relation: Relation, tables: Mapping[int, TableKey]) -> KeyHash:
    """A function from a key to 64 bits, equal for keys that the server takes to be equal.

    A table of which nothing can be hashed, or whose rows meet, has one value for all its rows.
    """
    known = tables.get(relation.oid)
    chosen: list[tuple[int, str]] = []
    for place, index in enumerate(relation.key):
        column = relation.columns[index]
        if known is not None and known.rows_meet:
            break
        form = _form(column.type_oid, is_collated=True) if known is None else known.forms.get(column.name, "")
        if form:
            chosen.append((place, form))
    if not chosen:
        constant = xxhash.xxh3_64_intdigest(f"{relation.schema}.{relation.name}".encode())
        return lambda key: constant
    if len(chosen) == 1 and chosen[0][1] == _PLAIN:
        (place, _), digest = chosen[0], xxhash.xxh3_64_intdigest
        return lambda key: digest(key[place] or b"")
    return lambda key: xxhash.xxh3_64_intdigest(b"".join([_part(key[place], form) for place, form in chosen]))


def _part(value: bytes | None, form: str) -> bytes:
    """A value with its length before it; NULL is no value."""
    if value is None:
        return b"\xff\xff\xff\xff"
    if form == _NUMERIC and b"." in value:
        value = value.rstrip(b"0").rstrip(b".")
    elif form == _PADDED:
        value = value.rstrip(b" ")
    return len(value).to_bytes(4, "big") + value
