"""pg_dump runs under the copy's snapshot, says what went wrong, and leaves neither process nor secret behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from dsync_postgres.schema import (
    DumpRequest,
    PgDump,
    TableName,
    build_graph,
    choose_pg_dump,
    dump_schema,
    read_archive,
)
from dsync_postgres.schema.errors import PgDumpConnectionError, PgDumpLockError

from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import errors
from tests.integration.postgres_schema.support import nasty
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for_async

_CANARY = "canary-hunter2"


async def _tool(major: int = 18) -> PgDump:
    return (await choose_pg_dump(major, major)).require()


def _relations(data: bytes) -> set[str]:
    return {str(name) for name in build_graph(read_archive(data)).relations}


async def test_the_schema_is_that_of_the_snapshot(database: DatabaseFactory) -> None:
    """A table made after the snapshot is not in it, whenever pg_dump gets to run."""
    one = database()
    one.run("CREATE TABLE public.before (id integer)")
    with psycopg.connect(one.uri) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ((snapshot,),) = holder.execute("SELECT pg_export_snapshot()").fetchall()
        one.run("CREATE TABLE public.after (id integer)")

        data = await dump_schema(DumpRequest(tool=await _tool(), conninfo=one.uri, snapshot=snapshot))

    assert _relations(data) == {"public.before"}


async def test_a_snapshot_that_is_gone_is_a_named_error(database: DatabaseFactory) -> None:
    one = database()
    with psycopg.connect(one.uri) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ((snapshot,),) = holder.execute("SELECT pg_export_snapshot()").fetchall()

    with pytest.raises(errors.SnapshotLostError, match="plan has to be made again"):
        await dump_schema(DumpRequest(tool=await _tool(), conninfo=one.uri, snapshot=snapshot))


async def test_our_ledger_is_never_part_of_a_schema(database: DatabaseFactory) -> None:
    one = database()
    one.run("CREATE SCHEMA _dsync", "CREATE TABLE _dsync.ledger (id integer)", "CREATE TABLE public.t (id integer)")

    data = await dump_schema(DumpRequest(tool=await _tool(), conninfo=one.uri))

    assert _relations(data) == {"public.t"}


async def test_tables_that_nobody_asked_for_need_not_be_readable(database: DatabaseFactory) -> None:
    """Their names go to pg_dump as patterns, and match nothing else however odd they are."""
    one = database()
    one.run("CREATE TABLE public.t (id integer)", 'CREATE TABLE public."*" (id integer)')
    reader_uri = one.reader_uri()
    one.run('CREATE TABLE public."$x ""y"".?" (id integer)')
    hidden = TableName(schema="public", name='$x "y".?')

    data = await dump_schema(DumpRequest(tool=await _tool(), conninfo=reader_uri, exclude_tables=(hidden,)))

    assert _relations(data) == {"public.t", 'public."*"'}


async def test_a_locked_table_is_waited_for_so_long_and_no_longer(database: DatabaseFactory) -> None:
    one = database()
    one.run("CREATE TABLE public.t (id integer)")
    with psycopg.connect(one.uri) as other:
        other.execute("LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(PgDumpLockError, match="pg_locks"):
            await dump_schema(DumpRequest(tool=await _tool(), conninfo=one.uri, lock_timeout_s=0.1))


async def test_a_server_that_is_down_a_wrong_password_and_a_missing_database_are_told_apart(
    pg: EmbeddedPostgres, database: DatabaseFactory
) -> None:
    one, tool = database(), await _tool()
    nobody_listens = f"host=127.0.0.1 port=1 dbname={one.name} password={_CANARY}"
    wrong_password = pg.uri(one.name, password=_CANARY)
    missing = pg.uri("no_such_database")

    with pytest.raises(PgDumpConnectionError, match="Connection refused") as refused:
        await dump_schema(DumpRequest(tool=tool, conninfo=nobody_listens))
    with pytest.raises(errors.AuthenticationError, match="password authentication failed") as denied:
        await dump_schema(DumpRequest(tool=tool, conninfo=wrong_password))
    with pytest.raises(errors.MissingObjectError, match='database "no_such_database" does not exist'):
        await dump_schema(DumpRequest(tool=tool, conninfo=missing))

    assert _CANARY not in f"{refused.value} {denied.value} {DumpRequest(tool=tool, conninfo=wrong_password)!r}"


async def test_money_is_written_in_the_locale_of_our_own_sessions(tmp_path: Path) -> None:
    """Under the source's lc_monetary a default of 1.234,50 € would be read at the sink as another sum.

    pg_dump sets every other setting that definitions depend on; a tool that prints its environment stands in for it.
    """
    tool = _stand_in(tmp_path, "print(os.environ.get('PGOPTIONS'))")

    german = await dump_schema(DumpRequest(tool=tool, conninfo="dbname=d", lc_monetary="de_DE.UTF-8"))
    with_options = DumpRequest(tool=tool, conninfo="dbname=d options='-c x.y=z'", lc_monetary="de_DE.UTF-8")
    neutral = await dump_schema(DumpRequest(tool=tool, conninfo="dbname=d", lc_monetary="C.UTF-8"))

    assert german == b"-c lc_monetary=C\n"
    assert await dump_schema(with_options) == b"-c x.y=z -c lc_monetary=C\n"
    # Poolers refuse start-up options, so there are none where they make no difference.
    assert neutral == b"None\n"


async def test_secrets_are_in_no_command_line(database: DatabaseFactory, tmp_path: Path) -> None:
    """Not even one that has no environment variable; a tool that prints what it was given stands in for pg_dump."""
    tool = _stand_in(
        tmp_path,
        "path = os.environ['PGSERVICEFILE']\n"
        "with open(path) as file:\n"
        "    print(sys.argv, os.environ['PGPASSWORD'], file.read(), oct(os.stat(path).st_mode & 0o777))",
    )
    conninfo = f"host=h user=u dbname=d password={_CANARY} sslpassword={_CANARY}2"

    output = (await dump_schema(DumpRequest(tool=tool, conninfo=conninfo))).decode()

    argv, _, rest = output.partition("]")
    assert _CANARY not in argv
    assert "service=dsync" in argv
    assert "host=h" in argv
    assert f"sslpassword={_CANARY}2" in rest
    assert "0o600" in rest


async def test_a_cancelled_dump_ends_its_process_and_its_session(database: DatabaseFactory) -> None:
    one = database(nasty)
    with psycopg.connect(one.uri) as other:
        other.execute("LOCK TABLE shop.customer IN ACCESS EXCLUSIVE MODE")
        request = DumpRequest(tool=await _tool(), conninfo=one.uri, application_name="t-cancel", lock_timeout_s=60)
        task = asyncio.create_task(dump_schema(request))
        await _until(lambda: _sessions(one.uri, "t-cancel") == 1, "pg_dump waits for the lock")

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not [child for child in psutil.Process().children(recursive=True) if "pg_dump" in child.name()]
        await _until(lambda: _sessions(one.uri, "t-cancel") == 0, "the session is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the broken pipe ends it")
async def test_a_dump_does_not_outlive_its_caller(database: DatabaseFactory) -> None:
    """Killed with -9, the caller cannot clean up; the kernel tells the child, and that its server."""
    one = database(nasty)
    tool = await _tool()
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from dsync_postgres.schema import DumpRequest, PgDump, dump_schema\n"
        "tool = PgDump(major=18, version='18', path=Path(sys.argv[1]), supports_tls=False)\n"
        "uri = sys.stdin.readline().strip()\n"
        "request = DumpRequest(tool=tool, conninfo=uri, application_name='t-kill', lock_timeout_s=60)\n"
        "asyncio.run(dump_schema(request))\n"
    )
    with psycopg.connect(one.uri) as other:
        other.execute("LOCK TABLE shop.customer IN ACCESS EXCLUSIVE MODE")
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(tool.path), stdin=asyncio.subprocess.PIPE
        )
        assert caller.stdin is not None
        caller.stdin.write(one.uri.encode() + b"\n")
        caller.stdin.close()
        await _until(lambda: _sessions(one.uri, "t-kill") == 1, "pg_dump waits for the lock")
        children = psutil.Process(caller.pid).children(recursive=True)

        os.kill(caller.pid, signal.SIGKILL)
        await caller.wait()

        assert children
        await _until(lambda: not any(map(_lives, children)), "pg_dump is gone")
        await _until(lambda: _sessions(one.uri, "t-kill") == 0, "the session is gone")


async def _until(condition: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return await asyncio.to_thread(condition)

    await wait_for_async(ask, what=what)


def _stand_in(folder: Path, program: str) -> PgDump:
    """A pg_dump that does something else."""
    script = folder / "pg_dump"
    script.write_text(f"#!{sys.executable}\nimport os, sys\n{program}\n")
    script.chmod(0o755)
    return PgDump(major=18, version="18", path=script, supports_tls=True)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sessions(uri: str, application_name: str) -> int:
    with psycopg.connect(uri) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        ((count,),) = connection.execute(query, [application_name]).fetchall()
    return int(count)
