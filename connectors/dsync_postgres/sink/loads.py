"""Which namespaces are loaded into which tables, and what becomes of tables that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres.schema.findings import Finding, Severity, stop
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.steps import BuildStep, Statement
from dsync_postgres.sink import fit as fitting
from dsync_postgres.sink.claims import Claim, is_all_ours
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.removal import listed_names
from dsync_postgres.sink.rivals import Rival, read_rivals
from dsync_postgres.sink.staging import key_for, unsettable
from dsync_postgres.sink.targets import TargetTable, are_empty, read_targets

Policy = types.OnExisting

_DIALECT = "postgres"
# A step costs a transaction and two checkpoints.
_SMALL_BYTES = 16 * 1024 * 1024
_SMALL_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One namespace that brings rows."""

    source: types.NamespaceDescription
    target: TableName
    table: TargetTable | None
    """None: it is created."""
    fit: fitting.Fit
    upsert: bool = False
    created_before: bool = False
    """An earlier run of this flow has made it."""
    anew: bool = False
    """Nothing of an earlier run of this flow is in it."""
    emptied: bool = False
    """Its rows are removed first, as the policy says."""


@dataclass(slots=True, kw_only=True)
class Arrangement:
    """The namespaces by what becomes of their tables."""

    is_again: bool = False
    """Only this flow's own rows may be replaced, whatever policy a person would like."""
    loads: list[Load] = field(default_factory=list)
    dropped: list[TargetTable] = field(default_factory=list)
    remade: list[TargetTable] = field(default_factory=list)
    """Of those that are dropped the flow's own, with no other rows than its own, whose shape fits no more."""
    taken: list[Rival] = field(default_factory=list)
    """Claims of other flows to tables that are emptied or dropped."""
    _contested: list[tuple[TableName, Rival]] = field(default_factory=list)
    _occupied: list[TableName] = field(default_factory=list)
    _absent: list[tuple[str, TableName]] = field(default_factory=list)

    def require(self) -> None:
        """Raise where a table is missing that is not created, or has rows that nobody said what to do with."""
        if self._absent:
            source, target = self._absent[0]
            more = f" (and {len(self._absent) - 1} more)" if len(self._absent) > 1 else ""
            is_renamed = source != target.namespace
            raise errors.RequestError(
                f"preparing {target}{more}: the sink has no such table, and "
                + (
                    "a table that changes its name has to exist; create it there, or keep the name"
                    if is_renamed
                    else "without a schema to copy tables have to exist; create it there, or let dsync do it "
                    "(--schema copy)"
                )
            )
        if self._contested:
            raise errors.SinkNotEmptyError(self._about_contested(self._contested[0][1]))
        if self._occupied:
            raise errors.SinkNotEmptyError(
                f"{len(self._occupied)} table(s) of the sink hold rows that are not this flow's: "
                f"{listed_names(self._occupied)}; nothing was changed. Say what to do with --on-existing: append (by "
                "key), truncate or drop, or copy into another database"
            )

    def _about_contested(self, rival: Rival) -> str:
        names = [name for name, other in self._contested if other.flow == rival.flow]
        policies = ", or take them from it with --on-existing: append (by key beside it), truncate or drop"
        return (
            f"flow {rival.name} is filling {len(names)} table(s) of the sink and has not finished them: "
            f"{listed_names(names)}; nothing was changed. Let it finish, end it with `dsync reset {rival.name}`"
            + ("" if self.is_again else policies)
        )


def arrange(
    connection: Connection,
    request: types.PrepareRequest,
    claims: Mapping[str, Claim],
    *,
    has_ledger: bool,
    can_create: bool,
) -> Arrangement:
    """Sort the request's namespaces by what exists; reads, and changes nothing.

    Raises:
        RequestError: the source does not describe one, or what the sink has under its name is no table.
    """
    return _Arranger(connection, request, claims, has_ledger=has_ledger, can_create=can_create).arrange()


class _Arranger:
    def __init__(
        self,
        connection: Connection,
        request: types.PrepareRequest,
        claims: Mapping[str, Claim],
        *,
        has_ledger: bool,
        can_create: bool,
    ) -> None:
        self._connection = connection
        self._request = request
        self._claims = claims
        self._can_create = can_create
        self._described = {item.namespace: item for item in request.description.namespaces}
        self._there = read_targets(connection, [TableName.parse(item.target) for item in request.mappings])
        tables = [table for table in self._there.values() if table.kind in "rp"]
        self._lasting = _lasting(connection, request.flow) if has_ledger else frozenset()
        # Before the rows: what another flow finishes meanwhile is then seen as rows.
        self._rivals = read_rivals(connection, request.flow, [table.oid for table in tables]) if has_ledger else {}
        self._empty = are_empty(connection, [t for t in tables if self._filled(t) is None or self._filling(t)])
        self._result = Arrangement(is_again=request.on_existing is Policy.RESUME)

    def arrange(self) -> Arrangement:
        for mapping in self._request.mappings:
            source = self._described.get(mapping.source)
            if source is None:
                raise errors.RequestError(f"preparing {mapping.target}: the source does not describe {mapping.source}")
            if not source.rowless:
                self._place(source, TableName.parse(mapping.target))
        return self._result

    def _place(self, source: types.NamespaceDescription, target: TableName) -> None:
        table = self._there.get(target)
        if table is not None and table.kind not in "rp":
            raise errors.RequestError(
                f"preparing {target}: at the sink it is no table, so it takes no rows; rename it there, or map "
                f"{source.namespace} onto another table"
            )
        if table is not None:
            self._place_existing(source, table)
        elif self._can_create and source.namespace == target.namespace:
            self._result.loads.append(self._load(source, target, None))
        else:
            self._result._absent.append((source.namespace, target))

    def _place_existing(self, source: types.NamespaceDescription, table: TargetTable) -> None:
        policy, result = self._request.on_existing, self._result
        if table.is_extensions and policy is Policy.DROP:
            policy = Policy.TRUNCATE
        claim, filled, rival = self._claim(table), self._filled(table), self._filling(table)
        load = replace(
            self._load(source, table.name, table),
            created_before=claim is not None and claim.created,
            anew=filled is None,
        )
        is_empty = self._empty.get(table.name, False) and rival is None
        if filled is not None and rival is None and self._is_to_be_remade(load, filled):
            result.remade.append(table)
            self._drop(load, table)
        elif filled is not None and rival is None:
            result.loads.append(replace(load, upsert=not filled.was_empty))
        elif policy is Policy.DROP and not (is_empty and _fits(load)) and self._can_make_anew(source, table):
            self._drop(load, table)
        elif is_empty:
            result.loads.append(load)
        elif policy is Policy.TRUNCATE:
            result.taken += self._rivals.get(table.oid, ())
            result.loads.append(replace(load, emptied=True, anew=True))
        elif policy is Policy.APPEND:
            result.loads.append(replace(load, upsert=True))
        elif rival is not None:
            result._contested.append((table.name, rival))
        else:
            result._occupied.append(table.name)

    def _drop(self, load: Load, table: TargetTable) -> None:
        self._result.dropped.append(table)
        self._result.taken += self._rivals.get(table.oid, ())
        self._result.loads.append(self._load(load.source, table.name, None))

    def _is_to_be_remade(self, load: Load, claim: Claim) -> bool:
        """It was made like the source's table, which has been altered since; and no row in it is somebody else's."""
        table = load.table
        if (
            table is None
            or table.is_extensions
            or not claim.created
            or _fits(load)
            or not self._can_make_anew(load.source, table)
        ):
            return False
        return is_all_ours(self._connection, self._request.flow, claim, table)

    def _load(self, source: types.NamespaceDescription, target: TableName, table: TargetTable | None) -> Load:
        request = self._request
        if request.description.dialect == _DIALECT:
            fit = fitting.fit(
                source,
                table,
                page_types=request.page_types,
                allow_lossy=request.allow_lossy,
                is_own=table is not None and self._claim(table) is not None,
            )
        else:
            fit = fitting.fit_documents(request.page_types)
        return Load(source=source, target=target, table=table, fit=fit, anew=table is None)

    def _claim(self, table: TargetTable) -> Claim | None:
        """This flow's claim to the table, not to another one that had its name."""
        claim = self._claims.get(table.name.namespace)
        return claim if claim is not None and claim.relation == table.oid else None

    def _filled(self, table: TargetTable) -> Claim | None:
        """The claim to a table that this flow has filled; not after a crash that has emptied it and its ledger."""
        claim = self._claim(table)
        if claim is None or not table.unlogged or (claim.route or claim.namespace) in self._lasting:
            return claim
        return None

    def _filling(self, table: TargetTable) -> Rival | None:
        """Another flow that has claimed the table and not finished it, which is as good as rows."""
        return next((rival for rival in self._rivals.get(table.oid, ()) if rival.is_filling), None)

    def _can_make_anew(self, source: types.NamespaceDescription, table: TargetTable) -> bool:
        return self._can_create and source.namespace == table.name.namespace


def _lasting(connection: Connection, flow: str) -> frozenset[str]:
    """What of a flow's unlogged tables no crash of the server has emptied."""
    rows = connection.execute("SELECT DISTINCT namespace FROM _dsync.ledger_unlogged WHERE flow = %s", [flow])
    return frozenset(namespace for (namespace,) in rows)


def _fits(load: Load) -> bool:
    return all(finding.severity is not Severity.STOP for finding in load.fit.findings)


def existing_findings(load: Load) -> Iterator[Finding]:
    """What of a table that exists keeps rows out."""
    table = load.table
    if table is None:
        return
    name = load.target.namespace
    if not table.can_insert:
        yield stop("no-insert-privilege", name, "this role may not write to it", f"GRANT INSERT, SELECT ON {name}")
    if table.row_security_applies:
        yield stop(
            "row-security",
            name,
            "row security applies to this role, and COPY does not work under it",
            "connect as the table's owner or a role with BYPASSRLS, or disable the policies for the load",
        )
    if not load.upsert:
        return
    if table.has_insert_rules:
        yield stop(
            "rules",
            name,
            "it has rules for INSERT or UPDATE, with which rows cannot be written by key",
            "drop the rules for the load, or copy into an empty table",
        )
    try:
        key_for(table, load.fit.columns)
    except errors.UnsupportedError as exc:
        message, _, remedy = str(exc).rpartition("; ")
        yield stop("no-key", name, message, remedy)
        return
    if fixed := unsettable(table, load.fit.columns):
        # Rows of others may be in it, which are not ours to be deleted and made anew.
        yield stop(
            "no-key",
            name,
            f"writing {name} by key: column {fixed[0]} is GENERATED ALWAYS AS IDENTITY and not part of the key, so no "
            "update can set it",
            "ALTER COLUMN … SET GENERATED BY DEFAULT, or copy into an empty table",
        )


def analyses(loads: Iterable[Load], planned: Collection[TableName]) -> Iterator[BuildStep]:
    """Statistics for tables that no schema plan takes care of; small ones many at a time."""
    batch: list[TableName] = []
    number = 0
    for load in loads:
        if load.target in planned:
            continue
        if load.source.size_bytes > _SMALL_BYTES:
            yield _analysis(f"analyze:{load.target.namespace}", load.target.name, [load.target])
            continue
        batch.append(load.target)
        if len(batch) == _SMALL_BATCH:
            number += 1
            yield _analysis(f"analyze:existing {number}", f"{len(batch)} small tables", batch)
            batch = []
    if batch:
        yield _analysis(f"analyze:existing {number + 1}", f"{len(batch)} small tables", batch)


def _analysis(step_id: str, title: str, names: Iterable[TableName]) -> BuildStep:
    return BuildStep(
        id=step_id,
        kind="analyze",
        name=title,
        namespace="",
        statements=tuple(
            Statement(
                sql=sql.SQL("ANALYZE {}").format(name.identifier).as_string(None),
                object=f"TABLE {name}",
                is_optional=True,
            )
            for name in names
        ),
    )
