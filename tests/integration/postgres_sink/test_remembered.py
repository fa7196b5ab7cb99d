"""The shapes that tables were told to have, for as long as they are worth something."""

from __future__ import annotations

from dsync_postgres.sink.remembered import forget_shapes, read_shape, save_shape

from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import FLOW, describe, prepare_request
from tests.integration.postgres_sink.test_prepare import shop
from tests.support.databases import DatabaseFactory


async def test_what_was_told_is_forgotten_with_its_flow_and_with_a_new_run(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """A run that prepares the tables begins with what they are then; the same run prepared again changes nothing."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    request = prepare_request(await describe(source))
    await sink.side.prepare(request)
    await sink.open("u")
    with target.connect() as connection:
        for flow in (FLOW, "another"):
            save_shape(connection, flow, "public.item", {"id": "integer"})
        await sink.side.prepare(request)
        assert read_shape(connection, FLOW, "public.item") == {"id": "integer"}
        again = prepare_request(await describe(source), run="r2")
        await sink.side.prepare(again)
        # That changes have come stays known: without it nobody could tell whose rows are there.
        assert read_shape(connection, FLOW, "public.item") == {}
        save_shape(connection, FLOW, "public.item", {"id": "integer"})
        connection.execute("INSERT INTO _dsync.manifest VALUES ('another', '', '', 'r', '')")
        await sink.side.forget_flow(FLOW)
        assert read_shape(connection, FLOW, "public.item") is None
        assert read_shape(connection, "another", "public.item") == {"id": "integer"}
        forget_shapes(connection, "another")
        assert read_shape(connection, "another", "public.item") is None
