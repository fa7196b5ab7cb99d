"""Plans in the store: the namespaces and units of a run, and what takes the place of units that are read again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from dsync.protocol.types import FinishStep, Partition
from dsync.state._checkpoints import Checkpoints
from dsync.state._part import columns, value, values
from dsync.state.errors import FlowNotFoundError
from dsync.state.rows import (
    CheckpointRow,
    JsonObject,
    NamespaceRow,
    NamespaceState,
    Phase,
    UnitKind,
    UnitRow,
    partition_units,
)
from dsync.state.schema import checkpoints as checkpoints_table
from dsync.state.schema import dead_letters, namespaces, retired_units, runs, units


class Plans(Checkpoints):
    def save_plan(
        self,
        flow: str,
        run: str,
        namespace_rows: Iterable[NamespaceRow],
        unit_rows: Iterable[UnitRow],
        *,
        snapshot: bytes = b"",
        extra: JsonObject | None = None,
        phase: Phase | None = None,
        checkpoints: Iterable[CheckpointRow] = (),
    ) -> None:
        """Record the whole plan of a run, with its snapshot and phase, in one transaction; none was there before.

        `checkpoints` are of units that another run or the sink's ledger has brought that far already.
        """
        changed: dict[str, Any] = {"snapshot": snapshot}
        if extra is not None:
            changed["extra"] = dict(extra)
        if phase is not None:
            changed["phase"] = phase
        with self._writing(flow) as connection:
            count = connection.execute(
                update(runs).where(self._at(runs, flow=flow, run=run)).values(**changed)
            ).rowcount
            if not count:
                raise FlowNotFoundError(f"flow {flow} has no run {run}: it was reset meanwhile")
            self._insert_namespaces(connection, flow, run, namespace_rows)
            self._insert_units(connection, flow, run, unit_rows)
            self._upsert_checkpoints(connection, flow, run, checkpoints)

    def add_units(self, flow: str, run: str, unit_rows: Iterable[UnitRow]) -> None:
        """Add units to a plan (finish steps, once the sink has named them); those that are there stay as they are."""
        with self._writing(flow) as connection:
            there = set(connection.execute(select(units.c.unit).where(self._at(units, flow=flow, run=run))).scalars())
            self._insert_units(connection, flow, run, [row for row in unit_rows if row.unit not in there])

    def load_namespaces(self, flow: str, run: str) -> tuple[NamespaceRow, ...]:
        """In the order of the plan."""
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(namespaces, NamespaceRow))
                .where(self._at(namespaces, flow=flow, run=run))
                .order_by(namespaces.c.position, namespaces.c.sink)
            )
            return tuple(value(NamespaceRow, row) for row in found)

    def load_units(
        self, flow: str, run: str, *, namespace: str | None = None, kind: UnitKind | None = None
    ) -> tuple[UnitRow, ...]:
        """In the order of the plan: partitions by namespace and place, then finish steps and lanes by place."""
        query = select(units).where(self._at(units, flow=flow, run=run))
        if namespace is not None:
            query = query.where(units.c.namespace == namespace)
        if kind is not None:
            query = query.where(units.c.kind == kind)
        with self._database.reading() as connection:
            found = [_unit_of(row) for row in connection.execute(query)]
            planned = connection.execute(
                select(namespaces.c.namespace, namespaces.c.position).where(self._at(namespaces, flow=flow, run=run))
            )
            positions = {row.namespace: row.position for row in planned}

        def place(unit: UnitRow) -> tuple[int, int, int, str]:
            if unit.kind is UnitKind.PARTITION:
                return 0, positions.get(unit.namespace, 0), unit.ordinal, unit.unit
            return 1 if unit.kind is UnitKind.FINISH else 2, unit.ordinal, 0, unit.unit

        return tuple(sorted(found, key=place))

    def retired_units(self, flow: str, run: str, namespace: str) -> tuple[str, ...]:
        """The ids of units that were replaced, whose rows have still to be removed from a sink."""
        query = select(retired_units.c.unit).where(self._at(retired_units, flow=flow, run=run, namespace=namespace))
        with self._database.reading() as connection:
            return tuple(connection.execute(query.order_by(retired_units.c.unit)).scalars())

    def set_namespace_state(
        self,
        flow: str,
        run: str,
        namespace: str,
        state: NamespaceState,
        *,
        reason: str = "",
        sink: str | None = None,
    ) -> None:
        """Record how far a namespace has come, at one sink or at all of them."""
        key = {"flow": flow, "run": run, "namespace": namespace} | ({"sink": sink} if sink is not None else {})
        with self._writing(flow) as connection:
            connection.execute(update(namespaces).where(self._at(namespaces, **key)).values(state=state, reason=reason))

    def replace_units(
        self, flow: str, run: str, namespace: str, partitions: Sequence[Partition], *, reason: str = ""
    ) -> tuple[UnitRow, ...]:
        """Plan a namespace anew: new units of the next generation, the old ones retired, in one transaction.

        The namespace is CLEARING at each sink until `namespace_cleared`: a restart in between still knows which
        units' rows have to leave the sink before any new page arrives there.
        """
        with self._writing(flow) as connection:
            return self._replace(connection, flow, run, namespace, partitions, reason)

    def apply_verdicts(
        self,
        flow: str,
        run: str,
        *,
        snapshot: bytes,
        again: Mapping[str, Sequence[Partition]],
        changed: Mapping[str, str] | None = None,
        reasons: Mapping[str, str] | None = None,
        beside: Mapping[str, Sequence[Partition]] | None = None,
        extra: JsonObject | None = None,
    ) -> None:
        """Take over a new snapshot with all that follows from it, in one transaction.

        `again` names what is read again, as replace_units; `changed` what stays although it has changed, with the
        reason; `beside` what is read from other partitions while the rows that have arrived stay. `extra` replaces
        what the run keeps, where it is given. In two steps a crash between them would judge by the new snapshot what
        had changed before it.
        """
        taken: dict[str, Any] = {"snapshot": snapshot} | ({} if extra is None else {"extra": dict(extra)})
        with self._writing(flow) as connection:
            connection.execute(update(runs).where(self._at(runs, flow=flow, run=run)).values(**taken))
            for namespace, partitions in again.items():
                self._replace(connection, flow, run, namespace, partitions, (reasons or {}).get(namespace, ""))
            for namespace, partitions in (beside or {}).items():
                reason = (reasons or {}).get(namespace, "")
                self._replace(connection, flow, run, namespace, partitions, reason, keeps_rows=True)
            for namespace, reason in (changed or {}).items():
                connection.execute(
                    update(namespaces)
                    .where(self._at(namespaces, flow=flow, run=run, namespace=namespace))
                    .values(state=NamespaceState.CHANGED, reason=reason)
                )

    def plan_beside(
        self,
        flow: str,
        run: str,
        rows: Iterable[NamespaceRow],
        partitions: Mapping[str, Sequence[Partition]],
        unit_rows: Iterable[UnitRow],
        *,
        instead_of: Collection[str] = (),
        extra: JsonObject,
    ) -> None:
        """Plan namespaces anew, or new ones, while all others stay as they are, in one transaction.

        `rows` take the place of what was planned for their namespaces, whose units are retired as by `replace_units`.
        Units of `instead_of` are forgotten, `unit_rows` (no partitions) are added; `extra` replaces what the run keeps.
        """
        with self._writing(flow) as connection:
            connection.execute(update(runs).where(self._at(runs, flow=flow, run=run)).values(extra=dict(extra)))
            for row in rows:
                key = {"flow": flow, "run": run, "namespace": row.namespace}
                planned = {
                    "target": row.target,
                    "page_type": row.page_type,
                    "columns": row.columns,
                    "upsert": row.upsert,
                    "existed": row.existed,
                    "estimated_rows": row.estimated_rows,
                    "size_bytes": row.size_bytes,
                }
                is_known = connection.execute(
                    update(namespaces).where(self._at(namespaces, **key)).values(**planned)
                ).rowcount
                if not is_known:
                    self._insert_namespaces(connection, flow, run, [row])
                self._replace(connection, flow, run, row.namespace, partitions.get(row.namespace, ()), row.reason)
            gone = list(instead_of)
            for table in (checkpoints_table, units):
                connection.execute(delete(table).where(self._at(table, flow=flow, run=run), table.c.unit.in_(gone)))
            self._insert_units(connection, flow, run, unit_rows)

    def namespace_cleared(self, flow: str, run: str, namespace: str, *, sink: str) -> None:
        """The sink holds no row of the retired units any more; the last sink's word forgets them. Repeatable."""
        key = {"flow": flow, "run": run, "namespace": namespace}
        with self._writing(flow) as connection:
            connection.execute(
                update(namespaces)
                .where(self._at(namespaces, **key, sink=sink), namespaces.c.state == NamespaceState.CLEARING)
                .values(state=NamespaceState.PENDING)
            )
            still = connection.execute(
                select(namespaces.c.sink)
                .where(self._at(namespaces, **key), namespaces.c.state == NamespaceState.CLEARING)
                .limit(1)
            ).first()
            if still is None:
                connection.execute(delete(retired_units).where(self._at(retired_units, **key)))

    def _replace(
        self,
        connection: Connection,
        flow: str,
        run: str,
        namespace: str,
        partitions: Sequence[Partition],
        reason: str,
        *,
        keeps_rows: bool = False,
    ) -> tuple[UnitRow, ...]:
        key = {"flow": flow, "run": run, "namespace": namespace}
        planned = connection.execute(
            select(namespaces.c.position, namespaces.c.generation).where(self._at(namespaces, **key)).limit(1)
        ).first()
        if planned is None:
            raise FlowNotFoundError(f"flow {flow}, run {run} has no namespace {namespace}: it was reset meanwhile")
        generation = planned.generation + 1
        self._retire(connection, flow, run, namespace)
        state = NamespaceState.PENDING if keeps_rows else NamespaceState.CLEARING
        connection.execute(
            update(namespaces)
            .where(self._at(namespaces, **key))
            .values(state=state, generation=generation, reason=reason)
        )
        if keeps_rows:
            connection.execute(delete(retired_units).where(self._at(retired_units, **key)))
        made = partition_units(namespace, planned.position, partitions, generation=generation)
        self._insert_units(connection, flow, run, made)
        return made

    def _retire(self, connection: Connection, flow: str, run: str, namespace: str) -> None:
        """Keep the units' ids alone: what was recorded for them no longer counts, nor what a straggler would record."""
        old = and_(self._at(units, flow=flow, run=run, namespace=namespace), units.c.kind == UnitKind.PARTITION)
        ids = connection.execute(select(units.c.unit).where(old)).scalars().all()
        inside = select(units.c.unit).where(old)
        at = self._at(checkpoints_table, flow=flow, run=run)
        connection.execute(delete(checkpoints_table).where(at, checkpoints_table.c.unit.in_(inside)))
        # Of its changes, too: whatever was refused of them is read again with the rest.
        connection.execute(delete(dead_letters).where(self._at(dead_letters, flow=flow, run=run, namespace=namespace)))
        connection.execute(delete(units).where(old))
        if ids:
            key = {"workspace": self._workspace, "flow": flow, "run": run, "namespace": namespace}
            connection.execute(insert(retired_units), [{**key, "unit": unit} for unit in ids])

    def _insert_namespaces(self, connection: Connection, flow: str, run: str, rows: Iterable[NamespaceRow]) -> None:
        made = [{"workspace": self._workspace, "flow": flow, "run": run, **values(row)} for row in rows]
        if made:
            connection.execute(insert(namespaces), made)

    def _insert_units(self, connection: Connection, flow: str, run: str, rows: Iterable[UnitRow]) -> None:
        made = [{"workspace": self._workspace, "flow": flow, "run": run, **_columns_of(row)} for row in rows]
        if made:
            connection.execute(insert(units), made)


def _columns_of(unit: UnitRow) -> dict[str, Any]:
    partition = unit.partition or Partition(namespace=unit.namespace)
    step = unit.step
    return {
        "unit": unit.unit,
        "kind": unit.kind,
        "namespace": unit.namespace,
        "sink": unit.sink,
        "ordinal": unit.ordinal,
        "generation": unit.generation,
        "header": partition.header,
        "value": partition.value,
        "cursor": partition.cursor,
        "estimated_count": partition.estimated_count,
        "step": None
        if step is None
        else {
            "id": step.id,
            "kind": step.kind,
            "name": step.name,
            "depends_on": list(step.depends_on),
            "needs_source": step.needs_source,
            "makes_key": step.makes_key,
        },
        "payload": b"" if step is None else step.payload,
    }


def _unit_of(row: Row[Any]) -> UnitRow:
    partition = step = None
    if row.kind is UnitKind.PARTITION:
        partition = Partition(
            namespace=row.namespace,
            header=row.header,
            value=row.value,
            cursor=row.cursor,
            estimated_count=row.estimated_count,
        )
    elif row.kind is UnitKind.FINISH:
        step = FinishStep(
            id=row.step["id"],
            kind=row.step["kind"],
            name=row.step["name"],
            namespace=row.namespace,
            depends_on=tuple(row.step["depends_on"]),
            payload=row.payload,
            needs_source=row.step["needs_source"],
            # Plans of the first release do not say it.
            makes_key=row.step.get("makes_key", False),
        )
    return UnitRow(
        unit=row.unit,
        kind=row.kind,
        namespace=row.namespace,
        ordinal=row.ordinal,
        partition=partition,
        step=step,
        sink=row.sink,
        generation=row.generation,
    )
