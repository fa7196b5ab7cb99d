"""BSON pages at the sink: documents become rows of the table's own types."""

from __future__ import annotations

from datetime import UTC, datetime

import bson
import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [16, 18], indirect=True)

BSON = types.PageType.BSON
TABLE = (
    "CREATE TABLE t (id bigint PRIMARY KEY, name text, at timestamptz, ok boolean, tags int[], doc jsonb,"
    " twice bigint GENERATED ALWAYS AS (id * 2) STORED)"
)


def document(number: int, name: str = "x") -> dict[str, object]:
    return {
        "_id": bson.Int64(number),
        "id": bson.Int64(number),
        "name": name,
        "at": datetime(2024, 1, number, tzinfo=UTC),
        "ok": True,
        "tags": [1, 2],
        "doc": {"a": 1},
    }


def page(*documents: dict[str, object], packed: bool = True) -> types.Page:
    records = [bson.encode(item) for item in documents]
    if packed:
        return types.Page(type=BSON, rows=len(records), packed=b"".join(records))
    return types.Page(type=BSON, rows=len(records), records=records)


@pytest.mark.parametrize("packed", [True, False])
async def test_documents_become_rows(database: DatabaseFactory, open_sink: OpenSink, packed: bool) -> None:
    """Of an empty table by COPY, with their ledger row; a repeat is a write once."""
    db = database()
    db.run(TABLE)
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(page(document(1), document(2), packed=packed))
    assert await sink.write(request) == 2
    assert await sink.side.write_page(request) == 2
    assert db.rows("SELECT id, name, extract(day FROM at)::int, ok, tags, doc, twice FROM t ORDER BY id") == [
        (1, "x", 1, True, [1, 2], {"a": 1}, 2),
        (2, "x", 2, True, [1, 2], {"a": 1}, 4),
    ]


async def test_a_foreign_coordinator_writes_documents_twice_and_gets_one_row(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    db = database()
    db.run(TABLE)
    sink = open_sink(db)
    for name in ("old", "new", "new"):
        await sink.side.write_data(sink.request(page(document(1, name), packed=False), None, upsert=True))
    assert db.rows("SELECT id, name FROM t") == [(1, "new")]


async def test_a_document_that_is_no_row_is_a_refused_record(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run(TABLE)
    sink = open_sink(db)
    await sink.open("u")
    bad = {**document(1), "at": "secret"}
    with pytest.raises(errors.RecordError, match=r"writing public\.t: .*at") as caught:
        await sink.write(sink.request(page(document(2), bad)))
    assert "secret" not in str(caught.value)
    assert sink.count() == 0


async def test_documents_follow_the_table_as_it_is_now(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """A table that was altered between two lives of a unit is looked at again."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY)")
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page({"_id": 1, "id": 1})))
    db.run("ALTER TABLE t ADD name text")
    await sink.open("u")
    await sink.write(sink.request(page({"_id": 2, "id": 2, "name": "x"})))
    assert db.rows("SELECT * FROM t ORDER BY 1") == [(1, None), (2, "x")]


async def test_a_source_of_another_kind_fills_tables_by_field_names(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Its types say nothing here."""
    db = database()
    db.run(TABLE)
    described = (
        types.NamespaceDescription(namespace="public.t", columns=(types.Column(name="_id", type="objectId"),)),
    )
    request = types.PrepareRequest(
        flow="f",
        run="r",
        mappings=(types.NamespaceMapping(source="public.t", target="public.t"),),
        description=types.SchemaDescription(namespaces=described, dialect="documents"),
        page_types=(BSON,),
    )
    sink = open_sink(db)
    prepared = await sink.side.prepare(request)
    assert [(load.page_type, load.columns, load.upsert) for load in prepared.namespaces] == [(BSON, (), False)]
    await sink.open("u")
    await sink.write(sink.request(page(document(1))))
    assert sink.count() == 1


async def test_documents_fill_a_table_that_gets_its_key_later(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Nobody says yet which column `_id` is; what no field holds is refused, since it would be lost."""
    db = database()
    db.run("CREATE TABLE t (id bigint, name text, kind regtype, span interval)")
    sink = open_sink(db)
    await sink.open("u")
    first = {"_id": bson.Int64(1), "id": bson.Int64(1), "name": "x", "kind": "integer", "span": "P1M2DT3.5S"}
    assert await sink.write(sink.request(page(first, {**first, "_id": {"id": 1, "name": "y"}, "name": "y"}))) == 2
    assert db.rows("SELECT id, name, kind::text, span::text FROM t ORDER BY name") == [
        (1, "x", "integer", "1 mon 2 days 00:00:03.5"),
        (1, "y", "integer", "1 mon 2 days 00:00:03.5"),
    ]
    with pytest.raises(errors.RecordError, match="_id is the value of no field"):
        await sink.write(sink.request(page({"_id": 7, "name": "z"})))


async def test_a_column_by_its_text_passes_no_rule_by(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Such rows are inserted from a stage, and an INSERT would obey rules that COPY does not know."""
    db = database()
    db.run("CREATE TABLE t (id int, kind regtype)", "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING")
    sink = open_sink(db)
    await sink.open("u")
    with pytest.raises(errors.UnsupportedError, match="rules for INSERT"):
        await sink.write(sink.request(page({"_id": 1, "id": 1, "kind": "integer"})))
