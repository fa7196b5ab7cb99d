"""`dsync dead-letters`: the records that a sink has refused, listed, shown, written again or given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar

from dsync.app.holding import OnWait, holding
from dsync.app.known import KnownFlow, existing_store, find_known_flow
from dsync.app.letter_values import Value, values_of, values_of_change
from dsync.app.one_end import meet_one
from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.ends import End
from dsync.coordinator.events import Event
from dsync.coordinator.retries import Retries
from dsync.protocol.errors import (
    NamespaceChangedError,
    PluginBugError,
    RecordError,
    RequestError,
    UnsupportedError,
)
from dsync.protocol.namespaces import Pattern
from dsync.protocol.types import Page, Role, SessionRequest, UnitRef, WriteContext, WriteRequest
from dsync.state import DEFAULT_SINK, DeadLetterRow, NamespaceRow, RunRow, Store

T = TypeVar("T")

RETRIED, DROPPED = "retried", "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class LettersRequest:
    """Which dead letters of which flow."""

    flow: str
    state: str = ""
    ids: tuple[str, ...] = ()
    """Ids or beginnings of ids; none: all that the patterns fit."""
    namespaces: tuple[str, ...] = ()
    """Patterns; none: every namespace."""
    resolved: bool = False
    """Those that were dealt with, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter as it is listed: without what it holds."""

    id: str
    namespace: str
    target: str
    reason: str
    error_class: str
    page_type: str
    size_bytes: int
    unit: str
    row: int
    """Its place in its page, from 0."""
    refused_at: datetime | None
    resolution: str
    """`retried`, `dropped` or `overtaken` by a later change; empty while it waits."""
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterDetails:
    letter: Letter
    values: Mapping[str, Value] | None
    """By column; None where they were not asked for, or are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of a dead letter that was written again."""

    letter: Letter
    reason: str
    """Why it was refused once more; empty: it is at the sink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReport:
    flow: str
    flow_name: str
    attempts: tuple[Attempt, ...]

    @property
    def landed(self) -> int:
        return sum(not attempt.reason for attempt in self.attempts)

    @property
    def exit_code(self) -> Literal[0, 5]:
        return 0 if self.landed == len(self.attempts) else 5


def list_letters(request: LettersRequest) -> tuple[Letter, ...]:
    """Oldest first. Raises RequestError where an id or the flow is unknown."""
    with existing_store(request.state, wanted=request.flow) as store:
        _, found = _find(store, request)
        return tuple(letter for _, letter in found)


def show_letters(request: LettersRequest, *, show_values: bool) -> tuple[LetterDetails, ...]:
    """The same, with what they hold where that is asked for."""
    with existing_store(request.state, wanted=request.flow) as store:
        known, found = _find(store, request)
        rows = _namespaces(store, known)

        def values(row: DeadLetterRow) -> Mapping[str, Value] | None:
            if not show_values or row.resolution:
                return None
            if row.is_change:
                return values_of_change(row.payload)
            return values_of(row.page_type, row.payload, rows[row.namespace].columns)

        return tuple(LetterDetails(letter=letter, values=values(row)) for row, letter in found)


async def drop_letters(request: LettersRequest, on_wait: OnWait) -> tuple[Letter, ...]:
    """Give them up: what they held is forgotten here, and the sink goes without them. Returns which.

    Raises:
        LeaseHeldError: the flow is running.
    """
    with existing_store(request.state, wanted=request.flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        flow = find_known_flow(store, request.flow).flow.flow
        async with holding(store, flow, on_wait):
            known, found = _find(store, request)
            for row, _ in found:
                await asyncio.to_thread(_resolve, store, known, row, DROPPED)
        return tuple(letter for _, letter in found)


async def retry_letters(
    request: LettersRequest,
    *,
    sink: str = "",
    attach: Literal["process", "inline"] = "process",
    allow_plaintext: bool = False,
    on_wait: OnWait,
    emit: Callable[[Event], None] = lambda _: None,
) -> RetryReport:
    """Write them again, each alone and once, and never over a row that is there. Repeatable after any failure.

    Changes that were refused in a stream are not among them: their tables are read again (`dsync resync`).

    Raises:
        UnsupportedError: this sink could overwrite a newer row.
        LeaseHeldError: the flow is running.
    """
    with existing_store(request.state, wanted=request.flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        flow = find_known_flow(store, request.flow).flow.flow
        attempts: list[Attempt] = []
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(holding(store, flow, on_wait))
            known, found = _find(store, request)
            attempts += [
                Attempt(letter=letter, reason=_overtaken(known, row)) for row, letter in found if row.is_change
            ]
            found = [(row, letter) for row, letter in found if not row.is_change]
            # Where nothing waits, nobody is asked.
            if found:
                meeting = meet_one(known.sink(sink), Role.SINK, attach=attach, allow_plaintext=allow_plaintext)
                one = await stack.enter_async_context(meeting)
                writer = await _Writer.open(store, known, one.end, emit)
                for row, letter in found:
                    attempts.append(Attempt(letter=letter, reason=await writer.write(row)))
        return RetryReport(flow=known.flow.flow, flow_name=known.flow.name or "", attempts=tuple(attempts))


def with_letters_that_wait(store: Store, run: RunRow) -> RunRow:
    """A run whose summary counts the dead letters of today, some of which may have been dealt with since its end."""
    if not run.summary or not run.summary.get("dead_letters"):
        return run
    letters = store.count_dead_letters(run.flow, run.run)
    namespaces = [
        {**item, "dead_letters": letters.get(item["namespace"], 0)} for item in run.summary.get("namespaces", ())
    ]
    summary = {**run.summary, "dead_letters": sum(letters.values()), "namespaces": namespaces}
    return replace(run, summary=summary)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Writes dead letters of one run to its sink."""

    store: Store
    known: KnownFlow
    sink: End
    namespaces: Mapping[str, NamespaceRow]
    retries: Retries

    @classmethod
    async def open(cls, store: Store, known: KnownFlow, sink: End, emit: Callable[[Event], None]) -> _Writer:
        run = known.run
        assert run is not None, "a flow with dead letters has run"
        sink.check_same(run.sink_ids.get(DEFAULT_SINK, ""))
        if not (sink.serves("LedgerService") and sink.extensions.insert_only):
            raise UnsupportedError(
                f"writing dead letters again: {sink.info.db_type} cannot promise to leave a newer row alone; "
                f"`{known.command} --again` reads their tables anew"
            )
        await sink.open_session(
            SessionRequest(flow=run.flow, run=run.run, role=Role.SINK, max_message_bytes=sink.max_message_bytes)
        )
        return cls(
            store=store,
            known=known,
            sink=sink,
            namespaces=_namespaces(store, known),
            retries=Retries(retry_for_s=known.spec.retry_for_s, emit=emit, is_stopping=lambda: False),
        )

    async def write(self, letter: DeadLetterRow) -> str:
        """Why it was refused once more; empty where it landed, now or in an earlier life of this command."""
        try:
            await self._write(letter)
        except RecordError as error:
            again = replace(letter, reason=str(error), error_class=type(error).__name__)
            await asyncio.to_thread(self.store.add_dead_letters, self._run.flow, self._run.run, [again])
            return str(error)
        except NamespaceChangedError as error:
            # Says nothing about the record: its own reason stays.
            return str(error)
        await asyncio.to_thread(_resolve, self.store, self.known, letter, RETRIED)
        return ""

    async def _write(self, letter: DeadLetterRow) -> None:
        namespace = self.namespaces[letter.namespace]
        # A unit of its own in the sink's ledger: a repeat after a crash finds that the record is there, also in a
        # table without a key, and whoever counts the flow's rows finds as many as there are.
        unit = UnitRef(unit=f"letter:{letter.id}", namespace=namespace.target)
        (state,) = await self._call(
            "open a unit at the sink",
            letter,
            lambda: self.sink.connector.open_units(self._run.flow, self._run.run, [unit]),
        )
        if state.done:
            return
        request = WriteRequest(
            namespace=namespace.target,
            page=Page(type=letter.page_type, rows=1, packed=letter.payload),
            columns=namespace.columns,
            context=WriteContext(
                flow=self._run.flow,
                run=self._run.run,
                unit=unit.unit,
                fence=state.fence,
                cursor=UnitCursor().encode(),
                seq=state.seq + 1,
                done=True,
            ),
            upsert=False,
            insert_only=True,
        )
        written = await self._call("write a dead letter again", letter, lambda: self.sink.write(request))
        if written != 1:
            raise PluginBugError(f"{letter.namespace}: the sink says it wrote {written} rows of a page of 1")

    async def _call(self, operation: str, letter: DeadLetterRow, action: Callable[[], Awaitable[T]]) -> T:
        return await self.retries.call(
            operation, action, namespace=letter.namespace, before_repeat=self.sink.reopen_session
        )

    @property
    def _run(self) -> RunRow:
        assert self.known.run is not None, "a flow with dead letters has run"
        return self.known.run


def _overtaken(known: KnownFlow, letter: DeadLetterRow) -> str:
    """Why a change is not written again: what its record has become since is at the source, and not in the letter."""
    return (
        "it is a change, which later ones may have overtaken; once the cause is mended, "
        f"`dsync resync {known.title} --table {letter.namespace}` reads its table again ({letter.reason})"
    )


def _resolve(store: Store, known: KnownFlow, letter: DeadLetterRow, resolution: str) -> None:
    assert known.run is not None, "a flow with dead letters has run"
    store.resolve_dead_letter(known.run.flow, known.run.run, letter, resolution)


def _namespaces(store: Store | None, known: KnownFlow) -> Mapping[str, NamespaceRow]:
    assert store is not None, "a flow that is wanted is looked for in a state that exists"
    if known.run is None:
        return {}
    return {row.namespace: row for row in store.load_namespaces(known.run.flow, known.run.run)}


def _find(store: Store | None, request: LettersRequest) -> tuple[KnownFlow, Sequence[tuple[DeadLetterRow, Letter]]]:
    """The flow, and of its latest run the dead letters that are meant."""
    assert store is not None, "a flow that is wanted is looked for in a state that exists"
    known = find_known_flow(store, request.flow)
    if known.run is None:
        return known, ()
    rows = _namespaces(store, known)
    every = store.list_dead_letters(known.run.flow, known.run.run, resolved=request.resolved)
    patterns = [Pattern(text) for text in request.namespaces]
    meant = [row for row in every if not patterns or any(pattern.matches(row.namespace) for pattern in patterns)]
    chosen = _chosen(meant, request.ids, known.title) if request.ids else meant
    return known, [(row, _letter(row, rows[row.namespace])) for row in chosen]


def _chosen(letters: Sequence[DeadLetterRow], ids: Iterable[str], flow: str) -> list[DeadLetterRow]:
    wanted: dict[str, DeadLetterRow] = {}
    for given in ids:
        fitting = [letter for letter in letters if letter.id.startswith(given)]
        if len(fitting) != 1:
            many = "several dead letters" if fitting else "no dead letter"
            raise RequestError(
                f"flow {flow} has {many} whose id begins with {given!r} (`dsync dead-letters list {flow}` has the ids)"
            )
        wanted[fitting[0].id] = fitting[0]
    return list(wanted.values())


def _letter(row: DeadLetterRow, namespace: NamespaceRow) -> Letter:
    return Letter(
        id=row.id,
        namespace=row.namespace,
        target=namespace.target,
        reason=row.reason,
        error_class=row.error_class,
        page_type="CHANGE" if row.is_change else row.page_type.name,
        size_bytes=len(row.payload),
        unit=row.unit,
        row=row.row_index,
        refused_at=row.created_at,
        resolution=row.resolution,
        resolved_at=row.resolved_at,
    )
