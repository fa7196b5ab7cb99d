"""Another server behind the same address: named, with a choice, never a silent gap or a second copy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.wrong_input.conftest import Ends, fill
from tests.integration.wrong_input.guarded import CANARY, GuardedDsync, contents
from tests.support.databases import Database, PgServers

COPY = ("--mode", "copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A server, and another one that takes its place: the same address, role, password and database name."""

    first: EmbeddedPostgres
    second: EmbeddedPostgres

    @classmethod
    def start(cls, servers: PgServers) -> Pair:
        pair = cls(first=servers.own(18), second=servers.own(18))
        for server in (pair.first, pair.second):
            server.execute(sql.SQL("CREATE ROLE canary SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(CANARY)))
            server.create_database("shop")
        return pair

    @property
    def uri(self) -> str:
        return self.first.uri("shop", user="canary", password=CANARY)

    @property
    def databases(self) -> tuple[Database, Database]:
        return Database(server=self.first, name="shop"), Database(server=self.second, name="shop")

    def swap(self) -> None:
        """Stop the first, start the second at its port."""
        self.first.stop("immediate")
        self.second.stop("immediate")
        self.second.port = self.first.port
        self.second.start()

    def swap_back(self) -> None:
        self.second.stop("immediate")
        self.first.start()


@pytest.fixture
def pair(own_servers: PgServers) -> Pair:
    return Pair.start(own_servers)


def test_a_finished_copy_is_not_finished_on_another_sink(dsync: GuardedDsync, ends: Ends, pair: Pair) -> None:
    """ "Nothing to do" would be a lie there; and whatever else is asked of the flow is refused too."""
    command = ("sync", ends.source_uri, pair.uri, *COPY)
    copied = dsync.here(*command, "--json")
    assert copied.exit_code == 0, copied.json["summary"]
    flow = copied.result["flow"]
    pair.swap()
    other = pair.databases[1]
    before = contents(other)

    for words in (
        command,
        (*command, "--again"),
        ("plan", *command[1:]),
        ("verify", flow, "--source", ends.source_uri, "--sink", pair.uri),
    ):
        message = dsync.refused(*words, exit_code=3)
        assert "the sink is another server or database than the one this flow was started with" in message
        assert "--flow" in message
    assert contents(other) == before

    named = dsync.here(*command, "--flow", "elsewhere", "--verify", "--json")
    assert (named.exit_code, named.result["rows"]) == (0, 520), named.json["summary"]
    pair.swap_back()
    assert dsync.here(*command, "--json").result["moved_nothing"]


def test_a_flow_whose_sink_was_replaced_is_forgotten_here_alone(dsync: GuardedDsync, ends: Ends, pair: Pair) -> None:
    """What another server keeps is not the flow's; what the flow has left at the one that is gone is listed."""
    command = ("sync", ends.source_uri, pair.uri, *COPY)
    copied = dsync.here(*command, "--json")
    assert copied.exit_code == 0, copied.json["summary"]
    flow = copied.result["flow"]
    pair.swap()
    before = contents(pair.databases[1])

    message = dsync.refused("reset", flow, "--sink", pair.uri, "--yes", exit_code=3)
    assert f"dsync reset {flow} --state-only" in message
    dsync.refused("reset", flow, "--sink", pair.uri, "--state-only", "--yes", exit_code=2)
    dsync.refused("reset", "--state-only", "--yes", exit_code=2)
    forgotten = dsync.here("reset", flow, "--state-only", "--yes", "--json")
    assert forgotten.exit_code == 0, forgotten.json["summary"]
    assert forgotten.result["removed_from_state"]["flows"] == 1
    assert forgotten.result["removed_at_sink"] == []
    left = "\n".join(forgotten.result["left_behind"])
    assert f"what it remembers of flow {flow}" in left
    for namespace in (item["target"] for item in copied.result["namespaces"]):
        assert namespace in left
    assert contents(pair.databases[1]) == before

    anew = dsync.here(*command, "--json")
    assert (anew.exit_code, anew.result["rows"]) == (0, 520), anew.json["summary"]
    assert anew.result["flow"] != flow


def test_a_copy_is_not_gone_on_with_from_another_source(dsync: GuardedDsync, ends: Ends, pair: Pair) -> None:
    """The rest of other rows would make a whole that never was."""
    first, second = pair.databases
    fill(first.uri)
    fill(second.uri)
    command = ("sync", pair.uri, ends.sink_uri, *COPY)
    killed = dsync(*command, DSYNC_FAIL="coordinator.after_page:exit@1")
    assert killed.exit_code == 137
    pair.swap()
    before = contents(ends.sink)

    for words in (command, ("plan", *command[1:])):
        message = dsync.refused(*words, exit_code=3)
        assert "the source is another server or database than the one this flow was started with" in message
    assert contents(ends.sink) == before

    pair.swap_back()
    ended = dsync.here(*command, "--verify", "--json")
    assert (ended.exit_code, ended.result["rows"]) == (0, 520), ended.json["summary"]
