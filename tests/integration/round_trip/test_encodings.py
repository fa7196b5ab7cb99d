"""Databases in other encodings than UTF-8: text arrives as the characters that it is, and is compared as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from dsync.app.requests import VerifyRequest
from dsync.app.verify import verify
from dsync.protocol.errors import DsyncError
from dsync.verify import VerifyReport
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database, DatabaseFactory, PgPair

MakeDatabase = Callable[..., Database]

_TEXTS = {
    "LATIN1": "äöü ß é ÿ",
    "LATIN2": "ąęł ž ß",
    "WIN1252": "ä € “so” Œ",
    "EUC_JP": "日本語 カタカナ",
    "KOI8R": "Привет, мир",
}


@pytest.fixture
def make(pg_pair: PgPair, source_db: DatabaseFactory) -> Iterator[MakeDatabase]:
    """Makes databases in an encoding, at the source's or at the sink's server."""
    made: list[Database] = []

    def one(encoding: str, *, at_sink: bool = False) -> Database:
        server = pg_pair.sink if at_sink else pg_pair.source
        name = f"{source_db().name}_{encoding.lower()}_{'sink' if at_sink else 'source'}"
        server.execute(
            sql.SQL("CREATE DATABASE {} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
        made.append(Database(server=server, name=name))
        return made[-1]

    yield one
    for database in made:
        database.drop()


def run(database: Database, *statements: sql.Composed) -> None:
    """In UTF-8, whatever the database gives its clients otherwise."""
    with psycopg.connect(database.uri, autocommit=True, client_encoding="UTF8") as connection:
        for statement in statements:
            connection.execute(statement)


def fill(database: Database, text: str) -> None:
    """Text wherever a database may have it: in values of every kind, in keys, names, definitions and comments."""
    named = {"word": sql.Identifier(text.split()[0]), "text": sql.Literal(text)}
    statements: tuple[LiteralString, ...] = (
        "CREATE SCHEMA {word}",
        "CREATE TYPE {word}.mood AS ENUM ({text}, 'plain')",
        "CREATE TABLE {word}.{word} ({word} text PRIMARY KEY, short varchar(20) DEFAULT {text}, fixed char(20),"
        " list text[], tree jsonb, plain json, name name, mood {word}.mood, size numeric)",
        "COMMENT ON TABLE {word}.{word} IS {text}",
        "CREATE INDEX ON {word}.{word} (lower({word})) WHERE short <> {text}",
        "CREATE VIEW {word}.seen AS SELECT * FROM {word}.{word} WHERE short = {text}",
        "INSERT INTO {word}.{word} SELECT {text} || n, {text}, {text}, ARRAY[{text}, 'x'],"
        " jsonb_build_object({text}::text, {text}::text), json_build_object('k', {text}::text),"
        " {text}, {text}::{word}.mood, n FROM generate_series(1, 300) n",
        "INSERT INTO {word}.{word} ({word}) VALUES ('')",
    )
    run(database, *(sql.SQL(statement).format(**named) for statement in statements))


def contents(database: Database, text: str) -> list[tuple[Any, ...]]:
    """Rows, the view's too, and the comment."""
    word = sql.Identifier(text.split()[0])
    query = "SELECT t::text, obj_description(t.tableoid, 'pg_class') FROM {0}.{0} t ORDER BY size"
    seen = "SELECT count(*)::text, NULL FROM {0}.seen"
    with psycopg.connect(database.uri, client_encoding="UTF8") as connection:
        return [*connection.execute(sql.SQL(query).format(word)), *connection.execute(sql.SQL(seen).format(word))]


async def compare(copier: Copier) -> VerifyReport:
    ends = VerifyRequest(source=copier.source.uri, sink=copier.sink.uri, attach="inline")
    return await verify(ends, lambda event: None)


@pytest.mark.parametrize(
    ("pg_pair", "source_encoding", "sink_encoding"),
    [
        ((16, 18), "LATIN1", "UTF8"),
        ((16, 18), "WIN1252", "UTF8"),
        ((15, 15), "EUC_JP", "UTF8"),
        ((16, 18), "LATIN2", "LATIN2"),
        ((16, 18), "KOI8R", "WIN1251"),
        ((15, 15), "LATIN1", "WIN1252"),
    ],
    indirect=["pg_pair"],
)
async def test_text_arrives_as_the_characters_it_is(
    make: MakeDatabase, copier: Copier, source_encoding: str, sink_encoding: str
) -> None:
    """Names, definitions and values; `verify` hashes what they mean, and finds one character that differs."""
    text = _TEXTS[source_encoding]
    source, sink = make(source_encoding), make(sink_encoding, at_sink=True)
    fill(source, text)
    copier = replace(copier, source=source, sink=sink)

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert contents(sink, text) == contents(source, text)
    change = "UPDATE {0}.{0} SET short = overlay(short placing 'x' from 1) WHERE size = 7"
    run(sink, sql.SQL(change).format(sql.Identifier(text.split()[0])))
    (compared,) = [item for item in (await compare(copier)).namespaces if not item.is_equal]
    assert [difference.key for difference in compared.differences] == [(f"{text}7",)]


@pytest.mark.parametrize("pg_pair", [(15, 15)], indirect=True, ids=str)
async def test_a_document_that_names_its_encoding(make: MakeDatabase, copier: Copier) -> None:
    """In its binary form XML begins with a declaration; a server reads it by that."""
    source, sink = make("LATIN1"), make("UTF8", at_sink=True)
    source.run("CREATE TABLE mark (id int PRIMARY KEY, body xml)")
    run(source, sql.SQL("INSERT INTO mark VALUES (1, '<a>é</a>'), (2, '<?xml version=\"1.0\"?><a>ß</a>')").format())
    copier = replace(copier, source=source, sink=sink)

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    found = []
    for database in (source, sink):
        with psycopg.connect(database.uri, client_encoding="UTF8") as connection:
            found.append(connection.execute("SELECT m::text FROM mark m ORDER BY id").fetchall())
    assert found[0] == found[1] == [("(1,<a>é</a>)",), ("(2,<a>ß</a>)",)]


@pytest.mark.parametrize("data_type", ["bson", "json", "pg-copy-text"])
async def test_in_every_form(make: MakeDatabase, copier: Copier, data_type: str) -> None:
    """And whatever clients of the databases are given: SJIS is no encoding of a database, but one of clients."""
    source, sink = make("EUC_JP"), make("UTF8", at_sink=True)
    fill(source, _TEXTS["EUC_JP"])
    for database in (source, sink):
        setting = sql.SQL("ALTER DATABASE {} SET client_encoding = 'SJIS'").format(sql.Identifier(database.name))
        database.server.execute(setting)
    copier = replace(copier, source=source, sink=sink)

    copied = await copier(data_type=data_type)

    assert copied.exit_code == 0, copied.explained()
    assert contents(sink, _TEXTS["EUC_JP"]) == contents(source, _TEXTS["EUC_JP"])


async def test_characters_that_the_sink_lacks(make: MakeDatabase, copier: Copier) -> None:
    """In a row, a dead letter of its table; in a definition, refused before anything is made."""
    source, sink = make("UTF8"), make("LATIN1", at_sink=True)
    source.run("CREATE TABLE line (id int PRIMARY KEY, content text)")
    run(source, sql.SQL("INSERT INTO line VALUES (1, 'naïve'), (2, '日本'), (3, 'plain')").format())
    copier = replace(copier, source=source, sink=sink)

    copied = await copier(verify=False)
    assert (copied.exit_code, copied.rows) == (5, {"public.line": 2}), copied.explained()
    assert [item.dead_letters for item in copied.result.namespaces] == [1]
    sink.run("DROP TABLE line")
    run(source, sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier("日本")))
    with pytest.raises(DsyncError, match=r"日本.* lacks a character of its name") as raised:
        await copier(flow="other")
    assert raised.value.exit_code == 3
    assert sink.value("SELECT to_regclass('line') IS NULL")


@pytest.mark.parametrize("column", [False, True])
async def test_names_that_would_be_cut_off(make: MakeDatabase, copier: Copier, column: bool) -> None:
    """Of 40 bytes at the source and 80 at the sink, which has room for 63."""
    source, sink = make("LATIN1"), make("UTF8", at_sink=True)
    long, short = sql.Identifier("é" * 40), sql.Identifier("t")
    names = (short, long) if column else (long, short)
    run(source, sql.SQL("CREATE TABLE {} ({} int)").format(*names))
    with pytest.raises(DsyncError, match="takes 80 bytes in UTF-8") as raised:
        await replace(copier, source=source, sink=sink)()
    assert raised.value.exit_code == 3
    assert sink.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


# ------------------------------------------------------------------- SQL_ASCII

_LATIN1, _UTF8 = b"caf\xe9", b"caf\xc3\xa9"


def fill_bytes(database: Database, *values: bytes) -> None:
    """Rows whose text is these bytes."""
    database.run("CREATE TABLE line (id int PRIMARY KEY, content text, list text[])")
    with database.connect() as connection:
        for number, value in enumerate(values):
            connection.execute(
                "INSERT INTO line SELECT %s, t, ARRAY[t, 'x'] FROM convert_from(%s, getdatabaseencoding()) t",
                [number, value],
            )


def bytes_of(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT id, content::bytea, list[1]::bytea FROM line ORDER BY id")


@pytest.mark.parametrize(
    ("pg_pair", "data_type"), [((16, 18), "auto"), ((15, 15), "pg-copy-text")], indirect=["pg_pair"]
)
async def test_bytes_without_an_encoding_stay_as_they_are(make: MakeDatabase, copier: Copier, data_type: str) -> None:
    """From one database in SQL_ASCII into another; what is not UTF-8 too, and it is compared byte by byte."""
    source, sink = make("SQL_ASCII"), make("SQL_ASCII", at_sink=True)
    fill_bytes(source, _LATIN1, _UTF8, b"plain", b"\xff\xfe")
    copier = replace(copier, source=source, sink=sink)

    copied = await copier(data_type=data_type)

    assert copied.exit_code == 0, copied.explained()
    assert bytes_of(sink) == bytes_of(source)
    sink.run("UPDATE line SET content = E'caf\\350' WHERE id = 0")
    (compared,) = [item for item in (await compare(copier)).namespaces if not item.is_equal]
    assert [difference.key for difference in compared.differences] == [("0",)]


async def test_bytes_without_an_encoding_by_key(make: MakeDatabase, copier: Copier) -> None:
    """Through the stage of `--on-existing append` too."""
    source, sink = make("SQL_ASCII"), make("SQL_ASCII", at_sink=True)
    fill_bytes(source, _LATIN1, _UTF8)
    fill_bytes(sink, b"old", b"old", b"other")
    copier = replace(copier, source=source, sink=sink)

    copied = await copier(on_existing="append", verify=False)

    assert copied.exit_code == 0, copied.explained()
    assert bytes_of(sink)[:2] == bytes_of(source)


async def test_documents_hold_no_bytes_without_an_encoding(make: MakeDatabase, copier: Copier) -> None:
    source, sink = make("SQL_ASCII"), make("SQL_ASCII", at_sink=True)
    fill_bytes(source, _LATIN1)
    with pytest.raises(DsyncError, match=r"public\.line: it holds text that is not UTF-8") as raised:
        await replace(copier, source=source, sink=sink)(data_type="bson")
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("source_encoding", "sink_encoding"), [("SQL_ASCII", "UTF8"), ("SQL_ASCII", "LATIN1"), ("LATIN1", "SQL_ASCII")]
)
async def test_a_database_without_an_encoding_and_one_with(
    make: MakeDatabase, copier: Copier, source_encoding: str, sink_encoding: str
) -> None:
    """Refused, since nobody knows what the text is."""
    source, sink = make(source_encoding), make(sink_encoding, at_sink=True)
    fill_bytes(source, b"plain")
    copier = replace(copier, source=source, sink=sink)
    with pytest.raises(DsyncError, match="no encoding") as raised:
        await copier()
    assert raised.value.exit_code == 3
    assert sink.value("SELECT to_regclass('line') IS NULL")
    if sink_encoding == "SQL_ASCII":
        sink.run("CREATE TABLE line (id int PRIMARY KEY, content text, list text[])")
        with pytest.raises(DsyncError, match="nobody says"):
            await copier(schema_mode="none", flow="none")


async def test_text_that_is_meant_as_utf8(make: MakeDatabase, copier: Copier) -> None:
    """`--allow-lossy` takes the user's word for it; a row that is something else is refused, never changed."""
    source, sink = make("SQL_ASCII"), make("UTF8", at_sink=True)
    fill_bytes(source, _LATIN1, _UTF8, b"plain")

    copied = await replace(copier, source=source, sink=sink)(allow_lossy=True, verify=False)

    assert (copied.exit_code, copied.rows) == (5, {"public.line": 2}), copied.explained()
    assert bytes_of(sink) == bytes_of(source)[1:]
