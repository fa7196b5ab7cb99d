"""What is run at the sink, in which order, and what is said instead where the sink cannot take it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.errors import ArchiveError
from dsync_postgres.schema.facts import ExistingObjects, SinkFacts, SourceFacts, SourceTable
from dsync_postgres.schema.findings import Finding
from dsync_postgres.schema.graph import build_graph
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.plan import SETTINGS, PlanOptions, SchemaPlan, build_plan
from dsync_postgres.schema.select import select_all
from dsync_postgres.schema.server import ExtensionFacts, TablespaceFacts

from tests.unit.postgres_schema.archives import (
    archive,
    entry,
    foreign_key,
    index,
    primary_key,
    sink,
    source,
    source_table,
    table,
)


def _plan(
    *entries: TocEntry,
    at: SinkFacts | None = None,
    of: SourceFacts | None = None,
    options: PlanOptions | None = None,
) -> SchemaPlan:
    return build_plan(select_all(build_graph(archive(*entries))), of or source(), at or sink(), options)


def _sql(plan: SchemaPlan) -> list[str]:
    return [statement.sql for statement in plan.pre_data]


def _found(findings: tuple[Finding, ...]) -> set[tuple[str, str, str]]:
    return {(finding.code, finding.object, finding.severity.name) for finding in findings}


def _facts(**tables: SourceTable) -> SourceFacts:
    return source(**tables)


def _view(dump_id: int, name: str, *needs: int) -> TocEntry:
    text = f"CREATE MATERIALIZED VIEW public.{name} AS SELECT WITH NO DATA;"
    return entry(dump_id, "MATERIALIZED VIEW", name, text, *needs, drop=f"DROP MATERIALIZED VIEW public.{name};\n")


_FILLED_VIEW = source_table(kind="m")
_EMPTY_VIEW = source_table(kind="m", is_populated=False)


def test_a_place_that_the_sink_has_is_set_and_one_that_it_lacks_is_listed() -> None:
    """Settings are changed only where they differ from the last, and never left behind for the next object."""
    known = replace(
        sink(),
        tablespaces={
            "fast": TablespaceFacts(name="fast", may_create=True),
            "closed": TablespaceFacts(name="closed", may_create=False),
        },
        access_methods=frozenset({"heap", "columnar"}),
    )

    plan = _plan(
        table(1, "a", tablespace="fast", tableam="columnar"),
        table(2, "b", tablespace="fast", tableam="heap"),
        table(3, "c", tablespace="closed", tableam="other"),
        table(4, "d", tablespace="", tableam="heap"),
        at=known,
    )

    assert _sql(plan) == [
        "SELECT pg_catalog.set_config('default_tablespace', 'fast', true)",
        "SELECT pg_catalog.set_config('default_table_access_method', 'columnar', true)",
        "CREATE TABLE public.a (id integer);",
        "SELECT pg_catalog.set_config('default_table_access_method', 'heap', true)",
        "CREATE TABLE public.b (id integer);",
        "SELECT pg_catalog.set_config('default_tablespace', '', true)",
        "CREATE TABLE public.c (id integer);",
        "CREATE TABLE public.d (id integer);",
    ]
    assert _found(plan.findings) == {
        ("tablespace-missing", "closed", "WARNING"),
        ("access-method-missing", "other", "WARNING"),
    }


def test_each_step_sets_its_own_place() -> None:
    """A step is a transaction of its own: what an earlier one set is gone."""
    known = replace(sink(), tablespaces={"fast": TablespaceFacts(name="fast", may_create=True)})
    on_fast = [replace(index(at, f"i{at}", "a", 1), tablespace="fast") for at in (2, 3)]

    plan = _plan(table(1, "a"), *on_fast, at=known)

    for step in plan.post_data[:2]:
        assert [s.sql.split("(")[0] for s in step.statements] == [
            "SELECT pg_catalog.set_config",
            f"CREATE INDEX {step.name} ON public.a USING btree ",
        ]


@pytest.mark.parametrize(("version_num", "is_set"), [(160000, False), (170000, True)])
def test_a_partitioned_table_gets_its_access_method_where_it_can_have_one(version_num: int, is_set: bool) -> None:
    parent = replace(table(1, "p", tableam="heap"), relkind="p")

    plan = _plan(parent, at=sink(version_num))

    assert ('ALTER TABLE "public"."p" SET ACCESS METHOD "heap"' in _sql(plan)) is is_set


def test_an_object_is_followed_by_its_owner_and_what_is_said_about_it() -> None:
    plan = _plan(
        entry(1, "SCHEMA", "s", "CREATE SCHEMA s;", namespace=None, drop="DROP SCHEMA s;\n", owner="anna"),
        replace(table(2, "a", 1), owner="anna"),
        entry(
            3, "FUNCTION", "f(integer)", "CREATE FUNCTION …", drop="DROP FUNCTION public.f(i integer);\n", owner="anna"
        ),
        entry(4, "ACL", "SCHEMA s", "GRANT USAGE ON SCHEMA s TO anna;", 1, namespace=None),
        entry(5, "ACL", "TABLE a", "GRANT SELECT ON TABLE public.a TO anna;", 2),
        entry(6, "COMMENT", "TABLE a", "COMMENT ON TABLE public.a IS 'x';", 2),
        entry(7, "SECURITY LABEL", "TABLE a", "SECURITY LABEL FOR p ON TABLE public.a IS 'x';", 2),
        entry(8, "COMMENT", "SCHEMA public", "COMMENT ON SCHEMA public IS 'x';", 99, namespace=None),
        at=sink(roles=("boss", "anna")),
    )

    assert _sql(plan) == [
        "CREATE SCHEMA s;",
        'ALTER SCHEMA s OWNER TO "anna";',
        "GRANT USAGE ON SCHEMA s TO anna;",
        "CREATE TABLE public.a (id integer);",
        'ALTER TABLE public.a OWNER TO "anna";',
        "COMMENT ON TABLE public.a IS 'x';",
        "SECURITY LABEL FOR p ON TABLE public.a IS 'x';",
        "CREATE FUNCTION …",
        'ALTER FUNCTION public.f(i integer) OWNER TO "anna";',
        "COMMENT ON SCHEMA public IS 'x';",
    ]
    # A label's provider may not be loaded; for a superuser nothing else may fail.
    assert [s.object for s in plan.pre_data if s.is_optional] == ["SECURITY LABEL public.TABLE a"]
    (privileges,) = [step for step in plan.post_data if step.kind == "privileges"]
    assert [s.sql for s in privileges.statements] == ["GRANT SELECT ON TABLE public.a TO anna;"]


def test_the_schema_that_every_database_has_is_not_created_but_owned() -> None:
    public = entry(
        1,
        "SCHEMA",
        "public",
        "-- *not* creating schema, since initdb creates it",
        namespace=None,
        owner="anna",
        drop="--",
    )

    assert _sql(_plan(public, at=sink(roles=("boss", "anna")))) == ['ALTER SCHEMA "public" OWNER TO "anna";']


def test_owners_and_grants_without_superuser() -> None:
    """A member may give to a role; who is none, or where there is no such role, has it listed."""
    mine = sink(is_superuser=False, roles=("boss", "other"), members=("anna",))
    entries = (
        replace(table(1, "a"), owner="anna"),
        replace(table(2, "b"), owner="other"),
        replace(table(3, "c"), owner="nobody"),
        replace(table(4, "d"), owner="boss"),
        entry(
            5,
            "ACL",
            "TABLE a",
            "GRANT SELECT ON TABLE public.a TO other;\nSET SESSION AUTHORIZATION anna;\n"
            "GRANT SELECT ON TABLE public.a TO PUBLIC;\nRESET SESSION AUTHORIZATION;\n"
            "SET SESSION AUTHORIZATION other;\nGRANT SELECT ON TABLE public.a TO anna;\nRESET SESSION AUTHORIZATION;\n"
            'GRANT SELECT ON TABLE public.a TO "who?";',
            1,
        ),
    )

    plan = _plan(*entries, at=mine)
    without = _plan(*entries, at=mine, options=PlanOptions(no_owner=True, no_privileges=True))

    assert [s for s in _sql(plan) if "OWNER" in s] == ['ALTER TABLE public.a OWNER TO "anna";']
    assert _found(plan.findings) == {
        ("owner-kept", "other", "WARNING"),
        ("owner-kept", "nobody", "WARNING"),
        ("grant-left-out", "who?", "WARNING"),
        ("grant-left-out", "other", "WARNING"),
    }
    (privileges,) = [step for step in plan.post_data if step.kind == "privileges"]
    assert [(s.sql, s.is_optional) for s in privileges.statements] == [
        ("GRANT SELECT ON TABLE public.a TO other;", True),
        ('SET ROLE "anna"; GRANT SELECT ON TABLE public.a TO PUBLIC; RESET ROLE;', True),
    ]
    assert without.findings == ()
    assert not [s for s in _sql(without) if "OWNER" in s]


def test_a_superuser_grants_as_the_grantor() -> None:
    text = "SET SESSION AUTHORIZATION anna;\nGRANT SELECT ON TABLE public.a TO boss;\nRESET SESSION AUTHORIZATION;"

    plan = _plan(table(1, "a"), entry(2, "ACL", "TABLE a", text, 1), at=sink(roles=("boss", "anna")))

    assert plan.post_data[0].statements[0].sql == (
        'SET SESSION AUTHORIZATION "anna"; GRANT SELECT ON TABLE public.a TO boss; RESET SESSION AUTHORIZATION;'
    )


def test_views_are_filled_after_what_they_read_and_only_if_they_were() -> None:
    """Through ordinary views too; one that reads an unfilled one cannot be filled either."""
    entries = (
        table(1, "t"),
        _view(2, "z", 1),
        entry(3, "VIEW", "v", "CREATE VIEW public.v AS SELECT;", 2),
        _view(4, "a", 3),
        _view(5, "unfilled"),
        _view(6, "stuck", 5),
        index(7, "z_i", "z", 2),
    )
    facts = _facts(t=source_table(), z=_FILLED_VIEW, a=_FILLED_VIEW, unfilled=_EMPTY_VIEW, stuck=_FILLED_VIEW)

    plan = _plan(*entries, of=facts)

    refreshes = {step.id: step for step in plan.post_data if step.kind == "refresh"}
    assert list(refreshes) == ["refresh:public.z", "refresh:public.a"]
    assert refreshes["refresh:public.z"].depends_on == ("index:public.z_i",)
    assert refreshes["refresh:public.a"].depends_on == ("refresh:public.z",)
    assert refreshes["refresh:public.a"].statements[0].sql.endswith('REFRESH MATERIALIZED VIEW "public"."a"')
    assert _found(plan.findings) == {("view-not-refreshed", "public.stuck", "WARNING")}


def test_a_view_is_filled_once_it_may_be_read() -> None:
    """Its owner needs the privileges that come at the end."""
    plan = _plan(
        table(1, "t"),
        _view(2, "m", 1),
        entry(3, "ACL", "TABLE t", "GRANT SELECT ON TABLE public.t TO boss;", 1),
        of=_facts(t=source_table(), m=_FILLED_VIEW),
    )

    assert [step.id for step in plan.post_data][:2] == ["privileges:all objects", "refresh:public.m"]
    assert plan.post_data[1].depends_on == ("privileges:all objects",)


def test_large_tables_are_analyzed_alone_and_small_ones_together() -> None:
    facts = {f"t{at}": source_table(size_bytes=10) for at in range(250)} | {"big": source_table(size_bytes=10**9)}
    entries = [table(at + 1, name) for at, name in enumerate(facts)]

    plan = _plan(*entries, primary_key(900, "t7", 8), of=_facts(**facts))

    analyses = [step for step in plan.post_data if step.kind == "analyze"]
    assert [(step.name, len(step.statements)) for step in analyses] == [
        ("100 small tables", 100),
        ("100 small tables", 100),
        ("big", 1),
        ("50 small tables", 50),
    ]
    assert analyses[0].depends_on == ('constraint:public."t7 t7_pkey"',)
    assert analyses[2].statements[0].sql == 'ANALYZE "public"."big"'


_PARTITIONED = (
    table(1, "p"),
    table(2, "p1", 1),
    entry(3, "TABLE ATTACH", "p1", "ALTER TABLE ONLY public.p ATTACH PARTITION public.p1 DEFAULT;", 2, 1),
)


@pytest.mark.parametrize(
    ("version_num", "statements"),
    [
        (170000, ['ANALYZE "public"."p"']),
        (180000, ['ANALYZE ONLY "public"."p"', 'ANALYZE "public"."p1"']),
    ],
)
def test_no_partition_is_analyzed_twice(version_num: int, statements: list[str]) -> None:
    facts = _facts(p=source_table(kind="p"), p1=source_table())

    plan = _plan(*_PARTITIONED, at=sink(version_num), of=facts)

    assert [s.sql for step in plan.post_data for s in step.statements] == statements


def test_sequences_come_after_everything_but_event_triggers() -> None:
    plan = _plan(
        entry(1, "EVENT TRIGGER", "e", "CREATE EVENT TRIGGER e …", namespace=None),
        entry(2, "SEQUENCE", "q", "CREATE SEQUENCE public.q;"),
        table(3, "t"),
        primary_key(4, "t", 3),
        of=_facts(t=source_table()),
    )

    assert [step.kind for step in plan.post_data] == ["constraint", "analyze", "sequences", "event trigger"]
    sequences, trigger = plan.post_data[2:]
    assert [target.name.name for target in sequences.sequences] == ["q"]
    assert set(sequences.depends_on) == {step.id for step in plan.post_data[:2]}
    assert set(trigger.depends_on) == {step.id for step in plan.post_data[:3]}


def test_keys_can_come_before_the_load_with_what_they_need() -> None:
    entries = (table(1, "a"), primary_key(2, "a", 1), index(3, "i", "a", 1), index(4, "j", "a", 1))
    a = TableName(schema="public", name="a")

    primary = _plan(*entries, options=PlanOptions(keys_before={a: None}))
    other = _plan(*entries, options=PlanOptions(keys_before={a: "i"}))
    none = _plan(*entries)

    assert [s.object for s in primary.pre_data] == ["TABLE public.a", "CONSTRAINT public.a a_pkey"]
    assert [s.object for s in other.pre_data] == ["TABLE public.a", "INDEX public.i"]
    assert [s.object for s in none.pre_data] == ["TABLE public.a"]
    assert [step.kind for step in primary.post_data] == ["index", "index", "analyze"]


def test_a_foreign_key_waits_for_both_tables() -> None:
    plan = _plan(
        table(1, "a"),
        table(2, "b"),
        foreign_key(3, "b", "a", 2, 1, 4),
        primary_key(4, "a", 1),
        index(5, "i", "b", 2),
    )

    key = next(step for step in plan.post_data if step.kind == "fk constraint")
    assert set(key.depends_on) == {'constraint:public."a a_pkey"', "index:public.i"}
    assert key.namespace == "public.b"


def test_what_no_transaction_can_hold_is_refused_by_name() -> None:
    """pg_dump writes no such thing into a database's archive; a step that cannot roll back must not slip in."""
    concurrent = entry(2, "INDEX", "i", "CREATE INDEX CONCURRENTLY i ON public.a USING btree (id);", 1)

    with pytest.raises(ArchiveError, match="INDEX i cannot be created in a transaction"):
        _plan(table(1, "a"), concurrent)


def _extension(dump_id: int, name: str) -> TocEntry:
    text = f"CREATE EXTENSION IF NOT EXISTS {name} WITH SCHEMA public;"
    return entry(dump_id, "EXTENSION", name, text, namespace=None)


def _known(name: str, **facts: object) -> ExtensionFacts:
    base = ExtensionFacts(
        name=name, installed_version=None, schema=None, is_owner=False, default_version="1.0", may_create=True
    )
    return replace(base, **facts)  # type: ignore[arg-type]  # the caller names fields


def test_an_extension_is_made_used_or_a_reason_to_stop() -> None:
    extensions = {
        "made": _known("made"),
        "there": _known("there", installed_version="1.1", schema="public"),
        "moved": _known("moved", installed_version="1.0", schema="elsewhere"),
        "closed": _known("closed", may_create=False),
        "bare": _known("bare", default_version=None),
    }
    facts = replace(source(), extensions=dict.fromkeys([*extensions, "gone"], ("public", "1.0")))
    entries = [_extension(at, name) for at, name in enumerate([*extensions, "gone"], 1)]

    plan = _plan(*entries, at=replace(sink(), extensions=extensions), of=facts)

    assert _found(plan.findings) == {
        ("extension-version", "there", "INFO"),
        ("extension-schema", "moved", "STOP"),
        ("extension-privilege", "closed", "STOP"),
        ("extension-missing", "bare", "STOP"),
        ("extension-missing", "gone", "STOP"),
    }
    assert {s.object for s in plan.pre_data} >= {"EXTENSION made"}
    assert not {s.object for s in plan.pre_data} & {"EXTENSION there", "EXTENSION moved"}


@pytest.mark.parametrize(
    ("desc", "definition", "is_left_out"),
    [
        ("FUNCTION", "CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE c\n    AS '$libdir/x', 'y';", True),
        ("FUNCTION", 'CREATE FUNCTION "public"."f"() RETURNS integer\n    LANGUAGE "plpython3u"\n    AS $$1$$;', True),
        (
            "FUNCTION",
            "CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE sql LEAKPROOF\n    AS $$SELECT 1$$;",
            True,
        ),
        (
            "FUNCTION",
            "CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE sql\n    AS $$LANGUAGE c LEAKPROOF$$;",
            False,
        ),
        (
            "FUNCTION",
            "CREATE FUNCTION public.f(leakproof integer DEFAULT 1) RETURNS integer\n LANGUAGE sql AS $$1$$;",
            False,
        ),
        ("TYPE", "CREATE TYPE public.f (\n    INPUT = a, OUTPUT = b\n);", True),
        ("TYPE", "CREATE TYPE public.f;", True),
        ("TYPE", "CREATE TYPE public.f AS ENUM ('a');", False),
        ("CAST", "CREATE CAST (public.a AS text) WITHOUT FUNCTION;", True),
        ("CAST", "CREATE CAST (public.a AS text) WITH INOUT AS ASSIGNMENT;", False),
        ("EVENT TRIGGER", "CREATE EVENT TRIGGER f …", True),
    ],
)
def test_what_only_a_superuser_creates_is_left_out_for_others(desc: str, definition: str, is_left_out: bool) -> None:
    one = entry(1, desc, "f", definition)

    assert (_found(_plan(one, at=sink(is_superuser=False)).findings) != set()) is is_left_out
    assert _plan(one).findings == ()


def test_a_table_that_needs_it_stops() -> None:
    entries = (entry(1, "TYPE", "raw", "CREATE TYPE public.raw (\n    INPUT = a\n);"), table(2, "a", 1))

    plan = _plan(*entries, at=sink(is_superuser=False))

    assert ("cannot-create", "TABLE public.a", "STOP") in _found(plan.findings)


def test_what_is_there_is_not_made_again() -> None:
    """Nor is anything said about it; sequences that are there only move forward."""
    names = ExistingObjects(
        relations={TableName(schema="public", name=n): None for n in ("a", "v", "q")},
        types=frozenset({TableName(schema="public", name="mood")}),
        functions=frozenset({TableName(schema="public", name="f(integer)")}),
        others=frozenset({("COLLATION", "public", "plain")}),
    )
    plan = _plan(
        table(1, "a"),
        entry(2, "VIEW", "v", "CREATE VIEW public.v AS SELECT;", 1),
        entry(3, "SEQUENCE", "q", "CREATE SEQUENCE public.q;"),
        entry(4, "TYPE", "mood", "CREATE TYPE public.mood AS ENUM ('a');"),
        entry(5, "FUNCTION", "f(integer)", "CREATE FUNCTION …"),
        entry(6, "COLLATION", "plain", "CREATE COLLATION …"),
        entry(7, "COMMENT", "TABLE a", "COMMENT …", 1),
        entry(8, "TRIGGER", "a t", "CREATE TRIGGER t BEFORE INSERT ON public.a EXECUTE FUNCTION public.f();", 1, 5),
        entry(9, "FUNCTION", "f(text)", "CREATE FUNCTION another"),
        at=replace(sink(), objects=names),
        options=PlanOptions(usable_tables=frozenset({TableName(schema="public", name="a")})),
    )

    assert _sql(plan) == ["CREATE FUNCTION another"]
    assert [(s.kind, [t.only_forward for t in s.sequences]) for s in plan.post_data if s.sequences] == [
        ("sequences", [True])
    ]
    assert {code for code, _, _ in _found(plan.findings)} == {"object-exists", "existing-table-kept"}


def test_settings_that_a_server_does_not_know_are_passed_over() -> None:
    """`transaction_timeout` came with 17: the statement asks pg_settings which of them exist."""
    assert "transaction_timeout" in SETTINGS.sql
    assert "JOIN pg_catalog.pg_settings" in SETTINGS.sql
