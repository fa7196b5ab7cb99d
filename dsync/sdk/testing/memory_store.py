"""Where the memory connector keeps its documents: an SQLite database, in memory or in a file.

A file outlives the process, so that a test can kill a connector and see what had become durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dsync.protocol.errors import FencedError, RecordError
from dsync.protocol.types import FlowManifest, UnitRef, UnitState, WriteContext

REFUSED_FIELD = b"_refuse\x00"
"""A document with a field of this name is refused by the sink, as one that breaks a constraint."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    namespace TEXT, position INTEGER, id BLOB, document BLOB, PRIMARY KEY (namespace, id)
);
CREATE INDEX IF NOT EXISTS by_position ON documents (namespace, position);
CREATE TABLE IF NOT EXISTS namespaces (namespace TEXT PRIMARY KEY, version INTEGER, flow TEXT);
CREATE TABLE IF NOT EXISTS ledger (
    flow TEXT, run TEXT, unit TEXT, namespace TEXT, fence INTEGER, cursor BLOB, seq INTEGER, rows INTEGER,
    size_bytes INTEGER, done INTEGER, PRIMARY KEY (flow, run, unit)
);
CREATE TABLE IF NOT EXISTS manifests (flow TEXT PRIMARY KEY, fingerprint TEXT, name TEXT, run TEXT, plan BLOB);
"""


class MemoryStore:
    """Namespaces of documents by id, and the ledger beside them, written in one transaction."""

    def __init__(self, path: str = "") -> None:
        # Tests look into a connector that is served from another thread's event loop.
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable on leaving."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # ---------------------------------------------------------------- documents

    def namespaces(self) -> list[str]:
        return [name for (name,) in self._db.execute("SELECT namespace FROM namespaces ORDER BY 1")]

    def create(self, namespace: str, flow: str = "") -> None:
        """Make a namespace, empty, unless it is there."""
        self._db.execute("INSERT OR IGNORE INTO namespaces VALUES (?, 0, ?)", (namespace, flow))

    def drop(self, namespace: str) -> None:
        self._db.execute("DELETE FROM documents WHERE namespace = ?", (namespace,))
        self._db.execute("DELETE FROM namespaces WHERE namespace = ?", (namespace,))

    def clear(self, namespace: str) -> None:
        self._db.execute("DELETE FROM documents WHERE namespace = ?", (namespace,))
        self._touch(namespace)

    def flow_of(self, namespace: str) -> str | None:
        """The flow that made a namespace, empty for none; None where it does not exist."""
        row = self._db.execute("SELECT flow FROM namespaces WHERE namespace = ?", (namespace,)).fetchone()
        return None if row is None else row[0]

    def put(
        self,
        namespace: str,
        documents: Iterable[tuple[bytes, bytes]],
        *,
        refusing: bool = True,
        replacing: bool = True,
    ) -> int:
        """Insert or replace documents by id; returns how many were given.

        Raises:
            RecordError: one is marked as refused, and `refusing` is true; or is there already, and not `replacing`.
        """
        self.create(namespace)
        count = 0
        for key, document in documents:
            if refusing and REFUSED_FIELD in document:
                raise RecordError(f"{namespace}: a document breaks the constraint no_refuse")
            if not replacing and self.get(namespace, key):
                raise RecordError(f"{namespace}: a document with this id is there")
            self._db.execute(
                "INSERT INTO documents VALUES (?1, (SELECT coalesce(max(position), -1) + 1 FROM documents"
                " WHERE namespace = ?1), ?2, ?3) ON CONFLICT DO UPDATE SET document = excluded.document",
                (namespace, key, document),
            )
            count += 1
        self._touch(namespace)
        return count

    def delete(self, namespace: str, key: bytes) -> None:
        self._db.execute("DELETE FROM documents WHERE namespace = ? AND id = ?", (namespace, key))
        self._touch(namespace)

    def get(self, namespace: str, key: bytes) -> bytes:
        """The document with this id; empty where there is none."""
        query = "SELECT document FROM documents WHERE namespace = ? AND id = ?"
        row = self._db.execute(query, (namespace, key)).fetchone()
        return b"" if row is None else bytes(row[0])

    def documents(self, namespace: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes, bytes]]:
        """(position, id, document) in the order of their positions, which lie in [start, end)."""
        query = "SELECT position, id, document FROM documents WHERE namespace = ? AND position >= ?"
        bound = () if end is None else (end,)
        query += " AND position < ? ORDER BY position" if bound else " ORDER BY position"
        return iter(self._db.execute(query, (namespace, start, *bound)))

    def count(self, namespace: str) -> int:
        query = "SELECT count(*) FROM documents WHERE namespace = ?"
        return int(self._db.execute(query, (namespace,)).fetchone()[0])

    def end(self, namespace: str) -> int:
        """One more than the highest position."""
        query = "SELECT coalesce(max(position), -1) + 1 FROM documents WHERE namespace = ?"
        return int(self._db.execute(query, (namespace,)).fetchone()[0])

    def version(self, namespace: str) -> int:
        """Rises with every change to a namespace; -1 where it does not exist."""
        row = self._db.execute("SELECT version FROM namespaces WHERE namespace = ?", (namespace,)).fetchone()
        return -1 if row is None else int(row[0])

    def _touch(self, namespace: str) -> None:
        self._db.execute("UPDATE namespaces SET version = version + 1 WHERE namespace = ?", (namespace,))

    # ------------------------------------------------------------------- ledger

    def open_unit(self, flow: str, run: str, unit: UnitRef) -> UnitState:
        """Raise the unit's fence, and say where it stands."""
        self._db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, 1, x'', 0, 0, 0, 0) ON CONFLICT DO UPDATE SET fence = fence + 1",
            (flow, run, unit.unit, unit.namespace),
        )
        return self.read_unit(flow, run, unit.unit)

    def read_unit(self, flow: str, run: str, unit: str) -> UnitState:
        """Where a unit stands; at the start, with fence 0, where the ledger does not know it."""
        row = self._db.execute(
            "SELECT fence, cursor, seq, rows, size_bytes, done FROM ledger WHERE (flow, run, unit) = (?, ?, ?)",
            (flow, run, unit),
        ).fetchone()
        if row is None:
            return UnitState(unit=unit, fence=0)
        fence, cursor, seq, rows, size_bytes, done = row
        return UnitState(
            unit=unit,
            fence=fence,
            cursor=bytes(cursor),
            seq=seq,
            rows=rows,
            size_bytes=size_bytes,
            done=bool(done),
        )

    def advance(self, context: WriteContext, *, rows: int, size_bytes: int) -> bool:
        """Note a write in the ledger; False where exactly this write is there already.

        Raises:
            FencedError: another coordinator has opened the unit since.
        """
        where = (context.flow, context.run, context.unit)
        row = self._db.execute("SELECT fence, seq FROM ledger WHERE (flow, run, unit) = (?, ?, ?)", where).fetchone()
        if row is None or row[0] != context.fence:
            raise FencedError(f"unit {context.unit}: another coordinator has taken it over; stop this one")
        if row[1] >= context.seq:
            return False
        self._db.execute(
            "UPDATE ledger SET cursor = ?, seq = ?, done = ?, rows = rows + ?, size_bytes = size_bytes + ?"
            " WHERE (flow, run, unit) = (?, ?, ?)",
            (context.cursor, context.seq, int(context.done), rows, size_bytes, *where),
        )
        return True

    def reset_units(self, flow: str, run: str, units: Iterable[str]) -> None:
        for unit in units:
            self._db.execute(
                "UPDATE ledger SET cursor = x'', seq = 0, rows = 0, size_bytes = 0, done = 0"
                " WHERE (flow, run, unit) = (?, ?, ?)",
                (flow, run, unit),
            )

    def save_manifest(self, manifest: FlowManifest) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?)",
            (manifest.flow, manifest.fingerprint, manifest.name, manifest.run, manifest.plan),
        )

    def manifests(self) -> list[FlowManifest]:
        rows = self._db.execute("SELECT flow, fingerprint, name, run, plan FROM manifests ORDER BY flow")
        return [
            FlowManifest(flow=flow, fingerprint=fingerprint, name=name, run=run, plan=bytes(plan))
            for flow, fingerprint, name, run, plan in rows
        ]

    def forget(self, flow: str) -> list[str]:
        """Remove a flow's ledger rows and manifest; says what was there."""
        removed = []
        for table, what in (("ledger", "ledger rows"), ("manifests", "manifest")):
            count = self._db.execute(f"DELETE FROM {table} WHERE flow = ?", (flow,)).rowcount
            if count:
                removed.append(f"{count} {what} of flow {flow}")
        return removed
