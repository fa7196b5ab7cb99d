"""Opening a state on a server: made, migrated once, and refused where it is not ours to use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString
from urllib.parse import urlsplit

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from dsync.protocol.errors import DsyncError
from dsync.quickstart.servers import EmbeddedPostgres
from dsync.state import (
    NotAStateError,
    StateFromTheFutureError,
    StateIncompleteError,
    StateMissingError,
    StateUnavailableError,
    StateUnreachableError,
    Store,
)
from dsync.state.migrations import upgrade
from dsync.state.schema import HEAD, REVISIONS, metadata
from tests.integration.state.conftest import OpenStore
from tests.support.databases import Database
from tests.unit.state.support import Actor, planned_run

SECRET = "hunter2-and-more"


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
def test_a_new_state_has_the_tables_that_the_code_expects(pg: EmbeddedPostgres, store: Store) -> None:
    """As a file has them, in a schema of its own."""
    with store._database.reading() as connection:
        # What the comparison takes for the schema of tables without one.
        connection.dialect.default_schema_name = "dsync_state"
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    planned_run(store)
    store.check_integrity()


def test_a_new_state_is_what_the_migrations_make(
    place: Database, store: Store, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made at once or revision by revision: the same columns, constraints and indexes."""
    monkeypatch.setattr(upgrade, "make", upgrade.upgrade)
    open_store(f"{place.uri}?schema=migrated").close()
    for query in (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = '{}' ORDER BY 1, 2",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = '{}'::regnamespace ORDER BY 1, 2",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = '{}' ORDER BY 1",
    ):
        made, migrated = (
            [tuple(str(value).replace(f"{schema}.", "") for value in row) for row in place.rows(query.format(schema))]
            for schema in ("dsync_state", "migrated")
        )
        assert made
        assert made == migrated


def test_nothing_is_written_outside_the_schema_and_another_one_is_another_state(
    place: Database, store: Store, open_store: OpenStore
) -> None:
    with open_store(f"{place.uri}?schema=odd%20%22n%C3%A4me%22%3A%25") as other:
        run = planned_run(store)
        assert other.list_flow_rows() == ()
        assert planned_run(other).flow != run.flow
    assert place.rows(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^pg_|^information' ORDER BY 1"
    ) == [
        ("dsync_state",),
        ('odd "näme":%',),
    ]


def test_a_role_that_owns_nothing_but_the_schema_is_enough(place: Database, open_store: OpenStore) -> None:
    """And where it does not own one, the message has the statement that an administrator runs."""
    uri = place.owner_uri()
    role = urlsplit(uri).username
    place.run(f"ALTER DATABASE {place.name} OWNER TO postgres".encode())  # type: ignore[arg-type]
    with pytest.raises(StateUnavailableError, match=r"there is no schema dsync_state.*CREATE SCHEMA") as caught:
        open_store(uri)
    made = f'CREATE SCHEMA IF NOT EXISTS "dsync_state" AUTHORIZATION "{role}"'
    assert made in str(caught.value)
    assert caught.value.exit_code == 3
    place.run(made.encode())  # type: ignore[arg-type]
    for _ in range(2):
        store = open_store(uri)
        planned_run(store, name=None)
        store.check_integrity()
    reader = place.reader_uri()
    place.run("REVOKE ALL ON SCHEMA dsync_state FROM PUBLIC")
    place.run(f"REVOKE ALL ON SCHEMA dsync_state FROM {urlsplit(reader).username}".encode())  # type: ignore[arg-type]
    with pytest.raises(StateUnavailableError, match=f"belongs to {role}"):
        open_store(reader)


def test_a_role_that_may_only_read_is_told_what_is_missing(
    place: Database, store: Store, open_store: OpenStore
) -> None:
    run = planned_run(store)
    looking = open_store(place.reader_uri())
    assert looking.list_flows()[0].flow.flow == run.flow
    with pytest.raises(StateUnavailableError, match="must own the schema"):
        looking.add_request(run.flow, "cancel")


def test_nothing_is_made_where_the_caller_only_wants_to_look(place: Database, open_store: OpenStore) -> None:
    with pytest.raises(StateMissingError):
        open_store(create=False)
    assert place.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'dsync_state'") == 0


def test_a_state_of_a_newer_release_is_refused_naming_both_versions(
    place: Database, store: Store, open_store: OpenStore
) -> None:
    place.run(
        "UPDATE dsync_state.alembic_version SET version_num = '9042'",
        "UPDATE dsync_state.store_meta SET value = '9.1.0' WHERE key = 'dsync_version'",
    )
    with pytest.raises(StateFromTheFutureError, match=rf"dsync 9\.1\.0 .*9042.*dsync .*{HEAD}"):
        open_store()


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        ("DROP TABLE dsync_state.checkpoints", "checkpoints"),
        ("DELETE FROM dsync_state.alembic_version", "the revision"),
        ("DROP TABLE dsync_state.alembic_version", "alembic_version"),
        ("DROP TABLE dsync_state.store_meta", "store_meta"),
    ],
)
def test_a_state_of_which_something_is_missing_is_named_and_left_alone(
    place: Database, store: Store, open_store: OpenStore, damage: LiteralString, missing: str
) -> None:
    """A half of it was restored, or somebody migrated it by hand: guessing would cost the other half."""
    place.run(damage)
    tables = place.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'dsync_state' ORDER BY 1")
    with pytest.raises(StateIncompleteError, match=f"{missing}.* is missing.*from a backup") as caught:
        open_store()
    assert caught.value.exit_code == 3
    assert place.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'dsync_state' ORDER BY 1") == tables


def test_another_programs_schema_is_left_alone(place: Database, open_store: OpenStore) -> None:
    place.run("CREATE SCHEMA dsync_state", "CREATE TABLE dsync_state.flows (money int)")
    with pytest.raises(NotAStateError, match="another program"):
        open_store()
    assert place.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'dsync_state'") == [("flows",)]


def test_of_processes_that_migrate_at_the_same_time_one_does(place: Database, open_store: OpenStore) -> None:
    with Actor(place.uri, "-", "-", "1") as one, Actor(place.uri, "-", "-", "1") as two:
        assert [actor.hear() for actor in (one, two)] == ["ready"] * 2
    open_store().check_integrity()


def test_of_threads_that_migrate_at_the_same_time_one_does(
    place: Database, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for it and find it done."""
    calls: list[Connection] = []
    really_make = upgrade.make

    def counted(connection: Connection) -> None:
        calls.append(connection)
        really_make(connection)

    monkeypatch.setattr(upgrade, "make", counted)
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_store(), range(4)))
    assert len(calls) == 1
    assert {store.list_flow_rows() for store in opened} == {()}


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_state_of_an_earlier_release_is_brought_to_this_one(
    place: Database, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """Whoever opens it first does so; what it holds stays."""
    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "make", lambda connection: upgrade.upgrade(connection, revision))
        open_store()
    assert place.value("SELECT version_num FROM dsync_state.alembic_version") == revision
    place.run("INSERT INTO dsync_state.flows VALUES ('default', 'f1', 'shop', 'ends', '{}', 1, 0)")
    store = open_store()
    assert place.value("SELECT version_num FROM dsync_state.alembic_version") == HEAD
    assert store.get_flow("shop").flow == "f1"
    planned_run(store, name="other")


def test_a_migration_that_fails_leaves_nothing_behind(
    place: Database, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_make = upgrade.make

    def half(connection: Connection) -> None:
        really_make(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "make", half)
        with pytest.raises(KeyboardInterrupt):
            open_store()
    assert place.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'dsync_state'") == 0
    open_store().check_integrity()


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("postgresql://postgres:{secret}@127.0.0.1:{port}/postgres", StateUnavailableError),
        ("postgresql://127.0.0.1:{port}/postgres?user=postgres&password={secret}", StateUnavailableError),
        ("postgresql://postgres:{secret}@127.0.0.1:1/postgres", StateUnreachableError),
        ("postgresql://postgres:{secret}@nowhere.invalid/postgres", StateUnreachableError),
        ("postgresql://postgres:{secret}@127.0.0.1:{port}/postgres?unknown={secret}", DsyncError),
        ("postgresql://postgres:x@{secret}@127.0.0.1:{port}/postgres", DsyncError),
        ("postgresql://postgres:{secret}/x@127.0.0.1:{port}/postgres", DsyncError),
        ("postgresql://postgres:{secret}@127.0.0.1:{port}/postgres?schema=pg_{secret}", DsyncError),
    ],
)
def test_no_message_has_the_password(pg: EmbeddedPostgres, uri: str, kind: type[DsyncError]) -> None:
    """Whatever is wrong with the URI, the server or the password itself."""
    with pytest.raises(kind) as caught:
        Store.open(uri.format(secret=SECRET, port=pg.port))
    told: BaseException | None = caught.value
    assert SECRET not in str(told)
    assert "--state" in str(told) or "the state" in str(told)
