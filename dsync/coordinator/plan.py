"""What is to be copied, from where to where, in which pieces: made once per run, stored, never guessed again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from dsync.coordinator.ends import Agreement, End
from dsync.coordinator.following import Following, begin, change_type
from dsync.coordinator.spec import FlowSpec
from dsync.protocol import namespaces
from dsync.protocol.errors import (
    DsyncError,
    NamespaceChangedError,
    PermanentError,
    RequestError,
    RetryableError,
    UnsupportedError,
)
from dsync.protocol.namespaces import Selection
from dsync.protocol.types import (
    CheckRequest,
    DescribeRequest,
    Finding,
    JoinedPlan,
    NamespaceDescription,
    NamespaceMapping,
    OnExisting,
    Partition,
    Plan,
    PlanRequest,
    Prepared,
    PreparedNamespace,
    PrepareRequest,
    SchemaDescription,
    Severity,
    UpdatesPartition,
)
from dsync.state import NamespaceRow, NamespaceState, UnitKind, UnitRow, finish_units, lane_units, partition_units


class CheckFailedError(PermanentError):
    """Findings that would stop the flow or lose data; `findings` are all of them."""

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    namespaces: tuple[NamespaceRow, ...]
    units: tuple[UnitRow, ...]
    snapshot: bytes
    ddl: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    anew: frozenset[str] = frozenset()
    """Namespaces of whose earlier runs nothing is left at the sink; known while the plan is made."""
    following: Following | None = None
    """None: it is copied only."""

    @property
    def recorded_units(self) -> tuple[UnitRow, ...]:
        """With the lanes, which are no part of the copy."""
        return (*self.units, *lane_units(self.following.lane_ids)) if self.following is not None else self.units

    @property
    def partitions(self) -> tuple[UnitRow, ...]:
        return tuple(unit for unit in self.units if unit.kind is UnitKind.PARTITION)

    @property
    def beside(self) -> CopyPlan:
        """The part that is copied anew while all the rest is followed."""
        resync = self.following.resync if self.following is not None else None
        names = frozenset(resync.namespaces) if resync is not None else frozenset[str]()
        return replace(
            self._part(lambda name: name in names, lambda unit: resync is not None and resync.owns_step(unit.unit)),
            following=None,
        )

    @property
    def together(self) -> CopyPlan:
        """Everything else."""
        resync = self.following.resync if self.following is not None else None
        if resync is None:
            return self
        return self._part(lambda name: name not in resync.namespaces, lambda unit: not resync.owns_step(unit.unit))

    def _part(self, has: Callable[[str], bool], has_step: Callable[[UnitRow], bool]) -> CopyPlan:
        return replace(
            self,
            namespaces=tuple(row for row in self.namespaces if has(row.namespace)),
            units=(
                *(unit for unit in self.partitions if has(unit.namespace)),
                *(unit for unit in self.steps if has_step(unit)),
            ),
        )

    @property
    def steps(self) -> tuple[UnitRow, ...]:
        return tuple(unit for unit in self.units if unit.kind is UnitKind.FINISH)

    @property
    def copies(self) -> bool:
        """There is something to be read; else the sink had the rows before."""
        return any(unit.kind is UnitKind.PARTITION for unit in self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Plans a copy between two ends that have met."""

    source: End
    sink: End
    spec: FlowSpec
    agreement: Agreement
    flow: str
    run: str

    async def check(self, planned: Sequence[str] = ()) -> tuple[Finding, ...]:
        """What each end finds about itself, its peer and what is selected; an end without checks finds nothing.

        What is `planned` already is what is asked about then: what has come to the source since stops nothing.
        """
        found: list[Finding] = []
        names = tuple(planned) or await selected(self.source, self.spec.selection)
        for end, peer in ((self.source, self.sink), (self.sink, self.source)):
            if end.speaks_dsync and end.serves("SchemaService"):
                request = CheckRequest(
                    role=end.role,
                    namespaces=names,
                    peer_db_type=peer.info.db_type,
                    peer_version=peer.info.version,
                    updates=self.spec.follows,
                )
                found += await end.connector.check(request)
        return tuple(found)

    async def make(
        self, *, dry_run: bool, again: bool = False, before_change: Callable[[], Awaitable[None]] | None = None
    ) -> CopyPlan:
        """Fix the snapshot, select, prepare the sink (not in a dry run) and cut into partitions. Repeatable.

        `before_change` is called once nothing stands against it, before anything is changed at the sink.

        Raises:
            CheckFailedError: a finding would stop the flow or lose data; nothing was changed.
            RequestError: a pattern matches nothing, or two namespaces would arrive under one name.
        """
        # Looking at a plan must leave nothing behind at the source.
        follows = self.spec.follows and not dry_run
        kind = change_type(self.source, self.sink) if self.spec.follows else None
        description, mapping = await self._describe()
        # The snapshot before anything is read or created, so that a change in between is in no doubt.
        copied = tuple(item for item in description.namespaces if item.namespace in mapping and not item.rowless)
        plan = await self._open_plan([item.namespace for item in copied], follows=follows)
        if not self.spec.copies:
            copied, mapping, plan = self._only_followed(description, copied, mapping, plan)
        try:
            prepared = await self._prepare(description, mapping, dry_run=True, again=again)
            findings = (*description.findings, *prepared.findings)
            if not dry_run:
                stop_at(findings)
                if before_change is not None:
                    await before_change()
                prepared = await self._prepare(description, mapping, dry_run=False, again=again)
        except RetryableError:
            raise
        except DsyncError:
            if follows:
                # Nobody will read what the source keeps for a flow that does not begin.
                await self.source.connector.release_changes(self.flow)
            raise
        made = self._assemble(plan, copied, mapping, prepared, findings)
        return replace(made, following=begin(plan, kind, self.spec)) if kind is not None and follows else made

    async def make_beside(
        self, names: Sequence[str], stream: UpdatesPartition, *, number: int
    ) -> tuple[JoinedPlan, CopyPlan]:
        """A plan of these namespaces alone, which join a stream while it is followed; repeatable.

        Where the joined plan has no snapshot the stream has to be opened anew first, and the plan is empty.

        Raises:
            NamespaceChangedError: the source has one of them no more.
            CheckFailedError: a finding would lose data; nothing was changed.
        """
        description, mapping = await self._describe()
        wanted = set(names)
        mapping = {source: target for source, target in mapping.items() if source in wanted}
        copied = tuple(item for item in description.namespaces if item.namespace in mapping and not item.rowless)
        if gone := sorted(wanted - {item.namespace for item in copied}):
            raise NamespaceChangedError(f"{gone[0]}: the source has no such table any more").about(gone[0])
        joined = await self.source.connector.join_plan(
            [item.namespace for item in copied], stream, wait_s=self.spec.slot_timeout_s
        )
        if not joined.snapshot:
            return joined, CopyPlan(namespaces=(), units=(), snapshot=b"")
        # What the sink answers is kept for a run, and this is another question.
        planner = replace(self, run=f"{self.run}~{number}")
        prepared = await planner._prepare(description, mapping, dry_run=True, again=True, some=True)
        findings = prepared.findings
        stop_at(findings)
        prepared = await planner._prepare(description, mapping, dry_run=False, again=True, some=True)
        plan = Plan(partitions=joined.partitions, snapshot=joined.snapshot)
        return joined, self._assemble(plan, copied, mapping, prepared, findings)

    async def _describe(self) -> tuple[SchemaDescription, dict[str, str]]:
        if not self.source.serves("SchemaService"):
            names = await self._names_without_schema()
            described = SchemaDescription(namespaces=tuple(NamespaceDescription(namespace=name) for name in names))
            return described, self.spec.selection.of(names)
        dialect = ""
        if self.sink.serves("SchemaService") and self._makes_schema:
            dialect = self.sink.extensions.schema_dialect
        description = await self.source.connector.describe(
            DescribeRequest(definition_for=dialect, peer_version=self.sink.info.version)
        )
        chosen = choose(description, self.spec.selection)
        others = {item.namespace for item in description.namespaces} - set(chosen)
        findings = tuple(finding for finding in description.findings if finding.object not in others)
        return replace(description, findings=findings), chosen

    @property
    def _makes_schema(self) -> bool:
        return self.spec.schema_mode == "copy" and self.spec.copies

    @property
    def _policy(self) -> OnExisting:
        # The rows that are there are those that changes are applied to.
        return self.spec.on_existing_policy if self.spec.copies else OnExisting.APPEND

    def _only_followed(
        self,
        description: SchemaDescription,
        copied: tuple[NamespaceDescription, ...],
        mapping: dict[str, str],
        plan: Plan,
    ) -> tuple[tuple[NamespaceDescription, ...], dict[str, str], Plan]:
        """Nothing is read, and what cannot be followed is no part of a flow that copies nothing."""
        without = replace(plan, partitions=(), snapshot=b"")
        if not plan.updates_partitions:
            return copied, mapping, without
        followed = {name for part in plan.updates_partitions for name in part.namespaces}
        rowless = {item.namespace for item in description.namespaces if item.rowless}
        kept = {source: target for source, target in mapping.items() if source in followed or source in rowless}
        return tuple(item for item in copied if item.namespace in followed), kept, without

    async def _names_without_schema(self) -> list[str]:
        if self.spec.namespaces:
            return [namespaces.literal(text) for text in self.spec.namespaces]
        if not (self.source.info.source and self.source.info.source.default_plan):
            raise RequestError(f"{self.source.info.db_type} cannot list its namespaces: name them with -n")
        plan = await self.source.connector.generate_plan(PlanRequest(namespaces=()))
        return list(dict.fromkeys(partition.namespace for partition in plan.partitions))

    async def _open_plan(self, names: list[str], *, follows: bool) -> Plan:
        if self.source.serves("PlanService"):
            return await self.source.connector.open_plan(
                names, updates=follows, wait_s=self.spec.slot_timeout_s if follows else 0.0
            )
        if self.spec.follows:
            raise UnsupportedError(f"{self.source.info.db_type} cannot be followed yet; choose --mode copy")
        connector = self.source.connector
        if self.source.info.source and self.source.info.source.multi_namespace_plan:
            return await connector.generate_plan(PlanRequest(namespaces=tuple(names)))
        plans = [await connector.generate_plan(PlanRequest(namespaces=(name,))) for name in names]
        return Plan(partitions=tuple(partition for plan in plans for partition in plan.partitions))

    async def _prepare(
        self, description: SchemaDescription, mapping: dict[str, str], *, dry_run: bool, again: bool, some: bool = False
    ) -> Prepared:
        if not self.sink.serves("SchemaService") or not self.source.serves("SchemaService"):
            cheapest = self.agreement.page_types[0]
            return Prepared(
                namespaces=tuple(
                    PreparedNamespace(
                        source=source, target=target, page_type=cheapest, upsert=True, reason="the cheapest shared type"
                    )
                    for source, target in mapping.items()
                )
            )
        return await self.sink.connector.prepare(
            PrepareRequest(
                flow=self.flow,
                run=self.run,
                mappings=tuple(NamespaceMapping(source=s, target=t) for s, t in mapping.items()),
                description=description,
                whole_database=not self.spec.namespaces and not some,
                create=self._makes_schema,
                on_existing=OnExisting.RESUME if again else self._policy,
                no_owner=self.spec.no_owner,
                no_privileges=self.spec.no_privileges,
                allow_lossy=self.spec.allow_lossy,
                dry_run=dry_run,
                page_types=self.agreement.page_types,
            )
        )

    def _estimate(self, item: NamespaceDescription, partitions: Sequence[Partition]) -> int:
        planned = sum(partition.estimated_count for partition in partitions)
        # A description knows nothing of filters.
        return planned if self.spec.filters else item.estimated_rows or planned

    def _assemble(
        self,
        plan: Plan,
        copied: Sequence[NamespaceDescription],
        mapping: dict[str, str],
        prepared: Prepared,
        findings: tuple[Finding, ...],
    ) -> CopyPlan:
        partitions: defaultdict[str, list[Partition]] = defaultdict(list)
        for partition in plan.partitions:
            partitions[partition.namespace].append(partition)
        loads = {item.source: item for item in prepared.namespaces}
        rows: list[NamespaceRow] = []
        units: list[UnitRow] = []
        for position, item in enumerate(copied):
            load = loads[item.namespace]
            rows.append(
                NamespaceRow(
                    namespace=item.namespace,
                    # A sink may load a partition through its root, whose rows it places itself.
                    target=load.target or mapping[item.namespace],
                    position=position,
                    page_type=load.page_type,
                    columns=load.columns,
                    upsert=load.upsert,
                    existed=load.existed,
                    estimated_rows=self._estimate(item, partitions[item.namespace]),
                    size_bytes=item.size_bytes,
                    reason=load.reason,
                    state=NamespaceState.PENDING if self.spec.copies else NamespaceState.COPIED,
                )
            )
            units += partition_units(item.namespace, position, partitions[item.namespace])
        # Statistics are those of rows that were there before.
        units += finish_units([step for step in prepared.steps if self.spec.copies or step.kind != "analyze"])
        return CopyPlan(
            namespaces=tuple(rows),
            units=tuple(units),
            snapshot=plan.snapshot,
            ddl=prepared.ddl,
            findings=findings,
            anew=frozenset(item.source for item in prepared.namespaces if item.anew),
        )


def stop_at(findings: Sequence[Finding]) -> None:
    """Raises CheckFailedError where a finding would stop the flow or lose data."""
    stops = [finding for finding in findings if finding.severity is Severity.STOP]
    if stops:
        first = stops[0]
        more = f" (and {len(stops) - 1} more; `dsync doctor` lists them)" if len(stops) > 1 else ""
        remedy = f"; {first.remedy}" if first.remedy else ""
        raise CheckFailedError(f"{first.object}: {first.message}{remedy}{more}", findings)


def choose(description: SchemaDescription, selection: Selection) -> dict[str, str]:
    """Source name → sink name of what is selected; a partitioned table's partitions come with it."""
    return selection.of(
        [item.namespace for item in description.namespaces],
        parents={item.namespace: item.parent for item in description.namespaces if item.parent},
    )


async def selected(source: End, selection: Selection) -> tuple[str, ...]:
    """The namespaces that are meant; none where everything is, or the source cannot list what it has.

    What stands beside them may be as closed to us as it likes.
    """
    if selection == Selection() or not source.serves("SchemaService"):
        return ()
    return tuple(choose(await source.connector.describe(DescribeRequest()), selection))


async def row_filters(source: End, selection: Selection, filters: Sequence[str]) -> dict[str, str]:
    """Conditions by namespace, of all those that the patterns before them mean.

    Raises:
        UnsupportedError: the source cannot filter rows.
        RequestError: a pattern means nothing that is selected, or two mean one namespace.
    """
    asked = namespaces.split_filters(filters)
    if not asked:
        return {}
    if not source.extensions.row_filters:
        raise UnsupportedError(
            f"{source.info.db_type} cannot filter rows; leave out --filter, or exclude the namespace"
        )
    description = await source.connector.describe(DescribeRequest())
    chosen = choose(description, selection)
    parents = {item.namespace: item.parent for item in description.namespaces if item.parent}
    rowless = {item.namespace for item in description.namespaces if item.rowless}
    found: dict[str, str] = {}
    for pattern, condition in asked:
        meant = [name for name in chosen if pattern.matches_any(namespaces.lineage(name, parents))]
        if not meant:
            raise RequestError(f"filter {pattern.text!r} matches nothing that is copied; `dsync plan` lists what is")
        for name in meant:
            if name in found and name not in rowless:
                raise RequestError(f"{name} has two filters; join them with AND into one")
            found[name] = condition
    return {name: condition for name, condition in found.items() if name not in rowless}
