"""Whatever pg_dump can write is read back as it is; whatever it cannot have written is a named error."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from dsync_postgres.schema.archive import Archive, Section, TocEntry, read_archive
from dsync_postgres.schema.errors import ArchiveError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.postgres_schema.archives import HEADER, Writer, archive, entry, table

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
_OPTIONAL = st.none() | _TEXT.filter(bool)
_OID = st.integers(0, 2**32 - 1)


@st.composite
def _entries(draw: st.DrawFn) -> tuple[TocEntry, ...]:
    ids = draw(st.lists(st.integers(1, 2**31 - 1), unique=True, max_size=6))
    return tuple(
        TocEntry(
            dump_id=dump_id,
            catalog_table_oid=draw(_OID),
            catalog_oid=draw(_OID),
            tag=draw(_TEXT),
            desc=draw(_TEXT),
            section=draw(st.sampled_from(Section)),
            defn=draw(_TEXT),
            drop=draw(_TEXT),
            copy=draw(_TEXT),
            namespace=draw(_OPTIONAL),
            tablespace=draw(st.none() | _TEXT),
            tableam=draw(_OPTIONAL),
            relkind=draw(st.none() | st.sampled_from("rpvmfS")),
            owner=draw(_OPTIONAL),
            dependencies=tuple(draw(st.lists(st.integers(1, 2**31 - 1), max_size=4))),
            has_data=draw(st.booleans()),
        )
        for dump_id in ids
    )


# On a machine with much else to do the first draws are slow.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    entries=_entries(),
    minor=st.sampled_from([14, 15, 16]),
    created_at=st.datetimes(datetime(1996, 7, 8), datetime(2262, 1, 1)).map(lambda t: t.replace(microsecond=0)),
    compression=st.sampled_from(["none", "gzip", "lz4", "zstd"]),
    int_bytes=st.sampled_from([4, 8]),
    database=_TEXT,
)
def test_what_was_written_is_read(
    entries: tuple[TocEntry, ...], minor: int, created_at: datetime, compression: str, int_bytes: int, database: str
) -> None:
    """Names in any script, nulls apart from empty strings, numbers up to their limits, on any platform's sizes."""
    if minor < 15 and compression != "none":
        compression = "gzip"
    if minor < 16:
        entries = tuple(replace(one, relkind=None) for one in entries)
    header = replace(HEADER, version=(1, minor, 0), created_at=created_at, compression=compression, database=database)
    content = Archive(header=header, entries=entries)

    assert read_archive(Writer(int_bytes=int_bytes).write(content)) == content


@given(data=st.data())
def test_damage_is_a_named_error_or_harmless(data: st.DataObject) -> None:
    """No byte, wherever it stands, makes the reader fail in another way or allocate without bound."""
    whole = bytearray(Writer().write(archive(table(1, "a"), table(2, "b", 1))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))

    try:
        read = read_archive(bytes(whole))
    except ArchiveError:
        return
    assert len(read.entries) <= 2


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(ArchiveError):
        read_archive(b"PGDM" + noise if not noise.startswith(b"P") else noise)


@given(cut=st.integers(1, 400))
def test_an_archive_that_ends_early_is_refused(cut: int) -> None:
    whole = Writer().write(archive(table(1, "a"), table(2, "b", 1), table(3, "c")))

    with pytest.raises(ArchiveError):
        read_archive(whole[:-cut])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((6, 12), "version is 1.12"),
        ((6, 17), "version is 1.17, known are 1.14, 1.15, 1.16"),
        ((8, 3), "integers of 3"),
        ((9, 16), "offsets of 16"),
        ((10, 5), "format 5 is not the custom format"),
        ((11, 9), "compression 9 is not known"),
    ],
)
def test_what_no_known_pg_dump_writes_is_named(change: tuple[int, int], message: str) -> None:
    whole = bytearray(Writer().write(archive()))
    # Magic (5), version (3), sizes (2), format, compression.
    at, value = change
    whole[at] = value

    with pytest.raises(ArchiveError, match=message):
        read_archive(bytes(whole))


def test_an_entry_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ArchiveError, match="entry number 1 occurs twice"):
        read_archive(Writer().write(archive(table(1, "a"), table(1, "b"))))


def test_an_unknown_section_names_the_entry() -> None:
    odd = Writer().write(archive(entry(7, "TABLE", "odd", section=Section.POST_DATA)))

    broken = odd.replace(b"odd" + b"\x00\x05\x00\x00\x00TABLE\x00\x04", b"odd" + b"\x00\x05\x00\x00\x00TABLE\x00\x09")

    with pytest.raises(ArchiveError, match=r"entry 7 \(TABLE odd\) is in section 9"):
        read_archive(broken)


def test_a_name_that_is_not_utf_8_says_why() -> None:
    whole = Writer().write(archive(entry(1, "TABLE", "XXX")))

    with pytest.raises(ArchiveError, match="SQL_ASCII"):
        read_archive(whole.replace(b"XXX", b"\xff\xfe\xfd"))


def test_a_definition_is_not_shown_by_accident() -> None:
    """It may hold a password (CREATE USER MAPPING); what is logged is the repr."""
    shown = repr(read_archive(Writer().write(archive(entry(1, "USER MAPPING", "m", "OPTIONS (password 'canary')")))))

    assert "canary" not in shown
