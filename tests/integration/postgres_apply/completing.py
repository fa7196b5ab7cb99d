"""What a source answers where a sink lacks values: the rows as they are by now."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
from dsync_postgres.sink.apply.records import UNSENT, read_record
from psycopg import sql

from dsync.protocol import frames
from dsync.sdk import types
from tests.integration.postgres_apply.frames import Op, row
from tests.support.databases import Database


def completed(source: Database, frame: types.ChangeFrame, wanted: Sequence[int]) -> types.ChangeFrame:
    """The frame with these changes as whole rows, each found by its new key; or as deletes of their old one."""
    changes = {}
    with source.connect() as connection:
        for index in wanted:
            one = frames.pick(frame, [index])
            relation = one.relations[frames.relation_numbers(one)[0]]
            operation, record = _whole(connection, relation, bytes(one.body))
            sizes = struct.pack("<I", len(record))
            changes[index] = replace(one, operations=bytes([operation]), moved_from=b"", sizes=sizes, body=record)
    return frames.replaced(frame, changes)


def _whole(
    connection: psycopg.Connection[tuple[Any, ...]], relation: types.ChangeRelation, record: bytes
) -> tuple[int, bytes]:
    old, new, lacks = read_record(record, 0, len(record), len(relation.columns))
    assert lacks, "only changes that lack values are asked for"
    assert new is not None
    key = [index for index, column in enumerate(relation.columns) if column.key_position]
    if any(new[index] is UNSENT for index in key):
        assert old is not None
        new = [old[index] if index in key else value for index, value in enumerate(new)]
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in relation.columns),
        sql.SQL(relation.namespace),  # type: ignore[arg-type]  # quoted where it has to be
        sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(relation.columns[index].name), sql.Literal(_text(new[index])))
            for index in key
        ),
    )
    found = connection.execute(query).fetchone()
    before = b"" if old is None else b"K" + row(old)
    if found is None:
        return Op.DELETE, before or b"K" + row([new[i] if i in key else None for i in range(len(new))])
    return (Op.UPDATE if before else Op.INSERT), before + b"N" + row(found)


def _text(value: bytes | None) -> str:
    assert value is not None, "a key has no NULL"
    return value.decode()
