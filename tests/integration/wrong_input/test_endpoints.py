"""An end that cannot be reached, is not what it is taken for, or is the other end: found before anything is made."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import CANARY, GuardedDsync, contents, new_login
from tests.support.databases import DatabaseFactory

COPY = ("--mode", "copy")


def elsewhere(uri: str, *, port: int | None = None, host: str = "127.0.0.1", database: str = "") -> str:
    """The same user and password at another place."""
    parts = urlsplit(uri)
    account = parts.netloc.rpartition("@")[0]
    path = f"/{database}" if database else parts.path
    return urlunsplit(parts._replace(netloc=f"{account}@{host}:{port or parts.port}", path=path))


@pytest.fixture(params=["source", "sink"])
def which(request: pytest.FixtureRequest) -> str:
    """The end that is wrong."""
    return str(request.param)


def with_wrong(ends: Ends, which: str, uri: str) -> tuple[str, str]:
    return (uri, ends.sink_uri) if which == "source" else (ends.source_uri, uri)


@pytest.mark.usefixtures("untouched")
def test_a_wrong_password_is_refused_by_the_server(dsync: GuardedDsync, ends: Ends, which: str) -> None:
    """Exit 3 with place and user, and how a password is given; neither the wrong one nor the right one is shown."""
    database = ends.source if which == "source" else ends.sink
    wrong = database.server.uri(database.name, password=CANARY)

    message = dsync.refused("sync", *with_wrong(ends, which, wrong), *COPY, exit_code=3)

    assert f"database {database.name} at 127.0.0.1:{database.server.port} as postgres" in message
    assert "PGPASSWORD" in message


@pytest.mark.usefixtures("untouched")
def test_a_server_that_is_down_is_named(dsync: GuardedDsync, ends: Ends, which: str) -> None:
    """Exit 3 at the first contact, without minutes of retries."""
    message = dsync.refused("sync", *with_wrong(ends, which, elsewhere(ends.source_uri, port=1)), *COPY, exit_code=3)

    assert "127.0.0.1:1 " in message
    assert "nothing listens there" in message
    assert "check host and port" in message


@pytest.mark.usefixtures("untouched")
def test_a_database_that_does_not_exist_is_named(dsync: GuardedDsync, ends: Ends, which: str) -> None:
    """Exit 3; it is not created in passing."""
    absent = elsewhere(ends.source_uri if which == "source" else ends.sink_uri, database="nosuch")

    message = dsync.refused("sync", *with_wrong(ends, which, absent), *COPY, exit_code=3)

    assert "database nosuch at 127.0.0.1" in message
    assert "there is no such database" in message


@pytest.mark.usefixtures("untouched")
def test_a_role_that_may_not_connect_is_told_so(dsync: GuardedDsync, ends: Ends) -> None:
    """Exit 3: the privilege that is missing has a name."""
    uri = new_login(ends.source, attributes="")
    ends.source.run(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM public").format(sql.Identifier(ends.source.name)))

    message = dsync.refused("sync", uri, ends.sink_uri, *COPY, exit_code=3)

    assert ends.source.name in message
    assert "CONNECT" in message


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("spelling", "policy"),
    [
        ("same", ()),
        ("same", ("--on-existing", "drop", "--yes")),
        ("localhost", ("--on-existing", "truncate", "--yes")),
        ("parameters", ("--on-existing", "drop", "--yes")),
        ("other user", ()),
    ],
)
def test_a_database_is_not_copied_into_itself(
    dsync: GuardedDsync, ends: Ends, spelling: str, policy: tuple[str, ...]
) -> None:
    """However it is written, whoever connects, and above all where its rows would be removed first."""
    sink = {
        "same": ends.source_uri,
        "localhost": elsewhere(ends.source_uri, host="localhost"),
        "parameters": elsewhere(ends.source_uri, database="postgres") + f"?host=127.0.0.1&dbname={ends.source.name}",
        "other user": elsewhere(new_login(ends.source), host="localhost"),
    }[spelling]

    message = dsync.refused("sync", ends.source_uri, sink, *COPY, *policy, exit_code=2)

    assert ends.source.name in message
    assert "name another" in message


def test_databases_of_one_server_and_clones_of_one_database_are_others(
    dsync: GuardedDsync, ends: Ends, source_db: DatabaseFactory
) -> None:
    """They share a system identifier, and a clone every table; nobody is taken for somebody else."""
    clone = source_db()
    sink = new_login(clone)
    with ends.source.connect() as connection, psycopg.connect(clone.uri, autocommit=True) as other:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.orders (id bigint PRIMARY KEY, note text NOT NULL)",
            "CREATE TABLE shop.log (line text)",
        ):
            other.execute(statement)
        assert connection.info.port == other.info.port

    copied = dsync.here("sync", ends.source_uri, sink, *COPY, "--verify", "--json")

    assert (copied.exit_code, copied.result["rows"]) == (0, 520), copied.stderr
    assert contents(clone)["rows"]["shop.orders"] == [(500,)]
