"""How the entries of an archive hang together: who needs whom, and what belongs to which table.

pg_dump records what each entry depends on, but it means two things by it: that one cannot be created without the
other, and that one should merely come later. Only the first counts when some tables are wanted and others are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dsync_postgres.schema.archive import Archive, TocEntry
from dsync_postgres.schema.errors import ArchiveError
from dsync_postgres.schema.lexer import Token, name_after, qualified_name, tokens
from dsync_postgres.schema.names import TableName

# Settings of the session and the database itself; the rest of an archive are objects in the database.
IGNORED_KINDS = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"})
RELATION_KINDS = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW"})
METADATA_KINDS = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
# Without these a table is not itself: they are created with it, whatever else is left out.
INTEGRAL_KINDS = frozenset({"DEFAULT", "SEQUENCE"})
# What belongs to a relation, and after which word of its definition the relation's name stands.
_SUBJECT_WORDS: Mapping[str, tuple[str, ...]] = {
    "DEFAULT": ("TABLE",),
    "SEQUENCE": ("TABLE",),
    "TABLE ATTACH": ("PARTITION",),
    "CONSTRAINT": ("TABLE",),
    "CHECK CONSTRAINT": ("TABLE", "DOMAIN"),
    "FK CONSTRAINT": ("TABLE",),
    "INDEX": ("ON",),
    # Of a partition only whether it is enabled, where that differs from its parent: ALTER TABLE … DISABLE TRIGGER.
    "TRIGGER": ("ON", "TABLE"),
    "RULE": ("TO", "VIEW"),
    "POLICY": ("ON",),
    "ROW SECURITY": ("TABLE",),
    "STATISTICS": ("FROM",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An archive's entries and the edges between them, all by dump id."""

    entries: Mapping[int, TocEntry]
    """In archive order, without what is not an object of the database."""
    needs: Mapping[int, frozenset[int]]
    """What an entry cannot be created without, as far as the archive holds it."""
    relations: Mapping[TableName, int]
    """Tables, views, materialised views and foreign tables."""
    subjects: Mapping[int, int]
    """Entry → the relation (or domain) it belongs to: indexes, constraints, triggers …"""
    belongings: Mapping[int, tuple[int, ...]]
    """The inverse of `subjects`, in archive order."""
    partitions: Mapping[int, tuple[int, ...]]
    """Partitioned table → its direct partitions."""
    references: Mapping[int, TableName]
    """Foreign key → the table it points to, also when that is not in the archive."""

    def closure(self, start: Iterable[int]) -> set[int]:
        """Return these entries and everything they need, with the defaults and identities of tables among them."""
        found: set[int] = set()
        waiting = list(start)
        while waiting:
            at = waiting.pop()
            if at in found:
                continue
            found.add(at)
            waiting.extend(self.needs[at])
            if self.entries[at].desc in RELATION_KINDS:
                waiting.extend(self.integral_parts(at))
        return found

    def integral_parts(self, relation: int) -> list[int]:
        """Return the defaults and identity sequences of a relation."""
        return [part for part in self.belongings.get(relation, ()) if self.entries[part].desc in INTEGRAL_KINDS]

    def name(self, relation: int) -> TableName:
        """Return a relation's name."""
        return relation_name(self.entries[relation])


def relation_name(entry: TocEntry) -> TableName:
    """Return the name of an entry that is an object in a schema."""
    return TableName(schema=entry.namespace or "", name=entry.tag)


def build_graph(archive: Archive) -> Graph:
    """Read the edges out of an archive.

    Raises:
        ArchiveError: a definition cannot be read, or belongs to a table that cannot be told.
    """
    entries = {entry.dump_id: entry for entry in archive.entries if not _is_ignored(entry, archive)}
    relations = {relation_name(entry): key for key, entry in entries.items() if entry.desc in RELATION_KINDS}
    pieces = {key: tuple(tokens(entry.defn)) for key, entry in entries.items() if _is_read(entry)}
    needs = {key: {other for other in entry.dependencies if other in entries} for key, entry in entries.items()}
    domains = {relation_name(entry): key for key, entry in entries.items() if entry.desc == "DOMAIN"}
    subjects = _subjects(entries, pieces, {**domains, **relations})
    partitions = _soften_partitions(entries, pieces, relations, needs)
    _soften_indexes(entries, pieces, needs)
    _soften_sequences(entries, subjects, needs)
    _tie_trigger_states(entries, pieces, subjects, partitions, needs)
    belongings: defaultdict[int, list[int]] = defaultdict(list)
    for part, whole in subjects.items():
        needs[part].add(whole)
        belongings[whole].append(part)
        if entries[part].desc == "RULE" and entries[whole].desc == "VIEW" and pieces[part][1].is_word("OR"):
            # A view that needs a primary key is written twice: a stand-in of nulls, and its query as CREATE OR
            # REPLACE after the key. The stand-in alone would look like the view.
            needs[whole].add(part)
    return Graph(
        entries=entries,
        needs={key: frozenset(others - {key}) for key, others in needs.items()},
        relations=relations,
        subjects=subjects,
        belongings={key: tuple(parts) for key, parts in belongings.items()},
        partitions=partitions,
        references=_references(entries, pieces),
    )


def _is_ignored(entry: TocEntry, archive: Archive) -> bool:
    if entry.desc in IGNORED_KINDS:
        return True
    # Comments, privileges and labels of the database itself; a sink's own are its own.
    return entry.desc in METADATA_KINDS and entry.tag in _database_tags(archive)


def _database_tags(archive: Archive) -> tuple[str, str]:
    """How pg_dump may write the database's name in a tag: quoted or not, which depends on its list of keywords."""
    name = next((entry.tag for entry in archive.entries if entry.desc == "DATABASE"), archive.header.database)
    quoted = '"' + name.replace('"', '""') + '"'
    return f"DATABASE {name}", f"DATABASE {quoted}"


def _is_read(entry: TocEntry) -> bool:
    return entry.desc in _SUBJECT_WORDS or entry.desc == "INDEX ATTACH"


def _subjects(
    entries: Mapping[int, TocEntry], pieces: Mapping[int, Sequence[Token]], owners: Mapping[TableName, int]
) -> dict[int, int]:
    found: dict[int, int] = {}
    for key, entry in entries.items():
        words = _SUBJECT_WORDS.get(entry.desc)
        if words is None or (entry.desc == "SEQUENCE" and not is_identity(pieces[key])):
            continue
        name = name_after(pieces[key], *words)
        if name is None:
            raise ArchiveError(f"reading the schema archive: cannot tell what {entry.desc} {entry.tag} belongs to")
        # Its table may have been left out of the dump (--exclude-table); pg_dump then writes no such entry, but
        # nothing is lost by bearing with one.
        if name in owners:
            found[key] = owners[name]
    return found


def is_identity(pieces: Sequence[Token]) -> bool:
    """True for a sequence that is made by ALTER TABLE … ADD GENERATED … AS IDENTITY."""
    return bool(pieces) and pieces[0].is_word("ALTER")


def _soften_partitions(
    entries: Mapping[int, TocEntry],
    pieces: Mapping[int, Sequence[Token]],
    relations: Mapping[TableName, int],
    needs: Mapping[int, set[int]],
) -> dict[int, tuple[int, ...]]:
    """A partition is created as a table of its own and attached later, so it does not need its parent."""
    partitions: defaultdict[int, list[int]] = defaultdict(list)
    for key, entry in entries.items():
        if entry.desc != "TABLE ATTACH":
            continue
        parent, child = name_after(pieces[key], "TABLE"), name_after(pieces[key], "PARTITION")
        if parent is None or child is None or parent not in relations or child not in relations:
            raise ArchiveError(f"reading the schema archive: cannot read how {entry.tag} is attached")
        partitions[relations[parent]].append(relations[child])
        needs[relations[child]].discard(relations[parent])
        needs[key].add(relations[parent])
    return {parent: tuple(children) for parent, children in partitions.items()}


def _soften_indexes(
    entries: Mapping[int, TocEntry], pieces: Mapping[int, Sequence[Token]], needs: Mapping[int, set[int]]
) -> None:
    """As for partitions: an index is built alone and attached to the parent's index later."""
    indexes = {name: key for key, entry in entries.items() if (name := _index_name(entry, pieces.get(key, ())))}
    for key, entry in entries.items():
        if entry.desc != "INDEX ATTACH":
            continue
        parent, child = name_after(pieces[key], "INDEX"), name_after(pieces[key], "PARTITION")
        if parent is None or child is None:
            raise ArchiveError(f"reading the schema archive: cannot read how index {entry.tag} is attached")
        if parent in indexes and child in indexes:
            needs[indexes[child]].discard(indexes[parent])
            needs[key] |= {indexes[parent], indexes[child]}


def _index_name(entry: TocEntry, pieces: Sequence[Token]) -> TableName | None:
    if entry.desc == "INDEX":
        return relation_name(entry)
    if entry.desc == "CONSTRAINT":
        name = constraint_name(pieces)
        return None if name is None else TableName(schema=entry.namespace or "", name=name)
    return None


def constraint_name(pieces: Sequence[Token]) -> str | None:
    """Return the name after ADD CONSTRAINT."""
    for before, word, name in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if before.is_word("ADD") and word.is_word("CONSTRAINT"):
            return name.name
    return None


def is_primary_key(pieces: Sequence[Token]) -> bool:
    """True for a primary key that rows can be written by: one that is not checked later."""
    words = [token for token in pieces if token.depth == 0]
    return any(a.is_word("PRIMARY") and b.is_word("KEY") for a, b in pairwise(words)) and not any(
        token.is_word("DEFERRABLE") for token in words
    )


def is_replica_identity(pieces: Sequence[Token]) -> bool:
    """True where a definition makes its own index the table's replica identity, as pg_dump writes it behind it."""
    words = [token for token in pieces if token.depth == 0]
    return any(
        a.is_word("IDENTITY") and b.is_word("USING") and c.is_word("INDEX")
        for a, b, c in zip(words, words[1:], words[2:], strict=False)
    )


def _soften_sequences(
    entries: Mapping[int, TocEntry], subjects: Mapping[int, int], needs: Mapping[int, set[int]]
) -> None:
    """A sequence exists without the table whose column owns it; only OWNED BY needs both."""
    for key, entry in entries.items():
        if entry.desc == "SEQUENCE OWNED BY":
            sequences = [other for other in needs[key] if entries[other].desc == "SEQUENCE"]
            for sequence in sequences:
                needs[key] |= {other for other in needs[sequence] if entries[other].desc in RELATION_KINDS}
    for key, entry in entries.items():
        if entry.desc == "SEQUENCE" and key not in subjects:
            needs[key] -= {other for other in needs[key] if entries[other].desc in RELATION_KINDS}


def _tie_trigger_states(
    entries: Mapping[int, TocEntry],
    pieces: Mapping[int, Sequence[Token]],
    subjects: Mapping[int, int],
    partitions: Mapping[int, tuple[int, ...]],
    needs: Mapping[int, set[int]],
) -> None:
    """A partition has the triggers of its parents; an entry of its own only says whether one is enabled there."""
    parents = {child: parent for parent, children in partitions.items() for child in children}
    triggers = {key: _trigger_name(pieces[key]) for key, entry in entries.items() if entry.desc == "TRIGGER"}
    created = {
        (subjects[key], name): key
        for key, name in triggers.items()
        if key in subjects and pieces[key][0].is_word("CREATE")
    }
    for key, name in triggers.items():
        if key in subjects and not pieces[key][0].is_word("CREATE"):
            table: int | None = subjects[key]
            while table is not None and (table, name) not in created:
                table = parents.get(table)
            if table is not None:
                needs[key].add(created[table, name])


def _trigger_name(pieces: Sequence[Token]) -> str | None:
    return next((name.name for word, name in pairwise(pieces) if word.depth == 0 and word.is_word("TRIGGER")), None)


def _references(entries: Mapping[int, TocEntry], pieces: Mapping[int, Sequence[Token]]) -> dict[int, TableName]:
    found: dict[int, TableName] = {}
    for key, entry in entries.items():
        if entry.desc != "FK CONSTRAINT":
            continue
        at = next((i for i, token in enumerate(pieces[key]) if token.is_word("REFERENCES")), None)
        name = None if at is None else qualified_name(pieces[key], at + 1)
        if name is None:
            raise ArchiveError(f"reading the schema archive: cannot tell what foreign key {entry.tag} references")
        found[key] = name
    return found
