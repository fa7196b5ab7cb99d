"""The tables of the store, as the newest migration leaves them, and how their columns become Python values.

Every key begins with the workspace. Only what SQLite and PostgreSQL both have is used. The migrations in
`dsync.state.migrations` make these tables; a test compares the two.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect

from dsync.protocol.types import PageType
from dsync.state.errors import StateFromTheFutureError
from dsync.state.rows import NamespaceState, Phase, UnitKind

REVISIONS = ("0001", "0002")
"""Every schema revision this version knows, oldest first; here too, so that opening needs no Alembic."""
HEAD = REVISIONS[-1]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_E = TypeVar("_E", bound=enum.StrEnum)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(value_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value_us)


class Moment(TypeDecorator[datetime]):
    """An aware datetime as microseconds since 1970: exact, ordered, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_us(value)


class Strings(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings as a JSON list."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> list[str]:
        return list(value or ())

    def process_result_value(self, value: list[str] | None, dialect: Dialect) -> tuple[str, ...]:
        return tuple(value or ())


class Named(TypeDecorator[_E], Generic[_E]):
    """A string enumeration as text; a name that only a newer dsync knows is a named error, not a guess."""

    impl = Text
    cache_ok = True

    def __init__(self, names: type[_E]) -> None:
        super().__init__()
        self.names = names

    def process_bind_param(self, value: _E | None, dialect: Dialect) -> str | None:
        return None if value is None else value.value

    def process_result_value(self, value: str | None, dialect: Dialect) -> _E | None:
        if value is None:
            return None
        try:
            return self.names(value)
        except ValueError as exc:
            raise StateFromTheFutureError(
                f"reading the state: it says {self.names.__name__} {value!r}, which only a newer dsync knows; "
                "use the version that wrote it, or a newer one"
            ) from exc


class PageTypeNumber(TypeDecorator[PageType]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: PageType | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> PageType | None:
        return None if value is None else PageType(value)


metadata = MetaData()


def _key(*names: str) -> list[Column[Any]]:
    return [Column(name, Text, primary_key=True) for name in ("workspace", *names)]


def _within(parent: str, *names: str) -> ForeignKeyConstraint:
    columns = ["workspace", *names]
    return ForeignKeyConstraint(columns, [f"{parent}.{name}" for name in columns], name=None)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


store_meta = Table(
    "store_meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""About the state itself: `dsync_version` is the version that migrated it last."""

alembic_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own, just as it makes it, hence not among ours: the revision of the schema."""

flows = Table(
    "flows",
    metadata,
    *_key("flow"),
    Column("name", Text),
    Column("fingerprint", Text, nullable=False),
    _json("spec"),
    Column("spec_revision", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    UniqueConstraint("workspace", "name"),
)
# Two names over the same ends are two flows; without a name there is one.
Index(
    "flows_unnamed",
    flows.c.workspace,
    flows.c.fingerprint,
    unique=True,
    sqlite_where=text("name IS NULL"),
    postgresql_where=text("name IS NULL"),
)
Index("flows_fingerprint", flows.c.workspace, flows.c.fingerprint)

runs = Table(
    "runs",
    metadata,
    *_key("flow", "run"),
    Column("number", Integer, nullable=False),
    Column("mode", Text, nullable=False),
    _json("spec"),
    Column("spec_revision", Integer, nullable=False),
    Column("phase", Named(Phase), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("consistent", Boolean),
    _json("error", nullable=True),
    _json("summary", nullable=True),
    Column("snapshot", LargeBinary, nullable=False),
    Column("source_id", Text, nullable=False),
    _json("sink_ids"),
    _json("extra"),
    UniqueConstraint("workspace", "flow", "number"),
    _within("flows", "flow"),
)

namespaces = Table(
    "namespaces",
    metadata,
    *_key("flow", "run", "namespace", "sink"),
    Column("target", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("page_type", PageTypeNumber, nullable=False),
    Column("columns", Strings, nullable=False),
    Column("upsert", Boolean, nullable=False),
    Column("existed", Boolean, nullable=False),
    Column("estimated_rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", Named(NamespaceState), nullable=False),
    Column("reason", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    _within("runs", "flow", "run"),
)

units = Table(
    "units",
    metadata,
    *_key("flow", "run", "unit"),
    Column("kind", Named(UnitKind), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("sink", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    # Of a partition:
    Column("header", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("cursor", LargeBinary, nullable=False),
    Column("estimated_count", BigInteger, nullable=False),
    # Of a finish step:
    _json("step", nullable=True),
    Column("payload", LargeBinary, nullable=False),
    _within("runs", "flow", "run"),
    Index("units_namespace", "workspace", "flow", "run", "namespace"),
)

retired_units = Table(
    "retired_units",
    metadata,
    *_key("flow", "run", "unit"),
    Column("namespace", Text, nullable=False),
    _within("runs", "flow", "run"),
)
"""Partitions that were planned anew, until no sink holds a row of theirs."""

checkpoints = Table(
    "checkpoints",
    metadata,
    *_key("flow", "run", "unit", "sink"),
    Column("cursor", LargeBinary, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("updated_at", Moment, nullable=False),
    _within("units", "flow", "run", "unit"),
)

leases = Table(
    "leases",
    metadata,
    *_key("flow", "unit"),
    Column("fence", BigInteger, nullable=False),
    _json("holder", nullable=True),
    Column("expires_at", Moment, nullable=False),
    # The same moment on the clock of the machine that the holder runs on, which nobody can set.
    Column("expires_uptime_us", BigInteger, nullable=False),
    Column("ttl_us", BigInteger, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    _within("flows", "flow"),
)

requests = Table(
    "requests",
    metadata,
    *_key("flow"),
    Column("request", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    _json("args"),
    Column("created_at", Moment, nullable=False),
    Column("taken_at", Moment),
    Column("done_at", Moment),
    _json("outcome", nullable=True),
    _within("flows", "flow"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    *_key("flow", "run", "unit", "sink"),
    Column("cursor_digest", LargeBinary, primary_key=True),
    Column("row_index", BigInteger, primary_key=True, autoincrement=False),
    Column("namespace", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error_class", Text, nullable=False),
    Column("page_type", PageTypeNumber, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    # Empty while it waits. One that was dealt with stays without its payload: rows of the source are counted again
    # after a lost snapshot, and those that were refused then are among them.
    Column("resolution", Text, nullable=False, server_default=""),
    Column("resolved_at", Moment),
    _within("units", "flow", "run", "unit"),
    Index("dead_letters_namespace", "workspace", "flow", "run", "namespace"),
)

events = Table(
    "events",
    metadata,
    *_key("flow"),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("run", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("name", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    _json("data"),
    _within("flows", "flow"),
)

verify_progress = Table(
    "verify_progress",
    metadata,
    # A flow's id, or that of a pair of ends compared without a flow: hence no foreign key.
    *_key("pair", "run", "namespace"),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    _json("result"),
)

FLOW_TABLES = (events, requests, leases, dead_letters, checkpoints, units, retired_units, namespaces, runs, flows)
"""What belongs to a flow, children before parents: the order in which it can be deleted."""
