"""Leases in the store: one holder a flow, and a fence that grows with each."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, Row, select, update

from dsync.state._part import Part, fenced
from dsync.state.database import Database
from dsync.state.errors import LeaseHeldError
from dsync.state.holder import is_gone, is_here, is_stopped
from dsync.state.rows import DEFAULT_TTL_S, Holder, Lease, LeaseRow
from dsync.state.schema import from_us, leases, to_us

_US = 1_000_000


class Leases(Part):
    def __init__(self, database: Database, workspace: str) -> None:
        super().__init__(database, workspace)
        self._seen: dict[tuple[str, str], tuple[tuple[int, int], int]] = {}
        """By lease: its fence and renewals when we looked, and since when (uptime) they have been the same."""

    def acquire_lease(self, flow: str, holder: Holder, *, ttl_s: float = DEFAULT_TTL_S, unit: str = "") -> Lease:
        """Take a flow (or one unit) and raise its fence: whoever held it before can write nothing more.

        It is free when it was released, has run out, or was held by a process of this host that is gone. From now
        on every write of this store for that flow first looks whether the fence is still ours.

        Raises LeaseHeldError, which names the holder and how long the lease still runs.
        """
        # Looked at before the right to write is taken: a holder that was stopped may keep just that from us.
        with self._database.reading() as connection:
            self._refuse_others(self._select_lease(connection, flow, unit), holder)
        with self._database.writing(self._alone(flow)) as connection:
            row = self._select_lease(connection, flow, unit)
            self._refuse_others(row, holder)
            lease = Lease(flow=flow, unit=unit, fence=(row.fence if row else 0) + 1, holder=holder, ttl_s=ttl_s)
            key = {"workspace": self._workspace, "flow": flow, "unit": unit}
            taken = {"fence": lease.fence, "holder": asdict(holder), "renewals": 0, **self._until(ttl_s)}
            upsert = self._database.upsert(leases).values(**key, **taken)
            connection.execute(upsert.on_conflict_do_update(index_elements=list(key), set_=taken))
        if not unit:
            self._held[flow] = lease
        return lease

    def renew_lease(self, lease: Lease) -> None:
        """Let the lease run for its whole time again, even after it has run out if nobody has taken it since.

        Raises FencedError: somebody has, or it was released.
        """
        with self._database.writing(self._alone(lease.flow)) as connection:
            count = connection.execute(
                update(leases)
                .where(
                    self._at(leases, flow=lease.flow, unit=lease.unit, fence=lease.fence), leases.c.holder.is_not(None)
                )
                .values(renewals=leases.c.renewals + 1, **self._until(lease.ttl_s))
            ).rowcount
            if not count:
                raise fenced(lease)

    def release_lease(self, lease: Lease) -> None:
        """Let the next one in at once. Nothing happens where it was taken over. Repeatable."""
        with self._database.writing(self._alone(lease.flow)) as connection:
            connection.execute(
                update(leases)
                .where(self._at(leases, flow=lease.flow, unit=lease.unit, fence=lease.fence))
                .values(holder=None, expires_at=self._database.now())
            )
        if self._held.get(lease.flow) == lease:
            del self._held[lease.flow]

    def get_lease(self, flow: str, unit: str = "") -> LeaseRow | None:
        """Who holds a flow, and for how long; None: nobody ever has."""
        with self._database.reading() as connection:
            row = self._select_lease(connection, flow, unit)
            return self._lease_row(row) if row is not None else None

    def list_leases(self) -> dict[str, LeaseRow]:
        """Of whole flows, by flow."""
        with self._database.reading() as connection:
            rows = connection.execute(select(leases).where(self._at(leases, unit=""))).all()
            return {row.flow: self._lease_row(row) for row in rows}

    def _refuse_others(self, row: Row[Any] | None, holder: Holder) -> None:
        if row is not None and row.holder is not None and row.holder["nonce"] != holder.nonce:
            self._refuse_if_held(row)

    def _refuse_if_held(self, row: Row[Any]) -> None:
        remaining_us = self._remaining_us(row)
        if remaining_us > 0:
            raise _held(row.flow, _holder_of(row), remaining_us / _US)

    def _select_lease(self, connection: Connection, flow: str, unit: str) -> Row[Any] | None:
        return connection.execute(select(leases).where(self._at(leases, flow=flow, unit=unit))).first()

    def _until(self, ttl_s: float) -> dict[str, Any]:
        ttl_us = int(ttl_s * _US)
        clock = self._database.clock
        return {
            "ttl_us": ttl_us,
            "expires_at": from_us(clock.now_us() + ttl_us),
            "expires_uptime_us": clock.uptime_us() + ttl_us,
        }

    def _remaining_us(self, row: Row[Any]) -> int:
        """How long the lease still keeps others out; 0 where it no longer does.

        Where holder and we share a machine its uptime decides, which nobody can set. Else the time of day does: but
        a clock that was set back would make a lease of the dead run for as long, so one that we have watched for
        its whole time without seeing it renewed has run out as well.
        """
        if row.holder is None:
            return 0
        holder = _holder_of(row)
        uptime_us = self._database.clock.uptime_us()
        if is_here(holder):
            return 0 if is_gone(holder) else max(0, int(row.expires_uptime_us) - uptime_us)
        state = (row.fence, row.renewals)
        seen, since_us = self._seen.get((row.flow, row.unit), (None, 0))
        if seen != state:
            since_us = uptime_us
            self._seen[row.flow, row.unit] = (state, since_us)
        by_time_us = to_us(row.expires_at) - self._database.clock.now_us()
        return max(0, min(by_time_us, since_us + int(row.ttl_us) - uptime_us))

    def _lease_row(self, row: Row[Any]) -> LeaseRow:
        return LeaseRow(
            flow=row.flow,
            unit=row.unit,
            fence=row.fence,
            holder=_holder_of(row) if row.holder is not None else None,
            expires_at=row.expires_at,
            remaining_s=self._remaining_us(row) / _US,
        )


def _holder_of(row: Row[Any]) -> Holder:
    return Holder(**{field.name: row.holder[field.name] for field in fields(Holder)})


def _held(flow: str, holder: Holder, remaining_s: float) -> LeaseHeldError:
    here = is_here(holder)
    if here and is_stopped(holder.pid):
        advice = (
            "that process is stopped (by SIGSTOP, Ctrl-Z or a debugger): let it go on with "
            f"`kill -CONT {holder.pid}`, or end it with `kill -9 {holder.pid}` and give the same command again"
        )
    elif here:
        advice = "stop that process, or wait for it"
    else:
        advice = "it is free then if that process has ended without releasing it"
    return LeaseHeldError(
        f"flow {flow} is run by process {holder.pid} on {holder.host}, whose lease runs for another "
        f"{remaining_s:.0f} s: {advice}",
        host=holder.host,
        pid=holder.pid,
        remaining_s=remaining_s,
        here=here,
    )
