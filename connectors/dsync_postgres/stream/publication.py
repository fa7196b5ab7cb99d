"""The publication of a flow: exactly the tables that it follows, each with something to tell its rows by.

Never FOR ALL TABLES, and never a table without replica identity: its writers would get errors on UPDATE and DELETE.
Leaves are published, not the partitioned tables above them: with `publish_via_partition_root` a TRUNCATE of a partition
is not sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import errors as pg
from psycopg import sql

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.stream.errors import PublicationChangedError, PublicationMissingError, ReplicaIdentityError
from dsync_postgres.stream.seal import read_seal, seal

_MOST_NAMES = 5
_OPERATIONS = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication as the catalogue has it."""

    name: str
    operations: frozenset[str]
    is_via_root: bool
    tables: frozenset[TableName]
    """What it publishes changes of, leaves of partitioned tables among them."""
    partial: frozenset[TableName]
    """Those of which it leaves out rows or columns."""
    has_other_options: bool = False
    """It was made anew since it was made for the flow, or its options were changed, be it for a moment."""
    altered: frozenset[TableName] = frozenset()
    """Those that it has not published all the time since then."""

    @property
    def is_untouched(self) -> bool:
        """Nobody but dsync has altered it, as far as can be told."""
        return not self.has_other_options and not self.altered


@dataclass(frozen=True, slots=True, kw_only=True)
class RowIdentity:
    """What a table has to tell its rows by, as far as a stream goes."""

    kind: str
    """pg_class.relkind."""
    persistence: str
    """pg_class.relpersistence: p permanent, u unlogged."""
    identity: str
    """pg_class.relreplident: d default, n nothing, f full, i index."""
    has_usable_key: bool
    """The identity's index, the primary key where it is default or full, tells rows apart at any time."""
    is_extensions: bool
    """An extension has made it: what of its rows is the users' cannot be told from a change."""

    @property
    def can_be_followed(self) -> bool:
        """It is a permanent table with rows of its own; whether its rows can be told apart is another question."""
        return self.kind == "r" and self.persistence == "p" and not self.is_extensions

    @property
    def tells_rows(self) -> bool:
        """Publishing it does not break its writers."""
        return self.identity == "f" or self.has_key

    @property
    def has_key(self) -> bool:
        """Changes name a row by its key, so that applying one twice does no harm."""
        return self.identity in "dif" and self.has_usable_key


# What is published to a subscriber, with row filters and column lists where the server has them (15 and later).
_PUBLISHED = b"""
SELECT t.schemaname::text, t.tablename::text,
       to_jsonb(t) ->> 'rowfilter' IS NOT NULL
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                  AND a.attgenerated = '' AND NOT (to_jsonb(t) -> 'attnames') ? a.attname::text)
FROM pg_publication_tables t
JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relname = t.tablename AND c.relnamespace = n.oid
WHERE t.pubname = %s
"""

_IDENTITIES = b"""
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
               AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relname = w.name AND c.relnamespace = n.oid
"""


async def find_publication(sessions: Sessions, name: str) -> Publication | None:
    """The publication of that name, None where there is none."""
    return await sessions.run(f"looking at publication {name}", lambda connection: read_publication(connection, name))


async def create_publication(sessions: Sessions, name: str, tables: Sequence[TableName]) -> Publication:
    """Make the flow's own publication of exactly these tables, or change the one that is there to be that.

    Raises:
        ReplicaIdentityError: a table has nothing to tell its rows by; nothing was changed.
        MissingObjectError, UnsupportedError, PrivilegeError: a table cannot be published.
    """

    def work(connection: Connection) -> Publication:
        require_identities(connection, tables)
        found = read_publication(connection, name)
        with connection.transaction():
            if found is None:
                connection.execute(_create(name, tables))
            else:
                _change(connection, found, tables)
            seal(connection, name)
        made = read_publication(connection, name)
        assert made is not None, "it was there a moment ago"
        return made

    return await sessions.run(f"creating publication {name}", work)


async def add_tables(sessions: Sessions, name: str, tables: Sequence[TableName]) -> None:
    """Publish more tables; those that are published stay. Rows are in the stream from this commit on.

    Raises:
        As create_publication; PublicationMissingError: it was dropped.
    """

    def work(connection: Connection) -> None:
        require_identities(connection, tables)
        found = _require(read_publication(connection, name), name)
        fresh = [table for table in tables if table not in found.tables]
        if fresh:
            with connection.transaction():
                connection.execute(_alter(name, "ADD", fresh))
                seal(connection, name, fresh)

    await sessions.run(f"adding tables to publication {name}", work)


async def drop_tables(sessions: Sessions, name: str, tables: Sequence[TableName]) -> None:
    """Publish these tables no more; those that are not published, or not there, are passed over."""

    def work(connection: Connection) -> None:
        found = _require(read_publication(connection, name), name)
        gone = [table for table in tables if table in found.tables]
        if gone:
            connection.execute(_alter(name, "DROP", gone))

    await sessions.run(f"dropping tables from publication {name}", work)


async def remove_publication(sessions: Sessions, name: str) -> list[str]:
    """Drop the publication; says what was removed, nothing where there is none."""

    def work(connection: Connection) -> list[str]:
        # Not by trying: a standby, and a role that may only read, refuse to drop even what is not there.
        if read_publication(connection, name) is None:
            return []
        try:
            connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
        except pg.UndefinedObject:
            return []
        return [f"publication {name}"]

    return await sessions.run(f"dropping publication {name}", work)


def require_publication(found: Publication | None, name: str, tables: Iterable[TableName]) -> Publication:
    """The publication, if it publishes all changes of all these tables; an administrator's may publish more.

    Raises:
        PublicationMissingError: there is none.
        PublicationChangedError: it leaves something out.
    """
    found = _require(found, name)
    wanted = frozenset(tables)
    lacking = [operation for operation in _OPERATIONS if operation not in found.operations]
    if lacking:
        raise PublicationChangedError(
            f"following by publication {name}: it does not publish {', '.join(lacking)}; ALTER PUBLICATION … SET "
            "(publish = 'insert, update, delete, truncate'), and copy again what was changed meanwhile (--again)"
        )
    if found.is_via_root:
        raise PublicationChangedError(
            f"following by publication {name}: it publishes partitions as their root, which leaves out a TRUNCATE of a "
            "partition; ALTER PUBLICATION … SET (publish_via_partition_root = false)"
        )
    for tables_lacking, what in (
        (wanted - found.tables, "all of"),
        (wanted & found.partial, "every row and column of"),
    ):
        if tables_lacking:
            raise PublicationChangedError(
                f"following by publication {name}: it does not publish {what} {_listed(tables_lacking)}; publish "
                "the whole tables (ALTER PUBLICATION …), and copy them again (--again)"
            )
    if found.has_other_options or wanted & found.altered:
        what = "it, or its options," if found.has_other_options else f"what it publishes of {_listed(found.altered)}"
        raise PublicationChangedError(
            f"following by publication {name}: somebody has changed {what} since dsync made it, and what was written "
            "meanwhile may be in no stream; run the flow again with --again, which copies what has changed"
        )
    return found


def read_identities(connection: Connection, tables: Iterable[TableName]) -> dict[TableName, RowIdentity]:
    """What these tables tell their rows by; those that are not there are absent."""
    wanted = list(tables)
    rows = connection.execute(
        _IDENTITIES, {"schemas": [table.schema for table in wanted], "names": [table.name for table in wanted]}
    ).fetchall()
    return {
        TableName(schema=schema, name=name): RowIdentity(
            kind=kind, persistence=persistence, identity=identity, has_usable_key=has_key, is_extensions=is_extensions
        )
        for schema, name, kind, persistence, identity, has_key, is_extensions in rows
    }


def require_identities(connection: Connection, tables: Sequence[TableName]) -> None:
    """See to it that publishing these tables breaks nobody.

    Raises:
        ReplicaIdentityError, MissingObjectError, UnsupportedError: naming the tables, and what to do.
    """
    found = read_identities(connection, tables)
    if missing := [table for table in tables if table not in found]:
        raise errors.MissingObjectError(f"publishing {_listed(missing)}: there is no such table; check the name")
    if unfit := [table for table, facts in found.items() if facts.kind != "r" or facts.persistence != "p"]:
        raise errors.UnsupportedError(
            f"publishing {_listed(unfit)}: only permanent tables with rows of their own can be followed (of a "
            "partitioned table its partitions); choose the others with -n, or --mode copy"
        )
    if nameless := [table for table, facts in found.items() if not facts.tells_rows]:
        raise ReplicaIdentityError(
            f"publishing {_listed(nameless)}: without a replica identity the application's own UPDATE and DELETE would "
            "fail; add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL, or leave it out with --exclude"
        )


def require_told_rows(connection: Connection, tables: Sequence[TableName]) -> tuple[TableName, ...]:
    """Those of the tables that are there, each with something to tell its rows by still.

    Raises:
        ReplicaIdentityError: one of them has lost it, and with that its writers fail.
    """
    found = read_identities(connection, tables)
    if nameless := [table for table, facts in found.items() if not facts.tells_rows]:
        raise ReplicaIdentityError(
            f"following {_listed(nameless)}: it has lost its replica identity, and without one the application's own "
            "UPDATE and DELETE fail; add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL, and run the same "
            "command again"
        )
    return tuple(found)


def _require(found: Publication | None, name: str) -> Publication:
    if found is None:
        raise PublicationMissingError(
            f"following by publication {name}: it does not exist (any more), and changes made without it are not in "
            "the stream; run the flow again with --again, which makes it and copies what has changed"
        )
    return found


def read_publication(connection: Connection, name: str) -> Publication | None:
    """As `find_publication`, on a connection."""
    row = connection.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = %s", [name]
    ).fetchone()
    if row is None:
        return None
    published = connection.execute(_PUBLISHED, [name]).fetchall()
    sealed = read_seal(connection, name)
    return Publication(
        name=name,
        operations=frozenset(operation for operation, is_on in zip(_OPERATIONS, row, strict=False) if is_on),
        is_via_root=row[4],
        tables=frozenset(TableName(schema=schema, name=table) for schema, table, _ in published),
        partial=frozenset(
            TableName(schema=schema, name=table) for schema, table, is_partial in published if is_partial
        ),
        has_other_options=sealed is not None and sealed.has_other_options,
        altered=sealed.altered if sealed is not None else frozenset(),
    )


def _create(name: str, tables: Sequence[TableName]) -> sql.Composed:
    # ONLY: without it what inherits from a table would be published too, chosen or not.
    which = sql.SQL("FOR TABLE {} ").format(_only(tables)) if tables else sql.SQL("")
    return sql.SQL("CREATE PUBLICATION {} {}WITH (publish = 'insert, update, delete, truncate')").format(
        sql.Identifier(name), which
    )


def _change(connection: Connection, found: Publication, tables: Sequence[TableName]) -> None:
    """Let a publication of ours be what it should be: after a crash, or with another choice of tables."""
    name = found.name
    if gone := sorted(found.tables - set(tables)):
        connection.execute(_alter(name, "DROP", gone))
    if fresh := [table for table in tables if table not in found.tables]:
        connection.execute(_alter(name, "ADD", fresh))


def _alter(name: str, verb: str, tables: Sequence[TableName]) -> sql.Composed:
    keyword = {"ADD": sql.SQL("ADD"), "DROP": sql.SQL("DROP")}[verb]
    return sql.SQL("ALTER PUBLICATION {} {} TABLE {}").format(sql.Identifier(name), keyword, _only(tables))


def _only(tables: Iterable[TableName]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("ONLY {}").format(table.identifier) for table in tables)


def _listed(tables: Iterable[TableName]) -> str:
    names = sorted(str(table) for table in tables)
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
