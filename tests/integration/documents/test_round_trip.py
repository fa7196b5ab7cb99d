"""Every value that a server takes comes back from a document as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import bson
import psycopg
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from dsync_postgres.documents import LineDecoder, LineEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.documents.round_trip import documents_of, load_documents, text_rows
from tests.integration.documents.values import SCALARS, arrays_of, texts
from tests.support.databases import DatabaseFactory

_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
_hypothesis = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
both_servers = pytest.mark.parametrize("pg", [16, 18], indirect=True)


@pytest.fixture
def connection(pg: EmbeddedPostgres, database: DatabaseFactory) -> Iterator[psycopg.Connection]:
    with database().connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


def _make(connection: psycopg.Connection, columns: str) -> None:
    """Two empty tables of the same shape."""
    for table in ("before", "after"):
        connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
        connection.execute(f"CREATE TABLE {table} ({columns})".encode())


def _clear(connection: psycopg.Connection) -> None:
    connection.execute("TRUNCATE before, after")


def _assert_round_trip(connection: psycopg.Connection, rows: int) -> bytes:
    packed, encoded = documents_of(connection, "before")
    assert encoded == rows
    assert len(bson.decode_all(packed, _OPTIONS)) == rows
    assert load_documents(connection, "after", packed) == rows
    assert text_rows(connection, "after") == text_rows(connection, "before")
    connection.execute("TRUNCATE after")
    lines, encoded = documents_of(connection, "before", LineEncoder)
    assert encoded == len([json.loads(line) for line in lines.splitlines()]) == rows
    assert load_documents(connection, "after", lines, LineDecoder) == rows
    assert text_rows(connection, "after") == text_rows(connection, "before")
    return packed


def _fill(connection: psycopg.Connection, printed: str, values: list[str | None]) -> None:
    connection.execute(
        f"INSERT INTO before SELECT n, v::{printed} FROM unnest(%s::text[]) WITH ORDINALITY AS u (v, n)".encode(),
        [values],
    )


@pytest.mark.parametrize("pg", [18], indirect=True)
@pytest.mark.parametrize("printed", SCALARS)
@_hypothesis
@given(data=st.data())
def test_a_value_comes_back_as_it_was(connection: psycopg.Connection, printed: str, data: st.DataObject) -> None:
    """Text of the row before and after are equal: numbers with all digits, times with all microseconds."""
    values = data.draw(st.lists(st.one_of(st.none(), SCALARS[printed]), max_size=20))
    _make(connection, f"k integer PRIMARY KEY, v {printed}")
    _fill(connection, printed, values)
    _assert_round_trip(connection, len(values))


@both_servers
@pytest.mark.parametrize(
    "printed",
    [
        "integer",
        "bigint",
        "text",
        "numeric",
        "jsonb",
        "json",
        "timestamp with time zone",
        "double precision",
        "uuid",
        "bytea",
        "date",
        "boolean",
        "character varying(5)",
        "inet",
        "interval",
        "money",
        "bit varying(40)",
        "point",
        "polygon",
        "circle",
        "int4range",
        "int4multirange",
        "tsvector",
        "xid8",
        '"char"',
        "regclass",
        "tsquery",
    ],
)
@_hypothesis
@given(data=st.data())
def test_an_array_comes_back_as_it_was(connection: psycopg.Connection, printed: str, data: st.DataObject) -> None:
    """Any number of dimensions, any lower bound, NULLs inside, empty."""
    values = data.draw(st.lists(arrays_of(SCALARS[printed]), max_size=8))
    _make(connection, f"k integer PRIMARY KEY, v {printed}[]")
    _fill(connection, f"{printed}[]", list(values))
    _assert_round_trip(connection, len(values))


@both_servers
@_hypothesis
@given(data=st.data())
def test_a_row_of_all_types_comes_back_as_it_was(connection: psycopg.Connection, data: st.DataObject) -> None:
    """NULLs anywhere, the key behind other columns and of two types, names that need quotes."""
    names = [f'c{index} "{printed}" 🐘' for index, printed in enumerate(SCALARS)]
    rows = data.draw(
        st.lists(
            st.tuples(*(st.one_of(st.none(), strategy) for strategy in SCALARS.values()), texts.filter(bool)),
            max_size=6,
            unique_by=lambda row: row[-1],
        )
    )
    quoted = [sql.Identifier(name).as_string(connection) for name in names]
    columns = ", ".join(f"{name} {printed}" for name, printed in zip(quoted, SCALARS, strict=True))
    _make(connection, f"{columns}, _id text, __id bigint, PRIMARY KEY (_id, __id)")
    placeholders = ", ".join(f"%s::text::{printed}" for printed in SCALARS)
    for number, row in enumerate(rows):
        connection.execute(f"INSERT INTO before VALUES ({placeholders}, %s, {number})".encode(), row)
    _assert_round_trip(connection, len(rows))


_OWN_TYPES = """
CREATE TYPE "odd mood" AS ENUM ('sad', 'It''s complicated', '🎉');
CREATE DOMAIN short AS varchar(5) CHECK (VALUE <> 'x');
CREATE DOMAIN price AS numeric(14,4);
CREATE DOMAIN tags AS text[];
CREATE TYPE size AS (width numeric(8,2), "He ight" price, unit short, mood "odd mood");
CREATE TYPE parcel AS (outside size, labels tags, sizes size[], "when" timestamptz);
CREATE DOMAIN big_size AS size;
CREATE TYPE moods AS RANGE (subtype = "odd mood", multirange_type_name = many_moods);
CREATE TYPE named AS (name text, class regclass);
CREATE TYPE wide AS (n numeric, c "char", p point);
"""
_OWN_VALUES = {
    '"odd mood"': ["sad", "It's complicated", "🎉", None],
    '"odd mood"[]': ["{sad,NULL,🎉}", "[2:3][0:0]={{sad},{🎉}}", "{}"],
    "short": ["", "äöü€🐘", None],
    "short[]": ["{a,NULL}", "{}"],
    "price": ["1.5000", "-9999999999.9999"],
    "tags": ["{}", '{a,NULL,"b c"}', "[0:1]={x,y}"],
    "tags[]": ['{"{a,b}",NULL,"{}"}', '{{"{a}","{b}"}}'],
    "size": ["(,,,)", '(1.50,2,"a b",sad)', "(NaN,,é,🎉)"],
    "size[]": ['{"(1,2,x1,)",NULL}', '{{"(1,,,sad)"},{NULL}}', "{}"],
    "big_size": ["(1,2,cm,sad)", "(,,,)"],
    "parcel": ['("(1,2,cm,sad)","{a,NULL}","{""(1,,,)"",NULL}","2024-01-01 00:00:00.000001+00")', "(,,,)"],
    "parcel[]": ['{"(,,,)",NULL}'],
    "moods": ["[sad,🎉)", "empty", "(,sad]", "(,)"],
    "many_moods": ["{}", "{[sad,sad],[🎉,)}"],
    "many_moods[]": ['{"{[sad,sad]}",NULL}'],
    "named": ['("a ""b""",pg_class)', "(,)"],
    "named[]": ['{"(a,pg_class)",NULL}'],
    "wide": ['(1e500,\\377,"(NaN,Infinity)")', "(,,)"],
}
_EXTENSION_VALUES = {
    "citext": ("citext", ["Größe", ""]),
    "hstore": ("hstore", ["", '"a"=>"1", "b"=>NULL', '""=>"", "a.b"=>"$x", "ü"=>"NULL"']),
    "ltree": ("ltree", ["Top.Science", ""]),
    "lquery": ("ltree", ["Top.*{2}.Sci*@", "!a|b"]),
    "cube": ("cube", ["(1.5, 2),(3, 4)", "(0)"]),
    "seg": ("seg", ["1.0 .. 2.50", "~5"]),
    "isbn": ("isn", ["0-393-04002-X"]),
    "vector(3)": ("vector", ["[1,2.5,-0.1]"]),
    "vector": ("vector", ["[1e-30]", "[3,4]"]),
    "halfvec": ("vector", ["[1,2.5,0.1]"]),
    "sparsevec": ("vector", ["{1:1.5,3:-2}/10"]),
}


@both_servers
@pytest.mark.parametrize("printed", _OWN_VALUES)
def test_a_type_of_the_databases_own_comes_back_as_it_was(connection: psycopg.Connection, printed: str) -> None:
    """Enums, domains, composites and ranges of them, inside one another, and what goes by text for a part's sake."""
    connection.execute(_OWN_TYPES.encode())
    values = [*_OWN_VALUES[printed], None]
    _make(connection, f"k integer PRIMARY KEY, v {printed}")
    _fill(connection, printed, values)
    _assert_round_trip(connection, len(values))


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
@pytest.mark.parametrize("printed", _EXTENSION_VALUES)
def test_a_type_of_an_extension_comes_back_as_it_was(connection: psycopg.Connection, printed: str) -> None:
    """With a form of its own, or by its text, alone and in an array."""
    extension, values = _EXTENSION_VALUES[printed]
    if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]).fetchone():
        pytest.skip(f"this server has no extension {extension}")
    connection.execute(f"CREATE EXTENSION {extension}".encode())
    _make(connection, f"k integer PRIMARY KEY, v {printed}, w {printed}[]")
    connection.execute(
        f"INSERT INTO before SELECT n, v::{printed}, ARRAY[v::{printed}, NULL]"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (v, n)".encode(),
        [values],
    )
    _assert_round_trip(connection, len(values))


@both_servers
def test_rows_without_key_get_ids_of_their_own(connection: psycopg.Connection) -> None:
    """Equal rows stay two rows: their ids differ, and a second reading gives the same ones."""
    _make(connection, "a integer, _id text")
    connection.execute("INSERT INTO before VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (2, 'y')")
    packed = _assert_round_trip(connection, 4)
    ids = [document["_id"] for document in bson.decode_all(packed)]
    assert all(isinstance(found, bson.ObjectId) for found in ids)
    assert len(set(ids)) == 4
    assert documents_of(connection, "before") == (packed, 4)


@both_servers
def test_a_table_without_columns_keeps_its_rows(connection: psycopg.Connection) -> None:
    """A row of nothing is still a row."""
    _make(connection, "")
    connection.execute("INSERT INTO before SELECT FROM generate_series(1, 3)")
    packed, rows = documents_of(connection, "before")
    assert rows == 3
    assert all(set(document) == {"_id"} for document in bson.decode_all(packed))
    assert load_documents(connection, "after", packed) == 3
    assert connection.execute("SELECT count(*) FROM after").fetchone() == (3,)


@both_servers
@pytest.mark.parametrize("key", ["_id", "id"])
def test_the_key_is_the_id(connection: psycopg.Connection, key: str) -> None:
    """A column `_id` that is the key is not repeated; any other key column keeps its own name as well."""
    _make(connection, f"{key} text PRIMARY KEY, v integer")
    connection.execute("INSERT INTO before VALUES ('k', 7)")
    packed = _assert_round_trip(connection, 1)
    assert bson.decode(packed) == ({"_id": "k", "v": 7} if key == "_id" else {"_id": "k", "id": "k", "v": 7})
    _clear(connection)
    load_documents(connection, "after", bson.encode({"v": 8, "_id": "k"}))
    assert connection.execute(f"SELECT {key}, v FROM after".encode()).fetchall() == [("k", 8)]


@both_servers
@_hypothesis
@given(data=st.data())
def test_fields_may_come_in_any_order(connection: psycopg.Connection, data: st.DataObject) -> None:
    """Another program's documents are taken apart field by field, with the same result."""
    _make(connection, "k integer PRIMARY KEY, a text, b numeric(8,2), c timestamptz, d jsonb, e integer[]")
    connection.execute(
        "INSERT INTO before VALUES (1, 'x', 12.30, '2024-01-02 03:04:05.123456+00', '{\"a\":[1,null]}', '{1,NULL}'),"
        " (2, NULL, NULL, NULL, NULL, NULL)"
    )
    packed, _ = documents_of(connection, "before")
    shuffled = b""
    for document in bson.decode_all(packed):
        names = data.draw(st.permutations([name for name in document if name != "k"]))
        kept = [name for name in names if name == "_id" or document[name] is not None]
        shuffled += bson.encode({name: document[name] for name in kept})
    load_documents(connection, "after", shuffled)
    assert text_rows(connection, "after") == text_rows(connection, "before")
