"""Whole schemas with their rows, drawn: statements for the source, some of which it may refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import psycopg
from hypothesis import strategies as st

from tests.integration.round_trip.kinds import Kind, Types, builtins
from tests.integration.round_trip.names import NAMES, literal, quoted
from tests.integration.round_trip.values import DRAWN, POOLS
from tests.support.databases import Database

# Values, constraints and forms that this server or these types do not take; syntax errors would be our own.
_REFUSALS = ("0A", "22", "23", "42", "54", "2BP01", "55000")
_SYNTAX_ERROR = "42601"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One of the source's."""

    sql: str
    kind: str
    may_fail: bool = True


@dataclass(frozen=True, slots=True)
class Schema:
    """A database to be: its statements in their order."""

    statements: tuple[Statement, ...]

    def __repr__(self) -> str:
        # What hypothesis prints of an example that fails; it refuses to print more.
        return "Schema:\n" + "\n".join(f"{statement.sql[:400]};" for statement in self.statements)[:25_000]

    def fill(self, database: Database) -> tuple[Counter[str], Counter[str]]:
        """Make it; returns what was accepted and what was refused, by kind."""
        accepted: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        with database.connect() as connection:
            for statement in self.statements:
                try:
                    connection.execute(statement.sql.encode())
                except psycopg.Error as exc:
                    state = exc.sqlstate or ""
                    if not statement.may_fail or state == _SYNTAX_ERROR or not state.startswith(_REFUSALS):
                        raise AssertionError(f"the source refuses a statement: {exc}\n{statement.sql[:3000]}") from exc
                    refused[statement.kind] += 1
                else:
                    accepted[statement.kind] += 1
        return accepted, refused


@dataclass(slots=True, kw_only=True)
class Column:
    name: str
    kind: Kind
    rules: list[str] = field(default_factory=list)
    filled: bool = True
    """Whether an INSERT may name it."""

    @property
    def sql(self) -> str:
        return " ".join((quoted(self.name), self.kind.sql, *self.rules))


@dataclass(slots=True, kw_only=True)
class Table:
    name: str
    """Quoted, with its schema."""
    columns: list[Column]
    scope: str
    """Where the names of its columns are unique."""
    partition_keys: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    """The columns of a primary key; none where it has none."""
    has_children: bool = False
    is_child: bool = False

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the servers of a pair can do."""

    pools: Mapping[str, tuple[str, ...]]
    """Values of built-in types that both take."""
    major: int
    """The older one."""


def learn_abilities(databases: Sequence[Database]) -> Abilities:
    """Try every value on every server; the same answer each time."""
    pools = dict(POOLS)
    for database in databases:
        with database.connect() as connection:
            for name, pool in pools.items():
                pools[name] = tuple(value for value in pool if _is_accepted(connection, name, value))
    return Abilities(pools=pools, major=min(database.server.major for database in databases))


def _is_accepted(connection: psycopg.Connection, kind: str, value: str) -> bool:
    try:
        connection.execute(f"SELECT CAST({literal(value)} AS {kind})::text".encode())
    except psycopg.Error:
        return False
    return True


def schemas(abilities: Abilities, *, tables: int = 5, rows: int = 40) -> st.SearchStrategy[Schema]:
    """Up to so many tables with up to so many rows each, with what belongs to them."""

    @st.composite
    def draw_schema(draw: st.DrawFn) -> Schema:
        return _Builder(draw, abilities, tables=tables, rows=rows).build()

    return draw_schema()


_HELPERS = f"""
CREATE FUNCTION public.{quoted("same %d")}(v anyelement) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
"""


class _Builder:
    """Draws one schema."""

    def __init__(self, draw: st.DrawFn, abilities: Abilities, *, tables: int, rows: int) -> None:
        self._draw = draw
        self._major = abilities.major
        self._table_count = draw(st.integers(1, tables))
        self._rows = rows
        self._taken: dict[str, set[str]] = {}
        self._random = Random(draw(st.integers(0, 2**32 - 1)))
        self._statements: list[Statement] = []
        self._tables: list[Table] = []
        self._schemas = ["public"]
        self._types = Types(draw, builtins(self._pools(abilities)), lambda: self._fresh(self._schema()))

    def _pools(self, abilities: Abilities) -> dict[str, tuple[str, ...]]:
        pools = dict(abilities.pools)
        for name in self._draw(st.sets(st.sampled_from(sorted(DRAWN)), max_size=3)):
            pools[name] += tuple(self._draw(st.lists(DRAWN[name], max_size=3)))
        return pools

    def build(self) -> Schema:
        self._add("helper", _HELPERS, may_fail=False)
        for _ in range(self._draw(st.integers(0, 2))):
            self._schemas.append(self._name("schemas"))
            self._add("schema", f"CREATE SCHEMA {quoted(self._schemas[-1])}", may_fail=False)
        for _ in range(self._draw(st.integers(0, 4))):
            made = len(self._types.statements)
            self._types.define(self._random)
            for statement in self._types.statements[made:]:
                self._add("type", statement, may_fail=False)
        self._sequences()
        for _ in range(self._table_count):
            self._table()
        for table in self._tables:
            self._constraints(table)
        for table in self._tables:
            self._insert(table)
        for table in self._tables:
            self._alter(table)
        self._foreign_keys()
        self._references_by_name()
        for table in self._tables:
            self._extras(table)
        # At the end: a materialised view has at the sink what its tables have now.
        self._views()
        return Schema(tuple(self._statements))

    # ------------------------------------------------------------- drawing

    def _add(self, kind: str, sql: str, *, may_fail: bool = True) -> None:
        self._statements.append(Statement(sql=sql, kind=kind, may_fail=may_fail))

    def _once_in(self, n: int) -> bool:
        return self._draw(st.integers(0, n - 1)) == n - 1

    def _name(self, *scopes: str) -> str:
        """A name that is new in each of these."""
        sets = [self._taken.setdefault(scope, {"public", "_dsync", "spoil", "same %d"}) for scope in scopes]
        taken = set[str]().union(*sets)
        name = self._draw(NAMES)
        for number in range(1, 1000):
            if name not in taken and not name.startswith("pg_"):
                break
            # Cut by characters until there is room for the number.
            suffix = str(number)
            while len((name + suffix).encode()) > 63:
                name = name[:-1]
            name += suffix
        for names in sets:
            names.add(name)
        return name

    def _schema(self) -> str:
        return self._draw(st.sampled_from(self._schemas))

    def _of_relation(self) -> str:
        """A name that no table or index has in any schema: an index lies in its table's."""
        return self._name("constraints", *(f"in {schema}" for schema in self._schemas))

    def _fresh(self, schema: str) -> str:
        return quoted(schema, self._name(f"in {schema}"))

    # -------------------------------------------------------------- tables

    def _sequences(self) -> None:
        self._sequence_names = [self._fresh(self._schema()) for _ in range(self._draw(st.integers(0, 2)))]
        options = (
            "",
            "AS smallint INCREMENT -1 MINVALUE -100 MAXVALUE 5 START 5",
            "CYCLE CACHE 7 MAXVALUE 9",
            "START 9223372036854775807",
        )
        for name in self._sequence_names:
            self._add("sequence", f"CREATE SEQUENCE {name} {self._draw(st.sampled_from(options))}", may_fail=False)
            for _ in range(self._draw(st.integers(0, 2))):
                self._add("position", f"SELECT nextval({literal(name)})")

    def _table(self) -> None:
        form = self._draw(st.sampled_from(("plain", "plain", "plain", "unlogged", "partitioned", "child", "typed")))
        if form == "partitioned":
            self._partitioned()
        elif form == "child" and any(not table.partition_keys for table in self._tables):
            self._child()
        elif form == "typed":
            self._typed()
        else:
            scope = self._scope()
            columns = self._columns(scope)
            name = self._fresh(self._schema())
            storage = self._draw(st.sampled_from(("", "", " WITH (fillfactor = 10)")))
            kind = "UNLOGGED TABLE" if form == "unlogged" else "TABLE"
            self._add("table", f"CREATE {kind} {name} ({_listed(columns)}){storage}", may_fail=False)
            self._tables.append(Table(name=name, columns=columns, scope=scope))

    def _scope(self) -> str:
        return f"columns {len(self._statements)}"

    def _columns(self, scope: str, *, identity: bool = True) -> list[Column]:
        columns = [Column(name=self._name(scope), kind=self._types.any()) for _ in range(self._draw(st.integers(0, 7)))]
        for column in columns:
            self._rules(column)
        if identity and self._once_in(3):
            columns.append(self._identity(scope))
        if columns and self._once_in(3):
            columns.append(self._generated(scope, columns))
        self._draw(st.randoms(use_true_random=False)).shuffle(columns)
        return columns

    def _rules(self, column: Column) -> None:
        rule = self._draw(st.sampled_from(("", "", "", "default", "not null", "collate", "sequence")))
        if rule == "default":
            column.rules.append(f"DEFAULT {column.kind.cell(self._random)}")
        elif rule == "not null" and column.kind.make(self._random) is not None:
            column.rules.append("NOT NULL")
        elif rule == "collate" and column.kind.sql in ("text", "varchar", "varchar(3)", "text[]"):
            column.rules.append('COLLATE pg_catalog."POSIX"')
        elif rule == "sequence" and column.kind.sql in ("bigint", "integer", "numeric") and self._sequence_names:
            column.rules.append(f"DEFAULT nextval({literal(self._draw(st.sampled_from(self._sequence_names)))})")

    def _identity(self, scope: str) -> Column:
        kind = self._draw(st.sampled_from(("smallint", "integer", "bigint")))
        always = self._draw(st.booleans())
        downwards = " (START WITH 100 INCREMENT BY -5 MINVALUE -1000 MAXVALUE 200 CACHE 3)"
        options = self._draw(st.sampled_from(("", downwards)))
        return Column(
            name=self._name(scope),
            kind=Kind(sql=kind, make=lambda random: str(random.randrange(1000)), is_builtin=True),
            rules=[f"GENERATED {'ALWAYS' if always else 'BY DEFAULT'} AS IDENTITY{options}"],
            filled=not always,
        )

    def _generated(self, scope: str, columns: Sequence[Column]) -> Column:
        bases = [column for column in columns if "IDENTITY" not in " ".join(column.rules)]
        base = self._draw(st.sampled_from(bases)) if bases else None
        expression, kind = "1 + 1", "integer"
        if base is not None:
            expression, kind = f"{quoted(base.name)} IS NULL", "boolean"
            if base.kind.sql in ("text", "varchar"):
                expression, kind = f"upper({quoted(base.name)}) || '%'", "text"
        stored = "STORED"
        if self._major >= 18 and self._draw(st.booleans()) and (base is None or base.kind.is_builtin):
            stored = "VIRTUAL"
        return Column(
            name=self._name(scope),
            kind=Kind(sql=kind, make=lambda random: None),
            rules=[f"GENERATED ALWAYS AS ({expression}) {stored}"],
            filled=False,
        )

    def _child(self) -> None:
        parents = [table for table in self._tables if not table.partition_keys]
        parent = self._draw(st.sampled_from(parents))
        parent.has_children = True
        name = self._fresh(self._schema())
        columns = self._columns(parent.scope, identity=False)
        self._add("table", f"CREATE TABLE {name} ({_listed(columns)}) INHERITS ({parent.name})", may_fail=False)
        inherited = [
            # Before 17 a child does not have its parent's identity, only NOT NULL.
            Column(name=c.name, kind=c.kind, filled=c.filled or "IDENTITY" in " ".join(c.rules))
            for c in parent.columns
        ]
        self._tables.append(Table(name=name, columns=[*inherited, *columns], scope=parent.scope, is_child=True))

    def _typed(self) -> None:
        kind, name = self._fresh(self._schema()), self._fresh(self._schema())
        scope = self._scope()
        columns = [Column(name=self._name(scope), kind=self._types.any()) for _ in range(self._draw(st.integers(0, 3)))]
        self._add("type", f"CREATE TYPE {kind} AS ({_listed(columns)})", may_fail=False)
        self._add("table", f"CREATE TABLE {name} OF {kind}", may_fail=False)
        self._tables.append(Table(name=name, columns=columns, scope=scope))

    # ----------------------------------------------------------- partitions

    def _partitioned(self) -> None:
        scope = self._scope()
        columns = self._columns(scope, identity=False)
        keys = [
            Column(name=self._name(scope), kind=self._types.ordered()) for _ in range(self._draw(st.integers(1, 2)))
        ]
        columns = [*columns, *keys]
        self._draw(st.randoms(use_true_random=False)).shuffle(columns)
        table = Table(
            name=self._fresh(self._schema()),
            columns=columns,
            scope=scope,
            partition_keys=tuple(column.name for column in keys),
        )
        method = self._method()
        keys = keys[:1] if method == "LIST" else keys
        by = _names(key.name for key in keys)
        self._add(
            "table", f"CREATE TABLE {table.name} ({_listed(columns)}) PARTITION BY {method} ({by})", may_fail=False
        )
        self._partitions(table.name, table, method, keys, depth=0)
        self._tables.append(table)

    def _method(self) -> str:
        return self._draw(st.sampled_from(("RANGE", "LIST", "HASH")))

    def _partitions(self, parent: str, table: Table, method: str, keys: Sequence[Column], *, depth: int) -> None:
        for bound in self._bounds(method, keys):
            name = self._fresh(self._schema())
            if depth < 2 and self._once_in(5):
                key = self._draw(st.sampled_from(table.partition_keys))
                inner = self._method()
                self._add(
                    "partition",
                    f"CREATE TABLE {name} PARTITION OF {parent} {bound} PARTITION BY {inner} ({quoted(key)})",
                    may_fail=True,
                )
                self._partitions(name, table, inner, [table.column(key)], depth=depth + 1)
            elif self._once_in(3):
                self._attached(name, parent, table, bound)
            else:
                kind = self._draw(st.sampled_from(("TABLE", "TABLE", "TABLE", "UNLOGGED TABLE")))
                self._add("partition", f"CREATE {kind} {name} PARTITION OF {parent} {bound}")

    def _attached(self, name: str, parent: str, table: Table, bound: str) -> None:
        """A partition that was a table, whose columns stand in another order, with one that is gone."""
        gone = quoted(self._name(table.scope))
        columns = [*(column.sql for column in table.columns), f"{gone} integer"]
        self._draw(st.randoms(use_true_random=False)).shuffle(columns)
        self._add("partition", f"CREATE TABLE {name} ({', '.join(columns)})")
        self._add("drop column", f"ALTER TABLE {name} DROP COLUMN {gone}")
        self._add("attach", f"ALTER TABLE {parent} ATTACH PARTITION {name} {bound}")

    def _bounds(self, method: str, keys: Sequence[Column]) -> Iterable[str]:
        if method == "HASH":
            modulus = self._draw(st.integers(1, 3))
            return [f"FOR VALUES WITH (MODULUS {modulus}, REMAINDER {n})" for n in range(modulus)]
        first = keys[0].kind.ascending
        if method == "LIST":
            half = len(first) // 2 or 1
            lists = [", ".join(map(literal, first[:half])), ", ".join([*map(literal, first[half:]), "NULL"])]
            bounds = [f"FOR VALUES IN ({values})" for values in lists]
        else:
            places = ["MINVALUE", *map(literal, first[1:4]), "MAXVALUE"]
            more = "".join(", MINVALUE" for _ in keys[1:])
            bounds = [f"FOR VALUES FROM ({low}{more}) TO ({high}{more})" for low, high in pairwise(places)]
        kept = bounds[: self._draw(st.integers(1, len(bounds)))]
        return [*kept, "DEFAULT"] if self._draw(st.booleans()) else kept

    # ---------------------------------------------------------- constraints

    def _some(self, table: Table, least: int = 1, most: int = 3) -> list[str]:
        names = [column.name for column in table.columns]
        if len(names) < least:
            return []
        return self._draw(st.lists(st.sampled_from(names), min_size=least, max_size=min(most, len(names)), unique=True))

    def _constraints(self, table: Table) -> None:
        if not table.columns:
            return
        deferrable = self._draw(st.sampled_from(("", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED")))
        if self._once_in(2):
            columns = tuple(dict.fromkeys((*table.partition_keys, *self._some(table))))
            table.key = columns
            self._constraint(table, "key", f"PRIMARY KEY ({_names(columns)}){deferrable}")
        if self._once_in(3):
            nulls = self._draw(st.sampled_from(("", " NULLS NOT DISTINCT")))
            columns = tuple(dict.fromkeys((*table.partition_keys, *self._some(table))))
            self._constraint(table, "unique", f"UNIQUE{nulls} ({_names(columns)}){deferrable}")
        for column in self._some(table, 0, 2):
            check = self._draw(
                st.sampled_from(
                    (
                        f"CHECK ({quoted(column)} IS NULL OR {quoted(column)} IS NOT NULL OR {quoted(column)} IS NULL)",
                        f"CHECK (public.{quoted('same %d')}({quoted(column)})) NOT VALID",
                        f"CHECK (octet_length({quoted(column)}::text) < 1000000) NO INHERIT",
                    )
                )
            )
            self._constraint(table, "check", check)
        if not table.partition_keys and self._once_in(5):
            (column,) = self._some(table, 1, 1)
            method, operator = self._draw(st.sampled_from((("hash", "="), ("btree", "="), ("gist", "&&"))))
            self._constraint(table, "exclude", f"EXCLUDE USING {method} ({quoted(column)} WITH {operator})")
        for _ in range(self._draw(st.integers(0, 2))):
            self._index(table)

    def _constraint(self, table: Table, kind: str, text: str) -> None:
        name = quoted(self._of_relation())
        self._add(kind, f"ALTER TABLE {table.name} ADD CONSTRAINT {name} {text}")

    def _index(self, table: Table) -> None:
        method = self._draw(st.sampled_from(("btree", "btree", "btree", "hash", "gist", "gin", "brin", "spgist")))
        columns = [quoted(column) for column in self._some(table, 1, 2 if method == "btree" else 1)]
        if self._once_in(4):
            columns.append(f"(public.{quoted('same %d')}({columns[0]}))")
        if method == "btree" and self._once_in(3):
            columns[0] += self._draw(st.sampled_from((" DESC NULLS LAST", " ASC NULLS FIRST")))
        first = quoted(table.columns[0].name)
        include = f" INCLUDE ({first})" if method in ("btree", "gist") and self._once_in(4) else ""
        where = f" WHERE {first} IS NOT NULL" if self._once_in(4) else ""
        unique = "UNIQUE " if method == "btree" and self._once_in(6) else ""
        name = quoted(self._of_relation())
        what = f"USING {method} ({', '.join(columns)}){include}{where}"
        self._add("index", f"CREATE {unique}INDEX {name} ON {table.name} {what}")

    # ----------------------------------------------------------------- rows

    def _insert(self, table: Table) -> None:
        filled = [column for column in table.columns if column.filled]
        wide = self._once_in(6)
        for _ in range(self._draw(st.sampled_from((0, 1, 3, self._rows, self._rows)))):
            cells = [self._cell(column, wide=wide) for column in filled]
            if not cells:
                self._add("row", f"INSERT INTO {table.name} DEFAULT VALUES")
                continue
            self._add(
                "row",
                f"INSERT INTO {table.name} ({_names([c.name for c in filled])}) OVERRIDING SYSTEM VALUE"
                f" VALUES ({', '.join(cells)})",
            )

    def _cell(self, column: Column, *, wide: bool) -> str:
        if "DEFAULT" in " ".join(column.rules) and self._random.random() < 0.2:
            return "DEFAULT"
        if wide and column.kind.sql in ("text", "bytea", "varchar") and self._random.random() < 0.1:
            # Half of it can be compressed, so that both ways of storing it out of line occur.
            source = "sha512(n::text::bytea)" if self._random.random() < 0.5 else "sha512('x')"
            value = f"(SELECT string_agg({source}, '') FROM generate_series(1, 16384) n)"
            return value if column.kind.sql == "bytea" else f"encode({value}, 'hex')"
        value = column.kind.cell(self._random)
        # A column that must have a value: a second chance.
        return column.kind.cell(self._random) if value == "NULL" and "NOT NULL" in column.rules else value

    # ------------------------------------------------------ after the rows

    def _alter(self, table: Table) -> None:
        if self._once_in(3):
            self._add("delete", f"DELETE FROM {table.name} WHERE ctid::text LIKE '%3)'")
        if table.columns and self._once_in(3):
            column = next((c for c in table.columns if c.filled), None)
            if column is not None:
                self._add(
                    "update",
                    f"UPDATE {table.name} SET {quoted(column.name)} = {column.kind.cell(self._random)}"
                    " WHERE ctid::text LIKE '%2)'",
                )
        if self._once_in(4):
            kind = self._types.any()
            name = quoted(self._name(table.scope))
            default = kind.cell(self._random)
            self._add("add column", f"ALTER TABLE {table.name} ADD COLUMN {name} {kind.sql} DEFAULT {default}")
        droppable = [c for c in table.columns if c.name not in (*table.partition_keys, *table.key)]
        if droppable and self._once_in(4):
            gone = self._draw(st.sampled_from(droppable))
            self._add("drop column", f"ALTER TABLE {table.name} DROP COLUMN {quoted(gone.name)}")
        # What differs between a parent and its children is lost in a dump.
        if table.columns and not table.has_children and self._once_in(3):
            column = self._draw(st.sampled_from(table.columns))
            changes = ("SET STATISTICS 7", "SET STORAGE EXTERNAL", "SET STORAGE MAIN", "SET COMPRESSION pglz")
            change = self._draw(st.sampled_from(changes))
            self._add("alter column", f"ALTER TABLE {table.name} ALTER COLUMN {quoted(column.name)} {change}")

    def _foreign_keys(self) -> None:
        """From any table to any with a key, itself too, so that they may go in circles."""
        parents = [table for table in self._tables if table.key]
        if not parents:
            return
        for table in self._draw(st.lists(st.sampled_from(self._tables), max_size=3)):
            parent = self._draw(st.sampled_from(parents))
            names = [self._name(table.scope) for _ in parent.key]
            kinds = [parent.column(name).kind for name in parent.key]
            for name, kind in zip(names, kinds, strict=True):
                self._add("add column", f"ALTER TABLE {table.name} ADD COLUMN {quoted(name)} {kind.sql}")
            self._add(
                "fill key",
                f"UPDATE {table.name} SET ({_names(names)}) = (SELECT {_names(parent.key)} FROM {parent.name}"
                f" OFFSET {self._random.randrange(3)} LIMIT 1)",
            )
            match = self._draw(st.sampled_from(("", " MATCH FULL")))
            action = self._draw(st.sampled_from(("", " ON DELETE CASCADE", " ON UPDATE CASCADE ON DELETE SET NULL")))
            timing = self._draw(st.sampled_from(("", " DEFERRABLE INITIALLY DEFERRED", " NOT VALID")))
            self._constraint(
                table,
                "foreign key",
                f"FOREIGN KEY ({_names(names)}) REFERENCES {parent.name} ({_names(parent.key)}){match}{action}{timing}",
            )

    def _references_by_name(self) -> None:
        """Values that name tables and types of this very schema, and whole rows of other tables."""
        if self._once_in(3):
            name = self._fresh(self._schema())
            self._add("table", f"CREATE TABLE {name} (c regclass, t regtype[], n regnamespace)", may_fail=False)
            kinds = ", ".join(literal(kind.sql) for kind in self._types.own)
            for table in self._tables:
                self._add(
                    "reference",
                    f"INSERT INTO {name} VALUES ({literal(table.name)}, ARRAY[{kinds}]::regtype[],"
                    f" {literal(quoted(self._schema()))})",
                )
        # The row type of a child may have another order of fields after a dump, which is refused.
        whole = [table for table in self._tables if not table.is_child]
        if whole and self._once_in(3):
            inner = self._draw(st.sampled_from(whole))
            name = self._fresh(self._schema())
            self._add("table", f"CREATE TABLE {name} (x {inner.name}, xs {inner.name}[])")
            self._add("reference", f"INSERT INTO {name} SELECT i, ARRAY[i, NULL] FROM {inner.name} AS i LIMIT 5")

    def _views(self) -> None:
        for table in self._draw(st.lists(st.sampled_from(self._tables), max_size=2)):
            name = self._fresh(self._schema())
            form = self._draw(st.sampled_from(("VIEW", "MATERIALIZED VIEW")))
            data = " WITH NO DATA" if form != "VIEW" and self._once_in(3) else ""
            self._add("view", f"CREATE {form} {name} AS SELECT *, 'it''s' AS {quoted('%s')} FROM {table.name}{data}")
            if table.key and self._once_in(2):
                name = self._fresh(self._schema())
                # It depends on the key, so it can only be made after that.
                key = _names(table.key)
                self._add("view", f"CREATE VIEW {name} AS SELECT t.*, count(*) AS n FROM {table.name} t GROUP BY {key}")

    def _extras(self, table: Table) -> None:
        for kind in self._draw(st.lists(st.sampled_from(_EXTRAS), max_size=2, unique=True)):
            name = quoted(self._name("extras"))
            first = quoted(table.columns[0].name) if table.columns else "none"
            for statement in _EXTRA_STATEMENTS[kind]:
                self._add(kind, statement.format(table=table.name, name=name, first=first))


_EXTRA_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "comment": (
        "COMMENT ON TABLE {table} IS E'it''s; -- \\\\connect\\n\\\\. 😀 %s'",
        "COMMENT ON COLUMN {table}.{first} IS '{{}} \"\"'",
    ),
    # Would it fire while the table is loaded, there would be no rows.
    "trigger": ("CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.spoil()",),
    "always trigger": (
        "CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.spoil()",
        "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
    ),
    "policy": (
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        "CREATE POLICY {name} ON {table} USING (false)",
    ),
    "rule": ("CREATE RULE {name} AS ON INSERT TO {table} DO INSTEAD NOTHING",),
    "statistics": ("CREATE STATISTICS public.{name} ON (({first} IS NULL)), {first} FROM {table}",),
    "identity full": ("ALTER TABLE {table} REPLICA IDENTITY FULL",),
    "vacuum": ("VACUUM ANALYZE {table}",),
    "analyze": ("ANALYZE {table}",),
    "rewritten": ("VACUUM FULL {table}",),
    "truncated": ("ALTER TABLE {table} SET (autovacuum_enabled = false)", "TRUNCATE {table} CASCADE"),
}
_EXTRAS = tuple(_EXTRA_STATEMENTS)


def _listed(columns: Iterable[Column]) -> str:
    return ", ".join(column.sql for column in columns)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))
