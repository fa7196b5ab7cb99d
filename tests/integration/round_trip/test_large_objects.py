"""Large objects come along with oid, content, owner, privileges and comment, and nobody else's is touched."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, LiteralString

import pytest
from psycopg import sql

from dsync.app.requests import VerifyRequest
from dsync.app.reset import ResetRequest, reset
from dsync.app.verify import verify
from dsync.coordinator.events import FindingReported
from dsync.protocol.errors import DsyncError, RequestError, SinkNotEmptyError
from dsync.verify import VerifyReport
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

OBJECTS = "pg_catalog.pg_largeobject"
PIECE = 256 * 1024
_SIZES = (0, 1, 2048, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 77)

_VERSIONS = pytest.mark.parametrize("pg_pair", [(16, 18), (18, 16), (15, 18)], indirect=True, ids=str)


def make(database: Database, oid: int, data: bytes) -> None:
    """An object of that content."""
    with database.connect() as connection:
        connection.execute("SELECT lo_from_bytea(%s, %s)", [oid, data])


def fill(database: Database) -> dict[int, bytes]:
    """Objects of all kinds of sizes, one of them with a hole, one of zeros alone, and a table that refers to them."""
    made = {
        3_000_000_000 + place: random.Random(size).randbytes(size)  # beyond what a signed number of 32 bits holds
        for place, size in enumerate(_SIZES)
    }
    made |= {500_000 + n: b"small %d" % n for n in range(700)}
    with database.connect() as connection:
        connection.execute("CREATE TABLE picture (id int PRIMARY KEY, content oid)")
        with connection.pipeline():
            for oid, data in made.items():
                connection.execute("SELECT lo_from_bytea(%s, %s)", [oid, data])
        connection.execute(
            "INSERT INTO picture SELECT n, 3000000000 + n FROM generate_series(0, %s) n", [len(_SIZES) - 1]
        )
        connection.execute("SELECT lo_create(77777)")
        connection.execute("SELECT lo_put(77777, %s, 'end'::bytea)", [3 * PIECE + 5])
        connection.execute("COMMENT ON LARGE OBJECT 500001 IS 'what it''s for'")
        connection.execute("SELECT lo_from_bytea(77778, %s)", [bytes(2 * PIECE)])
    made[77777] = bytes(3 * PIECE + 5) + b"end"
    made[77778] = bytes(2 * PIECE)
    return made


def objects(database: Database) -> dict[int, list[Any]]:
    """Content, owner, privileges and comment of each, by the server's own means."""
    return {
        oid: about
        for oid, *about in database.rows(
            "SELECT oid::int8, sha256(lo_get(oid)), pg_get_userbyid(lomowner)::text, lomacl::text,"
            " obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata ORDER BY oid"
        )
    }


async def compare(copier: Copier, **options: Any) -> VerifyReport:
    """`dsync verify` of the two."""
    ends = VerifyRequest(source=copier.source.uri, sink=copier.sink.uri, attach="inline", **options)
    return await verify(ends, lambda event: None)


def pieces(made: dict[int, bytes]) -> int:
    return sum(max(1, -(-len(data) // PIECE)) for data in made.values())


@_VERSIONS
async def test_all_of_them_arrive(source: Database, sink: Database, copier: Copier) -> None:
    """Counted as a namespace of their own, compared by content."""
    made = fill(source)

    copied = await copier(page_bytes=1024 * 1024)

    assert copied.exit_code == 0, copied.explained()
    assert copied.rows == {"public.picture": len(_SIZES), OBJECTS: pieces(made)}
    assert objects(sink) == objects(source)
    assert copied.outcome.verify is not None
    compared = {item.source: item for item in copied.outcome.verify.namespaces}
    assert compared[OBJECTS].source_rows == compared[OBJECTS].target_rows == pieces(made)


@pytest.mark.parametrize(
    ("data_type", "page_bytes"),
    [("bson", 64 * 1024), ("json", 400_000), ("pg-copy-text", 300_000), ("auto", 64 * 1024)],
)
async def test_they_travel_in_every_form(
    source: Database, sink: Database, copier: Copier, data_type: str, page_bytes: int
) -> None:
    """In pages of every size, smaller ones than a piece too."""
    fill(source)

    copied = await copier(data_type=data_type, page_bytes=page_bytes)

    assert copied.exit_code == 0, copied.explained()
    assert objects(sink) == objects(source)


@_VERSIONS
async def test_owners_and_privileges_come_along(source: Database, sink: Database, copier: Copier) -> None:
    """Those of roles that the sink has; what was granted on by others, as theirs."""
    roles = [source.new_role(kind) for kind in ("holder", "reader", "friend")]
    holder, reader, friend = map(sql.Identifier, roles)
    if source.server is not sink.server:
        for role in roles:
            sink.server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    gone = source.new_role("elsewhere")
    for oid in range(601, 608):
        make(source, oid, b"content %d" % oid)
    source.run(
        sql.SQL("ALTER LARGE OBJECT 602 OWNER TO {}").format(holder),
        sql.SQL("GRANT SELECT ON LARGE OBJECT 603 TO {}, PUBLIC").format(reader),
        sql.SQL("ALTER LARGE OBJECT 604 OWNER TO {}").format(holder),
        sql.SQL("GRANT SELECT, UPDATE ON LARGE OBJECT 604 TO {} WITH GRANT OPTION").format(reader),
        sql.SQL("SET ROLE {}; GRANT SELECT ON LARGE OBJECT 604 TO {}; RESET ROLE").format(reader, friend),
        "REVOKE UPDATE ON LARGE OBJECT 605 FROM postgres",
        sql.SQL("REVOKE ALL ON LARGE OBJECT 606 FROM {}").format(sql.Identifier("postgres")),
        sql.SQL("ALTER LARGE OBJECT 607 OWNER TO {}").format(sql.Identifier(gone)),
        sql.SQL("GRANT SELECT ON LARGE OBJECT 607 TO {}").format(reader),
    )

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    theirs, ours = objects(sink), objects(source)
    assert {oid: theirs[oid] for oid in range(601, 607)} == {oid: ours[oid] for oid in range(601, 607)}
    if source.server is not sink.server:
        said = [event.finding for event in copied.events if isinstance(event, FindingReported)]
        assert [finding.object for finding in said if finding.code == "owner-kept"] == [gone]
        assert theirs[607][1] == "postgres"
    for role in roles:
        sink.run(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        source.run(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        if source.server is not sink.server:
            sink.server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def test_owners_and_privileges_can_stay_behind(source: Database, sink: Database, copier: Copier) -> None:
    holder = sql.Identifier(source.new_role("holder"))
    make(source, 601, b"content")
    source.run(
        sql.SQL("ALTER LARGE OBJECT 601 OWNER TO {}").format(holder),
        "GRANT SELECT ON LARGE OBJECT 601 TO PUBLIC",
        "COMMENT ON LARGE OBJECT 601 IS 'kept'",
    )

    copied = await copier(no_owner=True, no_privileges=True)

    assert copied.exit_code == 0, copied.explained()
    assert objects(sink)[601][1:] == ["postgres", None, "kept"]


async def test_a_choice_of_tables_leaves_them_out(source: Database, sink: Database, copier: Copier) -> None:
    """As pg_dump does; by name they are chosen or left out like a table."""
    made = fill(source)

    some = await copier(namespaces=("public.picture",), flow="some")
    assert (some.exit_code, objects(sink)) == (0, {})
    rest = await copier(exclude=("public.picture",), flow="rest")
    assert (rest.exit_code, rest.rows) == (0, {OBJECTS: pieces(made)}), rest.explained()
    with pytest.raises(RequestError, match="large objects have no name"):
        await copier(namespaces=(f"{OBJECTS}:public.files",), flow="renamed")
    with pytest.raises(RequestError, match="cannot be chosen by a condition"):
        await copier(filters=(f"{OBJECTS}=loid > 5",), flow="filtered", on_existing="append")


async def test_excluded_they_stay(source: Database, sink: Database, copier: Copier) -> None:
    fill(source)

    copied = await copier(exclude=(OBJECTS,))

    assert (copied.exit_code, copied.rows) == (0, {"public.picture": len(_SIZES)}), copied.explained()
    assert objects(sink) == {}


async def test_objects_of_others_are_in_the_way(source: Database, sink: Database, copier: Copier) -> None:
    """Under an oid that comes, they refuse the copy; under others they have nothing to do with it."""
    for oid in (601, 602, 603):
        make(source, oid, b"content %d" % oid)
    make(sink, 602, b"somebody's, and longer than what comes")
    make(sink, 604, b"somebody's too")
    before = objects(sink)

    with pytest.raises(SinkNotEmptyError, match="602"):
        await copier()
    assert objects(sink) == before

    copied = await copier(on_existing="append", verify=False)
    assert copied.exit_code == 0, copied.explained()
    assert objects(sink) == objects(source) | {604: before[604]}


async def test_again_reads_them_where_they_have_changed(source: Database, sink: Database, copier: Copier) -> None:
    """And removes what has gone, but nothing that somebody else has put there."""
    fill(source)
    assert (await copier()).exit_code == 0
    make(sink, 42, b"somebody's")

    unchanged = await copier(again=True, verify=False)
    assert (unchanged.exit_code, unchanged.moved) == (0, {}), unchanged.explained()
    changes: tuple[LiteralString, ...] = (
        "SELECT lo_put(500100, 3, 'other')",
        "SELECT lo_unlink(500101)",
        "SELECT lo_from_bytea(500101, 'made again')",
        "SELECT lo_truncate(lo_open(3000000006, 131072), 262144)",
    )
    for change in changes:
        source.run(change)
        changed = await copier(again=True, verify=False)
        assert (changed.exit_code, set(changed.moved)) == (0, {OBJECTS}), (change, changed.explained())
        assert {oid: item for oid, item in objects(sink).items() if oid != 42} == objects(source)
    assert bytes(sink.value("SELECT lo_get(42)")) == b"somebody's"


async def test_verify_finds_what_differs(source: Database, sink: Database, copier: Copier) -> None:
    """By oid and place."""
    fill(source)
    assert (await copier()).exit_code == 0
    sink.run("SELECT lo_put(3000000006, 600000, 'X')", "SELECT lo_unlink(500003)", "SELECT lo_from_bytea(9, 'more')")

    found = await compare(copier, max_diffs=10)

    (compared,) = [item for item in found.namespaces if item.source == OBJECTS]
    assert {(str(d.kind), d.key) for d in compared.differences} == {
        ("different", ("3000000006", str(2 * PIECE))),
        ("missing", ("500003", "0")),
        ("extra", ("9", "0")),
    }
    sink.run("SELECT lo_unlink(9)")
    quick = await compare(copier, quick=True)
    (compared,) = [item for item in quick.namespaces if item.source == OBJECTS]
    assert compared.source_rows == compared.target_rows + 1


async def test_an_owner_of_nothing_else_copies_them(source: Database, sink: Database, copier: Copier) -> None:
    """Neither end needs a superuser, where the objects may be read."""
    fill(source)
    reader = source.new_role("reader")
    reading = source.server.uri(source.name, user=reader)
    copier = replace(copier, source_uri=reading, sink_uri=sink.owner_uri(), options={"no_owner": True})
    source.run(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(sql.Identifier(reader)))

    with pytest.raises(DsyncError, match="709 of 709"):
        await copier()
    source.run(
        sql.SQL(
            "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP"
            " EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {}', o); END LOOP; END $$"
        ).format(sql.SQL(reader))
    )
    copied = await copier(no_privileges=True)

    assert copied.exit_code == 0, copied.explained()
    assert {oid: item[0] for oid, item in objects(sink).items()} == {
        oid: item[0] for oid, item in objects(source).items()
    }
    source.run(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(reader)))


async def test_a_reset_leaves_them_and_forgets_whose_they_are(source: Database, sink: Database, copier: Copier) -> None:
    """Afterwards they are in another flow's way, as rows are."""
    fill(source)
    first = await copier()
    there = objects(sink)

    report = await reset(ResetRequest(flow=first.outcome.flow, sink=sink.uri, state=str(copier.state), attach="inline"))

    assert any("large object notes" in line for line in report.at_sink), report
    assert objects(sink) == there
    assert sink.value("SELECT to_regnamespace('_dsync') IS NULL")
    with pytest.raises(SinkNotEmptyError, match="77777"):
        await copier(exclude=("public.picture",))


async def test_without_a_schema_too(source: Database, sink: Database, copier: Copier) -> None:
    """Which oids will come is not said beforehand then, so any object of others is in the way."""
    make(source, 601, b"content")
    make(sink, 9, b"somebody's")

    with pytest.raises(SinkNotEmptyError, match="9"):
        await copier(schema_mode="none")
    sink.run("SELECT lo_unlink(9)")
    copied = await copier(schema_mode="none")

    assert copied.exit_code == 0, copied.explained()
    assert objects(sink) == objects(source)
