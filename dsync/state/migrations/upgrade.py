"""Bring a state to the newest revision, within the caller's transaction: it arrives there or stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert

from dsync.state.schema import HEAD, alembic_version, metadata, store_meta
from dsync.state.version import dsync_version

if TYPE_CHECKING:
    from alembic.config import Config


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, without an ini file: a wheel has no place for one."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def make(connection: Connection) -> None:
    """The tables of a new state, as all revisions together leave them: a test compares the two.

    Without Alembic, which takes a quarter of a second to import, with every first command on a state.
    """
    metadata.create_all(connection, checkfirst=False)
    alembic_version.create(connection)
    connection.execute(insert(alembic_version).values(version_num=HEAD))
    _sign(connection)


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Apply the revisions that are missing, up to this one."""
    from alembic import command

    command.upgrade(configuration(connection), revision)
    _sign(connection)


def _sign(connection: Connection) -> None:
    connection.execute(delete(store_meta).where(store_meta.c.key == "dsync_version"))
    connection.execute(insert(store_meta).values(key="dsync_version", value=dsync_version()))
