"""What is built after the load: entries of the archive as steps, and the steps that no archive holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from dsync.sdk import namespaces
from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.errors import ArchiveError
from dsync_postgres.schema.facts import SinkFacts, SourceFacts
from dsync_postgres.schema.findings import Finding, info, warn
from dsync_postgres.schema.graph import RELATION_KINDS, is_primary_key, is_replica_identity, relation_name
from dsync_postgres.schema.lexer import tokens
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.select import SchemaSelection
from dsync_postgres.schema.steps import BuildStep, Draft, LockOrder, SequenceTarget, Statement, ordered

# Lower first, where needs allow: a foreign key is checked faster with both keys and all indexes in place, and what
# changes the meaning of statements (rules, triggers, policies) comes when nothing is built on the table any more.
_RANKS: Mapping[str, int] = {
    "CONSTRAINT": 0,
    "INDEX": 1,
    "INDEX ATTACH": 2,
    "STATISTICS": 3,
    "CHECK CONSTRAINT": 4,
    "FK CONSTRAINT": 6,
    "TRIGGER": 7,
    "RULE": 7,
    "ROW SECURITY": 8,
    "POLICY": 8,
}
_OTHER_RANK = 5
# Before everything else, so that no key waits for what has to come later: where rows are written by key while others
# are still being copied, a second unique index would refuse what is only on its way to being right.
_KEY_RANK = -1
# Each of these locks the whole hierarchy below a partitioned table, not the table alone.
_DESCENDING_KINDS = frozenset({"FK CONSTRAINT", "TRIGGER", "CHECK CONSTRAINT"})
# CREATE and DROP of these are refused in a transaction; pg_dump writes none of them into a database's archive.
_NO_TRANSACTION = frozenset({"DATABASE", "TABLESPACE", "SUBSCRIPTION"})
_ANALYZE_ONLY_SINCE = 18
# Small tables are analyzed many at a time: a step costs a transaction and two checkpoints.
_SMALL_BYTES = 16 * 1024 * 1024
_SMALL_BATCH = 100


class FinishBuilder:
    """Collects the entries to build after the load and puts them into an order."""

    def __init__(
        self, *, selection: SchemaSelection, source: SourceFacts, sink: SinkFacts, created: frozenset[TableName]
    ) -> None:
        self._selection = selection
        self._graph = selection.graph
        self._source = source
        self._sink = sink
        self._created = created
        self._drafts: list[Draft] = []
        self._last: list[tuple[TocEntry, tuple[Statement, ...]]] = []
        self.findings: list[Finding] = []

    def add(self, entry: TocEntry, statements: Iterable[Statement]) -> None:
        """Take an entry of the archive with everything to be run for it."""
        _refuse_untransactional(entry)
        if entry.desc == "EVENT TRIGGER":
            self._last.append((entry, tuple(statements)))
            return
        exclusive, shared = self._locks(entry)
        self._drafts.append(
            Draft(
                step=BuildStep(
                    id=_step_id(entry),
                    kind=entry.desc.lower(),
                    name=entry.tag,
                    namespace=self._namespace(entry),
                    statements=tuple(statements),
                ),
                key=entry.dump_id,
                needs=self._graph.needs[entry.dump_id],
                rank=_RANKS.get(entry.desc, _OTHER_RANK),
                exclusive=frozenset(exclusive),
                shared=frozenset(shared),
            )
        )

    def build(self, *, privileges: Sequence[Statement], sequences: tuple[SequenceTarget, ...]) -> list[BuildStep]:
        """Return all steps, each after what it depends on."""
        locks = LockOrder()
        keys = self._keys()
        steps = ordered([_as_key(draft) if draft.key in keys else draft for draft in self._drafts], locks)
        everything = tuple(step.id for step in steps)
        if privileges:
            steps.append(_step("privileges", "all objects", tuple(privileges), depends_on=everything))
        steps += self._refreshes(steps, locks)
        steps += self._analyses(locks)
        if sequences:
            # As late as possible: whatever is written at the source meanwhile only moves them forward.
            after = tuple(step.id for step in steps)
            steps.append(_step("sequences", "positions", (), depends_on=after, sequences=sequences))
        steps += self._event_triggers(tuple(step.id for step in steps))
        return steps

    # ------------------------------------------------------------ entries

    def _namespace(self, entry: TocEntry) -> str:
        subject = self._subject(entry)
        return "" if subject is None else subject.namespace

    def _subject(self, entry: TocEntry) -> TableName | None:
        subject = self._selection.subject(entry)
        if subject is not None and subject.desc in RELATION_KINDS:
            return relation_name(subject)
        return relation_name(entry) if entry.desc in RELATION_KINDS else None

    def _locks(self, entry: TocEntry) -> tuple[set[TableName], set[TableName]]:
        """Tables that building this locks against everything else, and those it shares with other index builds."""
        if entry.desc == "INDEX ATTACH":
            needed = (self._graph.subjects.get(key) for key in self._graph.needs[entry.dump_id])
            return {self._graph.name(key) for key in needed if key is not None}, set()
        subject = self._graph.subjects.get(entry.dump_id)
        if subject is None or self._graph.entries[subject].desc not in RELATION_KINDS:
            return set(), set()
        if entry.desc == "INDEX":
            return set(), {self._graph.name(subject)}
        touched = {subject}
        target = self._graph.references.get(entry.dump_id)
        if target is not None and target in self._graph.relations:
            touched.add(self._graph.relations[target])
        if entry.desc in _DESCENDING_KINDS:
            touched |= {part for table in touched for part in self._below(table)}
        return {self._graph.name(key) for key in touched}, set()

    def _below(self, table: int) -> Iterator[int]:
        for part in self._graph.partitions.get(table, ()):
            yield part
            yield from self._below(part)

    # ------------------------------------------------------------ keys

    def _keys(self) -> set[int]:
        """What has to be built before rows are written by key, of each table and up the trees of partitions.

        One index a table, that by which its changes name rows: its replica identity where that is an index, otherwise
        the primary key.
        """
        primary: dict[int, int] = {}
        identity: dict[int, int] = {}
        for draft in self._drafts:
            table = self._graph.subjects.get(draft.key)
            if table is None or draft.step.kind not in ("constraint", "index"):
                continue
            definition = tuple(tokens(self._graph.entries[draft.key].defn))
            if is_replica_identity(definition):
                identity[table] = draft.key
            elif is_primary_key(definition):
                primary[table] = draft.key
        found = set((primary | identity).values())
        indexes = {draft.key for draft in self._drafts if draft.step.kind in ("constraint", "index")}
        attaches = {
            draft.key
            for draft in self._drafts
            if draft.step.kind == "index attach" and (draft.needs & indexes) and draft.needs & indexes <= found
        }
        return found | attaches

    # ------------------------------------------------------------ steps of our own

    def _refreshes(self, steps: Sequence[BuildStep], locks: LockOrder) -> Iterator[BuildStep]:
        """Fill the materialised views that were filled at the source, each after those it reads from."""
        views = {
            key: entry
            for key, entry in self._graph.entries.items()
            if entry.desc == "MATERIALIZED VIEW"
            and key in self._selection.included
            and relation_name(entry) in self._created
            and self._is_populated(relation_name(entry))
        }
        ids = {key: f"refresh:{relation_name(entry).namespace}" for key, entry in views.items()}
        granted = tuple(step.id for step in steps if step.kind == "privileges")
        for key in self._by_need(views):
            name = relation_name(views[key])
            reads = self._graph.closure([key]) - {key}
            if (empty := self._empty_view(reads)) is not None:
                self.findings.append(
                    warn(
                        "view-not-refreshed",
                        name.namespace,
                        f"it reads the materialised view {empty}, which holds nothing at the source, so the sink "
                        "cannot fill it",
                        f"refresh {empty}, then this one",
                    )
                )
                continue
            before = dict.fromkeys(granted)
            before |= dict.fromkeys(ids[other] for other in sorted(reads & ids.keys()))
            before |= dict.fromkeys(step.id for step in steps if step.id == _step_id(views[key]))
            before |= locks.add(ids[key], exclusive=[name])
            self._note_missing_rows(name, reads)
            # It holds what its owner sees, so the owner's row security counts; off, as in all our sessions, the server
            # would refuse where there is any.
            text = sql.SQL(
                "SELECT pg_catalog.set_config('row_security', 'on', true); REFRESH MATERIALIZED VIEW {}"
            ).format(name.identifier)
            statement = Statement(sql=text.as_string(None), object=f"MATERIALIZED VIEW {name}")
            yield BuildStep(
                id=ids[key],
                kind="refresh",
                name=name.name,
                namespace=name.namespace,
                statements=(statement,),
                depends_on=tuple(before),
            )

    def _by_need(self, views: Mapping[int, TocEntry]) -> list[int]:
        """The views so that each comes after those it reads; views cannot read one another in a circle."""
        waiting = {key: self._graph.closure([key]) & views.keys() - {key} for key in views}
        result: list[int] = []
        while waiting:
            ready = [key for key, reads in waiting.items() if not reads & waiting.keys()]
            result += ready
            waiting = {key: reads for key, reads in waiting.items() if key not in ready}
        return result

    def _is_populated(self, name: TableName) -> bool:
        known = self._source.tables.get(name)
        return known is not None and known.is_populated

    def _empty_view(self, reads: set[int]) -> TableName | None:
        views = (e for e in map(self._graph.entries.__getitem__, reads) if e.desc == "MATERIALIZED VIEW")
        return next((relation_name(e) for e in views if not self._is_populated(relation_name(e))), None)

    def _note_missing_rows(self, name: TableName, reads: set[int]) -> None:
        empty = sorted(t for t in self._selection.structure_only if self._graph.relations.get(t) in reads)
        if empty:
            self.findings.append(
                info("view-without-rows", name.namespace, f"it reads {empty[0]}, whose rows are not copied")
            )

    def _analyses(self, locks: LockOrder) -> Iterator[BuildStep]:
        batch: list[TableName] = []
        number = 0
        for name in self._analyzed():
            known = self._source.tables.get(name)
            if known is None or known.size_bytes > _SMALL_BYTES:
                yield self._analysis(f"analyze:{name.namespace}", name.name, name.namespace, [name], locks)
                continue
            batch.append(name)
            if len(batch) == _SMALL_BATCH:
                number += 1
                yield self._analysis(f"analyze:batch {number}", f"{len(batch)} small tables", "", batch, locks)
                batch = []
        if batch:
            yield self._analysis(f"analyze:batch {number + 1}", f"{len(batch)} small tables", "", batch, locks)

    def _analysis(
        self, step_id: str, title: str, namespace: str, names: Sequence[TableName], locks: LockOrder
    ) -> BuildStep:
        tables = {self._graph.relations[name] for name in names}
        touched = tables | {part for table in tables for part in self._below(table)}
        before = locks.add(step_id, exclusive=map(self._graph.name, touched))
        return BuildStep(
            id=step_id,
            kind="analyze",
            name=title,
            namespace=namespace,
            statements=tuple(self._analyze(name) for name in names),
            depends_on=tuple(before),
        )

    def _analyzed(self) -> list[TableName]:
        """Tables and materialised views, new or not, in the archive's order; foreign ones are read elsewhere."""
        result = []
        for entry in self._selection.entries():
            is_view = entry.desc == "MATERIALIZED VIEW" and self._is_populated(relation_name(entry))
            if is_view or (entry.desc == "TABLE" and relation_name(entry) in self._selection.tables):
                result.append(relation_name(entry))
        if self._sink.server.major < _ANALYZE_ONLY_SINCE:
            # There the top of a hierarchy takes all of its partitions along, and once is enough.
            parts = {self._graph.name(part) for parts in self._graph.partitions.values() for part in parts}
            tops = {name for name in parts if not self._has_parent_here(name)}
            result = [name for name in result if name not in parts or name in tops]
        return result

    def _has_parent_here(self, name: TableName) -> bool:
        key = self._graph.relations[name]
        return any(
            key in parts and self._graph.name(parent) in self._selection.tables
            for parent, parts in self._graph.partitions.items()
        )

    def _analyze(self, name: TableName) -> Statement:
        is_parent = bool(self._graph.partitions.get(self._graph.relations[name]))
        only = is_parent and self._sink.server.major >= _ANALYZE_ONLY_SINCE
        verb = sql.SQL("ANALYZE ONLY {}") if only else sql.SQL("ANALYZE {}")
        return Statement(sql=verb.format(name.identifier).as_string(None), object=f"TABLE {name}", is_optional=True)

    def _event_triggers(self, everything: tuple[str, ...]) -> Iterator[BuildStep]:
        """At the very end, so that none of them fires on what we build."""
        for entry, statements in self._last:
            yield _step("event trigger", entry.tag, statements, depends_on=everything)


def _refuse_untransactional(entry: TocEntry) -> None:
    pieces = tuple(tokens(entry.defn))[:3] if entry.desc in ("INDEX", *_NO_TRANSACTION) else ()
    if entry.desc in _NO_TRANSACTION or any(token.is_word("CONCURRENTLY") for token in pieces):
        raise ArchiveError(
            f"planning the schema: {entry.desc} {entry.tag} cannot be created in a transaction, and no pg_dump writes "
            "it; dump the schema again"
        )


def _as_key(draft: Draft) -> Draft:
    return replace(draft, step=replace(draft.step, makes_key=True), rank=_KEY_RANK)


def _step(
    kind: str,
    name: str,
    statements: tuple[Statement, ...],
    *,
    depends_on: tuple[str, ...],
    sequences: tuple[SequenceTarget, ...] = (),
) -> BuildStep:
    return BuildStep(
        id=f"{kind}:{name}",
        kind=kind,
        name=name,
        namespace="",
        statements=statements,
        depends_on=depends_on,
        sequences=sequences,
    )


def _step_id(entry: TocEntry) -> str:
    parts = (entry.tag,) if entry.namespace is None else (entry.namespace, entry.tag)
    return f"{entry.desc.lower()}:{namespaces.join(parts)}"
