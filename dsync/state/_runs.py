"""Runs in the store: each use of a flow, its phase and how it ended."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update

from dsync.state._part import Part, columns, value, values
from dsync.state.errors import FlowNotFoundError
from dsync.state.rows import JsonObject, Phase, RunRow
from dsync.state.schema import flows, runs, to_us

_ID_BYTES = 6


class Runs(Part):
    def new_run(
        self,
        flow: str,
        *,
        mode: str,
        run: str | None = None,
        phase: Phase = Phase.CHECKING,
        extra: JsonObject | None = None,
    ) -> RunRow:
        """The flow's next run, with the specification as it is now; `run` is its id before the state was lost."""
        with self._writing(flow) as connection:
            spec = connection.execute(
                select(flows.c.spec, flows.c.spec_revision).where(self._at(flows, flow=flow))
            ).first()
            if spec is None:
                raise FlowNotFoundError(f"there is no flow {flow} in {self._database.title}: `dsync flows` lists them")
            last = connection.execute(select(func.max(runs.c.number)).where(self._at(runs, flow=flow))).scalar()
            made = RunRow(
                flow=flow,
                run=run or secrets.token_hex(_ID_BYTES),
                number=(last or 0) + 1,
                mode=mode,
                spec=spec.spec,
                spec_revision=spec.spec_revision,
                phase=phase,
                started_at=self._database.now(),
                extra=dict(extra or {}),
            )
            connection.execute(insert(runs).values(workspace=self._workspace, **values(made)))
            return made

    def get_run(self, flow: str, run: str) -> RunRow | None:
        with self._database.reading() as connection:
            row = connection.execute(select(*columns(runs, RunRow)).where(self._at(runs, flow=flow, run=run))).first()
        return value(RunRow, row) if row else None

    def latest_run(self, flow: str) -> RunRow | None:
        with self._database.reading() as connection:
            row = connection.execute(
                select(*columns(runs, RunRow)).where(self._at(runs, flow=flow)).order_by(runs.c.number.desc()).limit(1)
            ).first()
        return value(RunRow, row) if row else None

    def list_runs(self, flow: str) -> tuple[RunRow, ...]:
        """All runs of a flow, the first one first."""
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(runs, RunRow)).where(self._at(runs, flow=flow)).order_by(runs.c.number)
            )
            return tuple(value(RunRow, row) for row in found)

    def set_phase(self, flow: str, run: str, phase: Phase, *, error: JsonObject | None = None) -> None:
        """Record how far the run has come; a run that goes on has no error and no end any more."""
        self._change(flow, run, phase=phase, error=error, finished_at=None)

    def finish_run(
        self,
        flow: str,
        run: str,
        phase: Phase,
        *,
        consistent: bool | None = None,
        error: JsonObject | None = None,
        summary: JsonObject | None = None,
        finished_at: datetime | None = None,
    ) -> None:
        """Record how the run ended, and when (None: now). A failed one can go on with set_phase."""
        self._change(
            flow,
            run,
            phase=phase,
            consistent=consistent,
            error=error,
            summary=summary,
            finished_at=finished_at or self._database.now(),
        )

    def set_endpoints(self, flow: str, run: str, *, source_id: str, sink_ids: Mapping[str, str]) -> None:
        """Record who answered behind the names, so that a resume can tell another server."""
        self._change(flow, run, source_id=source_id, sink_ids=dict(sink_ids))

    def set_snapshot(self, flow: str, run: str, snapshot: bytes) -> None:
        """Record the snapshot alone; where namespaces are read again because of it, use `apply_verdicts`."""
        self._change(flow, run, snapshot=snapshot)

    def set_extra(self, flow: str, run: str, extra: JsonObject) -> None:
        self._change(flow, run, extra=dict(extra))

    def note_stream(self, flow: str, run: str, figures: JsonObject) -> None:
        """Keep where a stream stands with the run's `extra`, and when that was; whatever else is there stays."""
        with self._writing(flow) as connection:
            extra = connection.execute(select(runs.c.extra).where(self._at(runs, flow=flow, run=run))).scalar()
            if extra is None:
                raise FlowNotFoundError(f"flow {flow} has no run {run}: it was reset meanwhile")
            noted = {**figures, "at_us": to_us(self._database.now())}
            connection.execute(
                update(runs).where(self._at(runs, flow=flow, run=run)).values(extra={**extra, "stream": noted})
            )

    def _change(self, flow: str, run: str, **changed: Any) -> None:
        with self._writing(flow) as connection:
            count = connection.execute(
                update(runs).where(self._at(runs, flow=flow, run=run)).values(**changed)
            ).rowcount
            if not count:
                raise FlowNotFoundError(f"flow {flow} has no run {run}: it was reset meanwhile")
