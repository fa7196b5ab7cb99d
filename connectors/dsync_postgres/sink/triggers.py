"""Triggers and foreign keys of tables that exist: kept from firing during the load, and put back afterwards.

Where this role may set session_replication_role, ordinary triggers and foreign keys stay as they are. Otherwise the
owner disables triggers and, with consent, drops foreign keys, as `aside` writes down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.aside import Aside, DisabledTrigger, DroppedForeignKey
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.targets import TargetTable


@dataclass(frozen=True, slots=True, kw_only=True)
class AsidePlan:
    """What has to be set aside for some tables, and why it cannot be where it cannot."""

    asides: tuple[Aside, ...]
    findings: tuple[Finding, ...]


# Row and statement triggers of INSERT (4) and UPDATE (16), on the table and its partitions; of the internal ones those
# that check a foreign key of the table itself. Roots first: what a root is told goes down to its partitions.
_TRIGGERS = """
SELECT root.oid AS root, n.nspname AS schema, c.relname AS "table", t.tgname::text AS name,
       t.tgenabled::text AS enabled, pg_has_role(c.relowner, 'USAGE') AS owned,
       CASE WHEN t.tgisinternal THEN t.tgconstraint END AS foreign_key
FROM unnest(%(oids)s::oid[]) AS root (oid) CROSS JOIN LATERAL (
    SELECT p.relid AS oid, p.level FROM pg_partition_tree(root.oid) p
    UNION ALL SELECT root.oid, 0 WHERE NOT EXISTS (SELECT FROM pg_partition_tree(root.oid))) m
JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_trigger t ON t.tgrelid = m.oid
WHERE t.tgenabled <> 'D' AND (t.tgtype & 20) <> 0
  AND (NOT t.tgisinternal OR EXISTS (
    SELECT FROM pg_constraint k WHERE k.oid = t.tgconstraint AND k.conrelid = t.tgrelid AND k.contype = 'f'))
ORDER BY root.oid, m.level, n.nspname, c.relname, t.tgname
"""
# A partition's foreign key goes with that of its root, which alone can be dropped.
_FOREIGN_KEYS = """
WITH RECURSIVE up AS (
    SELECT k.oid AS asked, k.oid, k.conparentid FROM pg_constraint k WHERE k.oid = ANY(%(oids)s)
  UNION ALL
    SELECT up.asked, k.oid, k.conparentid FROM up JOIN pg_constraint k ON k.oid = up.conparentid
)
SELECT up.asked, k.oid, n.nspname AS schema, c.relname AS "table", k.conname::text AS name,
       pg_get_constraintdef(k.oid) AS definition, obj_description(k.oid, 'pg_constraint') AS comment,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       has_schema_privilege(rn.oid, 'USAGE') AND has_table_privilege(r.oid, 'REFERENCES') AS may_reference,
       rn.nspname || '.' || r.relname AS referenced
FROM up JOIN pg_constraint k ON k.oid = up.oid
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE up.conparentid = 0
"""


def plan_asides(
    connection: Connection,
    tables: Sequence[TargetTable],
    *,
    can_be_replica: bool,
    own: Iterable[TableName] = (),
    may_drop_foreign_keys: bool = False,
) -> AsidePlan:
    """What has to be set aside so that nothing fires while these tables are loaded. Changes nothing.

    The foreign keys of `own` tables, which this flow has made, are dropped without asking: rows of an earlier run can
    then be removed at once, and the keys are checked anew at the end.
    """
    firing = [table for table in tables if table.triggers]
    if not firing:
        return AsidePlan(asides=(), findings=())
    return _Planner(
        connection,
        firing,
        can_be_replica=can_be_replica,
        own=frozenset(own),
        may_drop_foreign_keys=may_drop_foreign_keys,
    ).plan()


class _Planner:
    def __init__(
        self,
        connection: Connection,
        tables: Sequence[TargetTable],
        *,
        can_be_replica: bool,
        own: frozenset[TableName],
        may_drop_foreign_keys: bool,
    ) -> None:
        self._tables = tables
        self._can_be_replica = can_be_replica
        self._own = own
        self._may_drop_foreign_keys = may_drop_foreign_keys
        self._findings: list[Finding] = []
        self._triggers: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        with connection.cursor(row_factory=dict_row) as cursor:
            for row in cursor.execute(_TRIGGERS.encode(), {"oids": [table.oid for table in tables]}):
                self._triggers[row["root"]].append(row)
            keys = [row["foreign_key"] for rows in self._triggers.values() for row in rows if row["foreign_key"]]
            self._keys = {row["asked"]: row for row in cursor.execute(_FOREIGN_KEYS.encode(), {"oids": keys})}
        self._taken: set[int] = set()

    def plan(self) -> AsidePlan:
        asides = [aside for table in self._tables if (aside := self._aside(table)).triggers or aside.foreign_keys]
        return AsidePlan(asides=tuple(asides), findings=tuple(self._findings))

    def _aside(self, table: TargetTable) -> Aside:
        rows = self._triggers[table.oid]
        fires = "RA" if self._can_be_replica else "OA"
        triggers = [row for row in rows if row["foreign_key"] is None and row["enabled"] in fires]
        keys = [row for row in rows if row["foreign_key"] is not None and self._concerns(table, row, fires)]
        aside = Aside(
            target=table.name,
            triggers=tuple(
                DisabledTrigger(table=_name_of(row), name=row["name"], enabled=row["enabled"]) for row in triggers
            ),
            foreign_keys=tuple(self._foreign_keys(table, keys)),
        )
        if any(not row["owned"] for row in triggers):
            self._findings.append(self._not_ours(table, "triggers fire"))
        elif aside.triggers:
            self._findings.append(
                warn(
                    "triggers-disabled",
                    table.name.namespace,
                    f"{len(aside.triggers)} trigger(s) are disabled for everybody while it is loaded, and enabled at "
                    "the end",
                    "if the flow is given up, `dsync reset` enables them",
                )
            )
        return aside

    def _concerns(self, table: TargetTable, row: Mapping[str, Any], fires: str) -> bool:
        return table.name in self._own or row["enabled"] in fires

    def _foreign_keys(self, table: TargetTable, rows: Sequence[Mapping[str, Any]]) -> list[DroppedForeignKey]:
        found = []
        for row in rows:
            key = self._keys[row["foreign_key"]]
            if key["oid"] in self._taken:
                continue
            self._taken.add(key["oid"])
            objection = self._objection(table, key)
            if objection is not None:
                self._findings.append(objection)
                continue
            found.append(
                DroppedForeignKey(
                    table=_name_of(key), name=key["name"], definition=key["definition"], comment=key["comment"]
                )
            )
        if found:
            make = info if table.name in self._own else warn
            self._findings.append(
                make(
                    "foreign-keys-dropped",
                    table.name.namespace,
                    f"{len(found)} foreign key(s) are dropped while it is loaded, made again and checked at the end",
                    "if the flow is given up, `dsync reset` makes them again",
                )
            )
        return found

    def _objection(self, table: TargetTable, key: Mapping[str, Any]) -> Finding | None:
        if not key["owned"]:
            return self._not_ours(table, f"foreign key {key['name']} is checked")
        if not key["may_reference"]:
            return stop(
                "no-references-privilege",
                table.name.namespace,
                f"foreign key {key['name']} has to be dropped for the load and could not be made again without the "
                f"privilege REFERENCES on {key['referenced']}",
                f"GRANT REFERENCES ON {key['referenced']} to this role; or {_GRANT}",
            )
        if table.name in self._own or self._may_drop_foreign_keys:
            return None
        return stop(
            "foreign-keys-fire",
            table.name.namespace,
            f"foreign key {key['name']} would be checked row by row while the table is loaded, in an order that the "
            "copy does not keep",
            f"{_GRANT}; or let dsync drop it and make it again at the end: add ?allow_drop_foreign_keys=true to the "
            "sink's URI",
        )

    def _not_ours(self, table: TargetTable, what: str) -> Finding:
        return stop(
            "triggers-fire",
            table.name.namespace,
            f"its {what} during the load, and this role neither owns the table nor may set session_replication_role",
            f"{_GRANT}; or connect as the table's owner",
        )


_GRANT = (
    "GRANT SET ON PARAMETER session_replication_role to this role (PostgreSQL 15 and later), or connect as superuser"
)


def _name_of(row: Mapping[str, Any]) -> TableName:
    return TableName(schema=row["schema"], name=row["table"])
