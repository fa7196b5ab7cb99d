"""Preparing the sink: what exists is compared with what is wanted, what is missing is made, in one transaction.

Repeatable: the result is kept in the ledger beside what it has created, and given again to whoever asks for the same
run. A dry run looks, tries and takes everything back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from dsync.sdk import errors, failpoint, namespaces, types
from dsync_postgres import large_objects as large
from dsync_postgres.definition import Definition
from dsync_postgres.options import PostgresOptions
from dsync_postgres.schema.archive import read_archive
from dsync_postgres.schema.facts import SourceFacts, read_sink
from dsync_postgres.schema.findings import Finding, Severity, info, stop, warn
from dsync_postgres.schema.graph import Graph, build_graph
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.plan import PlanOptions, SchemaPlan, build_plan
from dsync_postgres.schema.repair import with_quoted_names
from dsync_postgres.schema.select import SchemaSelection, select_all, select_tables
from dsync_postgres.schema.server import read_server
from dsync_postgres.schema.steps import Statement
from dsync_postgres.sink import batch, large_objects, ledger
from dsync_postgres.sink import fit as fitting
from dsync_postgres.sink.aside import pending, set_aside
from dsync_postgres.sink.claims import Claim, is_all_ours, read_claims, save_claims
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.loads import Load, analyses, arrange, existing_findings
from dsync_postgres.sink.remembered import blank_shapes
from dsync_postgres.sink.removal import listed_names, plan_removal
from dsync_postgres.sink.rivals import take_over
from dsync_postgres.sink.routes import read_routes
from dsync_postgres.sink.stored import read_prepared, save_prepared
from dsync_postgres.sink.targets import TargetTable, are_empty, may_be_replica, read_targets
from dsync_postgres.sink.triggers import plan_asides

_DIALECT = "postgres"
_ABOUT_EXISTING = frozenset({"object-exists", "existing-table-kept"})
# All flows of a database: of two that find one table empty the second has to see the first one's claim. And whoever
# repeats a call that is still being carried out waits for its result.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(7239041561442136)"
_INSTEAD_AGAIN = "alter the tables at the sink as they were altered at the source"
# A statement that holds a password in clear.
_SECRET_KINDS = ("USER MAPPING", "SERVER", "FOREIGN DATA WRAPPER")


def prepare(
    connection: Connection, request: types.PrepareRequest, options: PostgresOptions, *, source_sessions: str = ""
) -> types.Prepared:
    """Create what is missing, set aside what would fire, and say how each namespace is to be loaded.

    `source_sessions` is how the application names of this flow's sessions at its source begin.

    Raises:
        SinkNotEmptyError: tables hold rows that are not this flow's; nothing was changed.
        RequestError: what is asked for cannot be had in this form.
        PrivilegeError: this role may not make the ledger, or not what is missing.
        PermanentError: a finding stops the flow; nothing was changed.
    """
    _refuse_same_database(connection, request, source_sessions)
    if request.dry_run:
        return _try(connection, request, options)
    ledger.install(connection)
    with connection.transaction():
        # What others have claimed while this one waited has to be seen, whatever the server's default is.
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.execute(_ONE_AT_A_TIME)
        stored = read_prepared(connection, request.flow, request.run)
        if stored is not None:
            return stored
        outline = _Outline(connection, request, options)
        outline.require()
        prepared = outline.carry_out()
        save_prepared(connection, request.flow, request.run, prepared)
        failpoint("sink.before_prepare_commit")
    failpoint("sink.after_prepare_commit")
    return prepared


def _refuse_same_database(connection: Connection, request: types.PrepareRequest, source_sessions: str) -> None:
    """Physical copies of a server share every name and number, but not who is connected to them.

    The source of a flow holds its snapshot by a session with the flow's name; seen here, it is in this database.
    """
    if not request.flow or not source_sessions:
        return
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(application_name, %s)), current_database()::text",
        [source_sessions],
    ).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    if row[0]:
        raise errors.RequestError(
            f"preparing the sink: it is the flow's own source, database {row[1]}; a database cannot be copied into "
            "itself, name another one as the sink"
        )


def _try(connection: Connection, request: types.PrepareRequest, options: PostgresOptions) -> types.Prepared:
    state = ledger.examine(connection)
    if state.complete and state.usable:
        ledger.check_format(connection)
        stored = read_prepared(connection, request.flow, request.run)
        if stored is not None:
            return stored
    outline = _Outline(connection, request, options, has_ledger=state.complete and state.usable)
    found = list(outline.findings)
    if not state.usable:
        found.append(ledger_finding(connection, state))
    if (
        outline.schema is not None
        and not outline.removal.dropped
        and not any(f.severity is Severity.STOP for f in found)
    ):
        found += batch.try_out(connection, outline.schema, may_exist=outline.has_claims)
    return outline.result(findings=found)


def ledger_finding(connection: Connection, state: ledger.LedgerState) -> Finding:
    """What `doctor` says where the ledger cannot be made or used."""
    message, _, remedy = ledger.privilege_message(connection, state).partition("; ")
    return stop("no-ledger", ledger.SCHEMA, message, remedy)


class _Outline:
    """What would be done; reads, and changes nothing before `carry_out`."""

    def __init__(
        self,
        connection: Connection,
        request: types.PrepareRequest,
        options: PostgresOptions,
        *,
        has_ledger: bool = True,
    ) -> None:
        self._connection = connection
        _require_names(connection, [item.target for item in request.mappings])
        kept = {item.source for item in request.mappings if item.source == item.target}
        _require_short_names(connection, [item for item in request.description.namespaces if item.namespace in kept])
        self._definition = Definition.decode(request.description.definition)
        self._claims = read_claims(connection, request.flow) if has_ledger else {}
        self._large = large_objects.plan_load(
            connection, request, self._definition.large_objects, self._claims, has_ledger=has_ledger
        )
        # Everything else is about tables.
        request = replace(request, mappings=tuple(m for m in request.mappings if m.source != large.NAMESPACE))
        self._request = request
        # What an earlier run has set aside and not put back, because it was given up or a step of it failed.
        self._still_aside = pending(connection, request.flow) if has_ledger else []
        self.has_claims = bool(self._claims)
        """An earlier run of this flow has made what the schema wants, as far as it wanted it then."""
        self._can_be_replica = may_be_replica(connection)
        can_create = request.create and bool(self._definition.archive)
        arrangement = arrange(connection, request, self._claims, has_ledger=has_ledger, can_create=can_create)
        arrangement.require()
        self.loads = arrangement.loads
        self._taken, self._remade = arrangement.taken, arrangement.remade
        existing = [load.table for load in self.loads if load.table is not None]
        # What is made only now is routed once it is there.
        self._route([table.name for table in existing])
        roots = set(self._routed.values())
        self._asides = plan_asides(
            connection,
            [*existing, *read_targets(connection, roots).values()],
            can_be_replica=self._can_be_replica,
            own=[load.target for load in self.loads if load.created_before],
            may_drop_foreign_keys=options.allow_drop_foreign_keys,
        )
        self.removal = plan_removal(
            connection,
            emptied=[load.table for load in self.loads if load.emptied and load.table is not None],
            dropped=arrangement.dropped,
            made_anew={TableName.parse(item.target) for item in request.mappings},
            set_aside=[key for aside in self._asides.asides for key in aside.foreign_keys],
            **({"instead": _INSTEAD_AGAIN} if arrangement.remade else {}),
        )
        self.schema = self._plan_schema()
        self.findings = tuple(self._findings())

    # ------------------------------------------------------------ the schema

    def _plan_schema(self) -> SchemaPlan | None:
        if not self._request.create or not self._definition.archive:
            return None
        source = _source_facts(self._definition)
        graph = build_graph(with_quoted_names(read_archive(self._definition.archive), source.tables))
        sink = read_sink(self._connection)
        # What exists and is not dropped is used as it is: anything in the way was refused before.
        usable = frozenset(name for name in graph.relations if name in sink.objects.relations) - self.removal.dropped
        plan_options = PlanOptions(
            usable_tables=usable,
            dropped_tables=self.removal.dropped,
            no_owner=self._request.no_owner,
            no_privileges=self._request.no_privileges,
        )
        return build_plan(self._select(graph), source, sink, plan_options)

    def _select(self, graph: Graph) -> SchemaSelection:
        """Mapped names that change are filled where they exist, so nothing is made for them."""
        kept = {TableName.parse(m.source) for m in self._request.mappings if m.source == m.target}
        configuration = _source_facts(self._definition).configuration
        extensions = {configuration[name] for name in kept if name in configuration}
        # They come with their extensions, and are in no archive.
        kept -= configuration.keys()
        others = {TableName.parse(item.namespace) for item in self._request.description.namespaces} - kept
        if self._request.whole_database:
            return select_all(graph, excluded=others)
        return select_tables(graph, kept, excluded=others, extensions=extensions)

    # ------------------------------------------------------------ findings

    def _findings(self) -> Iterator[Finding]:
        if self.schema is not None:
            # What an earlier run of this flow has made is there already, and that is no news.
            known = _ABOUT_EXISTING if self.has_claims else frozenset()
            yield from (finding for finding in self.schema.findings if finding.code not in known)
        encoding = _source_facts(self._definition).encoding if self._definition.facts else ""
        yield from _about_encodings(encoding, self._connection, self._request)
        for load in self.loads:
            yield from load.fit.findings
            if load.fit.page_type is not fitting.BINARY:
                kind = load.fit.page_type.name
                yield info("page-type", load.target.namespace, f"rows travel as {kind}: {load.fit.reason}")
            yield from existing_findings(load)
        yield from self._asides.findings
        if self._large is not None:
            yield from self._large.findings

    def require(self) -> None:
        """Raise PermanentError where a finding stops the flow."""
        stops = [finding for finding in self.findings if finding.severity is Severity.STOP]
        if stops:
            first = stops[0]
            more = f" (and {len(stops) - 1} more)" if len(stops) > 1 else ""
            raise errors.PermanentError(f"{first.object}: {first.message}; {first.remedy}{more}")

    # ------------------------------------------------------------ doing it

    def carry_out(self) -> types.Prepared:
        """Do it, in the transaction that the caller has open."""
        connection, flow = self._connection, self._request.flow
        set_aside(connection, flow, self._asides.asides)
        self._keep_rows_of_others()
        self.removal.carry_out(connection, as_replica=self._can_be_replica)
        taken = [*self._taken, *(self._large.taken if self._large is not None else ())]
        take_over(connection, flow, self._request.run, self.removal.cleared, taken)
        refused: tuple[Finding, ...] = ()
        if self.schema is not None:
            refused = batch.run(connection, self.schema.pre_data, may_exist=self.has_claims)
        self._claim()
        # The tables fit the source's as it is now, whatever was told of them in an earlier run.
        blank_shapes(connection, flow)
        return self.result(findings=(*self.findings, *refused))

    def _keep_rows_of_others(self) -> None:
        """What has come into a table since it was looked at is seen once nobody can write to it."""
        for table in self._remade:
            self._connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table.identifier))
            if not is_all_ours(self._connection, self._request.flow, self._claims[table.name.namespace], table):
                raise errors.ConflictError(f"making {table.name} anew: rows have come that are not this flow's")

    def _route(self, names: Iterable[TableName]) -> None:
        """Find out where rows are given to; of several loads, which go to one place."""
        self._routed = self._routes(names)
        self._beside: defaultdict[TableName, list[Load]] = defaultdict(list)
        for load in self.loads:
            self._beside[self._given_to(load)].append(load)

    def _routes(self, names: Iterable[TableName]) -> dict[TableName, TableName]:
        encoding = _source_facts(self._definition).encoding if self._definition.facts else ""
        unlike = bool(encoding) and encoding != read_server(self._connection).encoding
        return read_routes(self._connection, names, unlike_encodings=unlike)

    def _claim(self) -> None:
        now = read_targets(self._connection, [load.target for load in self.loads])
        absent = [load.target for load in self.loads if load.target not in now]
        if absent:
            raise errors.PermanentError(
                f"preparing {listed_names(absent)}: the source's schema did not create it; it was dropped or renamed "
                "since the plan was made, run the command again"
            )
        self._refuse_other_shapes(now)
        self._remove_defaults(now)
        self._route(now)
        claims = [
            Claim(
                namespace=load.target.namespace,
                relation=now[load.target].oid,
                was_empty=not self._is_upserted(load),
                created=load.created_before or load.table is None,
                route=self._routed[load.target].namespace if load.target in self._routed else "",
            )
            for load in self.loads
        ]
        claims += self._claims_to_routes(claims)
        if self._large is not None:
            large_objects.make_notes(self._connection)
            claims.append(self._large.claim)
        save_claims(self._connection, self._request.flow, self._request.run, claims)

    def _remove_defaults(self, now: Mapping[TableName, TargetTable]) -> None:
        """Rows that CREATE EXTENSION has just made although it calls them the users': the source's stand for them."""
        made = [now[load.target] for load in self.loads if load.table is None and now[load.target].is_extensions]
        for table in made:
            if not are_empty(self._connection, [table])[table.name]:
                self._connection.execute(sql.SQL("DELETE FROM {}").format(table.rows))

    def _claims_to_routes(self, claims: Sequence[Claim]) -> Iterator[Claim]:
        """What several namespaces are given to is claimed too: that is what units write to, and what is cleared."""
        for name, table in read_targets(self._connection, set(self._routed.values())).items():
            below = [claim for claim in claims if claim.route == name.namespace]
            yield Claim(
                namespace=name.namespace,
                relation=table.oid,
                was_empty=all(claim.was_empty for claim in below),
                created=all(claim.created for claim in below),
            )

    def _given_to(self, load: Load) -> TableName:
        """The table that the rows are given to."""
        return self._routed.get(load.target, load.target)

    def _is_upserted(self, load: Load) -> bool:
        """Rows may be where its rows get, which is each partition of the tree that they are given to."""
        return any(other.upsert for other in self._beside[self._given_to(load)])

    def _refuse_other_shapes(self, now: Mapping[TableName, TargetTable]) -> None:
        """A type may have been there before its table, and a row type comes out of a dump with another order."""
        for load in self.loads:
            for column in load.source.columns:
                target = now[load.target].column(column.name)
                if target is None or column.generated or column.type != target.type or column.shape == target.shape:
                    continue
                finding = fitting.made_otherwise(load.target.namespace, column, target)
                raise errors.PermanentError(f"preparing {finding.object}: {finding.message}; {finding.remedy}")

    # ------------------------------------------------------------ the result

    def result(self, *, findings: Sequence[Finding]) -> types.Prepared:
        """What the coordinator is told."""
        large_namespaces = () if self._large is None else (self._large.prepared,)
        return types.Prepared(
            namespaces=large_namespaces
            + tuple(
                types.PreparedNamespace(
                    source=load.source.namespace,
                    target=self._given_to(load).namespace,
                    page_type=load.fit.page_type,
                    columns=load.fit.columns,
                    upsert=self._is_upserted(load),
                    existed=load.table is not None,
                    reason=load.fit.reason,
                    anew=all(other.anew for other in self._beside[self._given_to(load)]),
                )
                for load in self.loads
            ),
            steps=tuple(self._steps()),
            ddl=tuple(self._ddl()),
            findings=tuple(findings),
        )

    def _steps(self) -> Iterator[types.FinishStep]:
        if self.schema is not None:
            yield from (step.wire() for step in self.schema.post_data)
        planned = self.schema.tables if self.schema is not None else frozenset()
        yield from (step.wire() for step in analyses(self.loads, planned))
        asides = {aside.step_id: aside for aside in (*self._still_aside, *self._asides.asides)}
        # A foreign key that is put back needs the key of a table that was made anew.
        first = tuple(step.id for step in self.schema.post_data) if self.schema is not None and self._remade else ()
        yield from (replace(aside.step(), depends_on=first) for aside in asides.values())

    def _ddl(self) -> Iterator[str]:
        for aside in self._asides.asides:
            yield from (statement.as_string(None) for statement in aside.statements())
        yield from (statement.as_string(None) for statement in self.removal.statements())
        if self.schema is not None:
            yield from map(_shown, self.schema.pre_data)


def _require_names(connection: Connection, names: Sequence[str]) -> None:
    """Raise PermanentError where the sink's encoding lacks a character of a name, which no statement could say."""
    some = list(names)
    while some:
        try:
            with connection.transaction():
                connection.execute("SELECT %s::text[]", [some])
        except psycopg.errors.UntranslatableCharacter as exc:
            if len(some) == 1:
                raise errors.PermanentError(
                    f"preparing {some[0]}: the sink's encoding, {read_server(connection).encoding}, lacks a character "
                    "of its name; create the sink with ENCODING 'UTF8' or that of the source, or leave that out "
                    "(--exclude)"
                ) from exc
            half = len(some) // 2
            _require_names(connection, some[:half])
            some = some[half:]
        else:
            return


def _require_short_names(connection: Connection, described: Iterable[types.NamespaceDescription]) -> None:
    """Raise PermanentError where a name would be cut off: as UTF-8 it takes more bytes than in another encoding."""
    row = connection.execute("SELECT current_setting('max_identifier_length')::int, getdatabaseencoding()").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    longest_bytes, encoding = row
    if encoding != "UTF8":
        return
    for item in described:
        for name in (*namespaces.split(item.namespace), *(column.name for column in item.columns)):
            if len(name.encode()) > longest_bytes:
                raise errors.PermanentError(
                    f"preparing {item.namespace}: the name {name} takes {len(name.encode())} bytes in UTF-8, and the "
                    f"sink cuts names off at {longest_bytes}; shorten it at the source, leave the table out "
                    "(--exclude), or create the sink in the source's encoding"
                )


def _about_encodings(source: str, connection: Connection, request: types.PrepareRequest) -> Iterator[Finding]:
    """What becomes of text; `source` is empty where the source has not said its encoding (no schema was asked for)."""
    sink = read_server(connection)
    if request.description.dialect != _DIALECT or source == sink.encoding:
        return
    create = f"create the sink with ENCODING '{source}' TEMPLATE template0"
    if sink.encoding == "SQL_ASCII":
        # It gets UTF-8 from any other, whatever applications expect there; and nothing would complain.
        yield stop(
            "encoding-differs",
            sink.database,
            "the sink has no encoding (SQL_ASCII), so it can take the text of a source alone that has none either; "
            + (
                f"the source is encoded in {source}" if source else "with --schema none nobody says what the source has"
            ),
            create if source else "create the sink with the source's encoding, or leave out --schema none",
        )
    elif source == "SQL_ASCII":
        # Nothing can convert its bytes. Those that are valid UTF-8 may be meant so; the sink refuses all others.
        make = warn if request.allow_lossy else stop
        yield make(
            "encoding-differs",
            sink.database,
            f"the source has no encoding (SQL_ASCII), the sink is in {sink.encoding}: text is taken for UTF-8, rows "
            "where it is something else are refused",
            f"{create}; or, if all text is meant as UTF-8, --allow-lossy",
        )
    elif source:
        yield warn(
            "encoding-differs",
            sink.database,
            f"the source is encoded in {source}, the sink in {sink.encoding}; rows with characters that the sink lacks "
            "are refused",
            create,
        )


def _source_facts(definition: Definition) -> SourceFacts:
    return SourceFacts.from_plain(definition.facts)


def _stops(findings: Sequence[Finding]) -> bool:
    return any(finding.severity is Severity.STOP for finding in findings)


def _shown(statement: Statement) -> str:
    """The statement for display; one that may hold a secret only by name."""
    if statement.object.startswith(_SECRET_KINDS):
        return f"-- CREATE {statement.object} (its options are not shown)"
    return statement.sql.strip()
