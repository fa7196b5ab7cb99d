"""Comparing two ends: who they are, which namespaces belong together, how each pair is compared, and the report."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from dsync.coordinator.events import SnapshotLost
from dsync.coordinator.retries import Retries
from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import MissingObjectError, SnapshotLostError, UnsupportedError
from dsync.protocol.interface import Connector
from dsync.protocol.types import DescribeRequest, NamespaceDescription
from dsync.verify.algorithm import Algorithm
from dsync.verify.canonical import id_text
from dsync.verify.ends import Descriptions, Ends, VerifyEnd
from dsync.verify.events import EventHandler, NamespaceCompared
from dsync.verify.namespace import NamespaceVerifier, at_once
from dsync.verify.options import NO_OPTIONS, Key, VerifyOptions
from dsync.verify.pairing import Pair
from dsync.verify.progress import NamespaceProgress, NoProgress, ProgressStore
from dsync.verify.pushdown import PushedDown
from dsync.verify.report import Difference, Kind, Method, NamespaceReport, VerifyReport
from dsync.verify.streamed import Streamed

CatchUp = Callable[[], Awaitable[object]]


async def verify(
    source: Connector,
    target: Connector,
    namespaces: Mapping[str, str],
    options: VerifyOptions = NO_OPTIONS,
    *,
    progress: ProgressStore | None = None,
    emit: EventHandler = lambda event: None,
    ready: Callable[[], Awaitable[None]] = at_once,
    catch_up: CatchUp | None = None,
) -> VerifyReport:
    """Compare source namespaces with the target's they are mapped to.

    `ready` is awaited before each range is read, and before rows are read again: who wants it to rest makes it wait.

    `catch_up` returns once the target has what the source had when it was called. With it rows that differ are read
    again as soon as that is so; without it, after a while.

    With `progress` a verification that was interrupted goes on where it was; a complete one forgets it. Where the
    source loses the copy's snapshot meanwhile the rest is compared live, by `lost_snapshot`.

    Raises:
        UnsupportedError: an end cannot be read back, and counting was not all that was asked for.
        RetryableError: an end stayed unreachable for `retry_for_s`.
    """
    store = progress or NoProgress()

    def verifier(options: VerifyOptions) -> Verifier:
        return Verifier(source, target, options, progress=store, emit=emit, ready=ready, catch_up=catch_up)

    try:
        return await verifier(options).run(namespaces)
    except SnapshotLostError as exc:
        if options.live:
            raise
        emit(SnapshotLost(reason=str(exc)))
    return await verifier(replace(options, live=True, snapshot_lost=True)).run(namespaces)


class Verifier:
    """One verification."""

    def __init__(
        self,
        source: Connector,
        target: Connector,
        options: VerifyOptions,
        *,
        progress: ProgressStore,
        emit: EventHandler,
        ready: Callable[[], Awaitable[None]] = at_once,
        catch_up: CatchUp | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connectors = (source, target)
        self._options = options
        self._store = progress
        self._emit = emit
        self._ready = ready
        self._catch_up = catch_up
        self._sleep = sleep
        self._clock = clock
        self._retries = Retries(retry_for_s=options.retry_for_s, emit=emit, is_stopping=lambda: False)
        self._slots = asyncio.Semaphore(options.parallel)
        self._narrowing = asyncio.Semaphore(1)
        # A source may hold one plan at a time, and each look at a namespace's documents makes a new one.
        self._streaming = asyncio.Lock()
        self._opened: list[NamespaceProgress] = []
        self._trees: dict[str, str] = {}

    async def run(self, namespaces: Mapping[str, str]) -> VerifyReport:
        """Compare everything."""
        started_at = self._clock()
        ends = await self._meet(namespaces)
        self._trees = await self._find_trees(namespaces, ends)
        stands_for = Counter(self._trees.get(name, name) for name in namespaces)
        if self._trees:
            namespaces = _with_trees(namespaces, ends, self._trees)
            ends = await self._meet(namespaces)
        reports: dict[str, NamespaceReport] = {}
        todo = iter(namespaces.items())

        async def work() -> None:
            for source, target in todo:
                found = await self._compare(ends, source, target)
                reports[source] = report = replace(found, stands_for=stands_for.get(source, 1))
                self._tell(report)

        async with task_group() as group:
            for _ in range(min(self._options.parallel, len(namespaces))):
                group.create_task(work())
        for progress in self._opened:
            await progress.clear()
        return VerifyReport(
            namespaces=tuple(reports[source] for source in namespaces),
            live=self._options.live or any(report.method is Method.STREAMED for report in reports.values()),
            elapsed_s=self._clock() - started_at,
        )

    async def _sleep_when_ready(self, delay_s: float) -> None:
        """Rows settle while changes are applied, and not while the flow rests."""
        await self._ready()
        if self._catch_up is not None:
            # Time proves nothing: a difference that is left when the lag has passed is one.
            await self._catch_up()
            return
        await self._sleep(delay_s)

    async def _find_trees(self, namespaces: Mapping[str, str], ends: Ends) -> dict[str, str]:
        """The top of the tree of each partition whose rows every server places by itself."""
        described, theirs = ends.source_descriptions or {}, ends.target_descriptions or {}
        scattered = [
            name
            for name, target in namespaces.items()
            if name in described
            and (described[name].placed_by_server or _is_spread(described[name], theirs.get(target)))
        ]
        if not scattered:
            return {}
        everything = await self._retries.call(
            "asking the source", lambda: ends.source.connector.describe(DescribeRequest())
        )
        parents = {item.namespace: item.parent for item in everything.namespaces if item.parent}
        trees = {}
        for name in scattered:
            top = name
            while top in parents:
                top = parents[top]
            trees[name] = top
        return trees

    async def _meet(self, namespaces: Mapping[str, str]) -> Ends:
        async def one(
            connector: Connector, name: str, wanted: Collection[str]
        ) -> tuple[VerifyEnd, Descriptions | None]:
            end = await VerifyEnd.meet(connector, name)
            return end, await end.describe(wanted)

        first, second = self._connectors
        async with task_group() as group:
            source = group.create_task(
                self._retries.call("asking the source", lambda: one(first, "source", namespaces))
            )
            target = group.create_task(
                self._retries.call("asking the target", lambda: one(second, "target", namespaces.values()))
            )
        return Ends.of(source.result(), target.result())

    def _tell(self, report: NamespaceReport) -> None:
        self._emit(
            NamespaceCompared(
                namespace=report.source,
                is_equal=report.is_equal,
                source_rows=report.source_rows,
                target_rows=report.target_rows,
                elapsed_s=report.elapsed_s,
            )
        )

    # -------------------------------------------------------------- one namespace

    async def _compare(self, ends: Ends, source: str, target: str) -> NamespaceReport:
        absent = [
            Difference(kind=Kind.NAMESPACE, rows=0, detail=f"the {end.name} has no {name}")
            for end, name in ((ends.source, source), (ends.target, target))
            if not await self._has(ends, end, name)
        ]
        if absent:
            return NamespaceReport(source=source, target=target, method=Method.NONE, differences=tuple(absent))
        described = ends.source_descriptions[source] if ends.source_descriptions is not None else None
        if described is not None and described.rowless and source not in self._trees.values():
            note = f"a {described.kind} has no rows of its own: not compared"
            return NamespaceReport(source=source, target=target, method=Method.NONE, notes=(note,))
        if self._options.quick:
            return await self._compare_counts(ends, source, target)
        return await self._compare_rows(ends, ends.pair(source, target))

    async def _has(self, ends: Ends, end: VerifyEnd, namespace: str) -> bool:
        descriptions = ends.source_descriptions if end is ends.source else ends.target_descriptions
        if descriptions is not None:
            return namespace in descriptions
        try:
            await self._retries.call("counting", lambda: end.connector.count(namespace), namespace=namespace)
        except MissingObjectError:
            return False
        except UnsupportedError:
            # It cannot tell; reading it will.
            return True
        return True

    async def _compare_counts(self, ends: Ends, source: str, target: str) -> NamespaceReport:
        started_at = self._clock()
        async with task_group() as group:
            asked = [
                group.create_task(self._retries.call("counting", partial(end.count_rows, name), namespace=source))
                for end, name in ((ends.source, source), (ends.target, target))
            ]
        source_rows, target_rows = (task.result() for task in asked)
        unlike = Difference(
            kind=Kind.COUNT, rows=0, detail=f"{source_rows:,} rows at the source, {target_rows:,} at the target"
        )
        return NamespaceReport(
            source=source,
            target=target,
            method=Method.QUICK,
            source_rows=source_rows,
            target_rows=target_rows,
            differences=(unlike,) if source_rows != target_rows else (),
            notes=tuple(
                f"the {end.name} may only estimate how many rows it has"
                for end in (ends.source, ends.target)
                if not end.counts_exactly
            ),
            elapsed_s=self._clock() - started_at,
        )

    async def _compare_rows(self, ends: Ends, compared: Pair) -> NamespaceReport:
        if ends.algorithm is not None:
            pushed_down = self._pushed_down(ends, compared, ends.algorithm)
            return await self._verifier(ends, pushed_down, Method.PUSHED_DOWN, keyed=bool(compared.key)).run()
        async with self._streaming:
            streamed = self._streamed(ends, compared)
            return await self._verifier(ends, streamed, Method.STREAMED, keyed=streamed.keyed).run()

    def _verifier(
        self, ends: Ends, comparison: PushedDown | Streamed, method: Method, *, keyed: bool
    ) -> NamespaceVerifier:
        compared = comparison.pair
        store = self._store if ends.are_recognised else NoProgress()
        progress = NamespaceProgress(store, compared.source, ends.identity_of(compared))
        self._opened.append(progress)
        return NamespaceVerifier(
            pair=compared,
            comparison=comparison,
            method=method,
            key=compared.key or (("_id",) if keyed else ()),
            keyed=keyed,
            options=comparison.options,
            progress=progress,
            slots=self._slots,
            retries=self._retries,
            emit=self._emit,
            show_key=_document_id if keyed and method is Method.STREAMED else _as_it_is,
            ready=self._ready,
            sleep=self._sleep_when_ready,
            clock=self._clock,
        )

    def _pushed_down(self, ends: Ends, compared: Pair, algorithm: Algorithm) -> PushedDown:
        return PushedDown(
            pair=compared,
            source=ends.source,
            target=ends.target,
            options=self._options,
            algorithm=algorithm,
            narrowing=self._narrowing,
        )

    def _streamed(self, ends: Ends, compared: Pair) -> Streamed:
        """Always live: pages come from a new plan, and not from the one that the copy was read from."""
        for end in (ends.source, ends.target):
            end.require_documents()
        notes = compared.notes if self._options.live else (*compared.notes, _NOT_UNDER_SNAPSHOT)
        return Streamed(
            pair=replace(compared, notes=notes),
            source=ends.source,
            target=ends.target,
            options=replace(self._options, live=True),
            narrowing=self._narrowing,
            keyed=ends.have_ids(compared),
        )


_NOT_UNDER_SNAPSHOT = "compared as it is now: what was written since the copy counts as a difference"


def _as_it_is(key: Key) -> tuple[str, ...]:
    return key


def _document_id(key: Key) -> tuple[str, ...]:
    (text,) = key
    return id_text(bytes.fromhex(text))


def _with_trees(namespaces: Mapping[str, str], ends: Ends, trees: Mapping[str, str]) -> dict[str, str]:
    """The namespaces to compare, with trees in place of their partitions."""
    theirs = ends.target_descriptions or {}
    joined: dict[str, str] = {}
    for source, target in namespaces.items():
        top = trees.get(source)
        if top is None:
            joined[source] = target
        else:
            # A sink that fills the tree through a table above has named that; its own top has to be the tree's.
            is_top = target in theirs and theirs[target].rowless and not theirs[target].parent
            joined[top] = target if is_top else namespaces.get(top, top)
    return joined


def _is_spread(source: NamespaceDescription, target: NamespaceDescription | None) -> bool:
    """A partition that the target has filled through a table above it: its rows are among those of the others."""
    return bool(source.parent) and not source.rowless and target is not None and target.rowless
