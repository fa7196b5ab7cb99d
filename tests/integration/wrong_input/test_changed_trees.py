"""Trees whose rows every server places by itself, changed while or after they were copied: read again as a whole."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync, new_login
from tests.support.databases import DatabaseFactory

COPY = ("--mode", "copy", "--parallel", "1", "--page-bytes", str(256 * 1024))


def tree(uri: str) -> None:
    """Partitions by the hash of an enum, whose bytes are its oid, beside one by range."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE TYPE kind AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j');
            CREATE TABLE h (id int, kind kind, pad text) PARTITION BY RANGE (id);
            CREATE TABLE low PARTITION OF h FOR VALUES FROM (0) TO (10000) PARTITION BY HASH (kind);
            CREATE TABLE low_0 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 0);
            CREATE TABLE low_1 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 1);
            CREATE TABLE low_2 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 2);
            CREATE TABLE high PARTITION OF h FOR VALUES FROM (10000) TO (20000);
            INSERT INTO h SELECT 10000 + g, 'a', '' FROM generate_series(1, 100) g;
            INSERT INTO low SELECT g, k, '' FROM unnest(enum_range(NULL::kind)) WITH ORDINALITY AS k (k, g);
            """
        )
        # Which kind lies where depends on the type's oid: two partitions of two pages each are made, the larger first.
        for rows in (2000, 1500):
            connection.execute(
                """
                INSERT INTO low SELECT g, k.kind, repeat('x', 200) FROM generate_series(11, %s) g, (
                    SELECT min(kind) AS kind FROM low GROUP BY tableoid HAVING count(*) < 1000 ORDER BY tableoid LIMIT 1
                ) k
                """,
                [rows],
            )


STANDING = """
SELECT count(*) FILTER (WHERE done), count(*) FILTER (WHERE NOT done AND seq > 0)
FROM _dsync.ledger WHERE namespace = 'public.low' AND unit NOT LIKE '%analyze%'
"""
"""How many units of the tree have arrived, and of how many a part."""


@pytest.fixture
def trees(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> Ends:
    source, sink = source_db(tree), sink_db()
    # Other oids than the source's, so that rows lie in other partitions.
    sink.run("CREATE TABLE t (i serial)", "DROP TABLE t")
    return Ends(source=source, sink=sink, source_uri=new_login(source), sink_uri=new_login(sink))


def test_again_reads_a_changed_tree_anew_and_leaves_what_lies_beside_it(dsync: GuardedDsync, trees: Ends) -> None:
    """One partition has changed: the rows of all of them are among one another at the sink."""
    assert dsync.here("sync", *trees.uris, *COPY, "--verify", "--json").exit_code == 0
    before = trees.sink.rows("SELECT xmin::text, count(*) FROM high GROUP BY 1")
    # Which kinds lie where depends on the type's oid.
    largest = trees.source.value("SELECT tableoid::regclass::text FROM low GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
    trees.source.run(f"DELETE FROM {largest} WHERE id % 2 = 0".encode())  # type: ignore[arg-type]
    ended = dsync.here("sync", *trees.uris, *COPY, "--again", "--verify", "--json")
    assert ended.exit_code == 0, ended.json["summary"]
    assert trees.sink.rows("SELECT xmin::text, count(*) FROM high GROUP BY 1") == before
    assert trees.sink.rows("SELECT count(*), sum(id) FROM h") == trees.source.rows("SELECT count(*), sum(id) FROM h")


def test_a_tree_that_changes_under_a_lost_snapshot_is_read_again(dsync: GuardedDsync, trees: Ends) -> None:
    """One partition is there, of another a page: neither can be cleared alone."""
    for _ in range(6):
        killed = dsync.start("sync", *trees.uris, *COPY, DSYNC_FAIL="coordinator.after_page:exit@1").end()
        assert killed.exit_code == 137, killed.stderr
        if trees.sink.rows(STANDING) == [(1, 1)]:
            break
    assert trees.sink.rows(STANDING) == [(1, 1)]
    trees.source.run("DELETE FROM low WHERE id % 2 = 0")
    ended = dsync.here("sync", *trees.uris, *COPY, "--verify", "--json")
    assert ended.exit_code == 0, ended.json["summary"]
    assert trees.sink.rows("SELECT count(*), sum(id) FROM h") == trees.source.rows("SELECT count(*), sum(id) FROM h")
