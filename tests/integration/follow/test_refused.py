"""Changes that the sink refuses: kept, told of, healed by what comes later, and never written over what is newer."""

from __future__ import annotations

from tests.integration.cli.running import Dsync
from tests.support.databases import DatabaseFactory

_CANARY = "canary-51c2"


def test_a_change_that_the_sink_refuses_waits_and_the_others_go_on(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Until its record comes whole again, or goes, or its table is read again."""
    source, sink = source_db(), sink_db()
    source.run(
        "CREATE TABLE checked (id int PRIMARY KEY, n int, large text)",
        "ALTER TABLE checked ALTER large SET STORAGE EXTERNAL",
        "INSERT INTO checked SELECT i, i, repeat('x', 4000) FROM generate_series(1, 5) i",
        "CREATE TABLE other (id int PRIMARY KEY, n int)",
    )
    ends = (source.uri, sink.uri, "--flow", "refusing", "--until-caught-up", "--json")
    assert dsync("sync", *ends).exit_code == 0
    sink.run("ALTER TABLE checked ADD CONSTRAINT positive CHECK (n > 0)")
    source.run(
        f"INSERT INTO checked VALUES (6, -6, '{_CANARY}')",
        "UPDATE checked SET n = -1, large = repeat('new', 3000) WHERE id = 1",
        "UPDATE checked SET n = -2 WHERE id = 2",
        "INSERT INTO other VALUES (1, 1)",
        "DELETE FROM checked WHERE id = 3",
    )
    refused = dsync("sync", *ends)
    assert refused.exit_code == 5, refused.stderr
    assert refused.result["dead_letters"] == 3
    assert sink.rows("SELECT id, n FROM checked ORDER BY id") == [(1, 1), (2, 2), (4, 4), (5, 5)]
    assert sink.value("SELECT count(*) FROM other") == 1
    assert _CANARY not in refused.stdout + refused.stderr
    shown = dsync("dead-letters", "show", "refusing", "--show-values", "--json")
    letters = shown.result["dead_letters"]
    assert {(one["namespace"], one["page_type"]) for one in letters} == {("public.checked", "CHANGE")}
    assert all("constraint positive" in one["reason"] for one in letters)
    assert {"id": "6", "n": "-6", "large": _CANARY} in [one["values"] for one in letters]
    vain = dsync("dead-letters", "retry", "refusing", "--sink", sink.uri)
    assert vain.exit_code == 5
    assert "dsync resync" in vain.stdout

    # The one comes with a value that the sink has never got, the other goes.
    source.run("UPDATE checked SET n = 1 WHERE id = 1", "DELETE FROM checked WHERE id = 6")
    healed = dsync("sync", *ends)
    assert (healed.exit_code, healed.result["dead_letters"]) == (5, 1), healed.stderr
    assert sink.rows("SELECT id, n, md5(large) FROM checked WHERE id <> 2 ORDER BY id") == source.rows(
        "SELECT id, n, md5(large) FROM checked WHERE id <> 2 ORDER BY id"
    )
