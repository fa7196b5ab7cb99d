"""Tables that join a stream while it is followed: pages of a place in it, and every change from there on."""

from dataclasses import replace

import pytest
from dsync_postgres.stream.errors import ReplicaIdentityError

from dsync.sdk import types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import follow, new_flow, publications, slots
from tests.integration.postgres_source.support import Copy, Source
from tests.integration.postgres_source.test_overlap import fill, finish, rows, write
from tests.integration.postgres_source.twin import Twin
from tests.support.databases import DatabaseFactory

VERSIONS = pytest.mark.parametrize("pg", [15, 18], indirect=True)


async def copied(source: Source, joined: types.JoinedPlan, *names: str) -> Twin:
    """What a sink has when the pages of the plan have arrived."""
    twin = Twin(keyless=frozenset({"public.k"}), seen_through=dict.fromkeys(names, joined.seen_through))
    await finish(Copy(partitions=list(joined.partitions)), source, twin)
    return twin


@VERSIONS
async def test_a_table_that_is_followed_is_copied_anew_beside_its_stream(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """With a key and without: what had been written before is in the pages alone, what comes later in the stream."""
    one, flow = database(), new_flow()
    fill(one, keyless=True)
    source = await open_source(one, flow=flow, page_bytes=16 * 1024)
    plan = await follow(source, "public.t", "public.k")
    await source.connector.close_plan(flow)
    write(one, 1)
    one.run("INSERT INTO k VALUES (7, 'before')", "DELETE FROM k WHERE id < 20")

    joined = await source.connector.join_plan(["public.t", "public.k"], plan.updates_partitions[0])
    write(one, 2)
    one.run("DELETE FROM k WHERE id = 30", "INSERT INTO k VALUES (8, 'later'), (8, 'later')")

    assert joined.snapshot
    assert joined.stream == plan.updates_partitions[0]
    assert len(slots(one)) == 1
    twin = await copied(source, joined, "public.t", "public.k")
    await twin.follow(source, joined.stream)
    assert (twin.rows("public.k"), twin.rows("public.t")) == (rows(one, "k"), rows(one, "t"))


@VERSIONS
async def test_a_new_table_is_published_first_and_joins_when_the_stream_has_it(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Whoever goes on with the stream as it was would have no change of it."""
    one, flow = database(), new_flow()
    fill(one)
    source = await open_source(one, flow=flow, page_bytes=16 * 1024)
    (stream,) = (await follow(source, "public.t")).updates_partitions
    one.run("CREATE TABLE k (id int, v text)", "ALTER TABLE k REPLICA IDENTITY FULL", "INSERT INTO k VALUES (1, 'a')")

    published = await source.connector.join_plan(["public.k"], stream)
    assert (published.snapshot, published.partitions) == (b"", ())
    assert published.stream == replace(stream, namespaces=("public.t", "public.k"))
    assert [*publications(one).values()] == [["k", "t"]]
    joined = await source.connector.join_plan(["public.k"], published.stream)
    one.run("INSERT INTO k VALUES (1, 'a'), (2, 'b')", "DELETE FROM k WHERE id = 1")

    twin = await copied(source, joined, "public.k")
    await twin.follow(source, joined.stream)
    assert twin.rows("public.k") == rows(one, "k")


async def test_a_table_whose_rows_cannot_be_told_apart_does_not_join(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Published, it would refuse its writers; nothing is changed."""
    one, flow = database(), new_flow()
    fill(one)
    source = await open_source(one, flow=flow)
    (stream,) = (await follow(source, "public.t")).updates_partitions
    one.run("CREATE TABLE k (id int, v text)")
    with pytest.raises(ReplicaIdentityError, match=r"public\.k"):
        await source.connector.join_plan(["public.k"], stream)
    assert [*publications(one).values()] == [["t"]]


async def test_a_comparison_meanwhile_sees_the_present(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The sink goes on with the stream, and is not to be compared with what the pages are read under."""
    one, flow = database(), new_flow()
    fill(one)
    source = await open_source(one, flow=flow)
    (stream,) = (await follow(source, "public.t")).updates_partitions
    await source.connector.close_plan(flow)
    await source.connector.join_plan(["public.t"], stream)
    before = await source.connector.count_rows("public.t")
    one.run("INSERT INTO t VALUES (88888, 'new')")
    assert await source.connector.count_rows("public.t") == before + 1
