"""The table of contents of a pg_dump archive in custom format.

The layout is that of `pg_backup_archiver.c` and `pg_backup_custom.c`: a header, then one entry per object,
numbers as a sign byte with little-endian digits, strings as a length with bytes. Versions 1.14 (PostgreSQL
12 to 15), 1.15 (16) and 1.16 (17 and 18) are read; they differ in the compression field and `relkind`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from dsync_postgres.schema.errors import ArchiveError

_MAGIC = b"PGDMP"
_FORMAT_CUSTOM = 1
_SUPPORTED = {(1, 14), (1, 15), (1, 16)}
# PostgreSQL writes 4-byte integers and 8-byte offsets on every platform it supports today.
_INT_BYTES = (4, 8)
_OFFSET_BYTES = (4, 8)
_OFFSET_STATES = (1, 2, 3)
_COMPRESSIONS = {0: "none", 1: "gzip", 2: "lz4", 3: "zstd"}
# More than any database has objects; a corrupt count must not become an allocation.
_MOST_ENTRIES = 50_000_000


class Section(Enum):
    """Where pg_restore places an entry."""

    NONE = 1
    PRE_DATA = 2
    DATA = 3
    POST_DATA = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveHeader:
    """What the archive says about itself."""

    version: tuple[int, int, int]
    """The archive format's own version, such as (1, 16, 0)."""
    compression: str
    """none, gzip, lz4 or zstd; a table of contents is never compressed."""
    created_at: datetime
    """The dumping machine's local time."""
    database: str
    server_version: str
    """As the server reported it, such as `15.18 (Debian 15.18-0+deb12u1)`."""
    pg_dump_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TocEntry:
    """One object of the archive, or one statement about an object."""

    dump_id: int
    """Numbers the entry within this archive only; another dump of the same database may differ."""
    catalog_table_oid: int
    """Oid of the system catalogue the object lives in, 0 for statements about objects."""
    catalog_oid: int
    """Oid of the object in that catalogue."""
    tag: str
    """The object's name without its schema, with decorations that depend on `desc`."""
    desc: str
    """The kind: TABLE, INDEX, FK CONSTRAINT, ACL …"""
    section: Section
    defn: str = field(repr=False)
    """SQL that creates it: may hold several statements, and secrets such as a user mapping's password."""
    drop: str = field(repr=False)
    """SQL that removes it; empty for what has no owner of its own."""
    copy: str = field(repr=False)
    """The COPY statement of a data entry."""
    namespace: str | None
    """Its schema, None for what lives outside schemas."""
    tablespace: str | None
    """None: not applicable; empty: the database's default."""
    tableam: str | None
    """Table access method, None where that means nothing."""
    relkind: str | None
    """Letter of pg_class.relkind, from archive version 1.16 on."""
    owner: str | None
    dependencies: tuple[int, ...]
    """Dump ids of what must exist first; may name entries this archive left out."""
    has_data: bool
    """Whether the archive holds bytes for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A whole table of contents, in the order in which pg_restore would run it."""

    header: ArchiveHeader
    entries: tuple[TocEntry, ...]


def read_archive(data: bytes) -> Archive:
    """Return the table of contents of a custom-format archive.

    Raises:
        ArchiveError: the bytes are not such an archive, are cut short, or are of a version not known here.
    """
    reader = _Reader(data)
    layout, header = _read_header(reader)
    count = reader.integer("the number of entries")
    if not 0 <= count <= _MOST_ENTRIES:
        raise ArchiveError(f"reading the schema archive: it claims {count} entries; dump the schema again")
    entries = tuple(_read_entry(reader, layout) for _ in range(count))
    _check_unique(entries)
    return Archive(header=header, entries=entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    version: tuple[int, int]
    offset_bytes: int


class _Reader:
    """Reads the archive's primitive values and knows where it is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.int_bytes = 4

    def raw(self, length: int, what: str) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise ArchiveError(
                f"reading the schema archive: it ends at byte {len(self._data)} within {what}; "
                "pg_dump was cut short, dump the schema again"
            )
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def byte(self, what: str) -> int:
        return self.raw(1, what)[0]

    def integer(self, what: str) -> int:
        sign = self.byte(what)
        if sign > 1:
            raise ArchiveError(f"reading the schema archive: byte {self._at} should be the sign of {what}")
        magnitude = int.from_bytes(self.raw(self.int_bytes, what), "little")
        return -magnitude if sign else magnitude

    def string(self, what: str) -> str | None:
        """Return a string; None is what pg_dump writes for a null pointer."""
        length = self.integer(what)
        if length < 0:
            return None
        piece = self.raw(length, what)
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ArchiveError(
                f"reading the schema archive: {what} is not UTF-8; the database is SQL_ASCII with names or "
                "definitions in another encoding, which no connector can carry without knowing which"
            ) from exc

    def text(self, what: str) -> str:
        return self.string(what) or ""


def _read_header(reader: _Reader) -> tuple[_Layout, ArchiveHeader]:
    if reader.raw(len(_MAGIC), "the magic") != _MAGIC:
        raise ArchiveError("reading the schema archive: it does not begin with PGDMP, so pg_dump did not write it")
    major, minor, revision = reader.raw(3, "the version")
    if (major, minor) not in _SUPPORTED:
        known = ", ".join(f"{a}.{b}" for a, b in sorted(_SUPPORTED))
        raise ArchiveError(
            f"reading the schema archive: its version is {major}.{minor}, known are {known} "
            "(pg_dump of PostgreSQL 12 to 18); install one of those"
        )
    reader.int_bytes = reader.byte("the integer size")
    offset_bytes = reader.byte("the offset size")
    if reader.int_bytes not in _INT_BYTES or offset_bytes not in _OFFSET_BYTES:
        raise ArchiveError(
            f"reading the schema archive: integers of {reader.int_bytes} and offsets of {offset_bytes} bytes "
            "are not what any pg_dump writes"
        )
    if (form := reader.byte("the format")) != _FORMAT_CUSTOM:
        raise ArchiveError(f"reading the schema archive: format {form} is not the custom format (-Fc)")
    compression = _read_compression(reader, (major, minor))
    created_at = _read_time(reader)
    header = ArchiveHeader(
        version=(major, minor, revision),
        compression=compression,
        created_at=created_at,
        database=reader.text("the database name"),
        server_version=reader.text("the server version"),
        pg_dump_version=reader.text("the pg_dump version"),
    )
    return _Layout(version=(major, minor), offset_bytes=offset_bytes), header


def _read_compression(reader: _Reader, version: tuple[int, int]) -> str:
    if version < (1, 15):
        # Before 1.15 a level: 0 is none, -1 the library's default.
        return "none" if reader.integer("the compression level") == 0 else "gzip"
    number = reader.byte("the compression")
    if number not in _COMPRESSIONS:
        raise ArchiveError(f"reading the schema archive: compression {number} is not known")
    return _COMPRESSIONS[number]


def _read_time(reader: _Reader) -> datetime:
    second, minute, hour, day, month, year, _dst = (reader.integer("the creation time") for _ in range(7))
    try:
        # struct tm counts months from 0, years from 1900, and leap seconds up to 60.
        return datetime(year + 1900, month + 1, day, hour, minute, min(second, 59))
    except (ValueError, OverflowError) as exc:
        raise ArchiveError("reading the schema archive: its creation time is not a time") from exc


def _read_entry(reader: _Reader, layout: _Layout) -> TocEntry:
    dump_id = reader.integer("an entry's number")
    if dump_id <= 0:
        raise ArchiveError(f"reading the schema archive: entry number {dump_id} is not positive")
    what = f"entry {dump_id}"
    has_data = reader.integer(what) != 0
    table_oid, oid = _read_oid(reader, what), _read_oid(reader, what)
    tag, desc = reader.text(what), reader.text(what)
    what = f"entry {dump_id} ({desc} {tag})"
    section = _read_section(reader, what)
    defn, drop, copy = reader.text(what), reader.text(what), reader.text(what)
    namespace, tablespace, tableam = reader.string(what), reader.string(what), reader.string(what)
    relkind = _read_letter(reader, what) if layout.version >= (1, 16) else None
    owner = reader.string(what)
    _with_oids = reader.string(what)
    dependencies = _read_dependencies(reader, what)
    _read_offset(reader, layout, what)
    return TocEntry(
        dump_id=dump_id,
        catalog_table_oid=table_oid,
        catalog_oid=oid,
        tag=tag,
        desc=desc,
        section=section,
        defn=defn,
        drop=drop,
        copy=copy,
        namespace=namespace or None,
        tablespace=tablespace,
        tableam=tableam or None,
        relkind=relkind,
        owner=owner or None,
        dependencies=dependencies,
        has_data=has_data,
    )


def _read_oid(reader: _Reader, what: str) -> int:
    text = reader.text(what)
    return _number(text, f"an oid of {what}")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArchiveError(f"reading the schema archive: {what} is not a number")
    return int(text)


def _read_section(reader: _Reader, what: str) -> Section:
    number = reader.integer(what)
    try:
        return Section(number)
    except ValueError as exc:
        raise ArchiveError(f"reading the schema archive: {what} is in section {number}, which is not known") from exc


def _read_letter(reader: _Reader, what: str) -> str | None:
    number = reader.integer(what)
    if number == 0:
        return None
    if not 0 < number < 128 or not chr(number).isalpha():
        raise ArchiveError(f"reading the schema archive: {what} has relation kind {number}, which is no letter")
    return chr(number)


def _read_dependencies(reader: _Reader, what: str) -> tuple[int, ...]:
    found: list[int] = []
    while (text := reader.string(what)) is not None:
        found.append(_number(text, f"a dependency of {what}"))
    return tuple(found)


def _read_offset(reader: _Reader, layout: _Layout, what: str) -> None:
    state = reader.byte(what)
    if state not in _OFFSET_STATES:
        raise ArchiveError(f"reading the schema archive: {what} has data state {state}, which is not known")
    reader.raw(layout.offset_bytes, what)


def _check_unique(entries: tuple[TocEntry, ...]) -> None:
    seen: set[int] = set()
    for entry in entries:
        if entry.dump_id in seen:
            raise ArchiveError(f"reading the schema archive: entry number {entry.dump_id} occurs twice")
        seen.add(entry.dump_id)
