"""A full disk, a file that somebody keeps locked, one that may not be written: named, and never swallowed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine

from dsync.protocol.errors import PermanentError, RetryableError
from dsync.state import (
    CheckpointRow,
    EventRow,
    StateBusyError,
    StateFullError,
    StateUnavailableError,
    Store,
    sqlite,
    this_process,
)
from tests.unit.state.support import planned_run, slices


@pytest.fixture
def state(state_file: Path) -> Path:
    """The tests of this module are about the file."""
    return state_file


def limit_pages(store: Store, pages: int) -> None:
    """A file that cannot grow beyond that fails exactly as it does on a full disk."""
    vars(store._database)["_connection"].connection.cursor().execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_can_be_waited_out_and_nothing_is_half_done(store: Store) -> None:
    run = planned_run(store)
    key = run.flow, run.run
    store.save_checkpoint(*key, CheckpointRow(unit="p0.0.0", seq=1))
    limit_pages(store, 1)
    writes: list[Callable[[], object]] = [
        lambda: store.save_checkpoint(*key, CheckpointRow(unit="p0.0.0", seq=2, cursor=b"c" * 100_000)),
        lambda: store.append_events(run.flow, [EventRow(name="e" * 100_000)]),
        lambda: store.replace_units(*key, "t0", slices("t0", 2000)),
        lambda: store.set_extra(*key, {"big": "x" * 100_000}),
    ]
    for write in writes:
        with pytest.raises(StateFullError, match="disk is full") as caught:
            write()
        assert isinstance(caught.value, RetryableError)
        assert caught.value.exit_code == 3
    assert {row.seq for row in store.load_checkpoints(*key).values()} == {1}
    assert len(store.load_units(*key)) == 8
    assert store.list_events(run.flow) == ()

    limit_pages(store, 1_000_000)
    for write in writes:
        write()
    assert len(store.load_units(*key, namespace="t0")) == 2001
    store.check_integrity()


def test_a_new_state_on_a_full_disk_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    configure = sqlite._configure

    def on_a_small_disk(connection: sqlite3.Connection, record: object) -> None:
        configure(connection, record)
        connection.execute("PRAGMA max_page_count = 5")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "_configure", on_a_small_disk)
        with pytest.raises(StateFullError):
            Store.open(path)
    left = sqlite3.connect(path)
    assert left.execute("SELECT name FROM sqlite_master").fetchall() == []
    left.close()
    with Store.open(path) as store:
        planned_run(store)
        store.check_integrity()


def test_a_file_that_stays_locked_is_named_and_can_be_tried_again(
    state: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned_run(store)
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.05)
    locking = sqlite3.connect(state, isolation_level=None)
    locking.execute("BEGIN IMMEDIATE")
    with Store.open(state) as other:
        with pytest.raises(StateBusyError, match="another connection of this very process") as caught:
            other.append_events(run.flow, [EventRow(name="e")])
        assert isinstance(caught.value, RetryableError)
        assert other.latest_run(run.flow) is not None
        locking.execute("ROLLBACK")
        locking.close()
        assert other.append_events(run.flow, [EventRow(name="e")]) == 1


def test_a_state_that_may_not_be_written_is_named(store: Store) -> None:
    run = planned_run(store)
    vars(store._database)["_connection"].connection.cursor().execute("PRAGMA query_only = ON")
    with pytest.raises(StateUnavailableError, match="owner and mode") as caught:
        store.acquire_lease(run.flow, this_process())
    assert isinstance(caught.value, PermanentError)


def test_a_file_system_without_shared_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite then keeps its other journal, with which readers and the writer would wait for each other.

    One of SQLite's own ways to reach files does without shared memory too.
    """

    def without_shared_memory(url: URL, **options: Any) -> Engine:
        return create_engine(f"sqlite:///file:{url.database}?vfs=unix-dotfile&uri=true", **options)

    monkeypatch.setattr(sqlite, "create_engine", without_shared_memory)
    with pytest.raises(StateUnavailableError, match="local disk"):
        Store.open(tmp_path / "state.db")


def test_a_state_that_others_read_without_the_write_ahead_log_is_busy(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = sqlite3.connect(state)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    reader = sqlite3.connect(state, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM flows").fetchall()
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.05)
    with pytest.raises(StateBusyError):
        Store.open(state)
    reader.close()
    Store.open(state).close()


def test_closing_twice_is_harmless(store: Store) -> None:
    store.close()
    store.close()
