"""What planning a schema needs to know about both ends, beside the archive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, LiteralString

from dsync_postgres.schema.catalog import ColumnFacts, TableFacts
from dsync_postgres.schema.errors import DefinitionError
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.reading import Reading, Row
from dsync_postgres.schema.server import (
    ExtensionFacts,
    RoleFacts,
    SchemaFacts,
    ServerFacts,
    TablespaceFacts,
    read_access_methods,
    read_collations,
    read_extensions,
    read_roles,
    read_schemas,
    read_server,
    read_tablespaces,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A relation of the source, as far as the sink has to know it."""

    kind: str
    """pg_class.relkind."""
    is_populated: bool
    size_bytes: int
    columns: tuple[ColumnFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What the archive does not say about the source; travels to the sink beside it."""

    version_num: int
    encoding: str
    extensions: Mapping[str, tuple[str, str]]
    """Installed ones: schema and version."""
    tables: Mapping[TableName, SourceTable]
    configuration: Mapping[TableName, str] = field(default_factory=dict)
    """Tables of extensions whose users' rows are copied, with the extension."""
    sequences: Mapping[str, tuple[TableName, ...]] = field(default_factory=dict)
    """Sequences of extensions whose position is copied."""

    @classmethod
    def of(
        cls, server: ServerFacts, extensions: Mapping[str, ExtensionFacts], tables: Mapping[TableName, TableFacts]
    ) -> SourceFacts:
        """Return the facts out of what the catalogue queries gave."""
        return cls(
            version_num=server.version_num,
            encoding=server.encoding,
            extensions={
                name: (fact.schema or "", fact.installed_version)
                for name, fact in extensions.items()
                if fact.installed_version is not None
            },
            tables={
                name: SourceTable(
                    kind=table.kind,
                    is_populated=table.is_populated,
                    size_bytes=table.size_bytes,
                    columns=table.columns,
                )
                for name, table in tables.items()
            },
            configuration={name: table.extension or "" for name, table in tables.items() if table.is_configuration},
            sequences={name: fact.sequences for name, fact in extensions.items() if fact.sequences},
        )

    def to_plain(self) -> dict[str, Any]:
        """Return maps, lists, strings, numbers and booleans alone, as a wire format wants them."""
        return {
            "version_num": self.version_num,
            "encoding": self.encoding,
            "extensions": {name: list(pair) for name, pair in self.extensions.items()},
            "tables": [
                [n.schema, n.name, t.kind, t.is_populated, t.size_bytes, [list(astuple(c)) for c in t.columns]]
                for n, t in self.tables.items()
            ],
            "configuration": [[n.schema, n.name, extension] for n, extension in self.configuration.items()],
            "sequences": {name: [[n.schema, n.name] for n in found] for name, found in self.sequences.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SourceFacts:
        """Return the inverse of `to_plain`.

        Raises:
            DefinitionError: it was not written by this version.
        """
        names = tuple(ColumnFacts.__dataclass_fields__)
        try:
            return cls(
                version_num=plain["version_num"],
                encoding=plain["encoding"],
                extensions={name: (schema, version) for name, (schema, version) in plain["extensions"].items()},
                tables={
                    TableName(schema=schema, name=name): SourceTable(
                        kind=kind,
                        is_populated=is_populated,
                        size_bytes=size_bytes,
                        columns=tuple(ColumnFacts(**dict(zip(names, c, strict=True))) for c in columns),
                    )
                    for schema, name, kind, is_populated, size_bytes, columns in plain["tables"]
                },
                configuration={
                    TableName(schema=schema, name=name): extension
                    for schema, name, extension in plain.get("configuration", ())
                },
                sequences={
                    extension: tuple(TableName(schema=schema, name=name) for schema, name in names)
                    for extension, names in plain.get("sequences", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise DefinitionError(
                "reading the source's schema: its facts were not written by this version of dsync; run the same "
                "release at both ends"
            ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingObjects:
    """What the sink's database already holds, by kind and name."""

    relations: Mapping[TableName, TableName | None]
    """Tables, views, sequences, indexes → the table an index or a sequence belongs to."""
    types: frozenset[TableName] = frozenset()
    functions: frozenset[TableName] = frozenset()
    """The name with its argument types, as pg_dump writes it: `total(integer, text)`."""
    others: frozenset[tuple[str, str, str]] = frozenset()
    """Kind as pg_dump names it, schema or empty, name."""

    def without(self, tables: Collection[TableName]) -> ExistingObjects:
        """Return what is left when these tables have been dropped."""
        gone = set(tables)
        relations = {name: of for name, of in self.relations.items() if name not in gone and of not in gone}
        return replace(self, relations=relations, types=self.types - gone)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkFacts:
    """What the sink is and holds, and what our role may do there."""

    server: ServerFacts
    roles: Mapping[str, RoleFacts] = field(default_factory=dict)
    extensions: Mapping[str, ExtensionFacts] = field(default_factory=dict)
    schemas: Mapping[str, SchemaFacts] = field(default_factory=dict)
    tablespaces: Mapping[str, TablespaceFacts] = field(default_factory=dict)
    access_methods: frozenset[str] = frozenset({"heap"})
    collations: frozenset[str] = frozenset()
    objects: ExistingObjects = field(default_factory=lambda: ExistingObjects(relations={}))


_EXISTING: LiteralString = """
WITH n AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', '_dsync')
)
SELECT 'relation' AS kind, n.nspname::text AS schema, c.relname::text AS name,
       tn.nspname::text AS of_schema, t.relname::text AS of_name
FROM pg_class c JOIN n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S'
     AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
LEFT JOIN pg_class t ON t.oid = coalesce(i.indrelid, d.refobjid)
LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
UNION ALL
SELECT 'type', n.nspname, t.typname, NULL, NULL FROM pg_type t JOIN n ON n.oid = t.typnamespace
UNION ALL
SELECT 'function', n.nspname,
       p.proname || CASE WHEN p.prokind = 'a' AND p.pronargs = 0 THEN '(*)' ELSE
           '(' || array_to_string(ARRAY(SELECT format_type(a.oid, NULL)
                                        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(oid, ord)
                                        ORDER BY a.ord), ', ') || ')' END, NULL, NULL
FROM pg_proc p JOIN n ON n.oid = p.pronamespace
UNION ALL
SELECT 'COLLATION', n.nspname, c.collname, NULL, NULL FROM pg_collation c JOIN n ON n.oid = c.collnamespace
UNION ALL
SELECT 'STATISTICS', n.nspname, s.stxname, NULL, NULL FROM pg_statistic_ext s JOIN n ON n.oid = s.stxnamespace
UNION ALL
SELECT 'TEXT SEARCH DICTIONARY', n.nspname, s.dictname, NULL, NULL FROM pg_ts_dict s JOIN n ON n.oid = s.dictnamespace
UNION ALL
SELECT 'TEXT SEARCH CONFIGURATION', n.nspname, s.cfgname, NULL, NULL
FROM pg_ts_config s JOIN n ON n.oid = s.cfgnamespace
UNION ALL
SELECT 'EVENT TRIGGER', '', evtname, NULL, NULL FROM pg_event_trigger
UNION ALL
SELECT 'FOREIGN DATA WRAPPER', '', fdwname, NULL, NULL FROM pg_foreign_data_wrapper
UNION ALL
SELECT 'SERVER', '', srvname, NULL, NULL FROM pg_foreign_server
UNION ALL
SELECT 'PROCEDURAL LANGUAGE', '', lanname, NULL, NULL FROM pg_language
"""


def _assemble(rows: Iterable[Row]) -> ExistingObjects:
    relations: dict[TableName, TableName | None] = {}
    named: dict[str, set[TableName]] = {"type": set(), "function": set()}
    others: set[tuple[str, str, str]] = set()
    for row in rows:
        kind, name = row["kind"], TableName(schema=row["schema"], name=row["name"])
        if kind == "relation":
            owned = row["of_schema"] is not None
            relations[name] = TableName(schema=row["of_schema"], name=row["of_name"]) if owned else None
        elif kind in named:
            named[kind].add(name)
        else:
            others.add((kind, name.schema, name.name))
    return ExistingObjects(
        relations=relations,
        types=frozenset(named["type"]),
        functions=frozenset(named["function"]),
        others=frozenset(others),
    )


read_existing = Reading(_assemble, _EXISTING)
"""What the database holds already, system objects and our own ledger apart."""

read_sink = Reading.combined(
    SinkFacts,
    server=read_server,
    roles=read_roles,
    extensions=read_extensions,
    schemas=read_schemas,
    tablespaces=read_tablespaces,
    access_methods=read_access_methods,
    collations=read_collations,
    objects=read_existing,
)
"""Everything about the sink that planning a schema needs."""
