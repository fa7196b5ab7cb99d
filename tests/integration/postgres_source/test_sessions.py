"""Connections: pinned settings, limits, cancellation, what an earlier life has left behind."""

import asyncio

import pytest
from dsync_postgres.conninfo import Target
from dsync_postgres.identity import read_identity
from dsync_postgres.options import PostgresOptions
from dsync_postgres.sessions import Connection, Sessions
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dsync.sdk import errors, types
from tests.support.databases import Database, DatabaseFactory
from tests.support.fixtures import OpenProxy
from tests.support.waiting import wait_for_async

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)

HOSTILE = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-5",
    "bytea_output": "escape",
    "search_path": "public",
    "row_security": "on",
    "statement_timeout": "1s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "synchronous_commit": "off",
}
PINNED = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, DMY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "synchronous_commit": "on",
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
}


def sessions_of(
    uri: str, *, flow: str = "", role: types.Role = types.Role.SOURCE, options: PostgresOptions | None = None
) -> Sessions:
    """Sessions as a connector has them."""
    sessions = Sessions(Target.of(uri), options or PostgresOptions())
    sessions.configure(types.SessionRequest(flow=flow, role=role, parallel=2))
    return sessions


def settings_of(connection: Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, current_setting(name) FROM pg_settings").fetchall()
    return dict(rows)


@VERSIONS
async def test_settings_of_a_database_do_not_reach_our_sessions(database: DatabaseFactory) -> None:
    """Whatever a database or role sets, values look alike at both ends and nothing times out."""
    made = database()
    hostile = {**HOSTILE, **({"transaction_timeout": "1s"} if made.server.major >= 17 else {})}
    pinned = {**PINNED, **({"transaction_timeout": "0"} if made.server.major >= 17 else {})}
    for name, value in hostile.items():
        made.run(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(made.name),
                sql.Identifier(name),
                sql.SQL(value) if name == "DateStyle" else sql.Literal(value),
            )
        )
    sessions = sessions_of(made.uri)

    found = await sessions.run("reading settings", settings_of)

    assert {name: found[name] for name in pinned} == pinned
    await sessions.close()


async def test_a_session_shows_its_flow_and_side(database: DatabaseFactory) -> None:
    """pg_stat_activity says whose a session is, by which leftovers are found."""
    sessions = sessions_of(database().uri, flow="0123456789abcdef0123", role=types.Role.SINK)

    found = await sessions.run("reading settings", settings_of)

    assert found["application_name"].startswith("dsync/0123456789abcdef/sink-work-")
    assert found["application_name"] == sessions.application_name("work")
    await sessions.close()


async def test_a_cancelled_call_ends_its_statement_at_the_server(database: DatabaseFactory) -> None:
    """Nothing runs on for a caller who has gone, and the session is fit for the next one."""
    made = database()
    sessions = sessions_of(made.uri)
    running = asyncio.create_task(
        sessions.run("sleeping", lambda connection: connection.execute("SELECT pg_sleep(60)"))
    )
    await wait_for_async(lambda: made.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'"))

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (await sessions.run("reading settings", settings_of))["search_path"] == "pg_catalog"
    assert _backends(made, "dsync/") == 1
    await sessions.close()


async def test_leftovers_of_a_flow_are_ended_and_nobody_elses(database: DatabaseFactory) -> None:
    """A plug-in that was killed leaves statements running; its next life ends them, and only them."""
    made = database()
    flow, other = "f00d", "f00d2"
    dead, sink, stranger = (
        sessions_of(made.uri, flow=flow),
        sessions_of(made.uri, flow=flow, role=types.Role.SINK),
        sessions_of(made.uri, flow=other),
    )
    lost = [asyncio.create_task(_sleep(dead)) for _ in range(2)]
    alive = [asyncio.create_task(_sleep(sessions)) for sessions in (sink, stranger)]
    await wait_for_async(lambda: _backends(made, "dsync/") == 4)

    again = sessions_of(made.uri, flow=flow)
    async with again.lease():
        assert await again.end_orphans() == 2

    assert _backends(made, f"dsync/{flow}/sink-") == 1
    assert _backends(made, f"dsync/{other}/") == 1
    assert _backends(made, f"dsync/{flow}/source-") == 2, "its own sessions stay"
    for task in lost:
        with pytest.raises(errors.ServerUnavailableError):
            await task
    for task in alive:
        task.cancel()
    await asyncio.gather(*alive, return_exceptions=True)
    for sessions in (dead, sink, stranger, again):
        await sessions.close()


async def test_a_session_that_the_server_has_ended_is_replaced(database: DatabaseFactory) -> None:
    """An idle connection may be gone by the time it is needed; the next call does not fail for it."""
    made = database()
    sessions = sessions_of(made.uri)
    await sessions.run("reading settings", settings_of)

    made.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%'")
    await wait_for_async(lambda: _backends(made, "dsync/") == 0)

    assert await sessions.run("reading settings", settings_of)
    await sessions.close()


async def test_where_connections_run_out_the_work_waits_for_those_there_are(database: DatabaseFactory) -> None:
    """A server that gives no more connections makes the copy slower, not fail."""
    made = database()
    uri = made.owner_uri()
    role = uri.split("//")[1].split(":")[0]
    made.run(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 2").format(sql.Identifier(role)))
    sessions = sessions_of(uri)

    async def count() -> int:
        async with sessions.lease() as session:
            return await session.run("waiting", _hold_for_a_moment)

    assert len(await asyncio.gather(*(count() for _ in range(8)))) == 8
    assert sessions.limit == 8
    await sessions.close()


async def test_no_connection_at_all_is_an_error(database: DatabaseFactory) -> None:
    """With none to wait for, the caller is told."""
    made = database()
    uri = made.owner_uri()
    role = uri.split("//")[1].split(":")[0]
    made.run(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(sql.Identifier(role)))
    sessions = sessions_of(uri)

    with pytest.raises(errors.ThrottledError, match="no connection left"):
        await sessions.run("reading settings", settings_of)
    await sessions.close()


async def test_never_more_connections_than_the_option_allows(database: DatabaseFactory) -> None:
    """The pool is bounded by what the user says."""
    made = database()
    sessions = sessions_of(made.uri, options=PostgresOptions(max_connections=2))
    most = 0

    async def one() -> None:
        nonlocal most
        async with sessions.lease() as session:
            await session.run("waiting", _hold_for_a_moment)
            most = max(most, _backends(made, "dsync/"))

    await asyncio.gather(*(one() for _ in range(6)))

    assert most == 2
    await sessions.close()


async def test_a_silent_server_is_given_up_within_the_limit(
    database: DatabaseFactory, open_proxy: OpenProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that accepts and says nothing is a server that is not there."""
    monkeypatch.setattr("dsync_postgres.sessions.CONNECT_LIMIT_S", 0.5)
    made = database()
    proxy = await open_proxy(made.uri)
    proxy.black_hole()
    sessions = sessions_of(proxy.through(made.uri))

    with pytest.raises(errors.ServerUnavailableError, match="no answer within"):
        await sessions.run("reading settings", settings_of)

    proxy.black_hole(False)
    await wait_for_async(lambda: _backends(made, "dsync/") == 0, what="the latecomer to be closed")
    await sessions.close()


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"password": "canary-wrong"}, errors.AuthenticationError, "refused the user or its password"),
        ({"password": ""}, errors.AuthenticationError, "none was given; set PGPASSWORD"),
        ({"user": "nobody_here", "password": "canary"}, errors.AuthenticationError, "refused the user"),
        ({"dbname": "missing"}, errors.MissingObjectError, "no such database"),
        ({"port": "1"}, errors.ServerUnavailableError, "nothing listens there"),
        ({"host": "no-such-host.invalid"}, errors.ServerUnavailableError, "does not resolve"),
        ({"sslmode": "verify-full"}, errors.AuthenticationError, "sslmode"),
        ({"service": "missing"}, errors.RequestError, "not defined"),
    ],
)
async def test_why_no_connection_comes_about(
    database: DatabaseFactory, change: dict[str, str], kind: type[errors.DsyncError], says: str
) -> None:
    """Each cause is a class of its own with what to do, and the password is in none of them."""
    made = database()
    uri = make_conninfo(made.uri, **change)
    sessions = sessions_of(uri)

    with pytest.raises(kind, match=says) as caught:
        await sessions.run("reading settings", settings_of)

    assert "canary" not in str(caught.value)
    assert Target.of(made.uri).parameters["password"] not in str(caught.value)
    await sessions.close()


async def test_a_role_that_may_not_connect_is_told_so(database: DatabaseFactory) -> None:
    """CONNECT was taken from it."""
    made = database()
    uri = made.reader_uri()
    made.run(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(made.name)))
    sessions = sessions_of(uri)

    with pytest.raises(errors.PrivilegeError, match="GRANT CONNECT"):
        await sessions.run("reading settings", settings_of)
    await sessions.close()


async def test_the_password_may_come_from_the_environment(
    database: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq's own ways work, so nothing secret has to be in the URI."""
    made = database()
    monkeypatch.setenv("PGPASSWORD", Target.of(made.uri).parameters["password"])
    sessions = sessions_of(make_conninfo(made.uri, password=None))

    assert await sessions.run("reading settings", settings_of)
    await sessions.close()


async def test_a_server_that_keeps_its_identifier_to_itself_is_still_known(database: DatabaseFactory) -> None:
    """Some services take pg_control_system() from PUBLIC; the database's own number is left."""
    made = database()
    made.run("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    sessions = sessions_of(made.reader_uri())

    identity = await sessions.run("asking", read_identity)

    assert identity.id == f"0/{identity.database_oid}/{made.name}"
    assert identity.system_id == 0
    await sessions.close()


async def _sleep(sessions: Sessions) -> None:
    await sessions.run("sleeping", lambda connection: connection.execute("SELECT pg_sleep(60)"))


def _hold_for_a_moment(connection: Connection) -> int:
    row = connection.execute("SELECT 1 FROM pg_sleep(0.02)").fetchone()
    assert row is not None
    return int(row[0])


def _backends(database: Database, prefix: str) -> int:
    return int(
        database.value("SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, %s)", [prefix])
    )
