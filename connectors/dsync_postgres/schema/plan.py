"""From a selection of the source's schema to what is run at the sink, before the load and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from dsync_postgres.schema.archive import Section, TocEntry
from dsync_postgres.schema.downgrade import without_table_not_null
from dsync_postgres.schema.existing import already_there
from dsync_postgres.schema.facts import SinkFacts, SourceFacts
from dsync_postgres.schema.findings import Finding, info, warn
from dsync_postgres.schema.finish import FinishBuilder
from dsync_postgres.schema.graph import METADATA_KINDS, constraint_name, relation_name
from dsync_postgres.schema.lexer import tokens
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.obstacles import clear_obstacles
from dsync_postgres.schema.privileges import may_own, missing_owner_remedy, owner_statement, usable_grants
from dsync_postgres.schema.select import SchemaSelection, describe
from dsync_postgres.schema.steps import BuildStep, SequenceTarget, Statement

_ACCESS_METHOD_OF_PARTITIONED_SINCE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What the user chose."""

    usable_tables: frozenset[TableName] = frozenset()
    """Tables that exist at the sink and are to be filled as they are."""
    dropped_tables: frozenset[TableName] = frozenset()
    """Tables that exist at the sink and will have been dropped before the plan is run."""
    keys_before: Mapping[TableName, str | None] = field(default_factory=dict)
    """Tables whose key must exist during the load → its index or constraint; None: the primary key."""
    no_owner: bool = False
    no_privileges: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaPlan:
    """Everything to be run at the sink, and what a person should know about it."""

    pre_data: tuple[Statement, ...]
    """To be run in one transaction, after `SETTINGS`, before any row."""
    post_data: tuple[BuildStep, ...]
    """In an order that works one by one; `depends_on` says what may run side by side."""
    tables: frozenset[TableName]
    """Whose rows are copied."""
    created: frozenset[TableName]
    """Relations that the plan makes."""
    findings: tuple[Finding, ...]


# What pg_restore sets, less what our sessions pin anyway; unknown ones (transaction_timeout before 17) are skipped by
# the join. All end with the transaction. LOCAL search_path is empty, so whatever resolves is qualified in the text.
_SETTINGS = {
    "search_path": "",
    "check_function_bodies": "off",
    "standard_conforming_strings": "on",
    "escape_string_warning": "off",
    "xmloption": "content",
    "row_security": "off",
    "client_min_messages": "warning",
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "default_transaction_deferrable": "off",
    "transaction_timeout": "0",
}
SETTINGS = Statement(
    sql=sql.SQL(
        "SELECT pg_catalog.set_config(s.name, v.setting, true) FROM (VALUES {}) AS v(name, setting)"
        " JOIN pg_catalog.pg_settings AS s ON s.name = v.name"
    )
    .format(
        sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(name), sql.Literal(value)) for name, value in _SETTINGS.items()
        )
    )
    .as_string(None),
    object="session settings",
)
"""To be run first in every transaction that runs statements of a plan."""


def build_plan(
    selection: SchemaSelection, source: SourceFacts, sink: SinkFacts, options: PlanOptions | None = None
) -> SchemaPlan:
    """Return what to run at the sink. Deterministic: the same inputs give the same plan, ids included."""
    return _Planner(selection, source, sink, options or PlanOptions()).build()


class _Planner:
    def __init__(self, selection: SchemaSelection, source: SourceFacts, sink: SinkFacts, options: PlanOptions) -> None:
        self._source = source
        self._options = options
        self._sink = _after_drops(sink, options)
        there = already_there(selection, self._sink, options.usable_tables)
        cleared = clear_obstacles(selection, there.skipped, source, self._sink)
        self._selection = cleared.selection
        self._graph = selection.graph
        self._entries = [e for e in cleared.selection.entries() if e.dump_id not in there.skipped]
        made = {entry.tag for entry in self._entries if entry.desc == "ACCESS METHOD"}
        self._access_methods = self._sink.access_methods | made
        self._remarks = self._by_subject()
        self._findings = [*there.findings, *cleared.findings]
        self._unowned: dict[str, list[str]] = {}
        self._ungranted: dict[str, list[str]] = {}
        self._closed: dict[str, list[str]] = {}
        self._missing_places: dict[tuple[str, str], list[str]] = {}
        self._settings = {"default_tablespace": "", "default_table_access_method": "heap"}

    def build(self) -> SchemaPlan:
        early = self._early_keys()
        pre = [e for e in self._entries if e.section is Section.PRE_DATA or e.dump_id in early]
        # Keys stand in the archive's last part, so the order stays the one pg_restore would use.
        pre_data = [statement for entry in pre for statement in self._with_remarks(entry)]
        pre_data += [statement for remark in self._remarks.get(None, ()) for statement in self._remark(remark)]
        post = [e for e in self._entries if e.section is Section.POST_DATA and e.dump_id not in early]
        created = frozenset(relation_name(e) for e in self._entries if e.dump_id in self._graph.relations.values())
        builder = FinishBuilder(selection=self._selection, source=self._source, sink=self._sink, created=created)
        for entry in post:
            if entry.desc != "DEFAULT ACL":
                # Each step is a transaction of its own and begins with the settings of SETTINGS.
                self._settings = {"default_tablespace": "", "default_table_access_method": "heap"}
                builder.add(entry, self._with_remarks(entry))
        steps = builder.build(privileges=list(self._late_privileges()), sequences=self._sequences())
        return SchemaPlan(
            pre_data=tuple(pre_data),
            post_data=tuple(steps),
            tables=self._selection.tables,
            created=created,
            findings=(*self._findings, *builder.findings, *self._summaries()),
        )

    # ------------------------------------------------------------ one entry

    def _with_remarks(self, entry: TocEntry) -> Iterator[Statement]:
        """Yield an entry's statements: its places, itself, its owner, comments and labels."""
        name = describe(entry)
        yield from self._places(entry, name)
        if not entry.defn.startswith("--"):
            definition = entry.defn
            if entry.desc == "TABLE":
                definition = without_table_not_null(definition, self._sink.server.major)
            yield Statement(sql=definition, object=name)
        yield from self._partitioned_access_method(entry, name)
        yield from self._owner(entry, name)
        for remark in self._remarks.get(entry.dump_id, ()):
            yield from self._remark(remark)

    def _remark(self, entry: TocEntry) -> Iterator[Statement]:
        if entry.desc == "ACL":
            yield from self._grants(entry)
            return
        # A label needs its provider loaded, a comment on an extension its ownership: neither costs a row.
        is_optional = entry.desc == "SECURITY LABEL" or not self._sink.server.is_superuser
        yield Statement(sql=entry.defn, object=describe(entry), is_optional=is_optional)

    def _by_subject(self) -> dict[int | None, list[TocEntry]]:
        """What is said about an entry and right after it: comments, labels, and privileges on schemas.

        None stands for what every database has, such as the schema public, and the archive therefore has not. All
        other privileges wait until everything is there, as in pg_restore, so that nobody reads half a copy; but an
        object can be given only to a role that may create in its schema.
        """
        found: dict[int | None, list[TocEntry]] = {}
        for entry in self._entries:
            if entry.desc not in METADATA_KINDS or (entry.desc == "ACL" and not _is_about_schema(entry)):
                continue
            found.setdefault(min(self._graph.needs[entry.dump_id], default=None), []).append(entry)
        return found

    def _places(self, entry: TocEntry, name: str) -> Iterator[Statement]:
        if entry.tablespace is not None:
            known = self._sink.tablespaces.get(entry.tablespace)
            usable = not entry.tablespace or (known is not None and known.may_create)
            if not usable:
                self._missing_places.setdefault(("tablespace", entry.tablespace), []).append(name)
            yield from self._set("default_tablespace", entry.tablespace if usable else "", name)
        if entry.tableam is not None and entry.relkind != "p":
            usable = entry.tableam in self._access_methods
            if not usable:
                self._missing_places.setdefault(("access method", entry.tableam), []).append(name)
            yield from self._set("default_table_access_method", entry.tableam if usable else "heap", name)

    def _set(self, setting: str, value: str, name: str) -> Iterator[Statement]:
        if self._settings[setting] == value:
            return
        self._settings[setting] = value
        text = sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(sql.Literal(setting), sql.Literal(value))
        yield Statement(sql=text.as_string(None), object=name)

    def _partitioned_access_method(self, entry: TocEntry, name: str) -> Iterator[Statement]:
        """What new partitions will use; a partitioned table has none of its own before 17."""
        if entry.tableam is None or entry.relkind != "p" or entry.tableam not in self._access_methods:
            return
        if self._sink.server.major >= _ACCESS_METHOD_OF_PARTITIONED_SINCE:
            text = sql.SQL("ALTER TABLE {} SET ACCESS METHOD {}").format(
                relation_name(entry).identifier, sql.Identifier(entry.tableam)
            )
            yield Statement(sql=text.as_string(None), object=name)

    def _owner(self, entry: TocEntry, name: str) -> Iterator[Statement]:
        text = owner_statement(entry)
        if self._options.no_owner or text is None or entry.owner is None or entry.owner == self._sink.server.user:
            return
        if not may_own(entry.owner, self._sink):
            self._unowned.setdefault(entry.owner, []).append(name)
            return
        # The new owner also needs CREATE in the schema, which only a superuser gets by without.
        yield Statement(sql=text, object=name, is_optional=not self._sink.server.is_superuser)

    def _grants(self, entry: TocEntry) -> Iterator[Statement]:
        if self._options.no_privileges:
            return
        grants = usable_grants(entry, self._sink)
        name = describe(entry)
        for role in grants.missing_roles:
            self._ungranted.setdefault(role, []).append(name)
        for role in grants.closed_roles:
            self._closed.setdefault(role, []).append(name)
        if grants.lost_maintain:
            self._findings.append(
                info("privilege-unknown", name, "the sink's server does not know the privilege MAINTAIN (17)")
            )
        for text in grants.statements:
            yield Statement(sql=text, object=name, is_optional=not self._sink.server.is_superuser)

    # ------------------------------------------------------------ all of them

    def _early_keys(self) -> set[int]:
        """Keys that must exist before the load, with what they need of the part that otherwise comes after it."""
        found: set[int] = set()
        for entry in self._entries:
            subject = self._selection.subject(entry)
            if entry.desc not in ("CONSTRAINT", "INDEX") or subject is None:
                continue
            table = relation_name(subject)
            if table in self._options.keys_before and _is_key(entry, self._options.keys_before[table]):
                found |= self._graph.closure([entry.dump_id])
        return {key for key in found if self._graph.entries[key].section is Section.POST_DATA}

    def _late_privileges(self) -> Iterator[Statement]:
        for entry in self._entries:
            if entry.desc == "DEFAULT ACL" or (entry.desc == "ACL" and not _is_about_schema(entry)):
                yield from self._grants(entry)

    def _sequences(self) -> tuple[SequenceTarget, ...]:
        """Those that are made, and those that exist: a sink's own may be ahead, and must not fall back."""
        made = {entry.dump_id for entry in self._entries}
        found = []
        for entry in self._selection.entries():
            name = relation_name(entry)
            if entry.desc == "SEQUENCE" and (entry.dump_id in made or name in self._sink.objects.relations):
                found.append(SequenceTarget(name=name, only_forward=entry.dump_id not in made))
            elif entry.desc == "EXTENSION":
                found += [
                    SequenceTarget(name=own, only_forward=entry.dump_id not in made)
                    for own in self._source.sequences.get(entry.tag, ())
                ]
        return tuple(found)

    def _summaries(self) -> Iterator[Finding]:
        for owner, names in sorted(self._unowned.items()):
            yield warn(
                "owner-kept",
                owner,
                f"{_count(names)} will belong to {self._sink.server.user} instead of this role",
                missing_owner_remedy(self._sink.roles, owner),
            )
        for role, names in sorted(self._ungranted.items()):
            yield warn(
                "grant-left-out",
                role,
                f"the sink has no such role, so privileges on {_count(names)} are not granted to or by it",
                f'create the role "{role}" at the sink first, or use --no-privileges',
            )
        for role, names in sorted(self._closed.items()):
            yield warn(
                "grant-left-out",
                role,
                f"privileges that this role granted or grants by default ({_count(names)}) are left out, because "
                f"{self._sink.server.user} may not act for it",
                f'make the sink role a member of "{role}", or grant them again afterwards',
            )
        for (kind, place), names in sorted(self._missing_places.items()):
            yield warn(
                f"{kind.replace(' ', '-')}-missing",
                place,
                f"the sink has no such {kind} for us, so {_count(names)} use its default",
                f"create the {kind} at the sink and let {self._sink.server.user} use it",
            )
        for table in sorted(self._selection.structure_only):
            yield info("structure-only", table.namespace, "it is created without rows, because other objects need it")


def _after_drops(sink: SinkFacts, options: PlanOptions) -> SinkFacts:
    return replace(sink, objects=sink.objects.without(options.dropped_tables))


def _is_about_schema(entry: TocEntry) -> bool:
    return entry.namespace is None and entry.tag.startswith("SCHEMA ")


def _is_key(entry: TocEntry, index: str | None) -> bool:
    pieces = tuple(tokens(entry.defn))
    if index is not None:
        return index == (entry.tag if entry.desc == "INDEX" else constraint_name(pieces))
    return entry.desc == "CONSTRAINT" and any(token.depth == 0 and token.is_word("PRIMARY") for token in pieces)


def _count(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} objects ({names[0]}, …)"
