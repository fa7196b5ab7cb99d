"""What the parts of the store share: the workspace in every key, the fence before every write, rows as values."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, select

from dsync.state.database import Database
from dsync.state.errors import FencedError
from dsync.state.rows import Lease
from dsync.state.schema import leases

_T = TypeVar("_T")


class Part:
    """A group of the store's methods over one connection."""

    def __init__(self, database: Database, workspace: str) -> None:
        self._database = database
        self._workspace = workspace
        self._held: dict[str, Lease] = {}
        """By flow: what this store has acquired and not released."""

    @contextlib.contextmanager
    def _writing(self, flow: str) -> Iterator[Connection]:
        """A transaction that writes for a flow; FencedError where this store held the flow and lost it."""
        with self._database.writing(self._alone(flow)) as connection:
            held = self._held.get(flow)
            if held is not None:
                self._check_fence(connection, held)
            yield connection

    def _alone(self, flow: str) -> str:
        """What a transaction names so that no other one for this flow runs beside it; "": for making flows."""
        return f"flow {self._workspace}/{flow}"

    def _check_fence(self, connection: Connection, lease: Lease) -> None:
        fence = connection.execute(
            select(leases.c.fence).where(self._at(leases, flow=lease.flow, unit=lease.unit))
        ).scalar()
        if fence != lease.fence:
            raise fenced(lease)

    def _at(self, table: Table, **key: object) -> ColumnElement[bool]:
        """The rows of this workspace whose columns have these values."""
        return and_(table.c.workspace == self._workspace, *(table.c[name] == value for name, value in key.items()))


def fenced(lease: Lease) -> FencedError:
    what = f"flow {lease.flow}" + (f", unit {lease.unit}" if lease.unit else "")
    return FencedError(
        f"writing for {what}: another process has taken it over (our fence was {lease.fence}); nothing more is written "
        "here, and `dsync status` says who runs it"
    )


def columns(table: Table, kind: type[Any]) -> list[Any]:
    """The columns that make a row of this dataclass, whose fields bear their names."""
    return [table.c[field.name] for field in dataclasses.fields(kind)]


def value(kind: type[_T], row: Row[Any]) -> _T:
    return kind(**row._mapping)


def values(row: Any) -> dict[str, Any]:
    """A dataclass's fields, one level deep."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
