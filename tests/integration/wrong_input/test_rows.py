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


LEANING = (
    "CREATE TABLE shop.limits (id int, most int)",
    "INSERT INTO shop.limits VALUES (1, 100)",
    "SET search_path = shop",
    "CREATE FUNCTION shop.allowed(v int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT v <= max(most) FROM limits'",
    "CREATE FUNCTION shop.inner_word(v int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT v::text'",
    "CREATE FUNCTION shop.word(v int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_word(v); END'",
    "CREATE TABLE shop.checked (v int CHECK (shop.allowed(v)))",
    "CREATE TABLE shop.computed (v int, w text GENERATED ALWAYS AS (shop.word(v)) STORED)",
    "INSERT INTO checked VALUES (1), (2)",
    "INSERT INTO computed VALUES (1), (2)",
    "RESET search_path",
)


def test_a_function_that_leans_on_the_search_path_stops_its_table_alone(dsync: GuardedDsync, ends: Ends) -> None:
    """Exit 6, naming the function and the way on, which leads to an equal copy; the others arrive."""
    ends.source.run(*LEANING)

    copied = dsync("sync", *ends.uris, "--mode", "copy", "--json")
    assert copied.exit_code == 6, copied.json["summary"]
    states = {item["namespace"]: item["state"] for item in copied.result["namespaces"]}
    assert {name for name, state in states.items() if state == "stopped"} == {"shop.checked", "shop.computed"}
    reasons = {item["namespace"]: item["reason"] for item in copied.result["namespaces"]}
    assert 'relation "limits" does not exist (42P01) in function "allowed"; ' in reasons["shop.checked"]
    assert " in function shop.word(integer); " in reasons["shop.computed"]
    assert ends.sink.value("SELECT count(*) FROM shop.orders") == 500

    for database in (ends.source, ends.sink):
        database.run(
            "ALTER FUNCTION shop.allowed SET search_path = shop", "ALTER FUNCTION shop.word SET search_path = shop"
        )
    again = dsync.here("sync", *ends.uris, "--mode", "copy", "--again", "--verify", "--json")
    assert (again.exit_code, again.result["consistent"]) == (0, True), again.json["summary"]
    assert ends.sink.rows("SELECT w FROM shop.computed ORDER BY v") == [("1",), ("2",)]
