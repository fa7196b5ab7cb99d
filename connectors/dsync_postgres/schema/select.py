"""Which entries of an archive a choice of tables brings along, and which it leaves out.

A chosen table comes with everything it cannot exist without (types, functions, sequences, a parent it inherits
from) and with what belongs to it (indexes, constraints, triggers, policies …) as far as that needs no table which
was not chosen. What stays behind is listed, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dsync_postgres.schema.archive import Section, TocEntry
from dsync_postgres.schema.errors import SelectionError
from dsync_postgres.schema.graph import INTEGRAL_KINDS, METADATA_KINDS, RELATION_KINDS, Graph
from dsync_postgres.schema.names import TableName

# Holds rows of its own or of its partitions.
_TABLE_KINDS = frozenset({"TABLE", "FOREIGN TABLE"})
# Their tag is a name and nothing else.
_NAMED_KINDS = RELATION_KINDS | {"SEQUENCE", "INDEX", "TYPE", "DOMAIN", "COLLATION", "STATISTICS"}
# Statements about other entries, which are listed themselves.
_UNLISTED_KINDS = METADATA_KINDS | {"INDEX ATTACH", "SEQUENCE OWNED BY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An entry that will not be created, and why."""

    entry: TocEntry
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaSelection:
    """The part of an archive that is to be created."""

    graph: Graph
    included: frozenset[int]
    """Dump ids."""
    tables: frozenset[TableName]
    """Tables whose rows are copied, partitions of chosen tables among them."""
    structure_only: frozenset[TableName]
    """Tables that are created because others need them, without rows."""
    left_out: tuple[LeftOut, ...]

    def entries(self) -> Iterator[TocEntry]:
        """Yield what is included, in archive order."""
        return (entry for key, entry in self.graph.entries.items() if key in self.included)

    def subject(self, entry: TocEntry) -> TocEntry | None:
        """Return the relation an entry belongs to."""
        key = self.graph.subjects.get(entry.dump_id)
        return None if key is None else self.graph.entries[key]

    def leave_out(self, reasons: Mapping[int, str]) -> tuple[SchemaSelection, tuple[LeftOut, ...]]:
        """Return the selection without these entries and what needs them.

        The second value lists tables with rows, and their defaults, that would be lost: nothing may be moved then.
        """
        lost = _with_dependents(self.graph, self.included, reasons)
        left_out = _listed(self.graph, lost)
        broken = tuple(item for item in left_out if self._is_vital(item.entry))
        rest = SchemaSelection(
            graph=self.graph,
            included=_without_orphaned_metadata(self.graph, self.included - lost.keys()),
            tables=self.tables,
            structure_only=self.structure_only,
            left_out=self.left_out + left_out,
        )
        return rest, broken

    def _is_vital(self, entry: TocEntry) -> bool:
        return entry.desc in _TABLE_KINDS or (
            entry.desc in INTEGRAL_KINDS and (owner := self.subject(entry)) is not None and owner.desc in _TABLE_KINDS
        )


def select_all(graph: Graph, *, excluded: Collection[TableName] = ()) -> SchemaSelection:
    """Select the whole database but some tables, and but what cannot exist without those."""
    unwanted = {graph.relations[name] for name in excluded if name in graph.relations}
    unwanted |= {part for relation in unwanted for part in _partitions_below(graph, relation, frozenset())}
    wanted = {key for key in _tables(graph) if key not in unwanted}
    kept = graph.closure(wanted)
    structure_only = {key for key in unwanted & kept if graph.entries[key].desc in _TABLE_KINDS}
    reasons = {
        key: f"it references {target}, whose rows are not copied"
        for key, target in graph.references.items()
        if graph.relations.get(target) not in wanted
    }
    for key in structure_only:
        reasons |= dict.fromkeys(_late_belongings(graph, key), f"{graph.name(key)} is created without rows")
    reasons |= dict.fromkeys(unwanted - kept, "it is excluded")
    lost = _with_dependents(graph, graph.entries.keys(), reasons, kept=kept)
    return SchemaSelection(
        graph=graph,
        included=_without_orphaned_metadata(graph, graph.entries.keys() - lost.keys()),
        tables=frozenset(graph.name(key) for key in wanted),
        structure_only=frozenset(graph.name(key) for key in structure_only),
        left_out=_listed(graph, {key: why for key, why in lost.items() if key not in unwanted}, within=unwanted),
    )


def select_tables(
    graph: Graph,
    tables: Collection[TableName],
    *,
    excluded: Collection[TableName] = (),
    extensions: Collection[str] = (),
) -> SchemaSelection:
    """Select some relations, the partitions of those that are partitioned, and what belongs to them.

    `extensions` come along as well: tables of theirs were chosen, which are not in the archive.

    Raises:
        SelectionError: a relation is not in the archive.
    """
    missing = sorted(name for name in tables if name not in graph.relations)
    if missing:
        raise SelectionError(
            f"selecting tables: the source's schema has no {', '.join(map(str, missing))}; it was dropped since the "
            "plan was made, or the role may not see it"
        )
    unwanted = frozenset(graph.relations[name] for name in excluded if name in graph.relations)
    chosen = {graph.relations[name] for name in tables} - unwanted
    chosen |= {part for relation in set(chosen) for part in _partitions_below(graph, relation, unwanted)}
    rows = {key for key in chosen if graph.entries[key].desc in _TABLE_KINDS}
    wanted = {key for key, entry in graph.entries.items() if entry.desc == "EXTENSION" and entry.tag in extensions}
    included = graph.closure(chosen | wanted)
    lost = _add_belongings(graph, included, rows)
    structure_only = {key for key in included - rows if graph.entries[key].desc in _TABLE_KINDS}
    return SchemaSelection(
        graph=graph,
        included=_with_metadata(graph, included),
        tables=frozenset(graph.name(key) for key in rows),
        structure_only=frozenset(graph.name(key) for key in structure_only),
        left_out=_listed(graph, lost),
    )


def _tables(graph: Graph) -> Iterator[int]:
    return (key for key, entry in graph.entries.items() if entry.desc in _TABLE_KINDS)


def _partitions_below(graph: Graph, relation: int, unwanted: frozenset[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(graph.partitions.get(relation, ()))
    while waiting:
        part = waiting.pop()
        if part not in unwanted:
            found.add(part)
            waiting.extend(graph.partitions.get(part, ()))
    return found


def _late_belongings(graph: Graph, relation: int) -> list[int]:
    return [part for part in graph.belongings.get(relation, ()) if graph.entries[part].section is Section.POST_DATA]


def _add_belongings(graph: Graph, included: set[int], rows: set[int]) -> dict[int, str]:
    """Add to `included` what belongs to its relations; return what cannot be added, and why."""
    lost: dict[int, str] = {}
    for key, entry in graph.entries.items():
        if key in included or not _is_belonging(graph, key, entry, included, rows):
            continue
        closure = graph.closure([key])
        absent = next((other for other in closure - included if graph.entries[other].desc in RELATION_KINDS), None)
        target = graph.references.get(key)
        if target is not None and graph.relations.get(target) not in rows:
            lost[key] = f"it references {target}, which is not selected"
        elif absent is not None:
            lost[key] = f"it needs {graph.name(absent)}, which is not selected"
        else:
            included |= closure
    return lost


def _is_belonging(graph: Graph, key: int, entry: TocEntry, included: set[int], rows: set[int]) -> bool:
    subject = graph.subjects.get(key)
    if subject is not None:
        if subject not in included:
            return False
        # A table without rows gets its shape, not its indexes and triggers.
        is_table = graph.entries[subject].desc in _TABLE_KINDS
        return subject in rows or not is_table or entry.section is not Section.POST_DATA
    if entry.desc in ("INDEX ATTACH", "SEQUENCE OWNED BY"):
        return all(other in included for other in graph.needs[key])
    return False


def _with_dependents(
    graph: Graph, scope: Collection[int], reasons: Mapping[int, str], *, kept: Collection[int] = ()
) -> dict[int, str]:
    """Return the given entries and everything of `scope` that needs one of them, but for what is kept."""
    dependents: dict[int, list[int]] = {}
    for key in scope:
        for other in graph.needs[key]:
            dependents.setdefault(other, []).append(key)
    lost = dict(reasons)
    waiting = list(reasons)
    while waiting:
        at = waiting.pop()
        for key in dependents.get(at, ()):
            if key not in lost and key not in kept:
                # A view and its query are one thing in two entries.
                is_part = graph.subjects.get(at) == key
                lost[key] = lost[at] if is_part else f"it needs {describe(graph.entries[at])}"
                waiting.append(key)
    return lost


def _with_metadata(graph: Graph, included: set[int]) -> frozenset[int]:
    """Add comments, privileges and labels of what is included; in archive order, as privileges build on others."""
    result = set(included)
    for key, entry in graph.entries.items():
        if entry.desc in METADATA_KINDS and graph.needs[key] and graph.needs[key] <= result:
            result.add(key)
    return frozenset(result)


def _without_orphaned_metadata(graph: Graph, included: Iterable[int]) -> frozenset[int]:
    result = set(included)
    for key, entry in graph.entries.items():
        if entry.desc in METADATA_KINDS and not graph.needs[key] <= result:
            result.discard(key)
    return frozenset(result)


def _listed(graph: Graph, lost: Mapping[int, str], *, within: Collection[int] = ()) -> tuple[LeftOut, ...]:
    """In archive order; what belongs to something that is left out as a whole goes without a line of its own."""
    whole = lost.keys() | set(within)
    return tuple(
        LeftOut(entry=entry, reason=lost[key])
        for key, entry in graph.entries.items()
        if key in lost and graph.subjects.get(key) not in whole and entry.desc not in _UNLISTED_KINDS
    )


def describe(entry: TocEntry) -> str:
    """Return what an entry is, for messages: `INDEX shop."by day"`, `FUNCTION shop.total(integer)`."""
    if entry.namespace is None:
        return f"{entry.desc} {entry.tag}"
    if entry.desc in _NAMED_KINDS:
        return f"{entry.desc} {TableName(schema=entry.namespace, name=entry.tag)}"
    return f"{entry.desc} {entry.namespace}.{entry.tag}"
