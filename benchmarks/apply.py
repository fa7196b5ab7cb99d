"""Applying changes: rows a second at the sink alone, beside what PostgreSQL's own logical replication takes for them.

Run it with `python -m benchmarks.apply [--version N] [--rows N]`. The same updates are applied three times to tables
alike: by a subscription, in frames of about 1.5 MiB, and in frames as small as pgbench's transactions.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from dsync_postgres.conninfo import Target
from dsync_postgres.options import PostgresOptions
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink.side import SinkSide

from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import PluginContext, types

_COLUMNS = ("aid", "bid", "abalance", "filler")
_TABLE = """
CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84)) WITH (fillfactor = 100);
INSERT INTO pgbench_accounts SELECT g, 1, 0, '' FROM generate_series(1, {rows}) g;
ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
"""
_FRAME_ROWS = 12_000
_SMALL_ROWS = 4
_SMALL_FRAMES = 3_000
_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}


def _record(aid: int, balance: int) -> bytes:
    values = (b"%d" % aid, b"1", b"%d" % balance, b" " * 84)
    return b"N" + struct.pack(">H", 4) + b"".join([b"t" + struct.pack(">I", len(value)) + value for value in values])


def _frame(aids: range, balance: int) -> types.ChangeFrame:
    records = [_record(aid, balance) for aid in aids]
    count = len(records)
    relation = types.ChangeRelation(
        namespace="public.pgbench_accounts",
        columns=tuple(types.ChangeColumn(name=name, key_position=int(name == "aid")) for name in _COLUMNS),
    )
    return types.ChangeFrame(
        type=types.ChangeType.PG_OUTPUT,
        cursor=b"",
        transaction=1,
        index=count,
        relations=(relation,),
        operations=bytes([types.Operation.UPDATE]) * count,
        relation_of=bytes(2 * count),
        key_hashes=bytes(8 * count),
        sizes=struct.pack(f"<{count}I", *map(len, records)),
        body=b"".join(records),
    )


def _native(server: EmbeddedPostgres, rows: int) -> float:
    """Seconds from the commit of an update of all rows to its visibility at a subscriber in the same server."""
    for name in ("native_source", "native_sink"):
        server.create_database(name)
    with server.connect("native_source") as source, server.connect("native_sink") as sink:
        source.execute(_TABLE.format(rows=rows).encode())
        sink.execute(_TABLE.format(rows=rows).encode())
        source.execute("CREATE PUBLICATION bench FOR TABLE pgbench_accounts")
        # One server is both ends: the slot is made first, since CREATE SUBSCRIPTION would wait for itself.
        source.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
        sink.execute(
            f"CREATE SUBSCRIPTION bench CONNECTION '{_conninfo(server, 'native_source')}' PUBLICATION bench "
            "WITH (create_slot = false, slot_name = bench, copy_data = false)".encode()  # type: ignore[arg-type]
        )
        source.execute("VACUUM pgbench_accounts")
        sink.execute("VACUUM pgbench_accounts")
        _wait(lambda: sink.execute("SELECT 1 FROM pg_stat_subscription WHERE pid IS NOT NULL").fetchone())
        source.execute("UPDATE pgbench_accounts SET abalance = 1")
        began = time.monotonic()
        _wait(lambda: sink.execute("SELECT 1 FROM pgbench_accounts WHERE aid = 1 AND abalance = 1").fetchone())
        took_s = time.monotonic() - began
        sink.execute("ALTER SUBSCRIPTION bench DISABLE")
        sink.execute("ALTER SUBSCRIPTION bench SET (slot_name = NONE)")
        sink.execute("DROP SUBSCRIPTION bench")
        _wait(lambda: source.execute("SELECT 1 FROM pg_replication_slots WHERE NOT active").fetchone())
        source.execute("SELECT pg_drop_replication_slot('bench')")
    return took_s


def _conninfo(server: EmbeddedPostgres, name: str) -> str:
    return psycopg.conninfo.make_conninfo(server.uri(name)).replace("'", "''")


def _wait(is_so: Callable[[], object]) -> None:
    while not is_so():
        time.sleep(0.005)


class _Sink:
    """A sink side with one lane."""

    def __init__(self, uri: str, directory: Path) -> None:
        self._sessions = Sessions(Target.of(uri), PostgresOptions())
        self._sessions.configure(types.SessionRequest(flow="bench", run="r", role=types.Role.SINK))
        self._side = SinkSide(self._sessions, PluginContext(private_directory=directory))
        self._seq = 0
        self._fence = 0

    async def open(self) -> None:
        (state,) = await self._side.open_units("bench", "r", [types.UnitRef(unit="lane", namespace="")])
        self._fence = state.fence

    async def write(self, frame: types.ChangeFrame) -> None:
        self._seq += 1
        context = types.WriteContext(
            flow="bench", run="r", unit="lane", fence=self._fence, cursor=b"c", seq=self._seq, done=False
        )
        request = types.WriteChangesRequest(context=context, frame=frame, targets=("public.pgbench_accounts",))
        await self._side.write_changes(request)

    async def close(self) -> None:
        await self._side.close()
        await self._sessions.close()


async def _ours(server: EmbeddedPostgres, rows: int, directory: Path) -> dict[str, float]:
    server.create_database("ours")
    with server.connect("ours") as connection:
        connection.execute(_TABLE.format(rows=rows).encode())
        connection.execute("VACUUM pgbench_accounts")
    sink = _Sink(server.uri("ours"), directory)
    await sink.open()
    await sink.write(_frame(range(1, 2), 0))
    frames = [_frame(range(start, min(start + _FRAME_ROWS, rows + 1)), 1) for start in range(1, rows + 1, _FRAME_ROWS)]
    began, own = time.monotonic(), time.process_time()
    for frame in frames:
        await sink.write(frame)
    large_s, own_s = time.monotonic() - began, time.process_time() - own
    small = [_frame(range(n * 7 % rows + 1, n * 7 % rows + 1 + _SMALL_ROWS), 2) for n in range(_SMALL_FRAMES)]
    began, own = time.monotonic(), time.process_time()
    for frame in small:
        await sink.write(frame)
    small_s, own_small_s = time.monotonic() - began, time.process_time() - own
    await sink.close()
    return {"large": large_s, "own": own_s, "small": small_s, "own_small": own_small_s}


def main() -> None:
    """Print the figures of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", type=int, default=16)
    parser.add_argument("--rows", type=int, default=300_000)
    arguments = parser.parse_args()
    with EmbeddedPostgres(arguments.version, settings=_SETTINGS) as server, tempfile.TemporaryDirectory() as folder:
        native_s = _native(server, arguments.rows)
        ours = asyncio.run(_ours(server, arguments.rows, Path(folder)))
    print(f"PostgreSQL {arguments.version}, {arguments.rows:,} updated rows of pgbench_accounts")
    print(f"  its own replication, end to end: {arguments.rows / native_s:,.0f} rows/s")
    print(
        f"  frames of {_FRAME_ROWS:,} rows:          {arguments.rows / ours['large']:,.0f} rows/s, "
        f"of which {ours['own'] / arguments.rows * 1e6:.1f} µs a row in this process"
    )
    print(
        f"  frames of {_SMALL_ROWS} rows:               {_SMALL_FRAMES / ours['small']:,.0f} frames/s, "
        f"{ours['small'] / _SMALL_FRAMES * 1e6:,.0f} µs each, of which "
        f"{ours['own_small'] / _SMALL_FRAMES * 1e6:,.0f} µs in this process"
    )


if __name__ == "__main__":
    main()
