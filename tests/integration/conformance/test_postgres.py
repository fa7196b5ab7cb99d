"""The PostgreSQL connector takes the exam that strangers' connectors take: as source and sink of documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from dsync_postgres.connector import PostgresConnector
from dsync_postgres.options import PostgresOptions

from dsync.conformance import ExamineOptions
from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import Connector, PluginContext
from dsync.sdk.testing import Conformance
from tests.support.databases import DatabaseFactory


class TestPostgres(Conformance):
    """Two tables of several partitions and pages, and one to write to."""

    namespaces = ("public.orders", "public.people")
    scratch = "public.scratch"
    limits = ExamineOptions(wait_s=5, check_s=60)
    server: ClassVar[EmbeddedPostgres]

    @pytest.fixture(autouse=True)
    def _server(self, pg: EmbeddedPostgres) -> None:
        type(self).server = pg

    @asynccontextmanager
    async def connector(self, folder: Path) -> AsyncIterator[Connector]:
        factory = DatabaseFactory(self.server, prefix="kit")
        database = factory()
        database.run(
            "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(10,2), line text)",
            "INSERT INTO orders SELECT n, n / 7.0, repeat(md5(n::text), 40) FROM generate_series(1, 4000) n",
            "CREATE TABLE people (name text PRIMARY KEY, born date, at timestamptz DEFAULT now())",
            "INSERT INTO people SELECT 'person ' || n, date '2000-01-01' + n FROM generate_series(1, 500) n",
            "CREATE TABLE scratch (_id bigint PRIMARY KEY, text text, number bigint)",
            "ANALYZE",
        )
        context = PluginContext(private_directory=folder)
        connector = PostgresConnector(database.uri, PostgresOptions(), context)
        try:
            yield connector
        finally:
            await connector.close()
            factory.drop_all()
