"""Without superuser, as managed services are: a sink role that owns its database, a source role with SELECT alone."""

from __future__ import annotations

import pytest
from dsync_postgres.schema import PlanOptions, SchemaPlan, rehearse
from dsync_postgres.schema.errors import PgDumpPrivilegeError
from psycopg import sql

from tests.integration.postgres_schema.support import (
    Dumped,
    build,
    codes,
    dump,
    filled_with,
    make_roles,
    nasty,
    pinned,
    plan_for,
    positions_of,
    schema_text,
    shuffled,
    stops,
)
from tests.support.databases import Database, DatabaseFactory, PgPair


async def _dump(pair: PgPair, uri: str) -> Dumped:
    return await dump(uri, source_major=pair.source.major, sink_major=pair.sink.major)


def _role_of(uri: str) -> str:
    with pinned(uri) as connection:
        ((name,),) = connection.execute("SELECT current_user").fetchall()
    return str(name)


@pytest.mark.parametrize("pg_pair", [(15, 15), (16, 18), (18, 18), (18, 16)], indirect=True)
async def test_the_owner_of_an_empty_database_builds_what_it_may(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Owners it may not give to, and the shell of a base type, are listed; every table is there."""
    source, sink = source_db(nasty), sink_db()
    with sink.connect() as connection:
        make_roles(connection)
    owner_uri = sink.owner_uri()
    dumped = await _dump(pg_pair, source.uri)

    plan = plan_for(owner_uri, dumped)
    with pinned(owner_uri) as connection:
        rehearsed = rehearse(connection, plan)
    refused = build(owner_uri, plan, positions=positions_of(source.uri), order=shuffled(4))

    assert stops(plan.findings) == []
    assert stops(rehearsed) == []
    assert {f.object for f in plan.findings if f.code == "owner-kept"} == {"Odd Role", "app_owner", "postgres"}
    assert [f.message for f in plan.findings if f.code == "left-out"] == [
        f"it is not created at the sink: a base type needs superuser, which the sink role {_role_of(owner_uri)} is not"
    ]
    assert codes(refused) <= {"statement-refused"}
    assert _shapes(sink) == _shapes(source)


async def test_a_role_that_may_act_for_the_owners_gives_everything_to_them(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Then the copy dumps as one that a superuser made, but for what only a superuser can create."""
    source, ours, theirs = source_db(nasty), sink_db(), sink_db()
    source.run("DROP TYPE shop.shelled", "ALTER SCHEMA shop OWNER TO app_owner", 'DROP SCHEMA "select" CASCADE')
    owner_uri = ours.owner_uri()
    role = sql.Identifier(_role_of(owner_uri))
    ours.run(
        sql.SQL('GRANT app_owner, app_reader, "Odd Role" TO {}').format(role),
        sql.SQL('GRANT CREATE ON DATABASE {} TO app_owner, "Odd Role"').format(sql.Identifier(ours.name)),
        "GRANT CREATE ON SCHEMA public TO app_owner",
    )
    # "Odd Role" owns a table in shop but may not create there; a superuser gives it anyway, a member cannot.
    source.run('GRANT CREATE ON SCHEMA shop TO "Odd Role"')
    dumped = await _dump(pg_pair, source.uri)

    plan = plan_for(owner_uri, dumped)
    refused = build(owner_uri, plan, positions=positions_of(source.uri))
    build(theirs.uri, plan_for(theirs.uri, dumped), positions=positions_of(source.uri))

    assert refused == []
    assert {f.object for f in plan.findings if f.code == "owner-kept"} == {"postgres"}
    assert _owners(ours, "app_owner", "Odd Role") == _owners(theirs, "app_owner", "Odd Role")
    assert _owners(ours, "Odd Role") == [("nothing",)]


async def test_an_owner_that_may_not_create_in_the_schema_is_reported_when_it_comes_to_that(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Whether a grant allows it is known once the schema is there; the copy goes on."""
    source, sink = source_db(), sink_db()
    with source.connect() as connection:
        make_roles(connection)
    source.run(
        "CREATE SCHEMA closed",
        "CREATE TABLE closed.t (id integer PRIMARY KEY)",
        "ALTER TABLE closed.t OWNER TO app_owner",
    )
    owner_uri = sink.owner_uri()
    sink.run(sql.SQL("GRANT app_owner TO {}").format(sql.Identifier(_role_of(owner_uri))))

    plan = plan_for(owner_uri, await _dump(pg_pair, source.uri))
    refused = build(owner_uri, plan)

    assert [(f.code, f.object) for f in refused] == [("statement-refused", "TABLE closed.t")]
    assert sink.value("SELECT relowner::regrole::text FROM pg_class WHERE relname = 't'") == _role_of(owner_uri)


@pytest.mark.parametrize("pg_pair", [(15, 15)], indirect=True)
async def test_what_only_a_superuser_creates_is_left_out_or_stops(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """An index on a function in C can go; an extension that a column's type comes from cannot."""
    source, sink = source_db(filled_with("nasty.sql", "contrib_15.sql")), sink_db()
    owner_uri = sink.owner_uri()
    dumped = await _dump(pg_pair, source.uri)

    plan = plan_for(owner_uri, dumped)

    left_out = {f.object for f in plan.findings if f.code == "left-out"}
    assert left_out >= {
        "EVENT TRIGGER watcher",
        "FUNCTION shop.native(text)",
        "FUNCTION shop.quiet(integer)",
        "INDEX shop.person_native",
        "OPERATOR CLASS shop.my_ops",
    }
    # postgres_fdw is not trusted; citext and btree_gist are.
    assert [(f.code, f.object) for f in stops(plan.findings)] == [("extension-privilege", "postgres_fdw")]
    sink.run("CREATE SCHEMA ext", "CREATE EXTENSION postgres_fdw SCHEMA ext")
    sink.run(
        sql.SQL("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {}").format(sql.Identifier(_role_of(owner_uri)))
    )
    sink.run(sql.SQL("GRANT CREATE, USAGE ON SCHEMA ext TO {}").format(sql.Identifier(_role_of(owner_uri))))
    assert _refused(owner_uri, plan_for(owner_uri, dumped)) == []


async def test_a_missing_privilege_at_the_sink_is_found_before_any_row_moves(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    source.run("CREATE TABLE public.t (id integer)")
    reader_uri = sink.reader_uri()

    plan = plan_for(reader_uri, await _dump(pg_pair, source.uri))

    found = [(f.code, f.object) for f in stops(plan.findings)]
    assert found == [("no-create-privilege", sink.name), ("no-create-privilege", "public")]


async def test_no_owner_and_no_privileges_leave_both_alone(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source.uri)

    plan = plan_for(sink.uri, dumped, options=PlanOptions(no_owner=True, no_privileges=True))
    build(sink.uri, plan)

    assert plan.findings == ()
    text = schema_text(sink.uri, dumped.tool)
    assert "GRANT" not in text
    assert "OWNER TO app_owner" not in text


async def test_roles_that_the_sink_lacks_are_listed(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Objects stay ours, grants are left out, and so is a policy for a role that is not there."""
    source, sink = source_db(), sink_db()
    source.run(
        "CREATE ROLE only_at_source",
        "CREATE TABLE public.t (id integer)",
        "ALTER TABLE public.t OWNER TO only_at_source",
        "GRANT SELECT ON public.t TO only_at_source, PUBLIC",
        "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON public.t TO only_at_source USING (true)",
        "CREATE POLICY r ON public.t AS RESTRICTIVE TO only_at_source, postgres USING (id > 0)",
    )
    try:
        dumped = await _dump(pg_pair, source.uri)
    finally:
        # Source and sink are one server here, so the role goes before the sink is asked.
        source.run("DROP OWNED BY only_at_source CASCADE", "DROP ROLE only_at_source")

    plan = plan_for(sink.uri, dumped)

    assert {(f.code, f.object, f.severity.name) for f in plan.findings} == {
        ("owner-kept", "only_at_source", "WARNING"),
        ("left-out", "POLICY public.t p", "WARNING"),
        ("left-out", "POLICY public.t r", "WARNING"),
        ("policy-role-missing", "POLICY public.t r", "STOP"),
    }
    build(sink.uri, plan)
    assert sink.value("SELECT relacl::text FROM pg_class WHERE relname = 't'") is not None


async def test_a_source_role_with_select_alone_is_enough(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """The dump is the same as a superuser's."""
    source, sink = source_db(nasty), sink_db()

    mine = await _dump(pg_pair, source.reader_uri())
    build(sink.uri, plan_for(sink.uri, mine), positions=positions_of(source.uri))

    assert _shapes(sink) == _shapes(source)


async def test_what_the_source_role_may_not_read_is_an_error_that_names_it(
    pg_pair: PgPair, source_db: DatabaseFactory
) -> None:
    source = source_db(nasty)
    reader_uri = source.reader_uri()
    source.run(sql.SQL("REVOKE SELECT ON shop.product FROM {}").format(sql.Identifier(_role_of(reader_uri))))

    with pytest.raises(PgDumpPrivilegeError, match="permission denied for table product"):
        await _dump(pg_pair, reader_uri)


def _refused(uri: str, plan: SchemaPlan) -> list[tuple[str, str]]:
    with pinned(uri) as connection:
        return [(f.object, f.message) for f in rehearse(connection, plan)]


def _shapes(database: Database) -> object:
    return database.rows(
        "SELECT c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull"
        " FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
        " WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'S')"
        " AND c.relnamespace <> 'pg_toast'::regnamespace ORDER BY 1, 2"
    )


def _owners(database: Database, *roles: str) -> list[tuple[object, ...]]:
    return database.rows(
        "SELECT relname FROM pg_class WHERE relowner IN (SELECT oid FROM pg_roles WHERE rolname = ANY (%s))"
        " AND relnamespace <> 'pg_toast'::regnamespace"
        " ORDER BY relkind, relname",
        [list(roles)],
    )
