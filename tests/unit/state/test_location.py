"""Where the state is, and who may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dsync.protocol.errors import RequestError
from dsync.state import StateMissingError, StateUnavailableError, Store
from dsync.state.location import ServerPlace, default_directory, parse_location, prepare_file


@pytest.fixture
def state(state_file: Path) -> Path:
    """The tests of this module are about the file."""
    return state_file


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_value_the_state_is_in_the_xdg_directory(value: str | None) -> None:
    assert parse_location(value, {"XDG_STATE_HOME": "/var/me"}) == Path("/var/me/dsync/state.db")
    assert parse_location(value, {}) == Path.home() / ".local/state/dsync/state.db"


def test_a_relative_xdg_directory_counts_as_unset() -> None:
    """So says the specification of the directories."""
    assert default_directory({"XDG_STATE_HOME": "here"}) == Path.home() / ".local/state/dsync"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("sqlite:////var/a b.db", "/var/a b.db"),
        ("SQLite:////var/a.db", "/var/a.db"),
        ("sqlite:///a.db", "a.db"),
        ("/var/a.db", "/var/a.db"),
        ("a.db", "a.db"),
        ("./odd:name.db", "odd:name.db"),
        ("~/a.db", "~/a.db"),
    ],
)
def test_a_path_and_an_sqlite_url_name_the_file(value: str, path: str) -> None:
    assert parse_location(value) == Path(path).expanduser().absolute()


@pytest.mark.parametrize("value", ["redis://hunter2", "mysql:"])
def test_another_scheme_is_refused_with_what_is_supported_and_without_repeating_the_value(value: str) -> None:
    with pytest.raises(RequestError, match=r"sqlite:///PATH or a path.*postgresql://HOST/DATABASE") as caught:
        parse_location(value)
    assert "hunter2" not in str(caught.value)
    assert value.partition(":")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("value", "uri", "schema"),
    [
        ("postgresql://h/d", "postgresql://h/d", "dsync_state"),
        ("postgres://u:p@h:1/d?schema=a%20B", "postgres://u:p@h:1/d", "a B"),
        ("postgresql://h/d?sslmode=require&schema=s&connect_timeout=3", None, "s"),
        ("env:STATE", "postgresql://u:hunter2@h/d", "s"),
        ("postgresql://h/d?password=env:WORD", "postgresql://h/d?password=p%26w", "dsync_state"),
    ],
)
def test_a_postgresql_uri_names_server_and_schema(
    value: str, uri: str | None, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the schema is libpq's."""
    monkeypatch.setenv("STATE", "postgresql://u:hunter2@h/d?schema=s")
    monkeypatch.setenv("WORD", "p&w")
    place = parse_location(value)
    assert isinstance(place, ServerPlace)
    assert (place.uri, place.schema) == (uri or "postgresql://h/d?sslmode=require&connect_timeout=3", schema)


@pytest.mark.parametrize("value", ["postgresql://u:hunter2@h/d?schema=s", "postgresql://h/d?password=hunter2"])
def test_a_place_is_shown_without_its_password(value: str) -> None:
    place = parse_location(value)
    assert isinstance(place, ServerPlace)
    assert "hunter2" not in place.title + repr(place)
    assert place.title.startswith("postgresql://")


@pytest.mark.parametrize(
    "value",
    [
        "postgresql:",
        "postgresql://h/d?schema=",
        "postgresql://h/d?schema=pg_hunter2",
        "postgresql://hunter2/?schema=" + 64 * "x",
    ],
)
def test_what_can_be_no_schema_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(RequestError, match="schema=") as caught:
        parse_location(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?mode=ro", "sqlite://h/a"]
)
def test_an_sqlite_url_that_names_no_file_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match="three slashes"):
        parse_location(value)


def test_a_directory_is_refused_with_a_file_in_it_as_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"state\.db"):
        Store.open(tmp_path)


def test_everything_is_private_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directories that we make are 0700; the file and what SQLite puts beside it are 0600, whatever the umask."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state home"))
    before = os.umask(0)
    try:
        with Store.open() as store:
            store.open_flow(name=None, fingerprint="f", spec={})
            files = {
                path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state home" / "dsync").iterdir()
            }
    finally:
        os.umask(before)
    assert {"state.db", "state.db-wal", "state.db-shm"} <= set(files)
    assert set(files.values()) == {0o600}
    for directory in (tmp_path / "state home", tmp_path / "state home" / "dsync"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_rights_that_others_were_given_are_taken_back(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file wherever it is, of a directory only where it is our own."""
    ours = state.parent / "dsync"
    ours.mkdir(mode=0o755)
    state.rename(ours / "state.db")
    (ours / "state.db").chmod(0o644)
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    before = stat.S_IMODE(state.parent.stat().st_mode)
    Store.open().close()
    assert stat.S_IMODE((ours / "state.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.parent.stat().st_mode) == before


def test_nothing_is_made_where_the_caller_only_wants_to_look(tmp_path: Path) -> None:
    with pytest.raises(StateMissingError):
        Store.open(tmp_path / "a" / "state.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnavailableError, match="--state PATH"):
        prepare_file(tmp_path / "file" / "state.db", create=True)
