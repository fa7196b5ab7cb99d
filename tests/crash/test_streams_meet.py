"""Changes of one table whose rows get in each other's way arrive, however they are parted and cut."""

from __future__ import annotations

from pathlib import Path

import psycopg
import xxhash

from tests.crash.inline import InlineFlow
from tests.support.databases import DatabaseFactory

_ROWS = 1_000


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE seats (id int PRIMARY KEY, place int NOT NULL UNIQUE)",
            f"INSERT INTO seats SELECT g, g FROM generate_series(1, {_ROWS}) g",
            "CREATE TABLE booked (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&))",
            f"INSERT INTO booked SELECT g, int4range(g * 10, g * 10 + 10) FROM generate_series(1, {_ROWS}) g",
        ):
            connection.execute(statement.encode())


def _of_one_lane() -> tuple[int, int]:
    """Two keys that one of two lanes has."""
    one, other, *_ = (g for g in range(1, _ROWS) if xxhash.xxh3_64_intdigest(str(g).encode()) % 2 == 0)
    return one, other


async def test_what_one_key_gives_up_another_takes_in_one_large_transaction(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path
) -> None:
    """A place is taken, given up and taken by another key, while two others swap theirs.

    The swap is written in the source's order alone. Had other keys' changes been written ahead of it, they would be in
    the way of what was there only for a moment.
    """
    flow = InlineFlow(source_db(_fill), sink_db(), tmp_path / "state.db", ("seats", "booked"))
    await flow.run()
    one, other = _of_one_lane()
    flow.source.run(
        f"""
        DO $$ BEGIN
            FOR g IN 1..{_ROWS} LOOP
                INSERT INTO seats VALUES (10000 + g, 10000 + g);
                DELETE FROM seats WHERE id = 10000 + g;
                INSERT INTO seats VALUES (20000 + g, 10000 + g);
                INSERT INTO booked VALUES (30000 + g, int4range(30000 + g, 30001 + g));
                DELETE FROM booked WHERE id = 30000 + g;
                INSERT INTO booked VALUES (40000 + g, int4range(30000 + g, 30001 + g));
            END LOOP;
            UPDATE seats SET place = -1 WHERE id = {one};
            UPDATE seats SET place = {one} WHERE id = {other};
            UPDATE seats SET place = {other} WHERE id = {one};
        END $$
        """
    )
    outcome = await flow.run()
    assert outcome.exit_code == 0
    flow.require_equal()
