"""Applying one frame: its changes and the lane's ledger row in one transaction, in one or two round trips.

A short frame goes out as a whole, with its COMMIT. Of a long one the results are looked at first: rows that were
updated are counted, which costs less than asking for each whether it is there, and those that were not are inserted.
So are those of a frame that may turn out to be incomplete, since then nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import pq

from dsync.sdk import errors, failpoint, types
from dsync_postgres.errors import describe, translate
from dsync_postgres.sink.apply.arrays import array_of, numbers
from dsync_postgres.sink.apply.fold import Fold, Part, Tally
from dsync_postgres.sink.apply.pipeline import Connection, Pipeline, Prepared, StatementError
from dsync_postgres.sink.apply.records import Values
from dsync_postgres.sink.apply.shape import Indexes, Shape, split
from dsync_postgres.sink.apply.statements import Statement
from dsync_postgres.sink.apply.steps import (
    Change,
    Item,
    Move,
    ShapeOf,
    Step,
    Together,
    Truncate,
    fold_steps,
    read_items,
    tally_of,
)
from dsync_postgres.sink.apply.truncate import truncation
from dsync_postgres.sink.ledger import Guard, standing

Row = TypeVar("Row")

_BEGIN, _COMMIT = b"BEGIN ISOLATION LEVEL READ COMMITTED", b"COMMIT"
_JOIN_FREELY, _JOIN_BY_INDEX = b"SET LOCAL enable_hashjoin = on", b"SET LOCAL enable_hashjoin = off"
# A plan that was made while a table had few rows reads all of them for each row that comes, until somebody analyzes it.
_PLAN_AGAIN = b"DISCARD PLANS"
_DEFER = b"SET CONSTRAINTS ALL DEFERRED"
# More at a time gain nothing, and the server keeps all of them in memory.
_ROWS_A_STATEMENT = 1000
# From so many changes on another round trip costs less than what it saves.
_MANY = 200

_MEET = ("23505", "23503", "23001", "23P01", "21000")
"""unique, foreign key, restrict, exclusion; and two rows of a set with keys that are equal in other words."""
_CHANGED = ("42P01", "42703", "3F000", "42P10", "42804")

_NO_ROW = "values were not sent, and the sink has no such row"
_FROM_ELSEWHERE = "values were not sent, and the row they belong to must not be taken from the sink"

_Truncations = dict[Truncate, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One frame, and where it goes."""

    guards: tuple[Guard, ...]
    """The lane's own first."""
    frame: types.ChangeFrame
    shape_of: ShapeOf
    reshaped: Callable[[int], None]
    overlap: bool
    in_order: bool
    is_replica: bool
    """Nothing fires in this session."""

    def items(self) -> Iterator[Item]:
        """The frame's changes."""
        return read_items(self.frame, self.shape_of, self.reshaped)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a statement of the pipeline is about, for messages and for its result."""

    shape: Shape | None = None
    places: Sequence[int] = ()
    """The changes that it is for, by their place in the frame."""
    reports: bool = False
    """Its rows are the places of the changes that found their row; the others are incomplete."""
    expected: int = -1
    """So many rows have to change, or `otherwise` follows."""
    otherwise: tuple[tuple[Statement, Sequence[bytes | None]], ...] = ()


def apply(connection: Connection, prepared: Prepared, job: Job) -> types.WrittenChanges:
    """Apply a frame, unless the ledger has it already.

    Raises:
        LanesMeetError: it meets other changes on an index or a foreign key; nothing of it is there.
        RecordError: a change was refused; nothing of it is there.
        FencedError: another coordinator has the lane.
    """
    try:
        incomplete = _Run(connection, prepared, job).write()
    except StatementError as exc:
        if _is_written(connection, job):
            return types.WrittenChanges(changes=len(job.frame))
        raise _translated(exc.error, exc.tag, job) from exc.error
    except psycopg.Error as exc:
        if _is_written(connection, job):
            return types.WrittenChanges(changes=len(job.frame))
        raise translate(exc, "applying changes") from exc
    # A repeat may miss rows that it has itself moved away.
    if not incomplete or _is_written(connection, job):
        return types.WrittenChanges(changes=len(job.frame))
    return types.WrittenChanges(
        changes=0,
        incomplete=tuple(
            types.IncompleteChange(index=index, reason=reason) for index, reason in sorted(incomplete.items())
        ),
    )


class _Run:
    """One attempt at a frame."""

    def __init__(self, connection: Connection, prepared: Prepared, job: Job) -> None:
        self._connection = connection
        self._job = job
        self._prepared = prepared
        self._incomplete: dict[int, str] = {}
        self._counts = False
        """Rows that are updated are counted, instead of asked for."""
        self._is_looked_at = False
        """The results are looked at before the transaction commits."""

    def write(self) -> dict[int, str]:
        """Apply everything; or nothing, and return the changes that need values which nobody here has, and why."""
        steps = self._steps()
        emptied = {item: truncation(self._connection, item) for item in steps if isinstance(item, Truncate)}
        if self._incomplete:
            return self._incomplete
        self._pipeline: Pipeline[_Sent] = Pipeline(self._connection, self._prepared)
        try:
            self._run(_BEGIN)
            if self._prepared.plans_are_old(len(self._job.frame)):
                self._run(_PLAN_AGAIN)
            if self._job.in_order and not self._job.is_replica:
                self._run(_DEFER)
            for step in steps:
                self._step(step, emptied)
            if self._is_looked_at:
                self._settle()
            if not self._incomplete:
                self._end()
        finally:
            self._pipeline.close()
        if self._incomplete:
            self._connection.rollback()
        return self._incomplete

    def _end(self) -> None:
        failpoint("sink.before_commit")
        frame = self._job.frame
        rows, size_bytes = len(frame), len(frame.body)
        # By name, so that two frames that move the same rows do not wait for each other.
        for guard in sorted(self._job.guards, key=lambda guard: guard.context.unit):
            is_own = guard is self._job.guards[0]
            text, parameters = guard.move_prepared(rows=rows * is_own, size_bytes=size_bytes * is_own)
            self._pipeline.run(text, parameters, _Sent())
        self._run(_COMMIT)
        self._pipeline.collect()
        failpoint("sink.after_commit")

    def _steps(self) -> Sequence[Step | Change]:
        """The frame as sets, or as its changes where they are applied in order."""
        job = self._job
        if job.in_order:
            items = list(job.items())
            self._is_looked_at = any(isinstance(item, Change) and item.lacks_values for item in items)
            return items
        steps = list(fold_steps(job.items(), overlap=job.overlap))
        for step in steps:
            if isinstance(step, Together):
                lost = (index for fold in step.folds.values() for index in fold.lost.values())
                self._incomplete.update(dict.fromkeys(lost, _FROM_ELSEWHERE))
        self._counts = len(steps) == 1 and len(job.frame) >= _MANY
        self._is_looked_at = self._counts or any(_may_lack(step) for step in steps)
        return steps

    # ------------------------------------------------------------------ in sets

    def _step(self, step: Step | Change, emptied: _Truncations) -> None:
        if isinstance(step, Truncate):
            for text in emptied[step]:
                self._pipeline.run_once(text, _Sent(step.shapes[0], (step.index,)))
        elif isinstance(step, Move):
            self._move(step.shape, step.old, step.new, step.index, lacks_values=step.lacks_values)
        elif isinstance(step, Together):
            self._together(step)
        elif step.shape.key:
            self._change(step)
        else:
            self._tally(step.shape, tally_of(step))

    def _together(self, step: Together) -> None:
        # What goes makes room for what comes, also in other tables.
        for shape, fold in step.folds.items():
            self._delete(shape, fold)
        for shape, tally in step.tallies.items():
            self._tally(shape, tally)
        for shape, fold in step.folds.items():
            self._put(shape, fold.whole.values())
            self._patch(shape, fold.parts.values())

    def _delete(self, shape: Shape, fold: Fold) -> None:
        assert shape.delete is not None, "what is folded has a key"
        for some in _batches(list(fold.gone.values())):
            keys = split([part.values for part in some], shape.key)
            self._send(shape.delete, [array_of(column) for column in keys], _Sent(shape, [part.place for part in some]))

    def _put(self, shape: Shape, rows: Iterable[Part]) -> None:
        for some in _batches(list(rows)):
            self._write_whole(shape, [part.values for part in some], [part.place for part in some])

    def _write_whole(self, shape: Shape, rows: list[Values], places: Sequence[int]) -> None:
        self._evict(shape, shape.written, rows, places)
        parameters = [array_of(column) for column in split(rows, shape.written)]
        every = tuple((statement, parameters) for statement in shape.upsert)
        if self._counts and shape.update is not None:
            self._send(shape.update, parameters, _Sent(shape, places, expected=len(rows), otherwise=every))
            return
        for statement, _ in every:
            self._send(statement, parameters, _Sent(shape, places))

    def _evict(self, shape: Shape, sent: Indexes, rows: Sequence[Values], places: Sequence[int]) -> None:
        """In an overlap a row that is in the way is from another moment: what comes yet writes it again."""
        for statement in shape.evictions(sent) if self._job.overlap else ():
            parameters = [array_of(column) for column in split(rows, statement.columns)]
            self._send(statement, parameters, _Sent(shape, places))

    def _patch(self, shape: Shape, parts: Iterable[Part]) -> None:
        alike: dict[tuple[int, ...], list[Part]] = {}
        for part in parts:
            alike.setdefault(shape.sent(part.values), []).append(part)
        for sent, found in alike.items():
            for some in _batches(found):
                self._send_patch(shape, sent, some)

    def _send_patch(self, shape: Shape, sent: tuple[int, ...], parts: Sequence[Part]) -> None:
        places = [part.place for part in parts]
        self._evict(shape, sent, [part.values for part in parts], places)
        parameters = [array_of(column) for column in split([part.values for part in parts], sent)]
        self._send(shape.patch(sent), [*parameters, numbers(places)], _Sent(shape, places, reports=True))

    def _tally(self, shape: Shape, tally: Tally) -> None:
        removed = [(row, -count) for row, count in tally.rows.items() if count < 0]
        for some in _batches(removed):
            parameters = [array_of(column) for column in split([row for row, _ in some], shape.written)]
            self._send(
                shape.remove,
                [*parameters, numbers([count for _, count in some])],
                _Sent(shape, [tally.places[row] for row, _ in some]),
            )
        added = [row for row, count in tally.rows.items() for _ in range(count)]
        for rows in _batches(added):
            parameters = [array_of(column) for column in split(rows, shape.written)]
            self._send(shape.add, parameters, _Sent(shape, [tally.places[row] for row in rows]))

    def _move(self, shape: Shape, old: Values, new: Values, index: int, *, lacks_values: bool) -> None:
        """Give the row its new key; where it was not there, write it whole, or ask for what was not sent."""
        if not lacks_values:
            self._rename(shape, old, new, index)
            return
        sent = shape.sent(new)
        columns = [array_of([new[place]]) for place in sent] + [array_of([old[place]]) for place in shape.key]
        self._send(shape.move(sent), columns, _Sent(shape, (index,), expected=1))

    # ----------------------------------------------------------------- in order

    def _change(self, change: Change) -> None:
        shape, old, new, index = change.shape, change.old, change.new, change.place
        before, after = change.keys()
        if new is None or before != after:
            assert old is not None, "only with its old row a change has two keys"
            if new is not None and shape.can_move and not self._job.overlap:
                # As the source has done it: foreign keys that point to the row bear that, and not a DELETE.
                self._move(shape, old, new, index, lacks_values=change.lacks_values)
                return
            self._remove_one(shape, old, index)
            if new is not None and change.lacks_values:
                self._incomplete[index] = _FROM_ELSEWHERE
                return
        if new is not None and change.lacks_values:
            self._send_patch(shape, shape.sent(new), [Part(new, index)])
        elif new is not None:
            self._write_whole(shape, [new], (index,))

    def _rename(self, shape: Shape, old: Values, new: Values, index: int) -> None:
        columns = [array_of([new[place]]) for place in shape.written] + [array_of([old[place]]) for place in shape.key]
        self._send(shape.move(shape.written), columns, _Sent(shape, (index,)))
        self._write_whole(shape, [new], (index,))

    def _remove_one(self, shape: Shape, old: Values, index: int) -> None:
        assert shape.delete is not None, "a table without key is counted"
        self._send(shape.delete, [array_of([old[place]]) for place in shape.key], _Sent(shape, (index,)))

    # ------------------------------------------------------------------ sending

    def _run(self, text: bytes) -> None:
        self._pipeline.run(text, (), _Sent())

    def _send(self, statement: Statement, parameters: Sequence[bytes | None], sent: _Sent) -> None:
        if statement.joins_freely:
            self._run(_JOIN_FREELY)
        self._pipeline.run(statement.text, parameters, sent)
        if statement.joins_freely:
            self._run(_JOIN_BY_INDEX)

    def _settle(self) -> None:
        """Look at what was counted, and write whole what was not there to be updated."""
        for sent in self._read(self._pipeline.collect()):
            for statement, parameters in sent.otherwise:
                self._send(statement, parameters, _Sent(sent.shape, sent.places))

    def _read(self, results: Sequence[tuple[_Sent, pq.abc.PGresult]]) -> list[_Sent]:
        """Take note of what is incomplete; returns the statements that changed fewer rows than expected."""
        short = []
        for sent, result in results:
            if sent.reports:
                found = {int(result.get_value(row, 0) or b"-1") for row in range(result.ntuples)}
                for index in sent.places:
                    if index not in found:
                        self._incomplete[index] = _NO_ROW
            elif sent.expected >= 0 and (result.command_tuples or 0) < sent.expected:
                if sent.otherwise:
                    short.append(sent)
                else:
                    self._incomplete[sent.places[0]] = _NO_ROW
        return short


def _may_lack(step: Step) -> bool:
    """Whether it sets values of rows that may not be there."""
    return (isinstance(step, Move) and step.lacks_values) or (
        isinstance(step, Together) and any(fold.parts for fold in step.folds.values())
    )


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        yield rows[start : start + _ROWS_A_STATEMENT]


def _is_written(connection: Connection, job: Job) -> bool:
    """Whether the ledger has this very frame: a repeat of it fails there, and after what it repeats."""
    if connection.pgconn.status != pq.ConnStatus.OK:
        return False
    connection.rollback()
    repeats = {guard.is_repeat(standing(connection, guard)) for guard in job.guards}
    if len(repeats) > 1:
        raise errors.PluginBugError("applying changes: the ledger has this write for some of its lanes alone")
    return repeats.pop()


def _translated(exc: psycopg.Error, sent: _Sent, job: Job) -> errors.DsyncError:
    code = exc.sqlstate or ""
    operation = "applying changes" if sent.shape is None else f"applying changes to {sent.shape.table.name}"
    if code in _MEET and not job.in_order:
        return errors.LanesMeetError(
            f"{operation}: {describe(exc)}; they are applied again in the order of their source"
        )
    if code in _CHANGED:
        namespace = "" if sent.shape is None else sent.shape.namespace
        return errors.NamespaceChangedError(
            f"{operation}: {describe(exc)}; the table was dropped or altered since the flow began; `dsync resync "
            f"FLOW --table {namespace or '…'}` copies it anew"
        ).about(namespace)
    translated = translate(exc, operation)
    if isinstance(translated, errors.RecordError):
        refused = errors.RecordError(f"{operation}: {describe(exc)}")
        # In a set the statement says of many changes that one of them is refused.
        return refused.at(sent.places[0]) if job.in_order and len(sent.places) == 1 else refused
    return translated
