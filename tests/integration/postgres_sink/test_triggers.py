"""Triggers and foreign keys do not fire during the load, with superuser and without, and are as before after it."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from dsync_postgres.options import PostgresOptions

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import Sink, copy_tables, describe, finish_all, page_of, prepare_request
from tests.support.databases import Database, DatabaseFactory

both = pytest.mark.parametrize("pg_pair", [(15, 15), (16, 16), (18, 18)], indirect=True)

CONSENT = PostgresOptions(allow_drop_foreign_keys=True)

TABLES = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int);
"""


def family(uri: str) -> None:
    """Children whose parents are not there, which no foreign key would take."""
    with psycopg.connect(uri) as connection:
        connection.execute(TABLES)
        connection.execute("INSERT INTO child SELECT g, g FROM generate_series(1, 20) g")


def guarded(uri: str) -> None:
    """The same tables, empty, with everything that fires."""
    with psycopg.connect(uri) as connection:
        connection.execute(TABLES)
        connection.execute(
            """
            ALTER TABLE child ADD CONSTRAINT known FOREIGN KEY (parent) REFERENCES parent
              ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
            COMMENT ON CONSTRAINT known ON child IS 'do not lose me';
            CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it fired'; END $$;
            CREATE TRIGGER ordinary BEFORE INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION fire();
            CREATE TRIGGER "always; on" AFTER INSERT ON child FOR EACH STATEMENT EXECUTE FUNCTION fire();
            ALTER TABLE child ENABLE ALWAYS TRIGGER "always; on";
            CREATE TRIGGER in_replica BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION fire();
            ALTER TABLE child ENABLE REPLICA TRIGGER in_replica;
            CREATE TRIGGER off BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION fire();
            ALTER TABLE child DISABLE TRIGGER off;
            """
        )


def state(database: Database) -> list[tuple[object, ...]]:
    """Everything that fires, and how."""
    return [
        *database.rows(
            "SELECT tgname::text, tgenabled::text FROM pg_trigger"
            " WHERE NOT tgisinternal AND tgrelid = 'child'::regclass ORDER BY 1"
        ),
        *database.rows(
            "SELECT conname::text, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')"
            " FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
        ),
    ]


def as_owner(database: Database) -> str:
    """The URI of a role that owns the database and everything in it, and is nothing else."""
    uri = database.owner_uri()
    with psycopg.connect(uri) as connection:
        (role,) = connection.execute("SELECT current_user").fetchone() or ("",)
    for name in ("parent", "child"):
        database.run(f'ALTER TABLE {name} OWNER TO "{role}"'.encode())  # type: ignore[arg-type]
    return uri


async def load(source: Database, sink: Sink) -> types.Prepared:
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await copy_tables(sink, source, prepared)
    return prepared


@both
async def test_a_superuser_leaves_ordinary_triggers_alone(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """session_replication_role keeps them from firing; only those that fire in spite of it are switched off."""
    source, target = source_db(family), sink_db(guarded)
    before = state(target)
    sink = open_sink(target)
    prepared = await load(source, sink)
    assert dict(row for row in state(target) if len(row) == 2) == {
        "ordinary": "O",
        "always; on": "D",
        "in_replica": "D",
        "off": "D",
    }
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 1
    await finish_all(sink, source, prepared)
    assert state(target) == before
    assert target.value("SELECT count(*) FROM child") == 20


@both
async def test_an_owner_switches_triggers_off_and_drops_foreign_keys_with_consent(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(family), sink_db(guarded)
    source.run("INSERT INTO parent SELECT generate_series(1, 20)")
    uri, before = as_owner(target), state(target)
    with_consent = open_sink(target, uri=uri, options=CONSENT)
    prepared = await load(source, with_consent)
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 0
    await finish_all(with_consent, source, prepared)
    assert state(target) == before
    assert target.value("SELECT convalidated FROM pg_constraint WHERE conname = 'known'")


@both
async def test_without_consent_nothing_is_dropped_and_the_way_out_is_named(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(family), sink_db(guarded)
    uri, before = as_owner(target), state(target)
    sink = open_sink(target, uri=uri)
    request = prepare_request(await describe(source))
    tried = await sink.side.prepare(replace(request, dry_run=True))
    (stop,) = [finding for finding in tried.findings if finding.severity is types.Severity.STOP]
    assert stop.code == "foreign-keys-fire"
    assert "allow_drop_foreign_keys=true" in stop.remedy
    assert "session_replication_role" in stop.remedy
    with pytest.raises(errors.PermanentError, match="foreign key known"):
        await sink.side.prepare(request)
    assert state(target) == before


@pytest.mark.parametrize("left", ["DROP CONSTRAINT known", "DISABLE TRIGGER USER"])
async def test_a_role_that_does_not_own_the_table_is_told_what_to_grant(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, left: str
) -> None:
    """For triggers as for foreign keys."""
    source, target = source_db(family), sink_db(guarded)
    target.run(f"ALTER TABLE child {left}".encode())  # type: ignore[arg-type]
    uri = target.owner_uri()
    target.run("GRANT ALL ON child, parent TO public")
    request = prepare_request(await describe(source), dry_run=True)
    tried = await open_sink(target, uri=uri, options=CONSENT).side.prepare(request)
    stops = [finding for finding in tried.findings if finding.severity is types.Severity.STOP]
    assert {finding.code for finding in stops} == {"triggers-fire"}
    assert all("GRANT SET ON PARAMETER session_replication_role" in finding.remedy for finding in stops)


@pytest.mark.parametrize("pg_pair", [(15, 15), (18, 18)], indirect=True)
async def test_a_granted_parameter_is_as_good_as_superuser(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(family), sink_db(guarded)
    uri = as_owner(target)
    role = psycopg.conninfo.conninfo_to_dict(uri)["user"]
    target.run(f'GRANT SET ON PARAMETER session_replication_role TO "{role}"'.encode())  # type: ignore[arg-type]
    before = state(target)
    try:
        sink = open_sink(target, uri=uri)
        prepared = await load(source, sink)
        assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 1
        await finish_all(sink, source, prepared)
        assert state(target) == before
        assert target.value("SELECT count(*) FROM child") == 20
    finally:
        target.run(f'REVOKE SET ON PARAMETER session_replication_role FROM "{role}"'.encode())  # type: ignore[arg-type]


@both
async def test_what_was_set_aside_comes_back_after_a_crash(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Another process, which has only what the coordinator and the ledger have kept, puts it back."""
    source, target = source_db(family), sink_db(guarded)
    source.run("INSERT INTO parent SELECT generate_series(1, 20)")
    uri, before = as_owner(target), state(target)
    prepared = await load(source, open_sink(target, uri=uri, options=CONSENT))
    again = open_sink(target, uri=uri, options=CONSENT)
    assert (await again.side.prepare(prepare_request(await describe(source)))).steps == prepared.steps
    await finish_all(again, source, prepared)
    assert state(target) == before
    await finish_all(again, source, prepared)
    assert state(target) == before


@both
async def test_reset_puts_back_what_an_unfinished_flow_had_set_aside(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Also where the rows do not satisfy the foreign key: then it is made NOT VALID, and said so."""
    source, target = source_db(family), sink_db(guarded)
    uri, before = as_owner(target), state(target)
    sink = open_sink(target, uri=uri, options=CONSENT)
    await load(source, sink)
    said = await open_sink(target, uri=uri).side.forget_flow(sink.flow)
    after = state(target)
    assert after[:4] == before[:4]
    assert after[4][1] == f"{before[4][1]} NOT VALID"
    assert after[4][2] == "do not lose me"
    assert "foreign key known of public.child: made again, NOT VALID, since the rows do not satisfy it" in said
    assert "trigger ordinary of public.child: enabled again" in said


async def test_a_foreign_key_that_the_rows_break_fails_its_step_alone(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """It can be done again once the rows are repaired; until then triggers stay off, and reset knows of them."""
    source, target = source_db(family), sink_db(guarded)
    uri, before = as_owner(target), state(target)
    sink = open_sink(target, uri=uri, options=CONSENT)
    prepared = await load(source, sink)
    with pytest.raises(errors.PermanentError, match="rows that were copied do not satisfy it"):
        await finish_all(sink, source, prepared)
    target.run("INSERT INTO parent SELECT generate_series(1, 20)")
    await finish_all(sink, source, prepared)
    assert state(target) == before


async def test_triggers_that_somebody_switches_on_meanwhile_stop_the_table(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(family), sink_db(guarded)
    uri = as_owner(target)
    sink = open_sink(target, uri=uri, options=CONSENT)
    await sink.side.prepare(prepare_request(await describe(source)))
    target.run("ALTER TABLE child ENABLE TRIGGER ordinary")
    await sink.open("u", namespace="public.child")
    with pytest.raises(errors.NamespaceChangedError, match="on again"):
        await sink.write(sink.request(page_of(source, "SELECT * FROM child"), namespace="public.child"))


async def test_a_trigger_or_key_that_somebody_dropped_meanwhile_stays_dropped(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(family), sink_db(guarded)
    sink = open_sink(target, uri=as_owner(target), options=CONSENT)
    prepared = await load(source, sink)
    target.run("DROP TRIGGER ordinary ON child")
    target.run("ALTER TABLE child ADD CONSTRAINT known CHECK (id > 0)")
    await finish_all(sink, source, prepared)
    assert [row[0] for row in state(target)] == ["always; on", "in_replica", "off"]


@both
async def test_partitions_with_their_roots_triggers_and_keys(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """A partition's copy of a trigger is its own to switch off; its foreign key belongs to the root."""

    def fill(uri: str, *, is_sink: bool) -> None:
        with psycopg.connect(uri) as connection:
            connection.execute("CREATE TABLE parent (id int PRIMARY KEY)")
            connection.execute("CREATE TABLE child (id int, parent int) PARTITION BY RANGE (id)")
            connection.execute("CREATE TABLE child_1 PARTITION OF child FOR VALUES FROM (0) TO (10)")
            connection.execute("CREATE TABLE child_2 PARTITION OF child FOR VALUES FROM (10) TO (100)")
            if not is_sink:
                connection.execute("INSERT INTO child SELECT g, g FROM generate_series(1, 20) g")
                connection.execute("INSERT INTO parent SELECT generate_series(1, 20)")
                return
            connection.execute("ALTER TABLE child ADD CONSTRAINT known FOREIGN KEY (parent) REFERENCES parent")
            connection.execute(
                "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it fired'; END $$"
            )
            connection.execute("CREATE TRIGGER t BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION fire()")

    source, target = source_db(lambda uri: fill(uri, is_sink=False)), sink_db(lambda uri: fill(uri, is_sink=True))
    uri = as_owner(target)
    role = psycopg.conninfo.conninfo_to_dict(uri)["user"]
    for part in ("child_1", "child_2"):
        target.run(f'ALTER TABLE {part} OWNER TO "{role}"'.encode())  # type: ignore[arg-type]
    everything = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    keys = (
        "SELECT conrelid::regclass::text, conname, conparentid <> 0 FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    )
    before = [target.rows(query.encode()) for query in (everything, keys)]  # type: ignore[arg-type]
    sink = open_sink(target, uri=uri, options=CONSENT)
    prepared = await load(source, sink)
    await finish_all(sink, source, prepared)
    assert target.value("SELECT count(*) FROM child") == 20
    assert [target.rows(query.encode()) for query in (everything, keys)] == before  # type: ignore[arg-type]


async def test_a_table_in_use_is_not_waited_for_without_end(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody who comes after us would wait with us; the call is repeated later instead."""
    monkeypatch.setattr("dsync_postgres.sink.aside._LOCK_TIMEOUT", "SET LOCAL lock_timeout = '100ms'")
    source, target = source_db(family), sink_db(guarded)
    sink = open_sink(target)
    request = prepare_request(await describe(source))
    before = state(target)
    with psycopg.connect(target.uri) as user:
        user.execute("LOCK TABLE child IN ROW EXCLUSIVE MODE")
        with pytest.raises(errors.ConflictError, match="55P03"):
            await sink.side.prepare(request)
        user.rollback()
    assert state(target) == before
    await sink.side.prepare(request)


async def test_a_later_run_puts_back_what_an_earlier_one_had_set_aside(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """The earlier run was given up before its last steps; for the later one everything is off already."""
    source, target = source_db(family), sink_db(guarded)
    source.run("INSERT INTO parent SELECT generate_series(1, 20)")
    uri, before = as_owner(target), state(target)
    await load(source, open_sink(target, uri=uri, options=CONSENT))
    later = open_sink(target, uri=uri, options=CONSENT)
    later.run = "r2"
    prepared = await later.side.prepare(replace(prepare_request(await describe(source)), run="r2"))
    await finish_all(later, source, prepared)
    assert state(target) == before
