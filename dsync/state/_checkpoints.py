"""Checkpoints in the store: how far each unit has come at each sink, and the totals that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, case, func, select
from sqlalchemy.exc import IntegrityError

from dsync.state._part import Part, columns, value, values
from dsync.state.database import Database
from dsync.state.errors import UnitGoneError
from dsync.state.rows import CheckpointRow, NamespaceTotals, SinkTotals, UnitKind
from dsync.state.schema import checkpoints, dead_letters, namespaces, units

_KEY = ("workspace", "flow", "run", "unit", "sink")


class Checkpoints(Part):
    def __init__(self, database: Database, workspace: str) -> None:
        super().__init__(database, workspace)
        # Made once: it is used for every page.
        upsert = database.upsert(checkpoints)
        self._save_checkpoint = upsert.on_conflict_do_update(
            index_elements=list(_KEY),
            set_={column.name: column for column in upsert.excluded if column.name not in _KEY},
        )

    def save_checkpoint(self, flow: str, run: str, checkpoint: CheckpointRow) -> None:
        """Record how far a unit has come; durable on return. Repeatable.

        Raises:
            UnitGoneError: the unit was planned anew meanwhile.
            FencedError: another process has taken the flow over.
            StateFullError: nothing was recorded, so nothing may be acknowledged.
        """
        self.save_checkpoints(flow, run, (checkpoint,))

    def save_checkpoints(self, flow: str, run: str, saved: Iterable[CheckpointRow]) -> None:
        """As save_checkpoint, for several units and one wait for the disk: all of them or none."""
        with self._writing(flow) as connection:
            self._upsert_checkpoints(connection, flow, run, saved)

    def _upsert_checkpoints(self, connection: Connection, flow: str, run: str, saved: Iterable[CheckpointRow]) -> None:
        key = {"workspace": self._workspace, "flow": flow, "run": run, "updated_at": self._database.now()}
        rows = [{**values(checkpoint), **key} for checkpoint in saved]
        if not rows:
            return
        try:
            connection.execute(self._save_checkpoint, rows)
        except IntegrityError as exc:
            names = ", ".join(sorted({row["unit"] for row in rows}))
            raise UnitGoneError(
                f"recording the progress of flow {flow}, run {run}, unit {names}: the plan has no such unit (any more)"
            ) from exc

    def load_checkpoints(self, flow: str, run: str) -> Mapping[tuple[str, str], CheckpointRow]:
        """By unit and sink; a unit that has not begun has none."""
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(checkpoints, CheckpointRow)).where(self._at(checkpoints, flow=flow, run=run))
            )
            return {(row.unit, row.sink): value(CheckpointRow, row) for row in found}

    def load_checkpoint(self, flow: str, run: str, unit: str, *, sink: str) -> CheckpointRow | None:
        with self._database.reading() as connection:
            row = connection.execute(
                select(*columns(checkpoints, CheckpointRow)).where(
                    self._at(checkpoints, flow=flow, run=run, unit=unit, sink=sink)
                )
            ).first()
        return value(CheckpointRow, row) if row else None

    def totals(self, flow: str, run: str) -> tuple[SinkTotals, ...]:
        """What has arrived at each sink so far, exactly."""
        query = (
            select(
                checkpoints.c.sink,
                func.sum(checkpoints.c.rows).label("rows"),
                func.sum(checkpoints.c.size_bytes).label("size_bytes"),
                func.sum(case((checkpoints.c.done, 1), else_=0)).label("units_done"),
            )
            .where(self._at(checkpoints, flow=flow, run=run))
            .group_by(checkpoints.c.sink)
            .order_by(checkpoints.c.sink)
        )
        with self._database.reading() as connection:
            return tuple(
                SinkTotals(
                    sink=row.sink, rows=int(row.rows), size_bytes=int(row.size_bytes), units_done=int(row.units_done)
                )
                for row in connection.execute(query)
            )

    def namespace_totals(self, flow: str, run: str) -> tuple[NamespaceTotals, ...]:
        """What has arrived of each namespace at each sink, in the order of the plan."""
        with self._database.reading() as connection:
            planned = connection.execute(
                select(namespaces.c.namespace, namespaces.c.sink)
                .where(self._at(namespaces, flow=flow, run=run))
                .order_by(namespaces.c.position, namespaces.c.sink)
            ).all()
            partitions = connection.execute(
                select(units.c.namespace, func.count().label("units"))
                .where(self._at(units, flow=flow, run=run, kind=UnitKind.PARTITION))
                .group_by(units.c.namespace)
            )
            count_of: dict[str, int] = {row.namespace: row.units for row in partitions}
            progress = {(row.namespace, row.sink): row for row in connection.execute(self._progress_query(flow, run))}
            letters = connection.execute(
                select(dead_letters.c.namespace, dead_letters.c.sink, func.count().label("letters"))
                .where(self._at(dead_letters, flow=flow, run=run), dead_letters.c.resolution == "")
                .group_by(dead_letters.c.namespace, dead_letters.c.sink)
            )
            letters_of = {(row.namespace, row.sink): row.letters for row in letters}
        return tuple(
            _namespace_totals(
                row.namespace,
                row.sink,
                progress.get((row.namespace, row.sink)),
                units_planned=count_of.get(row.namespace, 0),
                letters=letters_of.get((row.namespace, row.sink), 0),
            )
            for row in planned
        )

    def _progress_query(self, flow: str, run: str) -> Any:
        same_unit = [checkpoints.c[name] == units.c[name] for name in ("workspace", "flow", "run", "unit")]
        return (
            select(
                units.c.namespace,
                checkpoints.c.sink,
                func.sum(checkpoints.c.rows).label("rows"),
                func.sum(checkpoints.c.size_bytes).label("size_bytes"),
                func.sum(case((checkpoints.c.done, 1), else_=0)).label("units_done"),
            )
            .join_from(checkpoints, units, same_unit[0] & same_unit[1] & same_unit[2] & same_unit[3])
            .where(self._at(checkpoints, flow=flow, run=run), units.c.kind == UnitKind.PARTITION)
            .group_by(units.c.namespace, checkpoints.c.sink)
        )


def _namespace_totals(
    namespace: str, sink: str, progress: Any | None, *, units_planned: int, letters: int
) -> NamespaceTotals:
    return NamespaceTotals(
        namespace=namespace,
        sink=sink,
        rows=int(progress.rows) if progress else 0,
        size_bytes=int(progress.size_bytes) if progress else 0,
        units=units_planned,
        units_done=int(progress.units_done) if progress else 0,
        dead_letters=letters,
    )
