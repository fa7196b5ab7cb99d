"""Changes of rows: what the table holds afterwards, in sets and one after the other."""

from __future__ import annotations

import asyncio

import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_apply.conftest import LANE, OpenApplier
from tests.integration.postgres_apply.frames import UNSENT, Changes, Op, relation, row
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)

T = relation("id a b")
ways = pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
sizes = pytest.mark.parametrize("more", [0, 300], ids=["short", "long"])
"""A long frame is written another way than a short one."""


def fillers(changes: Changes, count: int) -> Changes:
    for number in range(count):
        changes.insert(100_000 + number, "filler", None)
    return changes


async def test_a_table_that_was_small_when_its_changes_were_planned_is_not_read_as_a_whole_later(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """Nobody has analyzed it since: each change is looked for by the key, however many rows there are by now."""
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
        "ALTER TABLE t SET (autovacuum_enabled = off)",
        "INSERT INTO t VALUES (0, 'first', '')",
        "ANALYZE t",
    )
    applier = open_applier(db)
    await applier.open()
    for start in (1, 10_001, 20_001):
        changes = Changes(relations=[T])
        for number in range(start, start + 10_000):
            changes.insert(number, "filling of the row", "more of it")
        await applier.apply(changes)
    # A session tells its figures when it ends.
    await applier.sink.side.close()
    found = wait_for(
        lambda: (
            db.value("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 't'") >= 30_001
            and db.value("SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 't'") + 1
        ),
        what="the server's figures",
    )
    assert found < 50_000, f"{found:,} rows were looked at"


@ways
@sizes
async def test_inserts_updates_and_deletes(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, more: int
) -> None:
    """Whatever happens to a key, its last state counts; a delete of what is unknown is none the worse."""
    db = database()
    db.run(
        "CREATE TABLE t (b text, id int PRIMARY KEY, a text, extra int DEFAULT 7)",
        "INSERT INTO t (id, a, b) SELECT g, 'old', 'kept' FROM generate_series(1, 9) g",
    )
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T])
    changes.insert(20, "new", 'q"\\\n\t,{}').insert(21, "x", "y").delete(21, None, None)
    changes.update(1, "one", None).update(1, "two", "").delete(2, None, None).insert(2, "again", "NULL")
    changes.delete(3, None, None).delete(999, None, None)
    changes.update(30, "unknown", "whole").update(4, UNSENT, "part").update(4, "both", UNSENT)
    changes.update(20, UNSENT, "over")
    changes.update(55, "moved", "m", key=(5, None, None))
    written = await applier.apply(fillers(changes, more), in_order=in_order)
    assert written == types.WrittenChanges(changes=len(changes.operations))
    assert db.rows("SELECT id, a, b, extra FROM t WHERE id < 1000 ORDER BY id") == [
        (1, "two", "", 7),
        (2, "again", "NULL", 7),
        (4, "both", "part", 7),
        (6, "old", "kept", 7),
        (7, "old", "kept", 7),
        (8, "old", "kept", 7),
        (9, "old", "kept", 7),
        (20, "new", "over", 7),
        (30, "unknown", "whole", 7),
        (55, "moved", "m", 7),
    ]
    assert db.value("SELECT count(*) FROM t WHERE id > 1000") == more
    assert applier.sink.ledger() == [(LANE, 1, b"c", len(changes.operations), False)]


@ways
@sizes
async def test_an_update_of_rows_that_are_not_there_writes_them_whole(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, more: int
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (1, 'old', 'old')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).update(1, "new", "new").update(2, "new", "new")
    for number in range(more):
        changes.update(1000 + number, "filler", None)
    await applier.apply(changes, in_order=in_order)
    assert db.rows("SELECT * FROM t WHERE id < 9 ORDER BY id") == [(1, "new", "new"), (2, "new", "new")]
    assert db.value("SELECT count(*) FROM t") == 2 + more


@ways
@pytest.mark.parametrize("overlap", [False, True], ids=["exact", "overlap"])
async def test_values_that_nobody_here_has_are_asked_for_and_nothing_is_written(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, overlap: bool
) -> None:
    """An unchanged value never becomes NULL (correctness: unchanged TOAST on a row the sink lacks)."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (1, 'old', 'kept')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).insert(5, "x", "y").update(1, "new", UNSENT).update(2, "new", UNSENT)
    written = await applier.apply(changes, in_order=in_order, overlap=overlap)
    assert (written.changes, [item.index for item in written.incomplete]) == (0, [2])
    assert db.rows("SELECT * FROM t") == [(1, "old", "kept")]
    assert applier.sink.ledger() == [(LANE, 0, b"", 0, False)]
    completed = Changes(relations=[T]).insert(5, "x", "y").update(1, "new", UNSENT).insert(2, "new", "read")
    await applier.apply(completed, in_order=in_order, overlap=overlap)
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "new", "kept"), (2, "new", "read"), (5, "x", "y")]


@ways
async def test_a_row_that_moves_takes_its_values_along(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """One UPDATE of the old key, in its place among the other changes of both keys."""
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2')"
    )
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).update(1, "first", UNSENT).delete(2, None, None)
    changes.update(2, "moved", UNSENT, key=(1, None, None)).insert(1, "other", "o").update(2, "last", UNSENT)
    await applier.apply(changes, in_order=in_order)
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "other", "o"), (2, "last", "b1")]


@ways
async def test_in_an_overlap_a_moved_row_is_never_taken_from_the_sink(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """The sink's row of the old key may be another one by then (7 wrong rows in 16 runs)."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (1, 'later', 'another row')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).insert(7, "x", "y").update(2, "moved", UNSENT, key=(1, None, None))
    written = await applier.apply(changes, in_order=in_order, overlap=True)
    assert [item.index for item in written.incomplete] == [1]
    assert db.rows("SELECT * FROM t") == [(1, "later", "another row")]


@ways
async def test_in_an_overlap_a_moved_row_is_not_taken_from_one_that_was_read_again(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """What was read at the source for an earlier change of the key may be the row that has the key since."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (2, 'old', 'old')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).update(1, "x", UNSENT).update(2, "moved", UNSENT, key=(1, None, None))
    changes.insert(1, "y", "another row")
    written = await applier.apply(changes, in_order=in_order, overlap=True)
    assert 1 in [item.index for item in written.incomplete]
    read_again = Changes(relations=[T]).insert(1, "y", "another row")
    read_again.update(2, "moved", UNSENT, key=(1, None, None)).insert(1, "y", "another row")
    written = await applier.apply(read_again, in_order=in_order, overlap=True)
    assert [item.index for item in written.incomplete] == [1]
    read_again.operations[1], read_again.records[1] = Op.UPDATE, b"K" + row((1, None, None)) + b"N" + row((2, "m", "b"))
    assert not (await applier.apply(read_again, in_order=in_order, overlap=True)).incomplete
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "y", "another row"), (2, "m", "b")]


@ways
@pytest.mark.parametrize("value", ["big", UNSENT], ids=["whole", "unsent"])
async def test_in_an_overlap_a_row_of_another_moment_makes_room(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, value: object
) -> None:
    """What only one row may have belongs to the one that gets it; the other is written again by what comes yet."""
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b text)",
        "INSERT INTO t VALUES (1, 'x', 'big'), (2, 'y', 'big'), (3, NULL, 'big')",
    )
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).update(1, "y", value).update(4, None, "new")
    await applier.apply(changes, in_order=in_order, overlap=True)
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "y", "big"), (3, None, "big"), (4, None, "new")]
    with pytest.raises(errors.RecordError if in_order else errors.LanesMeetError):
        await applier.apply(Changes(relations=[T]).update(3, "y", value), in_order=in_order)


@ways
async def test_a_move_of_a_row_that_is_not_there_is_incomplete(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).insert(7, "x", "y").update(2, "moved", UNSENT, key=(1, None, None))
    written = await applier.apply(changes, in_order=in_order)
    assert [item.index for item in written.incomplete] == [1]
    assert db.value("SELECT count(*) FROM t") == 0


@ways
async def test_rows_without_key_match_by_their_text_one_at_a_time(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """json has no `=`, 1.0 and 1.00 are unlike, and of equal rows one goes for each delete."""
    db = database()
    db.run(
        "CREATE TABLE t (n numeric, j json, x point)",
        """INSERT INTO t VALUES (1.0, '{"a":1}', '(1,2)'), (1.00, '{"a":1}', '(1,2)'), (1.0, '{"a":1}', '(1,2)'),
           (NULL, NULL, NULL), (NULL, NULL, NULL), (3, '[]', NULL)""",
    )
    applier = open_applier(db)
    await applier.open()
    full = relation("n j x", key="n j x", full=True)
    changes = Changes(relations=[full])
    changes.delete("1.0", '{"a":1}', "(1,2)", full=True).delete(None, None, None, full=True)
    changes.update("4", "{}", UNSENT, old=("3", "[]", None))
    changes.insert("5", "[5]", None).insert("5", "[5]", None).delete("5", "[5]", None, full=True)
    changes.delete("99", None, None, full=True)
    await applier.apply(changes, in_order=in_order)
    assert db.rows("SELECT n::text, j::text, x::text FROM t ORDER BY 1, 2") == [
        ("1.0", '{"a":1}', "(1,2)"),
        ("1.00", '{"a":1}', "(1,2)"),
        ("4", "{}", None),
        ("5", "[5]", None),
        (None, None, None),
    ]


@ways
async def test_a_full_old_row_gives_what_was_not_sent(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    applier = open_applier(db)
    await applier.open()
    full = relation("id a b", key="id", full=True)
    changes = Changes(relations=[full]).update(1, "new", UNSENT, old=(1, "old", "big"))
    await applier.apply(changes, in_order=in_order, overlap=True)
    assert db.rows("SELECT * FROM t") == [(1, "new", "big")]


@ways
async def test_a_repeat_changes_nothing(database: DatabaseFactory, open_applier: OpenApplier, in_order: bool) -> None:
    """The same sequence and cursor: also where the sink has moved on, and rows the frame moved are gone."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "INSERT INTO t VALUES (1, 'a', 'b')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[T]).update(2, "moved", UNSENT, key=(1, None, None)).insert(3, "x", "y")
    request = applier.request(changes, in_order=in_order)
    await applier.sink.side.write_changes(request)
    db.run("UPDATE t SET a = 'since'")
    assert (await applier.sink.side.write_changes(request)) == types.WrittenChanges(changes=2)
    assert db.rows("SELECT * FROM t ORDER BY id") == [(2, "since", "b"), (3, "since", "y")]
    with pytest.raises(errors.PluginBugError, match="does not follow"):
        await applier.sink.side.write_changes(applier.request(changes, cursor=b"other"))


async def test_a_lane_that_was_taken_over_writes_nothing(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    zombie, heir = open_applier(db), open_applier(db)
    await zombie.open()
    await heir.open()
    with pytest.raises(errors.FencedError):
        await zombie.apply(Changes(relations=[T]).insert(1, "x", "y"))
    assert db.value("SELECT count(*) FROM t") == 0


async def test_rows_of_other_lanes_move_in_the_same_transaction(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """All of them or none: each has its own fence."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    applier = open_applier(db)
    await applier.open(LANE, "lane-1")
    request = applier.request(Changes(relations=[T]).insert(1, "x", "y"))
    both = types.WriteChangesRequest(
        context=request.context,
        frame=request.frame,
        targets=request.targets,
        also=(applier.sink.context("lane-1", b"d"),),
    )
    assert (await applier.sink.side.write_changes(both)).changes == 1
    assert (await applier.sink.side.write_changes(both)).changes == 1
    assert applier.sink.ledger() == [(LANE, 1, b"c", 1, False), ("lane-1", 1, b"d", 0, False)]
    other = open_applier(db)
    await other.open("lane-1")
    applier.sink.units[LANE].seq = applier.sink.units["lane-1"].seq = 1
    again = types.WriteChangesRequest(
        context=applier.sink.context(LANE, b"e"),
        frame=Changes(relations=[T]).insert(2, "x", "y").frame,
        targets=request.targets,
        also=(applier.sink.context("lane-1", b"e"),),
    )
    with pytest.raises(errors.FencedError):
        await applier.sink.side.write_changes(again)
    assert db.value("SELECT count(*) FROM t") == 1


async def test_lanes_apply_side_by_side(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Each in a session of its own; within a lane frames keep their order."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    applier = open_applier(db)
    lanes = [f"lane-{number}" for number in range(4)]
    await applier.open(*lanes)

    async def run(number: int) -> None:
        for turn in range(10):
            changes = Changes(relations=[T])
            for key in range(number, 400, len(lanes)):
                changes.update(key, turn, number)
            context = applier.sink.context(lanes[number])
            request = types.WriteChangesRequest(context=context, frame=changes.frame, targets=("public.t",))
            await applier.sink.side.write_changes(request)
            applier.sink.units[lanes[number]].seq = context.seq

    async with asyncio.TaskGroup() as group:
        for number in range(len(lanes)):
            group.create_task(run(number))
    assert db.rows("SELECT id, a, b FROM t ORDER BY id") == [(key, "9", str(key % 4)) for key in range(400)]


async def test_a_frame_without_changes_moves_the_ledger(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    applier = open_applier(database())
    await applier.open()
    assert await applier.apply(Changes(relations=[])) == types.WrittenChanges(changes=0)
    assert applier.sink.ledger() == [(LANE, 1, b"c", 0, False)]


@pytest.mark.parametrize(
    "record",
    [b"", b"N", b"X", b"N\0\3ttt", b"N\0\2nn", b"N\0\3nnnn", b"N\0\3nnt\0\0\0\5a", b"N\0\3nnb\0\0\0\1a", b"N\0\3nnu"],
)
async def test_what_is_no_record_is_refused(
    database: DatabaseFactory, open_applier: OpenApplier, record: bytes
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    applier = open_applier(db)
    await applier.open()
    with pytest.raises(errors.PluginBugError, match="applying changes"):
        await applier.apply(Changes(relations=[T]).insert(1, "x", "y").add(Op.INSERT, record))
    assert db.value("SELECT count(*) FROM t") == 0
