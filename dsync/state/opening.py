"""Opening a state: its place made ready, its schema known and brought to this version's revision."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, select

from dsync.state.database import Clock, Database, HostClock
from dsync.state.errors import NotAStateError, StateFromTheFutureError, StateIncompleteError, StateMissingError
from dsync.state.location import ServerPlace, prepare_file
from dsync.state.schema import HEAD, REVISIONS, alembic_version, metadata, store_meta


def open_database(place: Path | ServerPlace, *, create: bool, clock: Clock | None) -> Database:
    """Open the state, check it, and bring its schema to this version's revision.

    Raises:
        StateMissingError: it does not exist, and `create` is false.
        StateCorruptError, StateFromTheFutureError, StateIncompleteError, NotAStateError, StateUnavailableError: as
            they say.
        StateFullError, StateBusyError, StateUnreachableError: later it may work.
    """
    database = _connect(place, create=create, clock=clock)
    try:
        database.check_quickly()
        with database.reading() as connection:
            revision = _revision(database, connection)
        if not revision and not create and isinstance(place, ServerPlace):
            raise StateMissingError(f"there is no state at {database.title}: no flow has been run with it yet")
        if revision != HEAD:
            _migrate(database)
        database.settle()
    except BaseException:
        database.close()
        raise
    return database


def _connect(place: Path | ServerPlace, *, create: bool, clock: Clock | None) -> Database:
    # Each only where it is used: drivers take their time.
    if isinstance(place, ServerPlace):
        from dsync.state.postgres import PostgresDatabase

        return PostgresDatabase(place, clock)
    from dsync.state.sqlite import SqliteDatabase

    prepare_file(place, create=create)
    return SqliteDatabase(place, clock or HostClock())


def _revision(database: Database, connection: Connection) -> str:
    """The revision of the schema; empty where there is none yet.

    Raises NotAStateError, StateFromTheFutureError, StateIncompleteError.
    """
    tables = database.table_names(connection)
    if not tables:
        return ""
    marks = {store_meta.name, alembic_version.name}
    if not tables & marks:
        raise NotAStateError(
            f"{database.title} is a database of another program: name another one with --state PATH or URI"
        )
    if missing := marks - tables:
        raise _incomplete(database, missing)
    found = connection.execute(select(alembic_version.c.version_num)).scalars().all()
    if len(found) != 1:
        raise _incomplete(database, {f"the revision in {alembic_version.name}"})
    (revision,) = found
    if revision not in REVISIONS:
        raise _from_the_future(database, connection, revision)
    if revision == HEAD and (missing := set(metadata.tables) - tables):
        raise _incomplete(database, missing)
    return str(revision)


def _from_the_future(database: Database, connection: Connection, revision: str) -> StateFromTheFutureError:
    from dsync.state.version import dsync_version

    query = select(store_meta.c.value).where(store_meta.c.key == "dsync_version")
    written_by = connection.execute(query).scalar() or "unknown"
    return StateFromTheFutureError(
        f"opening the state {database.title}: dsync {written_by} wrote it (schema {revision}), and this is dsync "
        f"{dsync_version()}, which knows schemas up to {HEAD}; use that version or a newer one, or another state with "
        "--state PATH or URI"
    )


def _incomplete(database: Database, missing: set[str]) -> StateIncompleteError:
    return StateIncompleteError(
        f"opening the state {database.title}: it is not whole, {', '.join(sorted(missing))} is missing. dsync migrates "
        "in one transaction, so this was restored or changed by something else. Nothing was changed. Ways on: put it "
        "back from a backup; or name another state with --state PATH or URI and repeat the command: what the sink has "
        "recorded about its flow is used, and rows already there are not copied twice"
    )


def _migrate(database: Database) -> None:
    # Only here: a state of the current revision needs none of it.
    from dsync.state.migrations import upgrade

    with database.migrating() as connection:
        # Another process may have done it while we waited.
        revision = _revision(database, connection)
        if not revision:
            upgrade.make(connection)
        elif revision != HEAD:
            upgrade.upgrade(connection)
