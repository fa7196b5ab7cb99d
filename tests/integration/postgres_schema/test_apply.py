"""A statement that fails says what to do, never what is in the rows; what can be spared does not stop the rest."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from dsync_postgres.schema import BuildStep, Statement, run_statements, run_step
from dsync_postgres.schema.errors import StatementError
from psycopg import sql

from dsync.sdk import errors
from tests.integration.postgres_schema.support import dump, make_roles, pinned, plan_for
from tests.support.databases import Database, DatabaseFactory


def _step(*statements: Statement) -> BuildStep:
    return BuildStep(id="x:y", kind="x", name="y", namespace="", statements=statements)


def _run(database: Database, text: str, *, uri: str = "") -> None:
    with pinned(uri or database.uri) as connection, connection.transaction():
        run_step(connection, _step(Statement(sql=text, object="INDEX public.i")))


def test_rows_that_do_not_fit_are_named_by_rule_and_not_by_value(database: DatabaseFactory) -> None:
    """The server's own words quote the key, or the text that could not be cast."""
    one = database()
    one.run("CREATE TABLE public.t (v text)", "INSERT INTO public.t VALUES ('canary'), ('canary')")

    with pytest.raises(StatementError) as unique:
        _run(one, "CREATE UNIQUE INDEX i ON public.t (v)")
    with pytest.raises(StatementError) as cast:
        _run(one, "CREATE INDEX i ON public.t ((v::integer))")

    assert "UniqueViolation (23505) constraint i" in str(unique.value)
    assert "InvalidTextRepresentation (22P02)" in str(cast.value)
    for caught in (unique, cast):
        assert "canary" not in str(caught.value)
        assert str(caught.value).startswith("creating INDEX public.i at the sink: ")
        assert not isinstance(caught.value, errors.RecordError)


def test_a_deadlock_or_a_busy_lock_may_be_repeated(database: DatabaseFactory) -> None:
    one = database()
    one.run("CREATE TABLE public.t (v text)")
    with psycopg.connect(one.uri) as other:
        other.execute("LOCK TABLE public.t")

        with pytest.raises(errors.ConflictError, match=r"creating INDEX public\.i"):
            _run(one, "SET LOCAL lock_timeout = '50ms'; CREATE INDEX i ON public.t (v)")


def test_a_missing_privilege_stops_unless_it_can_be_done_without(database: DatabaseFactory) -> None:
    one = database()
    owner_uri = one.owner_uri()
    with pinned(owner_uri) as connection, connection.transaction():
        findings = run_statements(
            connection,
            [
                Statement(sql="CREATE TABLE public.t (v text)", object="TABLE public.t"),
                Statement(sql="ALTER TABLE public.t OWNER TO postgres", object="TABLE public.t", is_optional=True),
                Statement(sql="COMMENT ON TABLE public.t IS 'after it'", object="COMMENT", is_optional=True),
            ],
        )

    assert [(f.code, f.object, f.severity.name) for f in findings] == [
        ("statement-refused", "TABLE public.t", "WARNING")
    ]
    assert one.value("SELECT obj_description('public.t'::regclass)") == "after it"
    with pytest.raises(errors.PrivilegeError):
        _run(one, "ALTER TABLE public.t OWNER TO postgres", uri=owner_uri)


def test_only_a_missing_privilege_is_forgiven(database: DatabaseFactory) -> None:
    """A grant on something that is not there is a bug of the plan, not a privilege that we lack."""
    one = database()
    wrong = Statement(sql="GRANT SELECT ON public.nowhere TO PUBLIC", object="ACL", is_optional=True)

    with pinned(one.uri) as connection, pytest.raises(errors.MissingObjectError), connection.transaction():
        run_statements(connection, [wrong])


def test_a_label_without_its_provider_is_reported(database: DatabaseFactory) -> None:
    one = database()
    one.run("CREATE TABLE public.t (v text)")
    label = Statement(sql="SECURITY LABEL FOR nobody ON TABLE public.t IS 'x'", object="LABEL", is_optional=True)

    with pinned(one.uri) as connection, connection.transaction():
        findings = run_statements(connection, [label])

    assert [f.code for f in findings] == ["statement-refused"]


def test_a_text_of_several_statements_and_percent_signs_is_run_as_it_is(database: DatabaseFactory) -> None:
    one = database()

    for _ in range(8):  # The driver prepares what it sees often, and a prepared text can hold one statement only.
        _run(one, "CREATE TABLE public.t (v text DEFAULT '%s %(x)s'); DROP TABLE public.t;")

    _run(one, "CREATE TABLE public.t (v text DEFAULT '%s %(x)s')")
    assert (
        one.value("SELECT column_default FROM information_schema.columns WHERE table_name = 't'") == "'%s %(x)s'::text"
    )


def test_settings_end_with_the_transaction(database: DatabaseFactory) -> None:
    """The connection goes back to a pool whose sessions are pinned to other values."""
    one = database()
    with pinned(one.uri) as connection:
        before = connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()
        with connection.transaction():
            run_statements(connection, [])
            inside = connection.execute("SELECT pg_catalog.current_setting('search_path')").fetchall()
        after = connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()

    assert inside == [("",)]
    assert before == after


async def test_a_materialised_view_holds_what_its_owner_sees(database: DatabaseFactory) -> None:
    """With row security off, as our sessions have it, the server would refuse to fill it."""
    source, sink = database(), database()
    with source.connect() as connection:
        make_roles(connection)
    table = (
        "CREATE TABLE public.t (id integer PRIMARY KEY)",
        "INSERT INTO public.t VALUES (1), (2), (3)",
    )
    source.run(
        *table,
        "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON public.t USING (id > 1)",
        "GRANT SELECT ON public.t TO app_owner",
        "CREATE MATERIALIZED VIEW public.m AS SELECT id FROM public.t WITH NO DATA",
        "ALTER MATERIALIZED VIEW public.m OWNER TO app_owner",
        "REFRESH MATERIALIZED VIEW public.m",
    )
    plan = plan_for(sink.uri, await dump(source.uri, source_major=18, sink_major=18))
    with pinned(sink.uri) as connection, connection.transaction():
        run_statements(connection, plan.pre_data)
    sink.run(table[1])

    for step in plan.post_data:
        _run_step(sink.uri, step)

    assert sink.rows("SELECT id FROM public.m ORDER BY 1") == source.rows("SELECT id FROM public.m ORDER BY 1")
    assert sink.value("SELECT count(*) FROM public.m") == 2


async def test_steps_that_may_run_side_by_side_do_not_deadlock(database: DatabaseFactory) -> None:
    """Two foreign keys in a circle lock two tables in opposite orders; the plan puts one after the other."""
    one = database()
    for at in range(12):
        one.run(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, o int)").format(sql.Identifier(f"t{at}")))
    for at in range(12):
        names = sql.Identifier(f"t{at}"), sql.Identifier(f"t{(at + 1) % 12}")
        one.run(sql.SQL("ALTER TABLE {} ADD FOREIGN KEY (o) REFERENCES {}").format(*names))
        one.run(sql.SQL("ALTER TABLE {1} ADD FOREIGN KEY (o) REFERENCES {0}").format(*names))
    sink = database()
    plan = plan_for(sink.uri, await dump(one.uri, source_major=18, sink_major=18))
    with pinned(sink.uri) as connection, connection.transaction():
        run_statements(connection, plan.pre_data)

    done = {step.id: asyncio.Event() for step in plan.post_data}

    async def run(step: BuildStep) -> None:
        for other in step.depends_on:
            await done[other].wait()
        await asyncio.to_thread(_run_step, sink.uri, step)
        done[step.id].set()

    async with asyncio.TaskGroup() as group:
        for step in plan.post_data:
            group.create_task(run(step))

    assert sink.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 24


def _run_step(uri: str, step: BuildStep) -> None:
    with pinned(uri) as connection, connection.transaction():
        run_step(connection, step)
