"""Opening a state file: checked, migrated, and refused where it is not ours to use."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from dsync.protocol.errors import PermanentError
from dsync.state import (
    NamespaceState,
    NotAStateError,
    Phase,
    StateCorruptError,
    StateFromTheFutureError,
    Store,
)
from dsync.state.migrations import upgrade
from dsync.state.migrations.upgrade import configuration
from dsync.state.schema import HEAD, REVISIONS, metadata
from tests.unit.state.record import SPEC
from tests.unit.state.support import Actor, planned_run

RECORDED = sorted(Path(__file__).with_name("recorded").glob("state-*.db"))


@pytest.fixture
def state(state_file: Path) -> Path:
    """The tests of this module are about the file."""
    return state_file


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_new_state_has_the_tables_that_the_code_expects(state: Path) -> None:
    engine = create_engine(f"sqlite:///{state}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_revisions_known_without_alembic_are_those_that_exist() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    assert [script.revision for script in reversed(list(scripts.walk_revisions()))] == list(REVISIONS)


def test_every_table_can_be_made_in_postgresql_too() -> None:
    """The schema is meant to move there; only the engine's set-up may be particular to SQLite."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no annotation for it
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect)).strip().startswith("CREATE TABLE")
        for index in table.indexes:
            assert "WHERE name IS NULL" in str(CreateIndex(index).compile(dialect=dialect)) or not index.unique


def test_every_revision_has_a_recorded_state() -> None:
    assert [path.stem.removeprefix("state-") for path in RECORDED] == list(REVISIONS)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_a_state_of_an_earlier_release_still_opens_and_resumes(recorded: Path, tmp_path: Path) -> None:
    """Files written by `record.py` at each revision; once a release has written one, it is never recorded again."""
    path = tmp_path / "state.db"
    shutil.copy(recorded, path)
    with Store.open(path) as store:
        flow = store.get_flow("shop")
        run = store.latest_run(flow.flow)
        assert run is not None
        assert (run.number, run.phase, run.snapshot, run.spec) == (1, Phase.COPYING, b"snapshot-1", SPEC)
        states = {row.namespace: row.state for row in store.load_namespaces(flow.flow, run.run)}
        assert states == {"t0": NamespaceState.COPYING, "t1": NamespaceState.CLEARING}
        assert store.retired_units(flow.flow, run.run, "t1") == ("p1.0.0", "p1.0.1", "p1.0.2")
        checkpoint = store.load_checkpoint(flow.flow, run.run, "p0.0.1", sink="1")
        assert checkpoint is not None
        assert (checkpoint.cursor, checkpoint.seq, checkpoint.rows, checkpoint.done) == (b"\x00cursor", 7, 700, False)
        lease = store.get_lease(flow.flow)
        assert lease is not None
        assert (lease.fence, lease.remaining_s) == (1, 0)
        assert [event.name for event in store.list_events(flow.flow)] == ["run_started"]
        assert [request.kind for request in store.take_requests(flow.flow)] == ["cancel"]
        assert store.count_dead_letters(flow.flow, run.run) == {"t0": 1}
        assert store.load_verify_progress(flow.flow, run.run)[0].result == {"count": 3}
        store.check_integrity()


def test_processes_that_make_the_state_at_the_same_time_share_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    with Actor(path, "-", "-", "1") as one, Actor(path, "-", "-", "1") as two, Actor(path, "-", "-", "1") as three:
        assert [actor.hear() for actor in (one, two, three)] == ["ready"] * 3
    with Store.open(path) as store:
        store.check_integrity()


def test_a_state_is_migrated_under_a_lock_that_keeps_other_processes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    seen: list[str] = []
    really_make = upgrade.make

    def make_and_try_the_lock(connection: Connection) -> None:
        with (tmp_path / "state.db-lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append("locked")
        really_make(connection)

    monkeypatch.setattr(upgrade, "make", make_and_try_the_lock)
    Store.open(path).close()
    Store.open(path).close()
    assert seen == ["locked"]


def test_a_state_of_a_newer_release_is_refused_naming_both_versions(state: Path) -> None:
    execute(
        state,
        "UPDATE alembic_version SET version_num = '9042'",
        "UPDATE store_meta SET value = '9.1.0' WHERE key = 'dsync_version'",
    )
    before = state.read_bytes()
    with pytest.raises(StateFromTheFutureError, match=rf"dsync 9\.1\.0 .*9042.*dsync .*{HEAD}") as caught:
        Store.open(state)
    assert caught.value.exit_code == 3
    assert state.read_bytes() == before


def test_a_name_that_only_a_newer_release_knows_is_a_named_error(store: Store, state: Path) -> None:
    run = planned_run(store)
    execute(state, "UPDATE runs SET phase = 'levitating'")
    with pytest.raises(StateFromTheFutureError, match="levitating"):
        store.get_run(run.flow, run.run)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    execute(path, "CREATE TABLE flows (money)")
    before = path.read_bytes()
    with pytest.raises(NotAStateError, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    """From the second page on, so that the file still looks like one."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(byte ^ 0x5A for byte in content[4096:]))


def text(path: Path) -> None:
    path.write_text("this is not a database, although somebody gave it the name of one\n" * 100)


@pytest.mark.parametrize("damage", [cut_off, overwritten, text])
def test_a_damaged_state_is_a_named_error_with_ways_on(state: Path, damage: Callable[[Path], None]) -> None:
    damage(state)
    before = state.read_bytes()
    with pytest.raises(StateCorruptError, match=r"damaged.*backup.*move state\.db") as caught:
        Store.open(state)
    assert isinstance(caught.value, PermanentError)
    assert state.read_bytes() == before


def test_damage_to_a_page_that_opening_needs_nothing_from_is_found(store: Store, state: Path) -> None:
    planned_run(store, namespaces=50)
    store.close()
    size = state.stat().st_size
    with state.open("r+b") as file:
        file.seek(size - 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StateCorruptError):
        Store.open(state)


def test_damage_that_shows_only_while_reading_is_the_same_error(store: Store, state: Path) -> None:
    run = planned_run(store, namespaces=50)
    store.close()
    with Store.open(state) as again:
        # What the check at the start has read would be answered from memory.
        with again._database.reading() as connection:
            connection.exec_driver_sql("PRAGMA shrink_memory")
        content = state.read_bytes()
        with state.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (len(content) - 4096))
        with pytest.raises(StateCorruptError):
            again.load_units(run.flow, run.run)


def test_an_index_that_disagrees_with_its_table_is_found_by_the_thorough_check(store: Store, state: Path) -> None:
    planned_run(store)
    store.close()
    execute(
        state,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, ', fingerprint', ', spec') WHERE name = 'flows_fingerprint'",
    )
    with Store.open(state) as again, pytest.raises(StateCorruptError, match="flows_fingerprint"):
        again.check_integrity()


def test_the_engine_is_set_up_to_be_durable(store: Store) -> None:
    """FULL (2): a commit is on the disk before it is reported. Foreign keys are off in SQLite unless asked for."""
    with store._database.reading() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]
    assert found == ["wal", 2, 1, 10_000]


def test_a_state_that_lost_its_write_ahead_log_mode_gets_it_back(state: Path) -> None:
    execute(state, "PRAGMA journal_mode = DELETE")
    with Store.open(state) as store, store._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_package_costs_no_sqlalchemy() -> None:
    assert not {"sqlalchemy", "alembic"} & modules_after("import dsync.state")


@pytest.mark.parametrize("is_new", [False, True], ids=["current", "new"])
def test_opening_a_state_costs_no_alembic(state: Path, is_new: bool) -> None:
    """Only one of an earlier release does."""
    path = state.with_name("new.db") if is_new else state
    loaded = modules_after(f"from dsync.state import Store; Store.open({str(path)!r}).close()")
    assert "sqlalchemy" in loaded
    assert "alembic" not in loaded


def test_a_new_state_is_what_the_migrations_make(state: Path, tmp_path: Path) -> None:
    """Made at once or revision by revision: the same tables, columns, keys and indexes."""
    migrated = tmp_path / "migrated.db"
    engine = create_engine(f"sqlite:///{migrated}")
    with engine.begin() as connection:
        upgrade.upgrade(connection)
    engine.dispose()
    assert shape_of(state) == shape_of(migrated)


def shape_of(path: Path) -> dict[str, object]:
    """What SQLite knows of each table, in an order that does not depend on when a column was added."""
    connection = sqlite3.connect(path)

    def rows(pragma: str, *leaving_out: int) -> list[tuple[object, ...]]:
        found = connection.execute(pragma).fetchall()
        return sorted((tuple(v for at, v in enumerate(row) if at not in leaving_out) for row in found), key=repr)

    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    shape: dict[str, object] = {"version": connection.execute("SELECT version_num FROM alembic_version").fetchall()}
    for table in tables:
        # Without the column's number, the key's number and an index's own number.
        indexes = {
            name: (unique, origin, partial, rows(f"PRAGMA index_info({name})"))
            for _, name, unique, origin, partial in connection.execute(f"PRAGMA index_list({table})")
        }
        shape[table] = (rows(f"PRAGMA table_info({table})", 0), rows(f"PRAGMA foreign_key_list({table})", 0), indexes)
    shape["texts"] = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' ORDER BY sql").fetchall()
    connection.close()
    return shape
