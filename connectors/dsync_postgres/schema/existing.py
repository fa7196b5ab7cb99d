"""What the sink has already: used as it is, or in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.facts import ExistingObjects, SinkFacts
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.graph import METADATA_KINDS, constraint_name, relation_name
from dsync_postgres.schema.lexer import tokens
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.select import SchemaSelection, describe

_TYPE_KINDS = frozenset({"TYPE", "DOMAIN", "SHELL TYPE"})
_FUNCTION_KINDS = frozenset({"FUNCTION", "PROCEDURE", "AGGREGATE"})
_TABLE_KINDS = frozenset({"TABLE", "FOREIGN TABLE"})
_VIEW_KINDS = frozenset({"VIEW", "MATERIALIZED VIEW"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyThere:
    """Entries that are not to be created, since the sink has them or what they belong to."""

    skipped: frozenset[int]
    findings: tuple[Finding, ...]


def already_there(selection: SchemaSelection, sink: SinkFacts, usable: Collection[TableName]) -> AlreadyThere:
    """Compare a selection with what exists; `usable` are the tables that may be filled although they exist."""
    skipped: set[int] = set()
    findings: list[Finding] = []
    for entry in selection.entries():
        if not _exists(selection, entry, sink):
            continue
        if entry.desc in _TABLE_KINDS and relation_name(entry) not in usable:
            findings.append(_in_the_way(entry))
        skipped.add(entry.dump_id)
        if entry.desc not in _TABLE_KINDS:
            findings += _kept_as_it_is(entry)
    belonging = _belongings(selection, skipped)
    findings += _not_added(selection, belonging)
    skipped |= belonging
    findings += _split_partitions(selection, skipped)
    findings += _names_taken(selection, skipped, sink.objects)
    return AlreadyThere(skipped=frozenset(skipped), findings=tuple(findings))


def _exists(selection: SchemaSelection, entry: TocEntry, sink: SinkFacts) -> bool:
    objects = sink.objects
    match entry.desc:
        case "SCHEMA":
            # A schema that every database has is not created but still given its owner and privileges.
            return entry.tag in sink.schemas and not entry.defn.startswith("--")
        case "EXTENSION":
            known = sink.extensions.get(entry.tag)
            return known is not None and known.installed_version is not None
        case "SEQUENCE":
            return selection.subject(entry) is None and relation_name(entry) in objects.relations
        case kind if kind in _TABLE_KINDS | _VIEW_KINDS:
            return relation_name(entry) in objects.relations
        case kind if kind in _TYPE_KINDS:
            return relation_name(entry) in objects.types
        case kind if kind in _FUNCTION_KINDS:
            return relation_name(entry) in objects.functions
        case kind:
            return (kind, entry.namespace or "", entry.tag) in objects.others


def _in_the_way(entry: TocEntry) -> Finding:
    name = relation_name(entry).namespace
    return stop(
        "table-exists",
        name,
        "the sink has a table or view of this name already",
        "use --on-existing append, truncate or drop, or copy into another database",
    )


def _kept_as_it_is(entry: TocEntry) -> list[Finding]:
    if entry.desc in ("SCHEMA", "EXTENSION"):
        return []
    message = "the sink has it already; it is left as it is and may differ"
    if entry.desc in _VIEW_KINDS:
        return [warn("object-exists", describe(entry), message, "drop it at the sink to have it made anew")]
    return [info("object-exists", describe(entry), message)]


def _belongings(selection: SchemaSelection, skipped: set[int]) -> set[int]:
    """Entries that belong to, or only speak about, what is skipped."""
    graph = selection.graph
    found: set[int] = set()
    for entry in selection.entries():
        key = entry.dump_id
        if key in skipped:
            continue
        needs = graph.needs[key]
        is_remark = entry.desc in METADATA_KINDS or entry.desc in ("SEQUENCE OWNED BY", "INDEX ATTACH")
        if graph.subjects.get(key) in skipped or (is_remark and needs & (skipped | found)):
            found.add(key)
    return found | _unused_sequences(selection, skipped | found)


def _unused_sequences(selection: SchemaSelection, skipped: set[int]) -> set[int]:
    """Sequences that are owned by a skipped table and that nothing else asks for."""
    graph = selection.graph
    wanted = {
        other
        for entry in selection.entries()
        if entry.dump_id not in skipped and entry.desc not in METADATA_KINDS
        for other in graph.needs[entry.dump_id]
    }
    owned = {
        other
        for entry in selection.entries()
        if entry.desc == "SEQUENCE OWNED BY" and entry.dump_id in skipped
        for other in graph.needs[entry.dump_id]
        if graph.entries[other].desc == "SEQUENCE"
    }
    unused = owned - wanted - skipped
    metadata = {e.dump_id for e in selection.entries() if e.desc in METADATA_KINDS and graph.needs[e.dump_id] & unused}
    return unused | metadata


def _not_added(selection: SchemaSelection, belonging: set[int]) -> list[Finding]:
    """Say what of the source a table that existed does not get: it stays exactly as somebody made it."""
    counts: dict[TableName, Counter[str]] = {}
    for key in sorted(belonging):
        entry = selection.graph.entries[key]
        subject = selection.subject(entry)
        if subject is not None and subject.desc in _TABLE_KINDS and entry.desc not in METADATA_KINDS:
            counts.setdefault(relation_name(subject), Counter())[entry.desc] += 1
    return [
        info(
            "existing-table-kept",
            table.namespace,
            "the table exists and is only filled; the source's definition has "
            + ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))
            + ", of which nothing is added",
        )
        for table, kinds in sorted(counts.items())
    ]


def _split_partitions(selection: SchemaSelection, skipped: set[int]) -> list[Finding]:
    graph = selection.graph
    findings = []
    for parent, parts in graph.partitions.items():
        for part in parts:
            if {parent, part} <= selection.included and (parent in skipped) != (part in skipped):
                findings.append(
                    stop(
                        "partition-split",
                        graph.name(part).namespace,
                        f"of the partitioned table {graph.name(parent)} and this partition the sink has only one",
                        "create the other one there too, or drop the one that exists",
                    )
                )
    return findings


def _names_taken(selection: SchemaSelection, skipped: set[int], objects: ExistingObjects) -> list[Finding]:
    """Indexes share one list of names with tables; found now, not after the load."""
    findings = []
    for entry in selection.entries():
        if entry.dump_id in skipped or entry.desc not in ("INDEX", "CONSTRAINT"):
            continue
        name = entry.tag if entry.desc == "INDEX" else constraint_name(tuple(tokens(entry.defn)))
        index = TableName(schema=entry.namespace or "", name=name or "")
        if index in objects.relations:
            findings.append(
                stop(
                    "name-taken",
                    index.namespace,
                    f"the sink has another relation of the name of this {entry.desc.lower()}",
                    "rename or drop it at the sink",
                )
            )
    return findings
