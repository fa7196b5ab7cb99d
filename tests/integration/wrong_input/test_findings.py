"""What `doctor` and `plan` say of a table, they say once."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.wrong_input.guarded import GuardedDsync
from tests.support.databases import DatabaseFactory


def fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (i int, c regclass, d regtype)")
        connection.execute("CREATE TABLE u (q interval)")


@pytest.mark.parametrize("pg_pair", [(18, 16)], indirect=True)
def test_why_a_table_travels_as_text_is_said_once(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """So that nobody wonders about the speed, and nobody reads it twice."""
    ends = source_db(fill).uri, sink_db().uri

    for command in ("doctor", "plan"):
        extra = () if command == "doctor" else ("--mode", "copy")
        examined = dsync.here(command, *ends, *extra, "--json")
        for table, column in (("public.t", "c (regclass)"), ("public.u", "q (interval)")):
            about = [f["message"] for f in examined.result["findings"] if f["object"] == table]
            (message,) = [text for text in about if column in text]
            assert "rows travel as PG_COPY_TEXT" in message
