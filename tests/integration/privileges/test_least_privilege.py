"""A sink role that owns its database, a source role with SELECT alone, a standby as source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.privileges.conftest import shop
from tests.integration.wrong_input.guarded import GuardedDsync, contents
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for

COPY = ("--mode", "copy", "--verify", "--json")


def copied_equal(dsync: GuardedDsync, source: str, sink: str) -> None:
    """The shop arrives and verifies, or the doctor has named what keeps it from that."""
    examined = dsync.here("doctor", source, sink, "--mode", "copy", "--json")
    stops = [finding for finding in examined.result["findings"] if finding["severity"] == "stop"]
    assert (examined.exit_code, stops) == (0, []), stops

    ended = dsync.here("sync", source, sink, *COPY)

    assert (ended.exit_code, ended.result["consistent"]) == (0, True), ended.json["summary"]
    assert ended.result["verify"]["equal"]
    assert ended.result["rows"] > 3000


@pytest.mark.parametrize("pg_pair", [(16, 18), (18, 18)], indirect=True)
def test_an_owner_and_a_reader_copy_the_shop(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Nobody is superuser; the source is only read."""
    source, sink = source_db(shop), sink_db()
    before = contents(source)

    copied_equal(dsync, source.reader_uri(), sink.owner_uri())

    assert contents(source) == before


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """The shop, its standby, and a role that reads there."""

    primary: Database
    standby: Database
    reader: str

    @property
    def uri(self) -> str:
        return self.standby.server.uri(self.standby.name, user=self.reader)

    def catch_up(self) -> None:
        position = self.primary.value("SELECT pg_current_wal_flush_lsn()::text")
        wait_for(
            lambda: self.standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]),
            timeout_s=30,
            what="the standby to catch up",
        )


@pytest.fixture
def replicated(own_servers: PgServers) -> Iterator[Replicated]:
    server = own_servers.own(18)
    server.create_database("shop")
    shop(server.uri("shop"))
    primary = Database(server=server, name="shop")
    reader = urlsplit(primary.reader_uri()).username
    assert reader is not None
    with EmbeddedPostgres(standby_of=server, settings={"hot_standby_feedback": "on"}, in_memory=True) as standby:
        made = Replicated(primary=primary, standby=Database(server=standby, name="shop"), reader=reader)
        made.catch_up()
        yield made


def test_a_standby_is_a_source(dsync: GuardedDsync, replicated: Replicated, sink_db: DatabaseFactory) -> None:
    """With a reader there and an owner here; the doctor says what a standby means."""
    replicated.primary.run("ALTER TABLE shop.sessions SET LOGGED")
    replicated.catch_up()

    found = dsync.here("doctor", replicated.uri, "--mode", "copy", "--json").result["findings"]

    assert "standby" in {finding["code"] for finding in found}
    copied_equal(dsync, replicated.uri, sink_db().owner_uri())


def test_unlogged_tables_of_a_standby_are_refused_and_can_be_left_out(
    dsync: GuardedDsync, replicated: Replicated, sink_db: DatabaseFactory
) -> None:
    """PostgreSQL refuses to read them during recovery, so the copy would stop half-way."""
    replicated.primary.run("CREATE UNLOGGED SEQUENCE shop.numbers", "GRANT SELECT ON shop.numbers TO public")
    replicated.catch_up()
    sink = sink_db()
    uri = sink.owner_uri()
    before = contents(sink)

    examined = dsync.here("doctor", replicated.uri, uri, "--mode", "copy", "--json")
    message = dsync.refused("sync", replicated.uri, uri, "--mode", "copy", exit_code=3)

    assert examined.exit_code == 3
    stops = {(f["object"], f["code"]) for f in examined.result["findings"] if f["severity"] == "stop"}
    assert stops == {("shop.sessions", "unlogged-on-standby"), ("shop.numbers", "unlogged-on-standby")}
    for text in ("shop.sessions", "and 1 more", "read from the primary", "-n"):
        assert text in message
    assert contents(sink) == before

    others = ("-n", "shop.orders", "-n", "shop.customers")
    copied = dsync.here("sync", replicated.uri, uri, *COPY, *others)
    assert (copied.exit_code, copied.result["verify"]["equal"]) == (0, True), copied.json["summary"]
