"""What a flow has switched off or dropped for the load: written down before, put back after it.

The note is written in the transaction that makes the change, so that a crash does not leave it changed: the finish
step puts it back, and so does `dsync reset`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack
import psycopg
from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres.errors import describe
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.ledger import Connection

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
