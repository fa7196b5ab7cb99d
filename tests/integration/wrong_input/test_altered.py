"""Tables that were altered, or dropped at the sink, between two runs of a flow: `--again` ends with the source's."""

from __future__ import annotations

from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync

COPY = ("--mode", "copy")


def again(dsync: GuardedDsync, ends: Ends) -> None:
    """The command again, and the proof of it."""
    ended = dsync.here("sync", *ends.uris, *COPY, "--again", "--verify", "--json")
    assert ended.exit_code == 0, ended.json["summary"]


def test_altered_tables_are_made_anew_with_all_their_rows(dsync: GuardedDsync, ends: Ends) -> None:
    """One gains a column; of the other only a modifier changes, which rewrites nothing: it counts as unchanged at the
    source, and its rows are brought all the same."""
    ends.source.run("ALTER TABLE shop.log ALTER line TYPE varchar(9)")
    first = dsync.here("sync", *ends.uris, *COPY, "--json")
    assert first.exit_code == 0, first.json["summary"]
    ends.source.run(
        "ALTER TABLE shop.orders ADD COLUMN level int NOT NULL DEFAULT 3",
        "ALTER TABLE shop.log ALTER line TYPE varchar(20)",
    )
    again(dsync, ends)
    assert ends.sink.rows("SELECT count(*), sum(level) FROM shop.orders") == [(500, 1500)]
    assert ends.sink.rows("SELECT count(*) FROM shop.log") == [(20,)]
    assert ends.sink.rows("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'line'") == [
        ("character varying(20)",)
    ]


def test_tables_that_somebody_has_dropped_come_back(dsync: GuardedDsync, ends: Ends) -> None:
    """Also one that was made again and is empty: what is unchanged at the source is not there for that."""
    assert dsync.here("sync", *ends.uris, *COPY, "--json").exit_code == 0
    ends.sink.run("DROP TABLE shop.orders", "DROP TABLE shop.log", "CREATE TABLE shop.log (line text)")
    again(dsync, ends)
    assert ends.sink.rows("SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM shop.log)") == [(500, 20)]
