"""Where rows wait that may be there already: a temporary table for each connection and target."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from psycopg import sql

from dsync.sdk import errors
from dsync_postgres.sink.targets import Connection, TargetTable

# Each commit empties all of a session's ON COMMIT DELETE ROWS tables, whether they were used or not.
_MOST_TABLES = 8
_PLACE = "dsync_place"
# The server's own statistics and summaries: no type has arrays of them, and no value of them is read.
_WITHOUT_ARRAY = frozenset(
    {
        "pg_node_tree",
        "pg_ndistinct",
        "pg_dependencies",
        "pg_mcv_list",
        "pg_brin_bloom_summary",
        "pg_brin_minmax_multi_summary",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A temporary table for some columns of one target."""

    oid: int
    """Of the target."""
    columns: tuple[str, ...]
    place: str
    """The column that numbers the rows as they come; empty where nobody asks for their order."""
    texts: frozenset[str] = frozenset()
    """Columns that it has as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """A stage, and what has to run in the transaction that uses it."""

    stage: Stage
    name: str
    is_new: bool
    dropped: Stage | None
    statements: tuple[sql.Composable, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """For SQL."""
        return sql.Identifier("pg_temp", self.name)


class Stages:
    """The temporary tables of each connection; forgotten with it."""

    def __init__(self) -> None:
        self._tables: WeakKeyDictionary[Connection, OrderedDict[Stage, str]] = WeakKeyDictionary()

    def plan(
        self,
        connection: Connection,
        table: TargetTable,
        columns: tuple[str, ...],
        *,
        ordered: bool,
        texts: frozenset[str] = frozenset(),
    ) -> StagePlan:
        """The stage for these columns, with the statements that make it where it is not there yet."""
        stage = Stage(oid=table.oid, columns=columns, place=_free_name(columns) if ordered else "", texts=texts)
        known = self._tables.setdefault(connection, OrderedDict())
        if stage in known:
            return StagePlan(stage=stage, name=known[stage], is_new=False, dropped=None, statements=())
        dropped = next(iter(known)) if len(known) >= _MOST_TABLES else None
        name = next(
            name for number in range(_MOST_TABLES + 1) if (name := f"dsync_stage_{number}") not in known.values()
        )
        statements: list[sql.Composable] = []
        if dropped is not None:
            statements.append(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", known[dropped])))
        statements.append(_create(sql.Identifier("pg_temp", name), table, columns, texts))
        if stage.place:
            # A default, because COPY numbers the rows as it reads them; a ctid does not tell their order.
            statements.append(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} bigint GENERATED ALWAYS AS IDENTITY").format(
                    sql.Identifier("pg_temp", name), sql.Identifier(stage.place)
                )
            )
        return StagePlan(stage=stage, name=name, is_new=True, dropped=dropped, statements=tuple(statements))

    def committed(self, connection: Connection, plan: StagePlan) -> None:
        """Take note of what the committed transaction has made and dropped."""
        known = self._tables.setdefault(connection, OrderedDict())
        if plan.dropped is not None:
            known.pop(plan.dropped, None)
        known[plan.stage] = plan.name
        known.move_to_end(plan.stage)


def _create(name: sql.Identifier, table: TargetTable, columns: tuple[str, ...], texts: frozenset[str]) -> sql.Composed:
    """As SELECT, which takes types, modifiers and collations over and neither constraints nor defaults."""
    listed = [
        sql.SQL("NULL::text AS {}").format(sql.Identifier(name)) if name in texts else sql.Identifier(name)
        for name in columns
    ]
    return sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA").format(
        name, sql.SQL(", ").join(listed), table.identifier
    )


def _free_name(columns: tuple[str, ...]) -> str:
    name = _PLACE
    while name in columns:
        name += "_"
    return name


def _listed(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def merge(plan: StagePlan, table: TargetTable) -> list[sql.Composed]:
    """INSERT the stage's rows by key; of several with one key the last one counts, where the stage knows the order.

    Rows that differ in what no UPDATE can set go first, and are inserted anew.

    Raises:
        UnsupportedError: the target has no key.
    """
    columns, key = plan.stage.columns, key_for(table, plan.stage.columns)
    fixed = unsettable(table, columns)
    others = [name for name in columns if name not in key and name not in fixed]
    listed, keys = _listed(columns), _listed(key)
    taken = _taken(plan, table)
    source = sql.SQL("SELECT {} FROM {}").format(taken, plan.identifier)
    if plan.stage.place:
        source = sql.SQL("SELECT DISTINCT ON ({}) {} FROM {} ORDER BY {}, {} DESC").format(
            keys, taken, plan.identifier, keys, sql.Identifier(plan.stage.place)
        )
    assignments = [sql.SQL("{} = EXCLUDED.{}").format(sql.Identifier(name), sql.Identifier(name)) for name in others]
    action = sql.SQL("UPDATE SET {}").format(sql.SQL(", ").join(assignments)) if others else sql.SQL("NOTHING")
    upsert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE {} ON CONFLICT ({}) DO {}").format(
        table.identifier, listed, source, keys, action
    )
    return [_delete_unlike(plan, table, key, fixed), upsert] if fixed else [upsert]


def _delete_unlike(plan: StagePlan, table: TargetTable, key: tuple[str, ...], fixed: tuple[str, ...]) -> sql.Composed:
    own = sql.SQL("{}" if table.kind == "p" else "ONLY {}").format(table.identifier)
    unlike = [sql.SQL("t.{0} IS DISTINCT FROM s.{0}").format(sql.Identifier(name)) for name in fixed]
    return sql.SQL("DELETE FROM {} AS t USING (SELECT {} FROM {}) AS s WHERE {} AND ({})").format(
        own, _taken(plan, table), plan.identifier, _agreeing(key), sql.SQL(" OR ").join(unlike)
    )


def evict(plan: StagePlan, table: TargetTable) -> list[sql.Composed]:
    """DELETE rows of other keys that have what only one row may have, for rows of the stage that have it.

    Either is from another moment, and what has happened since will write the other again.
    """
    key = key_for(table, plan.stage.columns)
    own = sql.SQL("{}" if table.kind == "p" else "ONLY {}").format(table.identifier)
    return [
        sql.SQL("DELETE FROM {} AS t USING (SELECT {} FROM {}) AS s WHERE {} AND NOT ({})").format(
            own, _taken(plan, table), plan.identifier, _agreeing(unique), _agreeing(key)
        )
        for unique in rivals(table, plan.stage.columns)
    ]


def rivals(table: TargetTable, columns: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Columns beside the key in which no two rows may agree, as far as rows with these columns bring them."""
    key = set(_key(table, columns))
    return tuple(unique for unique in table.uniques if set(unique) <= set(columns) and not key <= set(unique))


def _agreeing(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(name)) for name in columns)


def pour(plan: StagePlan, table: TargetTable) -> sql.Composed:
    """INSERT the stage's rows into a table that has none of them."""
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
        table.identifier, _listed(plan.stage.columns), _taken(plan, table), plan.identifier
    )


def _taken(plan: StagePlan, table: TargetTable) -> sql.Composed:
    """The stage's columns, those that it has as text read by their types' input functions."""
    kinds = {column.name: column.type for column in table.columns}
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(read_text(name, kinds[name]), sql.Identifier(name))
        if name in plan.stage.texts
        else sql.Identifier(name)
        for name in plan.stage.columns
    )


def read_text(column: str, kind: str) -> sql.Composed:
    """An expression that gives a text to the input function of a type.

    A cast would call another function where there is one (text to regclass knows no `-`). Only arrays are always
    read by their input function, and that reads their elements by theirs.
    """
    if kind.endswith("[]") or kind in _WITHOUT_ARRAY:
        return sql.SQL("CAST({} AS {})").format(sql.Identifier(column), sql.SQL(kind))
    escaped = sql.SQL("replace(replace({}, E'\\\\', E'\\\\\\\\'), '\"', E'\\\\\"')").format(sql.Identifier(column))
    return sql.SQL("(CAST('{{\"' || {} || '\"}}' AS {}[]))[1]").format(escaped, sql.SQL(kind))


def key_for(table: TargetTable, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The key by which rows with these columns are written.

    Raises:
        UnsupportedError: there is none.
    """
    key = _key(table, columns)
    if not key:
        raise errors.UnsupportedError(
            f"writing {table.name} by key: it has no primary key or unique index over NOT NULL columns that are all "
            "copied, so rows that are there already cannot be told apart; add one, or copy into an empty table"
        )
    return key


def has_key(table: TargetTable, columns: tuple[str, ...]) -> bool:
    """Whether rows with these columns can be written by key."""
    return bool(_key(table, columns))


def unsettable(table: TargetTable, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the columns that no UPDATE can set: a row that differs there has to be made anew."""
    key = _key(table, columns)
    return tuple(c.name for c in table.columns if c.identity_always and c.name in columns and c.name not in key)


def _key(table: TargetTable, columns: tuple[str, ...]) -> tuple[str, ...]:
    return next((key for key in table.keys if set(key) <= set(columns)), ())
