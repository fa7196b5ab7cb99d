"""Requests in the store: what other commands ask of the process that runs a flow."""

from __future__ import annotations

from sqlalchemy import and_, func, insert, select, update

from dsync.state._part import Part, columns, value, values
from dsync.state.rows import JsonObject, RequestRow
from dsync.state.schema import requests


class Requests(Part):
    def add_request(self, flow: str, kind: str, args: JsonObject | None = None) -> RequestRow:
        """Ask something of whoever runs the flow, now or next."""
        # Whoever asks does not hold the flow, so there is no fence to look at.
        with self._database.writing(self._alone(flow)) as connection:
            last = connection.execute(
                select(func.max(requests.c.request)).where(self._at(requests, flow=flow))
            ).scalar()
            made = RequestRow(
                flow=flow, request=(last or 0) + 1, kind=kind, args=dict(args or {}), created_at=self._database.now()
            )
            connection.execute(insert(requests).values(workspace=self._workspace, **values(made)))
            return made

    def take_requests(self, flow: str, *, since: int = 0) -> tuple[RequestRow, ...]:
        """What is not done yet, in the order asked: also what an earlier holder took and did not finish.

        Of those after number `since` alone: what whoever asks has seen already may wait in its hands.
        """
        waits = and_(self._at(requests, flow=flow), requests.c.done_at.is_(None), requests.c.request > since)
        with self._database.reading() as connection:
            waiting = connection.execute(select(requests.c.request).where(waits).limit(1)).first()
        # Asked every second or two: it must not write where there is nothing to take.
        if waiting is None:
            return ()
        with self._writing(flow) as connection:
            connection.execute(
                update(requests).where(waits, requests.c.taken_at.is_(None)).values(taken_at=self._database.now())
            )
            found = connection.execute(select(*columns(requests, RequestRow)).where(waits).order_by(requests.c.request))
            return tuple(value(RequestRow, row) for row in found)

    def complete_request(self, flow: str, request: int, outcome: JsonObject | None = None) -> None:
        """Record that it was done, and how it went; what is done stays as it was done first."""
        with self._writing(flow) as connection:
            connection.execute(
                update(requests)
                .where(self._at(requests, flow=flow, request=request), requests.c.done_at.is_(None))
                .values(done_at=self._database.now(), outcome=dict(outcome or {}))
            )

    def get_request(self, flow: str, request: int) -> RequestRow | None:
        """None: the flow was reset meanwhile."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(*columns(requests, RequestRow)).where(self._at(requests, flow=flow, request=request))
            ).first()
        return value(RequestRow, row) if row else None

    def open_requests(self, flow: str = "") -> tuple[RequestRow, ...]:
        """Those that are not done, of one flow or of all, in the order asked; taken or not."""
        of = self._at(requests, flow=flow) if flow else self._at(requests)
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(requests, RequestRow))
                .where(of, requests.c.done_at.is_(None))
                .order_by(requests.c.flow, requests.c.request)
            )
            return tuple(value(RequestRow, row) for row in found)

    def list_requests(self, flow: str) -> tuple[RequestRow, ...]:
        """All of them, in the order asked."""
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(requests, RequestRow)).where(self._at(requests, flow=flow)).order_by(requests.c.request)
            )
            return tuple(value(RequestRow, row) for row in found)
