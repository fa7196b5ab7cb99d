"""Flows, runs, plans, checkpoints, leases, requests, dead letters, events and the progress of verifies."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _key(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in ("workspace", *names)]


def _within(parent: str, *names: str) -> sa.ForeignKeyConstraint:
    columns = ["workspace", *names]
    return sa.ForeignKeyConstraint(columns, [f"{parent}.{name}" for name in columns])


def _needed(name: str, of: Any) -> sa.Column[Any]:
    return sa.Column(name, of, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def upgrade() -> None:
    _create_flows_and_runs()
    _create_plans()
    _create_checkpoints()
    _create_leases_and_requests()
    _create_records()


def _create_flows_and_runs() -> None:
    op.create_table("store_meta", sa.Column("key", sa.Text, primary_key=True), _needed("value", sa.Text))
    op.create_table(
        "flows",
        *_key("flow"),
        sa.Column("name", sa.Text),
        _needed("fingerprint", sa.Text),
        _needed("spec", sa.JSON),
        _needed("spec_revision", sa.Integer),
        _needed("created_at", sa.BigInteger),
        sa.UniqueConstraint("workspace", "name"),
    )
    unnamed = sa.text("name IS NULL")
    op.create_index(
        "flows_unnamed",
        "flows",
        ["workspace", "fingerprint"],
        unique=True,
        sqlite_where=unnamed,
        postgresql_where=unnamed,
    )
    op.create_index("flows_fingerprint", "flows", ["workspace", "fingerprint"])
    op.create_table(
        "runs",
        *_key("flow", "run"),
        _needed("number", sa.Integer),
        _needed("mode", sa.Text),
        _needed("spec", sa.JSON),
        _needed("spec_revision", sa.Integer),
        _needed("phase", sa.Text),
        _needed("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("consistent", sa.Boolean),
        sa.Column("error", sa.JSON),
        sa.Column("summary", sa.JSON),
        _needed("snapshot", sa.LargeBinary),
        _needed("source_id", sa.Text),
        _needed("sink_ids", sa.JSON),
        _needed("extra", sa.JSON),
        sa.UniqueConstraint("workspace", "flow", "number"),
        _within("flows", "flow"),
    )


def _create_plans() -> None:
    op.create_table(
        "namespaces",
        *_key("flow", "run", "namespace", "sink"),
        _needed("target", sa.Text),
        _needed("position", sa.Integer),
        _needed("page_type", sa.Integer),
        _needed("columns", sa.JSON),
        _needed("upsert", sa.Boolean),
        _needed("existed", sa.Boolean),
        _needed("estimated_rows", sa.BigInteger),
        _needed("size_bytes", sa.BigInteger),
        _needed("state", sa.Text),
        _needed("reason", sa.Text),
        _needed("generation", sa.Integer),
        _within("runs", "flow", "run"),
    )
    op.create_table(
        "units",
        *_key("flow", "run", "unit"),
        _needed("kind", sa.Text),
        _needed("namespace", sa.Text),
        _needed("sink", sa.Text),
        _needed("ordinal", sa.Integer),
        _needed("generation", sa.Integer),
        _needed("header", sa.Text),
        _needed("value", sa.Text),
        _needed("cursor", sa.LargeBinary),
        _needed("estimated_count", sa.BigInteger),
        sa.Column("step", sa.JSON),
        _needed("payload", sa.LargeBinary),
        _within("runs", "flow", "run"),
    )
    op.create_table(
        "retired_units", *_key("flow", "run", "unit"), _needed("namespace", sa.Text), _within("runs", "flow", "run")
    )
    op.create_index("units_namespace", "units", ["workspace", "flow", "run", "namespace"])


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        *_key("flow", "run", "unit", "sink"),
        _needed("cursor", sa.LargeBinary),
        _needed("seq", sa.BigInteger),
        _needed("rows", sa.BigInteger),
        _needed("size_bytes", sa.BigInteger),
        _needed("done", sa.Boolean),
        _needed("updated_at", sa.BigInteger),
        _within("units", "flow", "run", "unit"),
    )


def _create_leases_and_requests() -> None:
    op.create_table(
        "leases",
        *_key("flow", "unit"),
        _needed("fence", sa.BigInteger),
        sa.Column("holder", sa.JSON),
        _needed("expires_at", sa.BigInteger),
        _needed("expires_uptime_us", sa.BigInteger),
        _needed("ttl_us", sa.BigInteger),
        _needed("renewals", sa.BigInteger),
        _within("flows", "flow"),
    )
    op.create_table(
        "requests",
        *_key("flow"),
        _number("request"),
        _needed("kind", sa.Text),
        _needed("args", sa.JSON),
        _needed("created_at", sa.BigInteger),
        sa.Column("taken_at", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
        sa.Column("outcome", sa.JSON),
        _within("flows", "flow"),
    )


def _create_records() -> None:
    op.create_table(
        "dead_letters",
        *_key("flow", "run", "unit", "sink"),
        sa.Column("cursor_digest", sa.LargeBinary, primary_key=True),
        _number("row_index"),
        _needed("namespace", sa.Text),
        _needed("reason", sa.Text),
        _needed("error_class", sa.Text),
        _needed("page_type", sa.Integer),
        _needed("payload", sa.LargeBinary),
        _needed("created_at", sa.BigInteger),
        _within("units", "flow", "run", "unit"),
    )
    op.create_index("dead_letters_namespace", "dead_letters", ["workspace", "flow", "run", "namespace"])
    op.create_table(
        "events",
        *_key("flow"),
        _number("seq"),
        _needed("run", sa.Text),
        _needed("at", sa.BigInteger),
        _needed("name", sa.Text),
        _needed("namespace", sa.Text),
        _needed("data", sa.JSON),
        _within("flows", "flow"),
    )
    op.create_table(
        "verify_progress",
        *_key("pair", "run", "namespace"),
        _number("ordinal"),
        _needed("result", sa.JSON),
    )
