"""What the sink cannot create, found before any row moves.

Some of it stops the flow, because tables need it; the rest is left out and listed with what to do about it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.downgrade import unknown_features
from dsync_postgres.schema.facts import SinkFacts, SourceFacts
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.graph import RELATION_KINDS, relation_name
from dsync_postgres.schema.lexer import tokens
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.privileges import is_restrictive, mapped_user, policy_roles
from dsync_postgres.schema.select import LeftOut, SchemaSelection, describe

# Kinds that CREATE refuses to anybody but a superuser (manual of 14 to 18, each command's Notes).
_SUPERUSER_KINDS = frozenset(
    {
        "ACCESS METHOD",
        "EVENT TRIGGER",
        "FOREIGN DATA WRAPPER",
        "OPERATOR CLASS",
        "OPERATOR FAMILY",
        "PROCEDURAL LANGUAGE",
        "SHELL TYPE",
        "TEXT SEARCH PARSER",
        "TEXT SEARCH TEMPLATE",
    }
)
_UNTRUSTED_LANGUAGES = frozenset({"c", "internal", "plpython2u", "plpython3u", "plpythonu", "plperlu", "pltclu"})
_PARTITION_IDENTITY_SINCE = 17
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """What stands in the way of a selection, and the selection without it."""

    selection: SchemaSelection
    findings: tuple[Finding, ...]


def clear_obstacles(
    selection: SchemaSelection, skipped: Collection[int], source: SourceFacts, sink: SinkFacts
) -> Obstacles:
    """Leave out what the sink cannot create; `skipped` entries exist there and are no obstacle."""
    to_create = [entry for entry in selection.entries() if entry.dump_id not in skipped]
    reasons = dict(_impossible(to_create, sink))
    rest, broken = selection.leave_out(reasons)
    findings = [
        *_extensions(selection, to_create, source, sink),
        *_extension_places(selection, source, sink),
        *_privileges(to_create, sink),
        *_collations(selection, source, sink),
        *_features(to_create, sink),
        *_partition_identities(selection, source, sink),
        *_restrictive_policies(to_create, reasons, sink),
        *(_lost_table(item) for item in broken),
        *(_left_out(selection, item) for item in rest.left_out),
    ]
    return Obstacles(selection=rest, findings=tuple(findings))


def _impossible(entries: Iterable[TocEntry], sink: SinkFacts) -> Iterator[tuple[int, str]]:
    """Yield what the sink would refuse, and why."""
    for entry in entries:
        if not sink.server.is_superuser and (what := _superuser_need(entry)) is not None:
            yield entry.dump_id, f"{what} needs superuser, which the sink role {sink.server.user} is not"
        elif entry.desc == "POLICY":
            unknown = [role for role in policy_roles(entry) if role not in sink.roles]
            if unknown:
                yield entry.dump_id, f"it is for {_roles(unknown)}, which the sink does not have"
        elif entry.desc == "USER MAPPING":
            user = mapped_user(entry)
            if user.upper() != "PUBLIC" and user not in sink.roles:
                yield entry.dump_id, f"it is for {_roles([user])}, which the sink does not have"


def _superuser_need(entry: TocEntry) -> str | None:
    if entry.desc in _SUPERUSER_KINDS:
        return f"creating one ({entry.desc.lower()})"
    if entry.desc not in ("FUNCTION", "PROCEDURE", "CAST", "TYPE"):
        return None
    pieces = tuple(tokens(entry.defn))
    if entry.desc == "TYPE":
        # AS begins enums, composites and ranges; without it there is a base type or the shell of one.
        return None if any(t.depth == 0 and t.is_word("AS") for t in pieces) else "a base type"
    if entry.desc == "CAST":
        return "a cast without function" if any(t.is_word("WITHOUT") for t in pieces) else None
    for at, token in enumerate(pieces):
        if token.depth:
            # An argument may be called `leakproof`.
            continue
        # The first AS or BEGIN begins the body, where these words mean something else.
        if token.is_word("AS", "BEGIN"):
            return None
        if token.is_word("LEAKPROOF") and not pieces[at - 1].is_word("NOT"):
            return "LEAKPROOF"
        if token.is_word("LANGUAGE") and (name := pieces[at + 1].name) in _UNTRUSTED_LANGUAGES:
            return f"the language {name}"
    return None


def _extensions(
    selection: SchemaSelection, entries: Iterable[TocEntry], source: SourceFacts, sink: SinkFacts
) -> Iterator[Finding]:
    for entry in entries:
        if entry.desc != "EXTENSION":
            continue
        known = sink.extensions.get(entry.tag)
        users = _users(selection, entry)
        if known is None or known.default_version is None:
            yield stop(
                "extension-missing",
                entry.tag,
                f"the sink's server does not have this extension{users}",
                "install its package on the sink's server, or leave out what needs it (-n)",
            )
        elif not known.may_create or not sink.server.can_create:
            schema = source.extensions.get(entry.tag, ("public", ""))[0]
            yield stop(
                "extension-privilege",
                entry.tag,
                f"the sink role {sink.server.user} may not create this extension{users}",
                f'let a superuser run, in the sink\'s database: CREATE EXTENSION "{entry.tag}" WITH SCHEMA "{schema}"',
            )


def _extension_places(selection: SchemaSelection, source: SourceFacts, sink: SinkFacts) -> Iterator[Finding]:
    """Types are written with their schema, so an extension that lives elsewhere at the sink is not found."""
    for entry in selection.entries():
        known = sink.extensions.get(entry.tag) if entry.desc == "EXTENSION" else None
        if known is None or known.installed_version is None:
            continue
        schema, version = source.extensions.get(entry.tag, (known.schema or "", known.installed_version))
        if schema != known.schema:
            yield stop(
                "extension-schema",
                entry.tag,
                f"it is installed in schema {schema} at the source and in {known.schema} at the sink",
                f'at the sink: ALTER EXTENSION "{entry.tag}" SET SCHEMA "{schema}"',
            )
        elif version != known.installed_version:
            yield info(
                "extension-version",
                entry.tag,
                f"version {version} at the source, {known.installed_version} at the sink",
            )


def _users(selection: SchemaSelection, extension: TocEntry) -> str:
    graph = selection.graph
    names = [
        relation_name(entry).namespace
        for entry in selection.entries()
        if entry.desc in RELATION_KINDS and extension.dump_id in graph.closure([entry.dump_id])
    ]
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f", which {', '.join(names[:_MOST_NAMES])}{more} need"


def _privileges(entries: Iterable[TocEntry], sink: SinkFacts) -> Iterator[Finding]:
    new_schemas: set[str] = set()
    refused: dict[str, int] = {}
    for entry in entries:
        if entry.desc == "SCHEMA" and not entry.defn.startswith("--"):
            new_schemas.add(entry.tag)
        elif entry.desc in RELATION_KINDS and entry.namespace not in new_schemas:
            schema = sink.schemas.get(entry.namespace or "")
            if schema is not None and not schema.may_create:
                refused[schema.name] = refused.get(schema.name, 0) + 1
    if new_schemas and not sink.server.can_create:
        yield stop(
            "no-create-privilege",
            sink.server.database,
            f"the sink role {sink.server.user} may not create schemas ({', '.join(sorted(new_schemas))})",
            f'GRANT CREATE ON DATABASE "{sink.server.database}" TO "{sink.server.user}", or create them beforehand',
        )
    for name, count in sorted(refused.items()):
        yield stop(
            "no-create-privilege",
            name,
            f"the sink role {sink.server.user} may not create in this schema, and {count} tables or views go there",
            f'GRANT CREATE ON SCHEMA "{name}" TO "{sink.server.user}"',
        )


def _collations(selection: SchemaSelection, source: SourceFacts, sink: SinkFacts) -> Iterator[Finding]:
    """Collations of the catalogue come with the operating system or ICU, not with the schema."""
    missing: dict[str, list[TableName]] = {}
    for name in sorted(selection.tables | selection.structure_only):
        table = source.tables.get(name)
        for column in table.columns if table is not None else ():
            if (column.collation or "").startswith("pg_catalog.") and column.collation not in sink.collations:
                missing.setdefault(str(column.collation), []).append(name)
    for collation, tables in sorted(missing.items()):
        yield stop(
            "collation-missing",
            collation,
            f"the sink does not have this collation, which columns of {tables[0]} use",
            "install the locale on the sink's server and run pg_import_system_collations there, or use a server "
            "built with ICU",
        )


def _features(entries: Iterable[TocEntry], sink: SinkFacts) -> Iterator[Finding]:
    for entry in entries:
        for feature in unknown_features(entry, sink.server.major):
            yield stop(
                "needs-newer-sink",
                describe(entry),
                f"PostgreSQL {sink.server.major} at the sink does not know {feature}",
                "use a newer server, or create the table at the sink yourself (--schema none)",
            )


def _partition_identities(selection: SchemaSelection, source: SourceFacts, sink: SinkFacts) -> Iterator[Finding]:
    if not sink.server.major < _PARTITION_IDENTITY_SINCE <= source.version_num // 10000:
        return
    graph = selection.graph
    # Each has the columns of its parent, so one line for the whole hierarchy says it.
    tops = graph.partitions.keys() - {part for parts in graph.partitions.values() for part in parts}
    for name in sorted({graph.name(top) for top in tops} & selection.tables):
        if name in source.tables and any(column.identity for column in source.tables[name].columns):
            yield warn(
                "partition-identity",
                name.namespace,
                f"its partitions have no identity columns of their own in PostgreSQL {sink.server.major}, so a row "
                "inserted into a partition itself gets no number",
                "insert into the partitioned table",
            )


def _restrictive_policies(
    entries: Iterable[TocEntry], reasons: Mapping[int, str], sink: SinkFacts
) -> Iterator[Finding]:
    """A restrictive policy hides rows; without it roles that do exist would see more than at the source."""
    for entry in entries:
        if entry.dump_id not in reasons or entry.desc != "POLICY" or not is_restrictive(entry):
            continue
        known = [role for role in policy_roles(entry) if role in sink.roles]
        if known:
            yield stop(
                "policy-role-missing",
                describe(entry),
                f"this restrictive policy cannot be created, and {_roles(known)} would see rows that it hides",
                "create its other roles at the sink",
            )


def _lost_table(item: LeftOut) -> Finding:
    return stop(
        "cannot-create",
        describe(item.entry),
        f"it cannot be created at the sink: {item.reason}",
        "let a superuser create what it needs at the sink beforehand; what exists is used",
    )


def _left_out(selection: SchemaSelection, item: LeftOut) -> Finding:
    subject = selection.subject(item.entry)
    is_of_choice = "not selected" in item.reason or "not copied" in item.reason
    # What a choice of tables leaves behind is expected; what the sink refuses, or guards rows, is not.
    make = info if is_of_choice and item.entry.desc != "POLICY" else warn
    return make(
        "left-out",
        describe(item.entry),
        f"it is not created at the sink: {item.reason}",
        "select what it needs too"
        if is_of_choice
        else "create it at the sink yourself"
        if subject is None
        else f"create it on {relation_name(subject)} at the sink yourself",
    )


def _roles(names: Collection[str]) -> str:
    return ("role " if len(names) == 1 else "roles ") + ", ".join(f'"{name}"' for name in names)
