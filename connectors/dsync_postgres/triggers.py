"""Triggers and foreign keys of tables that exist: kept from firing during the load, and put back afterwards.

Where this role may set session_replication_role, ordinary triggers and foreign keys stay as they are. Otherwise the
owner disables triggers and, with consent, drops foreign keys. What is changed is written down in the transaction that
changes it, so that a crash does not leave it changed: the finish step puts it back, and so does `dsync reset`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from dsync.sdk import errors, types
from dsync_postgres.errors import describe
from dsync_postgres.ledger import Connection
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.names import TableName
from dsync_postgres.targets import TargetTable

STEP_KIND = "restore"
_VERSION = 1
_ENABLE = {
    "O": sql.SQL("ENABLE TRIGGER"),
    "A": sql.SQL("ENABLE ALWAYS TRIGGER"),
    "R": sql.SQL("ENABLE REPLICA TRIGGER"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledTrigger:
    """A trigger to be switched off, and on again."""

    table: TableName
    name: str
    enabled: str
    """pg_trigger.tgenabled as it was: O, R or A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedForeignKey:
    """A foreign key to be dropped, and made again."""

    table: TableName
    name: str
    definition: str
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """What is set aside for one target."""

    target: TableName
    triggers: tuple[DisabledTrigger, ...] = ()
    foreign_keys: tuple[DroppedForeignKey, ...] = ()

    @property
    def step_id(self) -> str:
        """Of the finish step that puts it back."""
        return f"{STEP_KIND}:{self.target.namespace}"

    def statements(self) -> list[sql.Composed]:
        """What sets it aside."""
        return [
            *(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(key.table.identifier, sql.Identifier(key.name))
                for key in self.foreign_keys
            ),
            *(
                sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(t.table.identifier, sql.Identifier(t.name))
                for t in self.triggers
            ),
        ]

    def step(self) -> types.FinishStep:
        """The finish step that puts it back.

        It is of no namespace and depends on nothing, so that it is done also where the copy of its table stopped.
        """
        name = f"triggers and foreign keys of {self.target}"
        return types.FinishStep(id=self.step_id, kind=STEP_KIND, name=name, payload=self.encode())

    def encode(self) -> bytes:
        """For the finish step and the ledger."""
        packed: bytes = msgpack.packb(
            {
                "v": _VERSION,
                "target": [self.target.schema, self.target.name],
                "triggers": [[t.table.schema, t.table.name, t.name, t.enabled] for t in self.triggers],
                "keys": [[k.table.schema, k.table.name, k.name, k.definition, k.comment] for k in self.foreign_keys],
            }
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Aside:
        """The inverse of `encode`.

        Raises:
            PermanentError: it was written by another version.
        """
        try:
            fields: Any = msgpack.unpackb(data)
            if fields["v"] != _VERSION:
                raise errors.PermanentError(
                    f"putting triggers back: version {fields['v']} is not known here; use the dsync that set them aside"
                )
            schema, name = fields["target"]
            return cls(
                target=TableName(schema=schema, name=name),
                triggers=tuple(
                    DisabledTrigger(table=TableName(schema=s, name=t), name=n, enabled=e)
                    for s, t, n, e in fields["triggers"]
                ),
                foreign_keys=tuple(
                    DroppedForeignKey(table=TableName(schema=s, name=t), name=n, definition=d, comment=c)
                    for s, t, n, d, c in fields["keys"]
                ),
            )
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
            raise errors.PermanentError("putting triggers back: what was written down cannot be read") from exc


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


# Whoever waits for a table's lock makes everybody behind it wait as well.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"


def set_aside(connection: Connection, flow: str, asides: Iterable[Aside]) -> None:
    """Switch off and drop, and write down what; for a transaction that the caller has open.

    Raises:
        psycopg.errors.LockNotAvailable: somebody has used a table for ten seconds; nothing was changed.
    """
    connection.execute(_LOCK_TIMEOUT)
    for aside in asides:
        connection.execute(
            "INSERT INTO _dsync.aside (flow, step, payload) VALUES (%s, %s, %s)"
            " ON CONFLICT (flow, step) DO UPDATE SET payload = excluded.payload",
            [flow, aside.step_id, _merged(connection, flow, aside).encode()],
        )
        for statement in aside.statements():
            connection.execute(statement)


def _merged(connection: Connection, flow: str, aside: Aside) -> Aside:
    """With what an earlier run of the flow has set aside and not put back, which is off already now."""
    row = connection.execute(
        "SELECT payload FROM _dsync.aside WHERE flow = %s AND step = %s FOR UPDATE", [flow, aside.step_id]
    ).fetchone()
    if row is None:
        return aside
    before = Aside.decode(bytes(row[0]))
    return Aside(
        target=aside.target,
        triggers=(*before.triggers, *aside.triggers),
        foreign_keys=(*before.foreign_keys, *aside.foreign_keys),
    )


def pending(connection: Connection, flow: str) -> list[Aside]:
    """What of a flow is set aside now."""
    rows = connection.execute("SELECT payload FROM _dsync.aside WHERE flow = %s ORDER BY step", [flow]).fetchall()
    return [Aside.decode(bytes(payload)) for (payload,) in rows]


def put_back(connection: Connection, flow: str, step_id: str, *, unchecked: bool = False) -> list[str]:
    """Put back what a step has set aside, in the transaction that the caller has open; says what.

    What is there already, or whose table is gone, is left alone; so a repeat does nothing. With `unchecked` a foreign
    key that the rows do not satisfy is made NOT VALID instead of failing.

    Raises:
        PermanentError: rows do not satisfy a foreign key.
    """
    row = connection.execute(
        "DELETE FROM _dsync.aside WHERE flow = %s AND step = %s RETURNING payload", [flow, step_id]
    ).fetchone()
    if row is None:
        return []
    aside = Aside.decode(bytes(row[0]))
    connection.execute(_LOCK_TIMEOUT)
    done = [said for key in aside.foreign_keys if (said := _make_again(connection, key, unchecked=unchecked))]
    for trigger in aside.triggers:
        if _has_trigger(connection, trigger):
            connection.execute(
                sql.SQL("ALTER TABLE {} {} {}").format(
                    trigger.table.identifier, _ENABLE[trigger.enabled], sql.Identifier(trigger.name)
                )
            )
            done.append(f"trigger {trigger.name} of {trigger.table}: enabled again")
    return done


def _make_again(connection: Connection, key: DroppedForeignKey, *, unchecked: bool) -> str:
    if not _lacks_constraint(connection, key):
        return ""
    statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
        key.table.identifier,
        sql.Identifier(key.name),
        sql.SQL(key.definition),
    )
    said = f"foreign key {key.name} of {key.table}: made again"
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.errors.ForeignKeyViolation as exc:
        if not unchecked:
            raise errors.PermanentError(
                f"making foreign key {key.name} of {key.table} again: {describe(exc)}; the rows that were copied do "
                "not satisfy it: copy what they refer to as well, or repair them; `dsync reset` makes it NOT VALID"
            ) from exc
        connection.execute(statement + sql.SQL(" NOT VALID"))
        said += ", NOT VALID, since the rows do not satisfy it"
    if key.comment is not None:
        connection.execute(
            sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
                sql.Identifier(key.name), key.table.identifier, sql.Literal(key.comment)
            )
        )
    return said


def _lacks_constraint(connection: Connection, key: DroppedForeignKey) -> bool:
    """Whether the table is there and the constraint is not."""
    row = connection.execute(
        "SELECT NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = %s)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [key.name, key.table.schema, key.table.name],
    ).fetchone()
    return row is not None and bool(row[0])


def _has_trigger(connection: Connection, trigger: DisabledTrigger) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND t.tgname = %s AND NOT t.tgisinternal)",
        [trigger.table.schema, trigger.table.name, trigger.name],
    ).fetchone()
    return row is not None and bool(row[0])
