"""The store: all that dsync remembers between two commands, in one file or in one schema on a PostgreSQL server.

Every method is one short transaction, and what it has written is on the disk when it returns. They are synchronous
and may be called from any thread: a read of a file takes well under a millisecond and can be called directly from a
coroutine; a write waits for the disk, and a server for the network, so a coroutine calls them through
`asyncio.to_thread`. Threads take turns.

Each raises, besides what it says itself, StateFullError, StateBusyError and StateUnreachableError (later it may work)
and StateUnavailableError, StateCorruptError and StateUncertainError (only a person can help).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sqlalchemy import delete, func, select

from dsync.sdk.redaction import redact_uri
from dsync.state._flows import Flows
from dsync.state._leases import Leases
from dsync.state._part import columns, value
from dsync.state._plans import Plans
from dsync.state._records import Records
from dsync.state._requests import Requests
from dsync.state._runs import Runs
from dsync.state.database import Clock, Database
from dsync.state.location import parse_location
from dsync.state.opening import open_database
from dsync.state.rows import DEFAULT_WORKSPACE, FlowSummary, RunRow
from dsync.state.schema import FLOW_TABLES, leases, runs, verify_progress


class Store(Flows, Runs, Plans, Leases, Requests, Records):
    """One workspace of one state. The methods stand in the modules named after what they keep:

    - `_flows`: open_flow, create_flow, find_flow, get_flow, find_flow_by_name, find_flows_by_fingerprint, update_spec,
      list_flow_rows
    - `_runs`: new_run, get_run, latest_run, list_runs, set_phase, finish_run, set_endpoints, set_snapshot, set_extra,
      note_stream
    - `_plans`: save_plan, add_units, load_namespaces, load_units, set_namespace_state, replace_units, apply_verdicts,
      retired_units, namespace_cleared
    - `_checkpoints`: save_checkpoint(s), load_checkpoint(s), totals, namespace_totals
    - `_leases`: acquire_lease, renew_lease, release_lease, get_lease, list_leases
    - `_requests`: add_request, take_requests, complete_request; get_request, open_requests, list_requests
    - here: open, close, check_integrity, list_flows, delete_flow
    - `_records`: add_, list_, count_dead_letters, refused_changes, resolve_; append_events, list_events; save_, load_,
      clear_verify_progress
    """

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str] | None = None,
        *,
        create: bool = True,
        workspace: str = DEFAULT_WORKSPACE,
        clock: Clock | None = None,
    ) -> Self:
        """Open the state that `--state` names (None: the default one), check it, and migrate it if it is older.

        Raises:
            RequestError: the value is not one that this version supports.
            StateMissingError: there is none, and `create` is false.
            StateCorruptError: it is damaged.
            StateFromTheFutureError: a newer dsync wrote it.
            StateIncompleteError: tables of it are missing.
            NotAStateError: it is another program's database.
        """
        store = cls(open_database(parse_location(location), create=create, clock=clock), workspace)
        store.named = redact_uri(os.fspath(location)) if location else ""
        return store

    def __init__(self, database: Database, workspace: str = DEFAULT_WORKSPACE) -> None:
        super().__init__(database, workspace)
        self.title = database.title
        self.named = ""
        """What `--state` is to be given to find it again, without a password; empty: it is the default one."""
        self.clock = database.clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; leases are not released. Repeatable."""
        self._database.close()

    def check_integrity(self) -> None:
        """Look for damage that opening does not. Raises StateCorruptError."""
        self._database.check_integrity()

    def delete_flow(self, flow: str) -> Mapping[str, int]:
        """Forget a flow and everything about it; returns how many rows of each table went.

        Raises LeaseHeldError where it is running, and not by this store's leave.
        """
        with self._writing(flow) as connection:
            self._by_id(connection, flow)
            for lease in connection.execute(select(leases).where(self._at(leases, flow=flow))).all():
                if flow not in self._held:
                    self._refuse_if_held(lease)
            removed = {
                "verify_progress": connection.execute(
                    delete(verify_progress).where(self._at(verify_progress, pair=flow))
                ).rowcount
            }
            for table in FLOW_TABLES:
                removed[table.name] = connection.execute(delete(table).where(self._at(table, flow=flow))).rowcount
        self._held.pop(flow, None)
        return removed

    def list_flows(self) -> tuple[FlowSummary, ...]:
        """Every flow with its latest run, what has arrived so far, and who runs it; oldest first."""
        latest = self._latest_runs()
        held = self.list_leases()
        return tuple(
            FlowSummary(
                flow=flow,
                run=run,
                totals=self.totals(flow.flow, run.run) if run else (),
                dead_letters=sum(self.count_dead_letters(flow.flow, run.run).values()) if run else 0,
                lease=held.get(flow.flow),
            )
            for flow in self.list_flow_rows()
            for run in (latest.get(flow.flow),)
        )

    def _latest_runs(self) -> dict[str, RunRow]:
        newest = (
            select(runs.c.flow, func.max(runs.c.number).label("number"))
            .where(self._at(runs))
            .group_by(runs.c.flow)
            .subquery()
        )
        query = (
            select(*columns(runs, RunRow))
            .where(self._at(runs))
            .join(newest, (newest.c.flow == runs.c.flow) & (newest.c.number == runs.c.number))
        )
        with self._database.reading() as connection:
            return {row.flow: value(RunRow, row) for row in connection.execute(query)}
