"""A plug-in that dies while it applies a frame: the frame is there as a whole or not at all, and never twice."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from dsync.sdk import errors
from tests.integration.postgres_apply.applying_child import frame_of
from tests.integration.postgres_apply.conftest import LANE, OpenApplier
from tests.integration.postgres_apply.frames import Changes, relation
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)


@pytest.mark.parametrize("rows", [3, 3000], ids=["short", "long"])
@pytest.mark.parametrize(("point", "is_there"), [("sink.before_commit", False), ("sink.after_commit", True)])
async def test_a_frame_whose_answer_was_lost_is_sent_again(
    database: DatabaseFactory, open_applier: OpenApplier, tmp_path: Path, rows: int, point: str, is_there: bool
) -> None:
    """With its own sequence: the ledger knows it, whoever has died before or after the COMMIT."""
    db = database()
    db.run("CREATE TABLE t (a int)")
    applier = open_applier(db)
    await applier.open()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.postgres_apply.applying_child",
        db.uri,
        str(applier.sink.units[LANE].fence),
        str(rows),
        str(tmp_path),
        env={**os.environ, "DSYNC_FAIL": f"{point}:exit"},
    )
    assert await child.wait() == 137
    assert db.value("SELECT count(*) FROM t") == (rows if is_there else 0)
    request = applier.request(frame_of(rows))
    for _ in range(2):
        assert (await applier.sink.side.write_changes(request)).changes == rows
    assert db.value("SELECT count(*) FROM t") == rows
    (state,) = await applier.sink.open(LANE, namespace="")
    assert (state.seq, state.cursor, state.rows) == (1, b"c", rows)


async def test_a_session_that_was_ended_is_replaced(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run("CREATE TABLE t (a int)")
    applier = open_applier(db)
    await applier.open()
    await applier.apply(frame_of(2))
    db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%apply%'")
    while db.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%apply%'"):
        await asyncio.sleep(0.01)
    await applier.apply(frame_of(2))
    assert db.value("SELECT count(*) FROM t") == 4


async def test_a_lock_that_somebody_holds_is_waited_for(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run("CREATE TABLE t (a int)")
    applier = open_applier(db)
    await applier.open()
    with db.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE t")
        waiting = asyncio.create_task(applier.apply(frame_of(2)))
        while not db.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        assert not waiting.done()
        other.execute("COMMIT")
    assert (await waiting).changes == 2


async def test_a_deadlock_is_retryable(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Nothing of the frame is there then, and the same request goes through afterwards."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a int)", "INSERT INTO t VALUES (1, 0), (2, 0)")
    applier = open_applier(db)
    await applier.open()
    request = applier.request(Changes(relations=[relation("id a")]).update(1, 5).update(2, 5))
    with db.connect() as other:
        # So that the frame is the one that finds out.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("BEGIN")
        other.execute("UPDATE t SET a = 1 WHERE id = 2")
        waiting = asyncio.create_task(applier.sink.side.write_changes(request))
        while not db.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(other.execute, "UPDATE t SET a = 1 WHERE id = 1")
        with pytest.raises(errors.ConflictError):
            await waiting
        other.execute("COMMIT")
    assert db.rows("SELECT a FROM t") == [(1,), (1,)]
    await applier.sink.side.write_changes(request)
    assert db.rows("SELECT a FROM t") == [(5,), (5,)]
