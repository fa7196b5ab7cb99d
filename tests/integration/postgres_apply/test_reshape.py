"""Tables that change while they are followed: what the sink can do again it does, what it cannot is named."""

from __future__ import annotations

import pytest

from dsync.sdk import errors
from tests.integration.postgres_apply.conftest import Applier, OpenApplier
from tests.integration.postgres_apply.frames import Changes, relation
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)


async def refused(applier: Applier, changes: Changes, target: str = "public.t") -> errors.NamespaceChangedError:
    """The error with which a frame for another name of the table is refused."""
    with pytest.raises(errors.NamespaceChangedError) as caught:
        await applier.sink.side.write_changes(applier.request(changes, targets=(target,)))
    return caught.value


async def test_whoever_stops_a_table_is_told_which(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """By the source's name, since a frame has changes of many; the message says the way on."""
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE tree (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE computed (id int GENERATED ALWAYS AS (a) STORED, a int)",
    )
    applier = open_applier(db)
    await applier.open()
    source = "shop.theirs"
    lacking = await refused(applier, Changes(relations=[relation("id a b", namespace=source)]).insert(1, "x", "y"))
    absent = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).insert(1, "x"), "public.no")
    emptied = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).truncate(), "public.tree")
    computed = await refused(
        applier, Changes(relations=[relation("id a", namespace=source)]).insert(1, "2"), "public.computed"
    )
    known = Changes(relations=[relation("id a", namespace=source)]).insert(1, "x")
    request = applier.request(known, targets=("public.t",))
    await applier.sink.side.write_changes(request)
    applier.sink.units["lane-0"].seq = request.context.seq
    db.run("ALTER TABLE t RENAME a TO b")
    altered = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).insert(2, "x"))
    assert {one.namespace for one in (lacking, absent, emptied, computed, altered)} == {source}
    for one in (lacking, emptied, computed, altered):
        assert f"dsync resync FLOW --table {source}" in str(one)
