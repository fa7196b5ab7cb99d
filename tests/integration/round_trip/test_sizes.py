"""Many tables, many columns, large rows."""

from __future__ import annotations

import time

import pytest

from tests.integration.round_trip.judge import contents, differences
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

MIB = 1024 * 1024

_THOUSAND = """
DO $$ BEGIN
  FOR n IN 1..1000 LOOP
    EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, note text)', n);
    EXECUTE format('INSERT INTO small_%s SELECT g, ''row '' || g FROM generate_series(1, %s) g', n, n % 3);
  END LOOP;
END $$
"""


@pytest.mark.slow
async def test_a_thousand_small_tables(source: Database, sink: Database, copier: Copier) -> None:
    """None with more than two rows, a third with none; `-rP` shows how long it took, which is no promise here."""
    source.run(_THOUSAND)

    started = time.monotonic()
    copied = await copier(verify=False)
    print(f"1,000 tables took {time.monotonic() - started:.1f} s")

    assert copied.exit_code == 0, copied.explained()
    assert len(copied.rows) == 1000
    assert contents(sink, schema=False) == contents(source, schema=False)


@pytest.mark.parametrize("attach", ["inline", "process"])
async def test_a_row_of_forty_megabytes(source: Database, sink: Database, copier: Copier, attach: str) -> None:
    """Between small ones, and far more than a page: it travels whole."""
    source.run(
        "CREATE TABLE wide (id int PRIMARY KEY, body text)",
        "INSERT INTO wide SELECT n, 'small ' || n FROM generate_series(1, 20) n",
        "INSERT INTO wide SELECT 21, string_agg(md5(n::text), '') FROM generate_series(1, 1310720) n",
        "INSERT INTO wide SELECT n, 'small ' || n FROM generate_series(22, 40) n",
    )
    assert source.value("SELECT octet_length(body) FROM wide WHERE id = 21") == 40 * MIB

    copied = await copier(attach=attach)

    assert copied.exit_code == 0, copied.explained()
    assert differences(source, sink) == []


async def test_as_many_columns_as_a_table_can_have(source: Database, sink: Database, copier: Copier) -> None:
    """1,600, every fourth of them NULL."""
    listed = ", ".join(f"c{n} int" for n in range(1600))
    values = ", ".join("NULL" if n % 4 == 0 else f"g % {n + 1}" for n in range(1600))
    with source.connect() as connection:
        connection.execute(f"CREATE TABLE broad ({listed})".encode())
        connection.execute(f"INSERT INTO broad SELECT {values} FROM generate_series(1, 20) g".encode())

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert differences(source, sink) == []
