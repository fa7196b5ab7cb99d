"""Brings the shared fixtures to every test."""

from tests.support.fixtures import (
    database,
    open_proxy,
    own_servers,
    pg,
    pg15,
    pg16,
    pg18,
    pg_pair,
    pg_servers,
    sink_db,
    source_db,
)

__all__ = [
    "database",
    "open_proxy",
    "own_servers",
    "pg",
    "pg15",
    "pg16",
    "pg18",
    "pg_pair",
    "pg_servers",
    "sink_db",
    "source_db",
]
