"""Changes applied: the sink's tables as frames mean them, and a session for each frame."""

from __future__ import annotations

from functools import partial

from dsync.sdk import errors, types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink.apply import frames
from dsync_postgres.sink.apply.lanes import Lane, Lanes
from dsync_postgres.sink.apply.pipeline import Connection
from dsync_postgres.sink.apply.reshape import follow
from dsync_postgres.sink.apply.shape import Shape
from dsync_postgres.sink.destinations import Destinations
from dsync_postgres.sink.ledger import Guard
from dsync_postgres.sink.targets import TargetTable

# A relation that has changed is another one, so the number of them grows with each DDL.
_MOST_SHAPES = 2000

# Triggers of the user's own that fire for anybody, on the table or its partitions.
_FIRING = """
SELECT t.tgname::text FROM pg_trigger t
WHERE t.tgrelid IN (SELECT %(oid)s::oid UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid))
  AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') ORDER BY t.tgname LIMIT 1
"""


class ApplySide:
    """What `write_changes` needs beside the sessions; part of the sink's side."""

    def __init__(self, sessions: Sessions, destinations: Destinations) -> None:
        self._lanes = Lanes(sessions)
        self._destinations = destinations
        self._shapes: dict[tuple[str, types.ChangeRelation], Shape] = {}

    async def close(self) -> None:
        """Close the sessions. Repeatable."""
        await self._lanes.close()

    def forget(self) -> None:
        """Look at all tables again."""
        self._shapes.clear()

    async def write_changes(self, request: types.WriteChangesRequest) -> types.WrittenChanges:
        """Apply a frame with its lane's ledger row in one transaction; where changes are incomplete, nothing of it.

        Raises:
            LanesMeetError, RecordError, FencedError, NamespaceChangedError: nothing of the frame is there.
        """
        if request.frame.type is not types.ChangeType.PG_OUTPUT:
            raise errors.UnsupportedError(f"applying changes: records of type {request.frame.type.name} are not read")
        if len(request.targets) != len(request.frame.relations):
            raise errors.PluginBugError("applying changes: not every relation of the frame has a target")
        async with self._lanes.lease() as lane:
            try:
                return await lane.session.run("applying changes", partial(self._write, request, lane))
            except errors.NamespaceChangedError:
                self._destinations.forget()
                self.forget()
                raise

    def _write(self, request: types.WriteChangesRequest, lane: Lane, connection: Connection) -> types.WrittenChanges:
        relations, targets = request.frame.relations, request.targets

        guards = tuple(Guard(context=context, unlogged=False) for context in (request.context, *request.also))

        def shape_of(index: int) -> Shape:
            try:
                return self._shape(connection, lane, guards[0], relations[index], targets[index])
            except errors.NamespaceChangedError as exc:
                # Whoever stops a table has to know which: only the source's name means the same to all.
                exc.about(relations[index].namespace)
                raise

        def reshaped(index: int) -> None:
            self._forget_table(targets[index])

        lane.prepared.trim(connection)
        job = frames.Job(
            guards=guards,
            frame=request.frame,
            shape_of=shape_of,
            reshaped=reshaped,
            overlap=request.overlap,
            in_order=request.in_order,
            is_replica=lane.is_replica,
        )
        return frames.apply(connection, lane.prepared, job)

    def _shape(
        self, connection: Connection, lane: Lane, guard: Guard, relation: types.ChangeRelation, target: str
    ) -> Shape:
        found = self._shapes.get((target, relation))
        if found is not None:
            return found
        follow(connection, guard, relation, TableName.parse(target))
        # What we know of the table may be from before a column was added.
        self._destinations.forget(target)
        table = self._destinations.table(connection, target)
        shape = Shape(relation, table, is_referred=not lane.is_replica and _is_referred(connection, table))
        if not lane.is_replica:
            _require_quiet(connection, shape)
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        self._shapes[target, relation] = shape
        return shape

    def _forget_table(self, target: str) -> None:
        self._destinations.forget(target)
        for key in [key for key in list(self._shapes) if key[0] == target]:
            self._shapes.pop(key, None)


def _is_referred(connection: Connection, table: TargetTable) -> bool:
    """Whether a foreign key leads to the table, its own included; of a tree each partition has it."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE confrelid = %s AND contype = 'f')", [table.oid]
    ).fetchone()
    return row is not None and bool(row[0])


def _require_quiet(connection: Connection, shape: Shape) -> None:
    """Raise PrivilegeError where a trigger would do again what the source's has done."""
    row = connection.execute(_FIRING.encode(), {"oid": shape.table.oid}).fetchone()
    if row is not None:
        raise errors.PrivilegeError(
            f"applying changes to {shape.table.name}: its trigger {row[0]} would fire for each of them; GRANT SET ON "
            "PARAMETER session_replication_role to this role (PostgreSQL 15 and later), connect as superuser, or "
            "disable the trigger for as long as the table is followed"
        )
