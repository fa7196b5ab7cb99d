"""Flows in the store: made, found by what a person types, and deleted."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from dsync.state._part import Part, columns, value, values
from dsync.state.errors import FlowExistsError, FlowNotFoundError
from dsync.state.rows import FlowRow, JsonObject
from dsync.state.schema import flows

_ID_BYTES = 8
_SHORTEST_PREFIX = 4


class Flows(Part):
    def open_flow(self, *, name: str | None, fingerprint: str, spec: JsonObject) -> tuple[FlowRow, bool]:
        """The flow that this command means, made if there is none; True: it was made.

        A name alone finds its flow. Without one the fingerprint does: a flow without a name first, else the only
        one that has it. Two processes that ask at the same time get the same flow.

        Raises FlowExistsError: the name belongs to a flow with another fingerprint, or several named flows could
        be meant.
        """
        # A flow that is there is found without the right to write, which a process that hangs may keep from us.
        with self._database.reading() as connection:
            found = self._meant(connection, name, fingerprint)
        if found is not None:
            return found, False
        with self._database.writing(self._alone("")) as connection:
            found = self._meant(connection, name, fingerprint)
            if found is not None:
                return found, False
            return self._insert_flow(connection, secrets.token_hex(_ID_BYTES), name, fingerprint, spec), True

    def create_flow(self, *, name: str | None, fingerprint: str, spec: JsonObject, flow: str | None = None) -> FlowRow:
        """A new flow; with `flow`, under the id it had before its state was lost. Raises FlowExistsError."""
        with self._database.writing(self._alone("")) as connection:
            return self._insert_flow(connection, flow or secrets.token_hex(_ID_BYTES), name, fingerprint, spec)

    def find_flow(self, reference: str) -> FlowRow | None:
        """The flow with this name, id, or beginning of an id (four characters at least) that no other has."""
        with self._database.reading() as connection:
            exact = connection.execute(
                select(*columns(flows, FlowRow))
                .where(self._at(flows), or_(flows.c.name == reference, flows.c.flow == reference))
                .order_by(flows.c.name.is_(None))
            ).first()
            if exact is not None:
                return value(FlowRow, exact)
            if len(reference) < _SHORTEST_PREFIX:
                return None
            begin_so = connection.execute(
                select(*columns(flows, FlowRow))
                .where(self._at(flows), func.substr(flows.c.flow, 1, len(reference)) == reference.lower())
                .order_by(flows.c.flow)
            ).all()
        if len(begin_so) > 1:
            raise FlowNotFoundError(
                f"flow {reference}: {len(begin_so)} flows have an id that begins so "
                f"({', '.join(row.flow for row in begin_so[:5])}): give more of it"
            )
        return value(FlowRow, begin_so[0]) if begin_so else None

    def get_flow(self, reference: str) -> FlowRow:
        """As find_flow. Raises FlowNotFoundError where there is none."""
        found = self.find_flow(reference)
        if found is None:
            raise FlowNotFoundError(f"there is no flow {reference} in {self._database.title}: `dsync flows` lists them")
        return found

    def find_flow_by_name(self, name: str) -> FlowRow | None:
        with self._database.reading() as connection:
            row = connection.execute(select(*columns(flows, FlowRow)).where(self._at(flows, name=name))).first()
        return value(FlowRow, row) if row else None

    def find_flows_by_fingerprint(self, fingerprint: str) -> tuple[FlowRow, ...]:
        """All flows between these ends: the one without a name first, then by name."""
        with self._database.reading() as connection:
            return self._with_fingerprint(connection, fingerprint)

    def update_spec(self, flow: str, spec: JsonObject) -> FlowRow:
        """Record a changed specification (tuning, mode) as the next revision; an equal one changes nothing."""
        with self._writing(flow) as connection:
            found = self._by_id(connection, flow)
            if found.spec == spec:
                return found
            connection.execute(
                update(flows).where(self._at(flows, flow=flow)).values(spec=spec, spec_revision=found.spec_revision + 1)
            )
            return self._by_id(connection, flow)

    def list_flow_rows(self) -> tuple[FlowRow, ...]:
        """All flows, oldest first."""
        with self._database.reading() as connection:
            found = connection.execute(
                select(*columns(flows, FlowRow)).where(self._at(flows)).order_by(flows.c.created_at, flows.c.flow)
            )
            return tuple(value(FlowRow, row) for row in found)

    def _meant(self, connection: Connection, name: str | None, fingerprint: str) -> FlowRow | None:
        return self._named(connection, name, fingerprint) if name else self._unnamed(connection, fingerprint)

    def _named(self, connection: Connection, name: str, fingerprint: str) -> FlowRow | None:
        row = connection.execute(select(*columns(flows, FlowRow)).where(self._at(flows, name=name))).first()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise FlowExistsError(
                f"flow {name} exists with other ends, namespaces or transforms: choose another --flow name, or forget "
                f"that one with `dsync reset {name}`"
            )
        return value(FlowRow, row)

    def _unnamed(self, connection: Connection, fingerprint: str) -> FlowRow | None:
        found = self._with_fingerprint(connection, fingerprint)
        if len(found) > 1 and found[0].name is not None:
            raise FlowExistsError(
                f"{len(found)} flows run between these ends ({', '.join(str(flow.name) for flow in found)}): "
                "say which one with --flow NAME"
            )
        return found[0] if found else None

    def _with_fingerprint(self, connection: Connection, fingerprint: str) -> tuple[FlowRow, ...]:
        found = connection.execute(
            select(*columns(flows, FlowRow))
            .where(self._at(flows, fingerprint=fingerprint))
            .order_by(flows.c.name.is_not(None), flows.c.name)
        )
        return tuple(value(FlowRow, row) for row in found)

    def _by_id(self, connection: Connection, flow: str) -> FlowRow:
        row = connection.execute(select(*columns(flows, FlowRow)).where(self._at(flows, flow=flow))).first()
        if row is None:
            raise FlowNotFoundError(f"there is no flow {flow} in {self._database.title}: `dsync flows` lists them")
        return value(FlowRow, row)

    def _insert_flow(
        self, connection: Connection, flow: str, name: str | None, fingerprint: str, spec: JsonObject
    ) -> FlowRow:
        made = FlowRow(
            flow=flow,
            name=name,
            fingerprint=fingerprint,
            spec=spec,
            spec_revision=1,
            created_at=self._database.now(),
        )
        try:
            connection.execute(insert(flows).values(workspace=self._workspace, **values(made)))
        except IntegrityError as exc:
            raise FlowExistsError(
                f"flow {name or flow} exists already (or one without a name between the same ends): `dsync flows` "
                "lists them"
            ) from exc
        return made
