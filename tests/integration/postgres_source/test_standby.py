"""A standby as source: it can be written to by nobody, us included."""

from collections.abc import Iterator

import psycopg
import pytest

from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.support import Copy
from tests.support.databases import Database, PgServers
from tests.support.waiting import wait_for


@pytest.fixture(params=[16, 18])
def pair(request: pytest.FixtureRequest, own_servers: PgServers) -> Iterator[tuple[Database, Database]]:
    """A primary with a table, and its standby."""
    primary = own_servers.own(request.param)
    database = Database(server=primary, name="postgres")
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, a int, filler text) WITH (autovacuum_enabled = off)",
        "INSERT INTO t SELECT i, i, repeat('x', 100) FROM generate_series(1, 3000) i",
    )
    with EmbeddedPostgres(standby_of=primary, settings={"hot_standby_feedback": "on"}) as standby:
        replica = Database(server=standby, name="postgres")
        catch_up(database, replica)
        yield database, replica


def catch_up(primary: Database, standby: Database) -> None:
    """Wait until the standby has replayed what the primary has written."""
    position = primary.value("SELECT pg_current_wal_flush_lsn()::text")
    wait_for(
        lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]),
        timeout_s=30,
        what="the standby to catch up",
    )


async def test_a_standby_is_copied_and_resumed(pair: tuple[Database, Database], open_source: OpenSource) -> None:
    """Snapshot, pages and verdicts need no write."""
    primary, standby = pair
    source = await open_source(standby)
    plan = await source.plan("public.t")
    copy = Copy(partitions=list(plan.partitions))
    await copy.step(source, plan.partitions[0])
    await copy.step(source, plan.partitions[0])
    await source.connector.close()
    primary.run("DELETE FROM t WHERE id > 2900")
    catch_up(primary, standby)

    again = await open_source(standby)
    resumed = await again.connector.resume_plan(plan.snapshot, copy.progress())

    assert [verdict.verdict for verdict in resumed.verdicts] == [types.Verdict.UNCHANGED]
    await copy.finish(again)
    assert sum(copy.lines().values()) == 2900
    found = await again.connector.check(types.CheckRequest(role=types.Role.SOURCE))
    assert "standby" in {finding.code for finding in found}


async def test_a_standby_is_not_followed_and_nothing_has_to_be_let_go(
    pair: tuple[Database, Database], open_source: OpenSource
) -> None:
    """A copy of it writes nothing, and so does a reset; following it is refused with what to do."""
    _, standby = pair
    source = await open_source(standby, flow="never")
    with pytest.raises(errors.UnsupportedError, match="primary"):
        await source.connector.open_plan(["public.t"], updates=True)
    found = await source.connector.check(types.CheckRequest(role=types.Role.SOURCE, updates=True))
    assert [finding.code for finding in found if finding.severity is types.Severity.STOP] == ["standby-not-followed"]
    assert await source.connector.release_changes("never") == []


async def test_large_objects_of_a_standby(pair: tuple[Database, Database], open_source: OpenSource) -> None:
    """They are opened for reading only, which a standby allows."""
    primary, standby = pair
    primary.run("SELECT lo_from_bytea(n, repeat('x', 1000 * n)::bytea) FROM generate_series(301, 303) n")
    catch_up(primary, standby)
    source = await open_source(standby, page_bytes=64 * 1024)
    name = "pg_catalog.pg_largeobject"
    plan = await source.plan(name)

    (partition,) = plan.partitions
    rows, cursor = 0, b""
    while True:
        page = await source.page(partition, cursor)
        rows, cursor = rows + page.rows, page.next_cursor
        if not cursor:
            break

    assert rows == 6, "of each a whole piece and what is left"
    assert await source.connector.count_rows(name) == 6


async def test_a_snapshot_that_replay_ends_is_a_lost_one(own_servers: PgServers, open_source: OpenSource) -> None:
    """Without feedback the primary removes what the standby still reads; the copy goes on by verdicts."""
    primary = own_servers.own(18)
    database = Database(server=primary, name="postgres")
    database.run(
        "CREATE TABLE t WITH (autovacuum_enabled = off) AS SELECT i FROM generate_series(1, 20000) i",
        "CREATE TABLE busy WITH (autovacuum_enabled = off) AS SELECT i FROM generate_series(1, 1000) i",
    )
    settings = {"hot_standby_feedback": "off", "max_standby_streaming_delay": "0"}
    with EmbeddedPostgres(standby_of=primary, settings=settings) as standby:
        replica = Database(server=standby, name="postgres")
        catch_up(database, replica)
        source = await open_source(replica)
        plan = await source.plan("public.t")
        copy = Copy(partitions=list(plan.partitions))
        await copy.step(source, plan.partitions[0])
        database.run("DELETE FROM busy", "VACUUM busy")
        catch_up(database, replica)

        with pytest.raises(errors.SnapshotLostError):
            await copy.step(source, plan.partitions[0])
        resumed = await source.connector.resume_plan(plan.snapshot, copy.progress())

        assert [verdict.verdict for verdict in resumed.verdicts] == [types.Verdict.UNCHANGED]
        await copy.finish(source)
        assert sum(copy.lines().values()) == 20000
        await source.connector.close()


async def test_a_server_that_crashed_and_came_back_is_gone_on_with(
    own_servers: PgServers, open_source: OpenSource
) -> None:
    """Its rows are what they were; the snapshot is not, and neither are the connections."""
    server = own_servers.own(18)
    database = Database(server=server, name="postgres")
    database.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 20000) i")
    source = await open_source(database)
    plan = await source.plan("public.t")
    copy = Copy(partitions=list(plan.partitions))
    await copy.step(source, plan.partitions[0])

    server.stop("immediate")
    with pytest.raises((errors.SnapshotLostError, errors.ServerUnavailableError)):
        await copy.step(source, plan.partitions[0])
    with pytest.raises(errors.ServerUnavailableError):
        await source.connector.resume_plan(plan.snapshot, copy.progress())
    server.start()

    resumed = await source.connector.resume_plan(plan.snapshot, copy.progress())
    assert [verdict.verdict for verdict in resumed.verdicts] == [types.Verdict.UNCHANGED]
    await copy.finish(source)
    assert sum(copy.lines().values()) == 20000


async def test_a_standby_that_has_fallen_behind_is_no_continuation(
    pair: tuple[Database, Database], open_source: OpenSource
) -> None:
    """Behind one name a lagging copy may answer: it shows older rows, each of which looks old enough."""
    primary, standby = pair
    standby.run("SELECT pg_wal_replay_pause()")
    wait_for(lambda: standby.value("SELECT pg_get_wal_replay_pause_state() = 'paused'"))
    primary.run("UPDATE t SET a = -a WHERE id = 5")
    source = await open_source(primary)
    plan = await source.plan("public.t")
    copy = Copy(partitions=list(plan.partitions))
    await copy.finish(source)
    await source.connector.close()

    behind = await open_source(standby)
    resumed = await behind.connector.resume_plan(plan.snapshot, copy.progress())

    (verdict,) = resumed.verdicts
    assert verdict.verdict is types.Verdict.CHANGED
    assert "log ends before" in verdict.reason


async def test_after_a_promotion_nothing_copied_is_trusted(
    pair: tuple[Database, Database], open_source: OpenSource
) -> None:
    """The new primary gives numbers of transactions again that the old one has used."""
    primary, standby = pair
    source = await open_source(primary)
    plan = await source.plan("public.t")
    copy = Copy(partitions=list(plan.partitions))
    await copy.step(source, plan.partitions[0])
    await source.connector.close()
    catch_up(primary, standby)
    standby.run("SELECT pg_promote()")

    promoted = await open_source(standby)
    resumed = await promoted.connector.resume_plan(plan.snapshot, copy.progress())

    (verdict,) = resumed.verdicts
    assert verdict.verdict is types.Verdict.CHANGED
    assert "promoted" in verdict.reason


async def test_a_copy_of_a_server_is_told_from_it(pair: tuple[Database, Database], open_source: OpenSource) -> None:
    """They share system identifier, names and numbers; when each was started tells them apart."""
    primary, standby = pair
    one = await (await open_source(primary)).connector.get_info()
    two = await (await open_source(standby)).connector.get_info()

    assert one.id == two.id
    assert one.spec != two.spec


async def test_a_database_is_the_same_after_a_restart_and_no_other(
    own_servers: PgServers, open_source: OpenSource
) -> None:
    """By which a resumed flow knows its endpoint."""
    server = own_servers.own(18)
    server.create_database("other")
    before = await (source := await open_source(Database(server=server, name="postgres"))).connector.get_info()
    other = await (await open_source(Database(server=server, name="other"))).connector.get_info()
    await source.connector.close()

    server.restart()

    with psycopg.connect(server.uri()):
        after = await (await open_source(Database(server=server, name="postgres"))).connector.get_info()
    assert before.id == after.id
    assert before.id != other.id
    assert after.db_type == "postgres"
    assert after.version.startswith("18.")
