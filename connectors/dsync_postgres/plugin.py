"""How dsync finds the PostgreSQL connector; cheap to import, since listing connectors imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dsync.sdk import Connector, ConnectorSpec, PluginContext

if TYPE_CHECKING:
    from dsync.sdk.options import Options


def _options() -> type[Options]:
    from dsync_postgres.options import PostgresOptions

    return PostgresOptions


def _create(uri: str, options: Options, context: PluginContext) -> Connector:
    from dsync_postgres.connector import PostgresConnector
    from dsync_postgres.options import PostgresOptions

    return PostgresConnector(uri, cast(PostgresOptions, options), context)


def _is_libpq_parameter(name: str) -> bool:
    from dsync_postgres.options import is_libpq_parameter

    return is_libpq_parameter(name)


SPEC = ConnectorSpec(
    name="postgres",
    schemes=("postgresql", "postgres"),
    summary="PostgreSQL 14 to 18, source and sink: COPY under one snapshot, schema, ledger, checksums.",
    options=_options,
    create=_create,
    requires=("psycopg",),
    install="pip install 'psycopg[binary]'",
    passes_unknown_options=_is_libpq_parameter,
)
