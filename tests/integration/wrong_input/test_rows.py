"""Rows that the sink refuses: they are set aside and named, the others arrive, and no value is shown."""

from __future__ import annotations

from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync

COPY = ("--mode", "copy", "--schema", "none", "-n", "shop.orders", "--json")


def test_a_row_that_the_sink_refuses_is_a_dead_letter(dsync: GuardedDsync, ends: Ends) -> None:
    """Exit 5: constraint and table are named, the row's contents are not; the same command says it again."""
    ends.source.run("UPDATE shop.orders SET note = 'impolite ' || id WHERE id IN (7, 300)")
    ends.sink.run(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.orders (id bigint PRIMARY KEY, note text NOT NULL CONSTRAINT polite CHECK (note !~ '^i'))",
    )

    copied = dsync("sync", *ends.uris, *COPY)
    repeated = dsync.here("sync", *ends.uris, *COPY)
    status = dsync.here("status", "--json")

    for ended in (copied, repeated):
        assert (ended.exit_code, ended.result["dead_letters"], ended.result["rows"]) == (5, 2, 498), ended.json
        assert "writing shop.orders: CheckViolation (23514) constraint polite" in ended.json["summary"]
    assert ends.sink.rows("SELECT count(*), count(*) FILTER (WHERE id IN (7, 300)) FROM shop.orders") == [(498, 0)]
    assert status.result["flows"][0]["dead_letters"] == 2
    for ended in (copied, repeated, status):
        assert "impolite" not in ended.stdout + ended.stderr
