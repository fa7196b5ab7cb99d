"""Private directories: entered by nobody else, removed at the end, swept when their owner was killed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.plugins import runtime


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder in place of the machine's own."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def abandoned(base: Path, name: str = "dsync-run-dead") -> Path:
    """What an owner leaves behind that was killed: its lock file, and no lock."""
    directory = base / name
    directory.mkdir(mode=0o700)
    (directory / "owner.lock").touch()
    (directory / "page-x").write_bytes(b"rows")
    return directory


def test_a_directory_is_private_and_gone_afterwards(base: Path) -> None:
    """With everything in it, whatever its modes."""
    with runtime.runtime_directory() as directory:
        assert directory.parent == base
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_bytes(b"x")
    assert list(base.iterdir()) == []


def test_a_directory_is_gone_after_an_error_too(base: Path) -> None:
    """An error is when most is left lying about."""
    with pytest.raises(RuntimeError), runtime.runtime_directory():
        raise RuntimeError
    assert list(base.iterdir()) == []


def test_what_a_dead_owner_left_is_swept(base: Path) -> None:
    """By the next one that starts, while the living are left alone."""
    dead = abandoned(base)
    with runtime.runtime_directory() as alive:
        assert not dead.exists()
        with runtime.runtime_directory() as other:
            assert alive.exists()
            assert other.exists()
        assert runtime.sweep(base) == 0
        assert alive.exists()


def test_what_is_being_made_is_left_alone_while_it_is_fresh(base: Path) -> None:
    """Between making a directory and locking it its owner is alive; an hour later it is not."""
    fresh, old, unlocked = base / ".dsync-new-1", abandoned(base, ".dsync-new-2"), base / "dsync-run-3"
    for path in (fresh, unlocked):
        path.mkdir(mode=0o700)
    os.utime(old, (0, 0))
    assert runtime.sweep(base) == 1
    assert fresh.exists()
    assert unlocked.exists()
    for path in (fresh, unlocked):
        os.utime(path, (0, 0))
    assert runtime.sweep(base) == 2


def test_a_sweep_follows_no_link_and_touches_nothing_else(base: Path, tmp_path: Path) -> None:
    """The folder may be one that everyone writes to."""
    victim = tmp_path / "victim"
    abandoned(tmp_path, "victim")
    (base / "dsync-run-link").symlink_to(victim)
    (base / "dsync-run-file").write_bytes(b"x")
    (base / "other").mkdir()
    runtime.sweep(base)
    assert (victim / "page-x").exists()
    assert {path.name for path in base.iterdir()} == {"dsync-run-link", "dsync-run-file", "other"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_another_users_directory_is_not_ours_to_judge(base: Path) -> None:
    """As root we could remove it, and must not."""
    directory = abandoned(base)
    os.chown(directory, 65534, 65534)
    assert runtime.sweep(base) == 0
    assert directory.exists()


def test_a_path_too_long_for_a_socket_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has about a hundred bytes; macOS's temporary directories are long already."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with runtime.runtime_directory() as directory:
        assert len(os.fsencode(directory)) < 90
        assert long not in directory.parents


def test_an_unusable_runtime_directory_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under sudo the variable may name another user's, or nothing."""
    for value in ("/nonexistent", "relative", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        with runtime.runtime_directory() as directory:
            assert directory.is_dir()
            assert directory.is_absolute()


def test_pages_go_to_shared_memory_where_they_fit(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers often have 64 MiB of it: then they go beside the sockets."""
    shared = tmp_path / "shm"
    shared.mkdir()
    dead = abandoned(shared)
    monkeypatch.setattr(runtime, "_SHARED_MEMORY", shared)
    with runtime.runtime_directory() as own:
        with runtime.page_store(own, need_bytes=1) as store:
            assert store.directory.parent == shared
            assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
            assert not dead.exists()
        assert list(shared.iterdir()) == []
        with runtime.page_store(own, need_bytes=1 << 60) as store:
            assert store.directory.parent == own
            assert store.read_probe(store.write_probe(b"x")) == b"x"
        monkeypatch.setattr(runtime, "_SHARED_MEMORY", tmp_path / "none")
        with runtime.page_store(own, need_bytes=1) as store:
            assert store.directory.parent == own
