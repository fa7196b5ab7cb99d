"""Pages by reference: what is written is read, names from outside are not trusted, nothing is left behind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync.protocol.errors import PluginBugError
from dsync.protocol.page_store import PageGoneError, PageStore
from dsync.protocol.types import Page, PageRef, PageType


@pytest.fixture
def store(tmp_path: Path) -> PageStore:
    directory = tmp_path / "pages"
    directory.mkdir(mode=0o700)
    return PageStore(directory)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=3000))
def test_a_body_in_parts_is_read_as_one(store: PageStore, parts: list[bytes]) -> None:
    """A source gets rows one by one; joining them first would cost the copy that references save."""
    ref = store.write(parts)
    with store.open(ref) as view:
        assert view == b"".join(parts)
    store.remove(ref)


def test_a_page_file_is_private_and_has_an_unguessable_name(store: PageStore) -> None:
    """It holds rows of a database."""
    first, second = store.write(b"abc"), store.write([b"abc"])
    mode = (store.directory / first.name).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert first.name != second.name
    assert first.size_bytes == 3


def test_a_view_is_void_after_its_block(store: PageStore) -> None:
    """A mapping that outlived its use would keep the memory that removing the file is to free."""
    ref = store.write(b"abc")
    with store.open(ref) as view:
        kept = view
    with pytest.raises(ValueError, match="released"):
        bytes(kept)


def test_an_error_leaves_the_block_as_it_is(store: PageStore) -> None:
    """Its frames may hold parts of the view; that the page cannot be closed then must not hide what went wrong."""

    def write(body: memoryview) -> None:
        part = body[2:]
        raise LookupError(len(part))

    with pytest.raises(LookupError), store.open(store.write([b"page"])) as view:
        write(view)


def test_removing_is_repeatable(store: PageStore) -> None:
    """The coordinator removes a page again when it repeats a step."""
    ref = store.write(b"abc")
    store.remove(ref)
    store.remove(ref)
    assert os.listdir(store.directory) == []


def test_a_page_that_has_vanished_stops_the_flow(store: PageStore) -> None:
    """Repeating the call would fail for as long as one tries; a new run reads the page again."""
    ref = store.write(b"abc")
    store.remove(ref)
    with pytest.raises(PageGoneError, match="goes on from its checkpoint"), store.open(ref):
        pass


def test_a_page_is_loaded_into_memory(store: PageStore) -> None:
    """For halving, which works on bodies."""
    page = Page(type=PageType.BSON, rows=1, next_cursor=b"c", ref=store.write(b"abc"))
    loaded = store.loaded(page)
    assert (loaded.packed, loaded.ref, loaded.rows, loaded.next_cursor) == (b"abc", None, 1, b"c")
    assert store.loaded(loaded) is loaded


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "page-xyz", "", "probe-" + "0" * 32, "page-" + "0" * 33])
def test_a_name_that_is_no_page_is_refused(store: PageStore, name: str) -> None:
    """A reference comes from another process, perhaps not ours: it must not lead out of the directory."""
    (store.directory.parent / "secret").write_bytes(b"x")
    ref = PageRef(name=name, size_bytes=1)
    with pytest.raises(PluginBugError), store.open(ref):
        pass
    with pytest.raises(PluginBugError):
        store.remove(ref)
    assert (store.directory.parent / "secret").exists()


def test_a_link_in_place_of_a_page_is_refused(store: PageStore, tmp_path: Path) -> None:
    """A link would read what the reader may read and the writer may not."""
    target = tmp_path / "other"
    target.write_bytes(b"x")
    name = "page-" + "0" * 32
    (store.directory / name).symlink_to(target)
    with pytest.raises(OSError, match="symbolic"), store.open(PageRef(name=name, size_bytes=1)):
        pass


def test_a_file_of_another_size_is_refused(store: PageStore) -> None:
    """Mapping more than there is kills the process at the first access."""
    ref = store.write(b"abc")
    with pytest.raises(PluginBugError, match="3 bytes"), store.open(PageRef(name=ref.name, size_bytes=4096)):
        pass


def test_a_full_file_system_leaves_nothing_behind(store: PageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torn page would only take the space that is missing."""
    real = os.writev
    calls = []

    def full(descriptor: int, parts: list[memoryview]) -> int:
        calls.append(parts)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, [parts[0][:2]])

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        store.write([b"abc", b"def"])
    assert os.listdir(store.directory) == []


def test_a_write_that_stops_early_goes_on(store: PageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it was given, in the middle of a part."""
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: real(descriptor, [parts[0][:2]]))
    ref = store.write([b"abc", b"", b"defgh", b"i"])
    with store.open(ref) as view:
        assert view == b"abcdefghi"


def test_a_probe_is_read_back(store: PageStore) -> None:
    """Whoever reads its content sees the file system that we see."""
    assert store.read_probe(store.write_probe(b"proof")) == b"proof"


def test_nothing_but_a_probe_is_read(store: PageStore) -> None:
    """OpenSession's answer must not become a way to read files of whoever runs the plug-in."""
    (store.directory / "secret").write_bytes(b"x")
    assert store.read_probe("secret") == b""
    assert store.read_probe("../pages/secret") == b""
    assert store.read_probe("probe-" + "0" * 32) == b""


def test_a_directory_that_others_may_enter_is_not_shared(store: PageStore) -> None:
    """Pages are written only where nobody else can look; a directory of another mode was not made by us."""
    name = store.write_probe(b"proof")
    store.directory.chmod(0o755)
    assert store.read_probe(name) == b""
    assert PageStore(Path("/nonexistent")).read_probe(name) == b""
