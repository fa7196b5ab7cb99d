"""What must hold once a flow has ended, however many lives that took."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgpack
import psycopg

from dsync.app.requests import SyncRequest
from dsync.app.status import flow_status
from dsync.app.sync import SyncOutcome, sync
from dsync.coordinator.events import Event
from dsync.state import Phase
from tests.crash.lives import Ending, Flow
from tests.crash.tables import ALL, TOGETHER
from tests.support.databases import Database
from tests.support.waiting import wait_for

Contents = dict[str, tuple[int, int]]
"""By table: the number of rows, and the sum of their hashes; equal means equal as multisets."""

_SHARED_MEMORY = Path("/dev/shm")

# x is an alias that no column has; the sum over rows counts each as often as it is there.
_CONTENTS = """
SELECT count(*), coalesce(sum(('x' || left(md5((x.*)::text), 15))::bit(60)::int8::numeric), 0)::text FROM ONLY {} x
"""
_PLACES = "SELECT coalesce(sum(hashtext(ctid::text || ' ' || xmin::text)), 0)::int8 FROM ONLY {}"
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2
"""
_INDEXES = "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
_RELATIONS = """
SELECT relname::text, relkind::text, relpersistence::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace ORDER BY 1
"""


def contents(database: Database, tables: Sequence[str] = ALL) -> Contents:
    """The tables as they are now, all of one moment."""
    with database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return _contents(connection, tables)


def _contents(connection: psycopg.Connection, tables: Sequence[str]) -> Contents:
    found: Contents = {}
    for name in tables:
        row = connection.execute(_CONTENTS.format(name).encode()).fetchone()
        assert row is not None
        found[name] = (row[0], int(row[1]))
    return found


def differing(one: Contents, other: Contents) -> set[str]:
    """The tables that are not the same in both."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def check_copy(
    flow: Flow,
    ending: Ending,
    *,
    expected: Contents | None = None,
    before: Sequence[Contents] = (),
    tables: Sequence[str] = ALL,
) -> None:
    """Everything that a copy promises: O1, O2, O4, O5 and O6, to the extent that a copy has them.

    `expected` is the source as of the copy's last snapshot (None: it stands still, and is looked at now), `before` as
    of the snapshots that were lost.
    """
    assert ending.exit_code in (0, 6), f"exit code {ending.exit_code}\n{ending.answer}\n{ending.log[-6000:]}"
    at_source = expected if expected is not None else contents(flow.source, tables)
    at_sink = contents(flow.sink, tables)
    named = set(ending.named)
    # Exactly those: a table that is not named is the source's, and one that is named is not.
    assert differing(at_source, at_sink) == named, ending.log[-6000:]
    assert ending.exit_code == (6 if named else 0), ending.answer
    assert ending.result["consistent"] is (not named)
    assert ending.result["failed_steps"] == []
    for name in named if before else ():
        assert at_sink[name] in [earlier[name] for earlier in before], f"{name} is of no snapshot at all"
    if not named and len(_versions(flow.source)) == 1:
        # What is written together at the source arrives together: the tables are of one moment.
        assert len(_versions(flow.sink)) == 1
    check_schema(flow)
    check_counts(flow, ending, at_sink)
    check_status(flow, ending)
    check_nothing_left(flow)


def _versions(database: Database) -> set[str]:
    """Which rows, in which version, the tables have that are written together; one element where they agree."""
    return {
        database.value(f"SELECT md5(string_agg(id || ':' || version, ',' ORDER BY id)) FROM {name}".encode())  # type: ignore[arg-type]
        for name in TOGETHER
    }


def check_schema(flow: Flow) -> None:
    """Every table, view, key, foreign key and index is there, and as at the source."""
    for query in (_RELATIONS, _CONSTRAINTS, _INDEXES):
        assert flow.sink.rows(query) == flow.source.rows(query)


def check_counts(flow: Flow, ending: Ending, at_sink: Contents) -> None:
    """The answer's rows, the ledger's and the table's are the same number (nothing is lost, nothing is repeated)."""
    said = {item["namespace"]: item["rows"] for item in ending.result["namespaces"]}
    there = {name: rows for name, (rows, _) in at_sink.items()}
    assert said == there
    assert ending.result["rows"] == sum(there.values())
    ledger = dict(
        flow.sink.rows(
            "SELECT namespace, sum(rows)::int8 FROM (TABLE _dsync.ledger UNION ALL TABLE _dsync.ledger_unlogged) l"
            " WHERE flow = %s AND namespace <> '' GROUP BY 1",
            [ending.result["flow"]],
        )
    )
    assert {name: ledger.get(name, 0) for name in there} == there


def check_status(flow: Flow, ending: Ending) -> None:
    """`status` tells the truth: it is over, and what has arrived where."""
    status = flow_status(flow.location, ending.result["flow"])
    assert status.phase == (Phase.DONE if ending.exit_code == 0 else Phase.INCONSISTENT).value
    assert not status.is_running
    assert status.error is None
    assert status.consistent is ending.result["consistent"]
    assert status.rows == ending.result["rows"]
    assert {item.namespace: (item.rows, item.state) for item in status.namespaces} == {
        item["namespace"]: (item["rows"], item["state"]) for item in ending.result["namespaces"]
    }
    assert all(item.partitions == item.partitions_done for item in status.namespaces if item.state != "stopped")
    assert bool(status.next_step) is (ending.exit_code == 6)


def check_nothing_left(flow: Flow) -> None:
    """No process, no session at either server, no socket and no page of any life."""
    wait_for(lambda: not flow.processes(), timeout_s=20, what=lambda: f"the end of {flow.processes()}")
    wait_for(lambda: not sessions(flow), timeout_s=20, what=lambda: f"the end of {sessions(flow)}")
    assert list(flow.runtime.iterdir()) == []


def sessions(flow: Flow) -> list[str]:
    """The names of our sessions in all databases."""
    return [
        name
        for database in (flow.source, flow.sink, flow.state_db)
        if database is not None
        for (name,) in database.rows(
            "SELECT application_name || ' ' || state FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'dsync%'"
        )
    ]


def check_repeat_moves_nothing(flow: Flow, ending: Ending) -> None:
    """The same command again says when it was done, and touches no row (O5)."""
    before = row_places(flow.sink)
    outcome = repeat(flow)
    assert outcome.result is None
    assert outcome.exit_code == ending.exit_code
    assert outcome.run.run == ending.result["run"]
    assert row_places(flow.sink) == before


def repeat(flow: Flow) -> SyncOutcome:
    """The same command, in this process: quicker by the start of three."""
    request = SyncRequest(source=flow.source_uri, sink=flow.sink_uri, state=flow.location, attach="inline", parallel=2)

    async def run() -> SyncOutcome:
        return await sync(request, _ignore, asyncio.Event())

    return asyncio.run(run())


def _ignore(event: Event) -> None:
    """Nobody looks."""


def row_places(database: Database) -> dict[str, int]:
    """Where each row lies, and which transaction has written it."""
    return {name: database.value(_PLACES.format(name).encode()) for name in ALL}  # type: ignore[arg-type]


def abandoned_directories() -> set[Path]:
    """Directories of pages in shared memory whose owner is dead; the next life removes them."""
    return {path for path in _SHARED_MEMORY.glob("dsync-run-*") if _is_abandoned(path)}


def _is_abandoned(path: Path) -> bool:
    try:
        descriptor = os.open(path / "owner.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


class SnapshotWatcher:
    """Imports every snapshot of a flow while it is held, so that the source can be read as of it afterwards."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)
        self._seen: list[tuple[bytes, psycopg.Connection | None]] = []
        self._failure: BaseException | None = None

    def __enter__(self) -> SnapshotWatcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        for _name, connection in self._seen:
            if connection is not None:
                connection.close()
        if self._failure is not None:
            raise self._failure

    @property
    def taken(self) -> int:
        """How many snapshots the flow has had so far."""
        return len(self._seen)

    def history(self) -> list[Contents]:
        """The source as of each snapshot, the last one last; call it when the flow has ended."""
        self._stopping.set()
        self._thread.join(30)
        assert self._seen, "no snapshot was seen"
        assert self._seen[-1][1] is not None, "the last snapshot was over before it could be imported"
        return [_contents(connection, ALL) for _, connection in self._seen if connection is not None]

    def _work(self) -> None:
        try:
            while not self._stopping.wait(0.01):
                snapshot = self._recorded()
                if snapshot and snapshot not in [known for known, _ in self._seen]:
                    self._seen.append((snapshot, self._import(snapshot)))
        except BaseException as exc:
            self._failure = exc

    def _recorded(self) -> bytes:
        if self._flow.state_db is not None:
            return _recorded_at(self._flow.state_db)
        if not self._flow.state.exists():
            return b""
        with closing(sqlite3.connect(f"file:{self._flow.state}?mode=ro", uri=True, timeout=10)) as connection:
            try:
                row = connection.execute("SELECT snapshot FROM runs ORDER BY number DESC LIMIT 1").fetchone()
            except sqlite3.OperationalError:
                # The tables are being made.
                return b""
        return row[0] if row else b""

    def _import(self, snapshot: bytes) -> psycopg.Connection | None:
        name = msgpack.unpackb(snapshot)[4]
        connection = self._flow.source.connect()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{name}'".encode())
        except psycopg.Error:
            # Lost before we came: what it saw is gone.
            connection.close()
            return None
        return connection


def _recorded_at(database: Database) -> bytes:
    try:
        rows = database.rows("SELECT snapshot FROM dsync_state.runs ORDER BY number DESC LIMIT 1")
    except psycopg.errors.UndefinedTable:
        # It is being made.
        return b""
    return bytes(rows[0][0]) if rows else b""


@contextmanager
def watching(flow: Flow) -> Iterator[SnapshotWatcher]:
    """Follow a flow's snapshots inside the block."""
    with SnapshotWatcher(flow) as watcher:
        yield watcher
