"""What the store keeps to be read later: dead letters, events, and how far a verify has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dsync.protocol.types import PageType
from dsync.state._part import Part, columns, value, values
from dsync.state.errors import UnitGoneError
from dsync.state.rows import DeadLetterRow, EventRow, LetterRef, VerifyRow
from dsync.state.schema import dead_letters, events, verify_progress

_LETTER_KEY = ("workspace", "flow", "run", "unit", "sink", "cursor_digest", "row_index")


class Records(Part):
    def add_dead_letters(self, flow: str, run: str, letters: Iterable[DeadLetterRow]) -> None:
        """Keep records that a sink refused; durable on return. Adding one again leaves one, with the newest reason."""
        now = self._database.now()
        key = {"workspace": self._workspace, "flow": flow, "run": run}
        rows = [{**key, **values(letter), "created_at": letter.created_at or now} for letter in letters]
        if not rows:
            return
        upsert = self._database.upsert(dead_letters)
        fresh = {column.name: column for column in upsert.excluded if column.name not in (*_LETTER_KEY, "created_at")}
        with self._writing(flow) as connection:
            try:
                connection.execute(upsert.on_conflict_do_update(index_elements=list(_LETTER_KEY), set_=fresh), rows)
            except IntegrityError as exc:
                raise UnitGoneError(
                    f"keeping dead letters of flow {flow}, run {run}: the plan has no such unit (any more)"
                ) from exc

    def list_dead_letters(
        self, flow: str, run: str, *, namespace: str | None = None, limit: int | None = None, resolved: bool = False
    ) -> tuple[DeadLetterRow, ...]:
        """Oldest first; those that were dealt with only where they are asked for."""
        query = select(*columns(dead_letters, DeadLetterRow)).where(self._at(dead_letters, flow=flow, run=run))
        if not resolved:
            query = query.where(dead_letters.c.resolution == "")
        if namespace is not None:
            query = query.where(dead_letters.c.namespace == namespace)
        key = (dead_letters.c[name] for name in ("created_at", "unit", "cursor_digest", "row_index"))
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(*key).limit(limit))
            return tuple(value(DeadLetterRow, row) for row in found)

    def count_dead_letters(self, flow: str, run: str) -> Mapping[str, int]:
        """Those that wait, by namespace; one without any is absent."""
        query = (
            select(dead_letters.c.namespace, func.count().label("letters"))
            .where(self._at(dead_letters, flow=flow, run=run), dead_letters.c.resolution == "")
            .group_by(dead_letters.c.namespace)
            .order_by(dead_letters.c.namespace)
        )
        with self._database.reading() as connection:
            return {row.namespace: row.letters for row in connection.execute(query)}

    def refused_changes(self, flow: str, run: str) -> tuple[LetterRef, ...]:
        """Which changes of a stream wait, without what they hold."""
        query = select(*columns(dead_letters, LetterRef)).where(
            self._at(dead_letters, flow=flow, run=run),
            dead_letters.c.page_type == PageType.UNKNOWN,
            dead_letters.c.resolution == "",
        )
        with self._database.reading() as connection:
            return tuple(value(LetterRef, row) for row in connection.execute(query))

    def resolve_dead_letter(self, flow: str, run: str, letter: DeadLetterRow, resolution: str) -> None:
        """Note that it was dealt with, and forget what it held. Repeatable."""
        self.resolve_dead_letters(flow, run, [letter.ref], resolution)

    def resolve_dead_letters(self, flow: str, run: str, letters: Iterable[LetterRef], resolution: str) -> None:
        """The same of several, in one transaction."""
        done = {"resolution": resolution, "resolved_at": self._database.now(), "payload": b""}
        with self._writing(flow) as connection:
            for letter in letters:
                key = {name: getattr(letter, name) for name in ("unit", "sink", "cursor_digest", "row_index")}
                connection.execute(
                    update(dead_letters).where(self._at(dead_letters, flow=flow, run=run, **key)).values(**done)
                )

    def append_events(self, flow: str, happened: Iterable[EventRow]) -> int:
        """Add events at the end, in this order and in one transaction; returns the number of the last one."""
        now = self._database.now()
        # Also written by commands that do not hold the flow, hence without a look at the fence.
        with self._database.writing(self._alone(flow)) as connection:
            last = connection.execute(select(func.max(events.c.seq)).where(self._at(events, flow=flow))).scalar() or 0
            key = {"workspace": self._workspace, "flow": flow}
            rows = [
                {**key, **values(row), "seq": last + place, "at": row.at or now}
                for place, row in enumerate(happened, start=1)
            ]
            if rows:
                connection.execute(insert(events), rows)
            return last + len(rows)

    def list_events(self, flow: str, *, since: int = 0, limit: int | None = None) -> tuple[EventRow, ...]:
        """Events after that number, in order."""
        query = select(*columns(events, EventRow)).where(self._at(events, flow=flow), events.c.seq > since)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(events.c.seq).limit(limit))
            return tuple(value(EventRow, row) for row in found)

    def save_verify_progress(self, pair: str, run: str, results: Iterable[VerifyRow]) -> None:
        """Record results of ranges; `pair` is the flow's id, or that of the two ends. Repeatable."""
        key = {"workspace": self._workspace, "pair": pair, "run": run}
        rows = [{**key, **values(result)} for result in results]
        if not rows:
            return
        upsert = self._database.upsert(verify_progress)
        with self._database.writing() as connection:
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=[*key, "namespace", "ordinal"], set_={"result": upsert.excluded.result}
                ),
                rows,
            )

    def load_verify_progress(self, pair: str, run: str) -> tuple[VerifyRow, ...]:
        """By namespace and range."""
        query = (
            select(*columns(verify_progress, VerifyRow))
            .where(self._at(verify_progress, pair=pair, run=run))
            .order_by(verify_progress.c.namespace, verify_progress.c.ordinal)
        )
        with self._database.reading() as connection:
            return tuple(value(VerifyRow, row) for row in connection.execute(query))

    def clear_verify_progress(self, pair: str, run: str | None = None) -> int:
        """Forget the results of one run, or of all runs of the pair; returns how many there were."""
        key = {"pair": pair} | ({"run": run} if run is not None else {})
        with self._database.writing() as connection:
            return connection.execute(delete(verify_progress).where(self._at(verify_progress, **key))).rowcount
