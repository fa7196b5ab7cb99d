"""Rows that users keep in an extension's own tables come along, and the extension's own are not brought twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import pytest

from dsync.app.requests import VerifyRequest
from dsync.app.verify import verify
from dsync.coordinator.events import FindingReported
from dsync.protocol.errors import SinkNotEmptyError
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database, DatabaseFactory, PgServers

_CONTROL = "comment = 'kinds of things'\ndefault_version = '1.0'\nrelocatable = false\n"
_SCRIPT = """
CREATE TABLE kind (id int PRIMARY KEY, label text, standard boolean NOT NULL DEFAULT true);
INSERT INTO kind VALUES (1, 'the extension''s'), (2, 'the extension''s too');
CREATE TABLE setting (name text PRIMARY KEY, value text);
INSERT INTO setting VALUES ('colour', 'blue'), ('size', 'large');
CREATE TABLE inner_workings (id int);
INSERT INTO inner_workings VALUES (1);
CREATE SEQUENCE ticket START 100;
SELECT pg_catalog.pg_extension_config_dump('kind', ' where NOT standard');
SELECT pg_catalog.pg_extension_config_dump('setting', '');
SELECT pg_catalog.pg_extension_config_dump('ticket', '');
"""
_USERS_ROWS: tuple[LiteralString, ...] = (
    "CREATE EXTENSION shelf",
    "CREATE TABLE thing (id int PRIMARY KEY, kind int REFERENCES kind)",
    "INSERT INTO kind SELECT n, 'mine ' || n, false FROM generate_series(100, 120) n",
    "INSERT INTO thing VALUES (1, 1), (2, 100)",
    "UPDATE setting SET value = 'red' WHERE name = 'colour'",
    "DELETE FROM setting WHERE name = 'size'",
    "INSERT INTO setting VALUES ('weight', '5')",
    "SELECT nextval('ticket') FROM generate_series(1, 7)",
)
_ROWS = {"public.kind": 21, "public.setting": 2, "public.thing": 2}


@pytest.fixture(scope="module")
def extension() -> Iterator[Path]:
    """A folder with an extension, where a server's user can read it."""
    with tempfile.TemporaryDirectory(prefix="dsync-extension-") as name:
        folder = Path(name) / "extension"
        folder.mkdir()
        (folder / "shelf.control").write_text(_CONTROL)
        (folder / "shelf--1.0.sql").write_text(_SCRIPT)
        for path in (Path(name), folder):
            path.chmod(0o755)
        yield Path(name)


@pytest.fixture
def copier(extension: Path, own_servers: PgServers, tmp_path: Path) -> Iterator[Copier]:
    """Between two databases of a server (18, the first that looks elsewhere for extensions) that has the extension."""
    server = own_servers.own(18, settings={"extension_control_path": f"{extension}:$system"})
    make = DatabaseFactory(server, prefix="shelf")
    source = make()
    source.run(*_USERS_ROWS)
    yield Copier(source=source, sink=make(), state=tmp_path / "state.db")
    make.drop_all()


def contents(database: Database) -> list[list[tuple[object, ...]]]:
    queries: tuple[LiteralString, ...] = (
        "SELECT * FROM kind ORDER BY id",
        "SELECT * FROM setting ORDER BY name",
        "SELECT * FROM inner_workings",
        "SELECT last_value, is_called FROM ticket",
        "SELECT * FROM thing ORDER BY id",
    )
    return [database.rows(query) for query in queries]


async def test_they_come_with_the_extension(copier: Copier) -> None:
    """Counted and compared as the users' rows alone; those that CREATE EXTENSION makes are there once."""
    source, sink = copier.source, copier.sink

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert copied.rows == _ROWS
    assert contents(sink) == contents(source)
    assert copied.outcome.verify is not None
    assert {item.source: item.source_rows for item in copied.outcome.verify.namespaces} == _ROWS

    sink.run("UPDATE kind SET label = 'changed' WHERE id = 2", "UPDATE kind SET label = 'changed' WHERE id = 101")
    request = VerifyRequest(source=source.uri, sink=sink.uri, attach="inline")
    (compared,) = [
        item for item in (await verify(request, lambda event: None)).namespaces if item.source == "public.kind"
    ]
    assert [difference.key for difference in compared.differences] == [("101",)]
    quick = await verify(replace(request, quick=True), lambda event: None)
    assert {item.source: item.target_rows for item in quick.namespaces} == _ROWS


@pytest.mark.parametrize("data_type", ["bson", "pg-copy-text"])
async def test_in_other_forms(copier: Copier, data_type: str) -> None:
    copied = await copier(data_type=data_type)

    assert (copied.exit_code, copied.rows) == (0, _ROWS), copied.explained()
    assert contents(copier.sink) == contents(copier.source)


async def test_again_reads_what_has_changed(copier: Copier) -> None:
    """Only the users' rows are removed before."""
    source, sink = copier.source, copier.sink
    assert (await copier()).exit_code == 0
    sink.run("UPDATE kind SET label = 'kept' WHERE id = 2")
    source.run("DELETE FROM kind WHERE id = 120", "UPDATE kind SET label = 'other' WHERE id = 119")

    again = await copier(again=True)

    assert (again.exit_code, again.moved) == (0, {"public.kind": 20}), again.explained()
    users: LiteralString = "SELECT * FROM kind WHERE NOT standard ORDER BY id"
    assert sink.rows(users) == source.rows(users)
    assert sink.value("SELECT label FROM kind WHERE id = 2") == "kept"


@pytest.mark.parametrize("policy", ["truncate", "drop"])
async def test_the_extension_is_there_already(copier: Copier, policy: str) -> None:
    """Its own rows are in nobody's way; rows that count as the users' are, as in any table."""
    source, sink = copier.source, copier.sink
    sink.run("CREATE EXTENSION shelf", "INSERT INTO kind VALUES (7, 'somebody''s', true)")

    with pytest.raises(SinkNotEmptyError, match=r"1 table.*public\.setting"):
        await copier()
    copied = await copier(on_existing=policy)

    assert (copied.exit_code, copied.rows) == (0, _ROWS), copied.explained()
    assert sink.value("SELECT count(*) FROM kind WHERE standard") == 3
    sink.run("DELETE FROM kind WHERE id = 7")
    assert contents(sink) == contents(source)


async def test_chosen_and_left_out(copier: Copier) -> None:
    """By name, as any table; chosen it brings its extension along."""
    one = await copier(namespaces=("public.kind",), flow="one")
    assert (one.exit_code, one.rows) == (0, {"public.kind": 21}), one.explained()
    assert copier.sink.rows("SELECT * FROM kind ORDER BY id") == copier.source.rows("SELECT * FROM kind ORDER BY id")
    copier.sink.run("DROP EXTENSION shelf")

    rest = await copier(exclude=("public.setting",), flow="rest")
    assert set(rest.rows) == {"public.kind", "public.thing"}, rest.explained()
    assert copier.sink.value("SELECT count(*) FROM setting WHERE name = 'size'") == 1


async def test_rows_that_may_not_be_read_are_named(copier: Copier) -> None:
    """They stop nothing: few users know of them."""
    source, sink = copier.source, copier.sink
    uri = source.reader_uri()
    source.run("REVOKE ALL ON setting FROM PUBLIC")
    role = uri.split("//")[1].split(":")[0]
    with source.connect() as connection:
        connection.execute(f'REVOKE ALL ON setting FROM "{role}"'.encode())

    copied = await replace(copier, source_uri=uri)(no_owner=True, no_privileges=True)

    assert copied.exit_code == 0, copied.explained()
    assert set(copied.rows) == {"public.kind", "public.thing"}
    said = [event.finding for event in copied.events if isinstance(event, FindingReported)]
    assert "public.setting" in {finding.object for finding in said if finding.code == "extension-rows"}
    assert sink.value("SELECT value FROM setting WHERE name = 'colour'") == "blue"


@pytest.mark.parametrize("pg_pair", [(15, 16), (16, 18)], indirect=True, ids=str)
async def test_with_other_versions(source: Database, sink: Database, tmp_path: Path) -> None:
    """No server before 18 finds an extension of ours, so one of its own is given a table, at both ends."""
    for database in (source, sink):
        database.run(
            "CREATE TABLE kind (id int PRIMARY KEY, label text, standard boolean NOT NULL DEFAULT true)",
            "INSERT INTO kind VALUES (1, 'the extension''s')",
            "ALTER EXTENSION plpgsql ADD TABLE kind",
            "SET allow_system_table_mods = on; UPDATE pg_extension SET extconfig = ARRAY['kind'::regclass::oid],"
            " extcondition = ARRAY['WHERE NOT standard'] WHERE extname = 'plpgsql'",
        )
    source.run("INSERT INTO kind SELECT n, 'mine', false FROM generate_series(10, 14) n")

    copied = await Copier(source=source, sink=sink, state=tmp_path / "state.db")()

    assert (copied.exit_code, copied.rows) == (0, {"public.kind": 5}), copied.explained()
    assert sink.rows("SELECT * FROM kind ORDER BY id") == source.rows("SELECT * FROM kind ORDER BY id")
