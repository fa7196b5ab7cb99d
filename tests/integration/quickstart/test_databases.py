"""The fixtures' own promises: fresh databases, prepared copies and restricted roles."""

import psycopg
import pytest

from dsync.quickstart.servers import EmbeddedPostgres
from tests.support.databases import DatabaseFactory, PgPair


def fill(uri: str) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE public.t AS SELECT g AS id FROM generate_series(1, 3) g")
        connection.execute("CREATE SCHEMA inner_one CREATE TABLE u (id int)")


def test_each_call_gives_a_database_of_its_own(source_db: DatabaseFactory) -> None:
    first, second = source_db(), source_db()
    first.run("CREATE TABLE t (id int)")
    assert first.value("SELECT to_regclass('t') IS NOT NULL") is True
    assert second.value("SELECT to_regclass('t') IS NOT NULL") is False


def test_a_prepared_database_is_filled_once_and_copied(source_db: DatabaseFactory) -> None:
    fillings: list[str] = []

    def prepare(uri: str) -> None:
        fillings.append(uri)
        fill(uri)

    first, second = source_db(prepare), source_db(prepare)
    first.run("DELETE FROM t")
    assert len(fillings) == 1
    assert first.value("SELECT count(*) FROM t") == 0
    assert second.value("SELECT count(*) FROM t") == 3


def test_databases_and_their_roles_are_gone_afterwards(pg: EmbeddedPostgres) -> None:
    """Somebody still connected, or a replication slot, does not keep a database."""
    factory = DatabaseFactory(pg, prefix="leftover")
    one = factory()
    one.owner_uri()
    one.reader_uri()
    one.run("SELECT pg_create_logical_replication_slot('leftover_slot', 'pgoutput')")
    with one.connect():
        factory.drop_all()
    with pg.connect() as connection:
        (left,) = connection.execute(
            "SELECT (SELECT count(*) FROM pg_database WHERE datname ~ 'leftover')"
            " + (SELECT count(*) FROM pg_roles WHERE rolname ~ 'leftover')"
            " + (SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ 'leftover')"
        ).fetchone() or (None,)
    assert left == 0


def test_the_owner_of_a_sink_is_no_superuser(sink_db: DatabaseFactory) -> None:
    """It may create in its database and is refused what managed services refuse."""
    with psycopg.connect(sink_db().owner_uri(), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.t (id int)")
        connection.execute("CREATE SCHEMA shop")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SET session_replication_role = replica")


def test_the_reader_of_a_source_can_select_and_nothing_else(source_db: DatabaseFactory) -> None:
    with psycopg.connect(source_db(fill).reader_uri(), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM inner_one.u").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM t")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE inner_one.x (id int)")


@pytest.mark.parametrize("pg_pair", [(16, 18), (18, 16)], indirect=True, ids=str)
def test_a_pair_may_differ_in_version(pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
    assert source_db().server.major == pg_pair.source.major
    assert sink_db().server.major == pg_pair.sink.major
    assert pg_pair.source.major != pg_pair.sink.major
