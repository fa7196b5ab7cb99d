"""Bring a state to the newest revision, within the caller's transaction: it arrives there or stays as it was."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, delete, insert

from dsync.state.schema import HEAD, store_meta
from dsync.state.version import dsync_version


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, without an ini file: a wheel has no place for one."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    command.upgrade(configuration(connection), HEAD)
    connection.execute(delete(store_meta).where(store_meta.c.key == "dsync_version"))
    connection.execute(insert(store_meta).values(key="dsync_version", value=dsync_version()))
