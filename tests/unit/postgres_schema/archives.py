"""Archives made by hand: bytes as pg_dump writes them, and entries without a dump."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dsync_postgres.schema.archive import Archive, ArchiveHeader, Section, TocEntry
from dsync_postgres.schema.facts import SinkFacts, SourceFacts, SourceTable
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.server import RoleFacts, SchemaFacts, ServerFacts

HEADER = ArchiveHeader(
    version=(1, 16, 0),
    compression="none",
    created_at=datetime(2024, 2, 29, 13, 14, 15),
    database="shop",
    server_version="18.4",
    pg_dump_version="18.4",
)
_POST_DATA = frozenset(
    {
        "CONSTRAINT",
        "CHECK CONSTRAINT",
        "DEFAULT ACL",
        "EVENT TRIGGER",
        "FK CONSTRAINT",
        "INDEX",
        "INDEX ATTACH",
        "POLICY",
        "ROW SECURITY",
        "RULE",
        "STATISTICS",
        "TRIGGER",
    }
)
_REMARKS = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})


def entry(
    dump_id: int,
    desc: str,
    tag: str,
    defn: str = "",
    *needs: int,
    namespace: str | None = "public",
    section: Section | None = None,
    drop: str = "",
    owner: str | None = None,
    tablespace: str | None = None,
    tableam: str | None = None,
    relkind: str | None = None,
) -> TocEntry:
    """Return an entry in the section where pg_dump puts its kind."""
    if section is None:
        section = Section.NONE if desc in _REMARKS else Section.PRE_DATA
        section = Section.POST_DATA if desc in _POST_DATA else section
    return TocEntry(
        dump_id=dump_id,
        catalog_table_oid=1259,
        catalog_oid=dump_id + 16384,
        tag=tag,
        desc=desc,
        section=section,
        defn=defn,
        drop=drop,
        copy="",
        namespace=namespace,
        tablespace=tablespace,
        tableam=tableam,
        relkind=relkind,
        owner=owner,
        dependencies=needs,
        has_data=False,
    )


def table(dump_id: int, name: str, *needs: int, tablespace: str | None = None, tableam: str | None = None) -> TocEntry:
    """Return a table of one column."""
    return entry(
        dump_id,
        "TABLE",
        name,
        f"CREATE TABLE public.{name} (id integer);",
        *needs,
        drop=f"DROP TABLE public.{name};\n",
        tablespace=tablespace,
        tableam=tableam,
    )


def primary_key(dump_id: int, name: str, *needs: int) -> TocEntry:
    """Return the primary key of a table."""
    text = f"ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT {name}_pkey PRIMARY KEY (id);"
    return entry(dump_id, "CONSTRAINT", f"{name} {name}_pkey", text, *needs)


def foreign_key(dump_id: int, name: str, target: str, *needs: int) -> TocEntry:
    """Return a foreign key between two tables."""
    text = (
        f"ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT {name}_{target} FOREIGN KEY (id) "
        f"REFERENCES public.{target}(id);"
    )
    return entry(dump_id, "FK CONSTRAINT", f"{name} {name}_{target}", text, *needs)


def index(dump_id: int, name: str, of: str, *needs: int) -> TocEntry:
    """Return an index."""
    return entry(dump_id, "INDEX", name, f"CREATE INDEX {name} ON public.{of} USING btree (id);", *needs)


def archive(*entries: TocEntry) -> Archive:
    """Return an archive of these entries."""
    return Archive(header=HEADER, entries=entries)


def server(version_num: int = 180004, *, user: str = "boss", is_superuser: bool = True) -> ServerFacts:
    """Return a server with an ordinary database."""
    return ServerFacts(
        version_num=version_num,
        version=f"{version_num // 10000}.{version_num % 10000}",
        user=user,
        is_superuser=is_superuser,
        is_standby=False,
        database="shop",
        encoding="UTF8",
        lc_monetary="C",
        can_create=True,
    )


def sink(
    version_num: int = 180004,
    *,
    is_superuser: bool = True,
    roles: Sequence[str] = ("boss",),
    members: Sequence[str] = (),
) -> SinkFacts:
    """Return an empty sink; of `members` our role is one."""
    known = [
        RoleFacts(name=name, can_become=is_superuser or name in members, has_its_rights=is_superuser or name in members)
        for name in [*roles, *members]
    ]
    return SinkFacts(
        server=server(version_num, is_superuser=is_superuser),
        roles={role.name: role for role in known},
        schemas={"public": SchemaFacts(name="public", owner="pg_database_owner", may_create=True)},
    )


def source(**tables: SourceTable) -> SourceFacts:
    """Return a source with these tables in the schema public."""
    return SourceFacts(
        version_num=180004,
        encoding="UTF8",
        extensions={},
        tables={TableName(schema="public", name=name): facts for name, facts in tables.items()},
    )


def source_table(*, kind: str = "r", is_populated: bool = True, size_bytes: int = 0) -> SourceTable:
    """Return a table of the source without columns."""
    return SourceTable(kind=kind, is_populated=is_populated, size_bytes=size_bytes, columns=())


class Writer:
    """Writes archives as pg_backup_archiver.c does."""

    def __init__(self, *, int_bytes: int = 4, offset_bytes: int = 8) -> None:
        self._int_bytes = int_bytes
        self._offset_bytes = offset_bytes

    def write(self, content: Archive) -> bytes:
        """Return the bytes of an archive in custom format."""
        header = content.header
        time = header.created_at
        compression = {"none": 0, "gzip": 1, "lz4": 2, "zstd": 3}[header.compression]
        numbers = (time.second, time.minute, time.hour, time.day, time.month - 1, time.year - 1900, 0)
        return b"".join(
            [
                b"PGDMP",
                bytes(header.version),
                bytes([self._int_bytes, self._offset_bytes, 1]),
                # Before 1.15 a level, of which only "none" says the algorithm.
                self._integer(-1 if compression else 0) if header.version < (1, 15) else bytes([compression]),
                *map(self._integer, numbers),
                self._string(header.database),
                self._string(header.server_version),
                self._string(header.pg_dump_version),
                self._integer(len(content.entries)),
                *(self._entry(one, header.version) for one in content.entries),
            ]
        )

    def _entry(self, one: TocEntry, version: tuple[int, int, int]) -> bytes:
        texts = (one.tag, one.desc)
        return b"".join(
            [
                self._integer(one.dump_id),
                self._integer(int(one.has_data)),
                self._string(str(one.catalog_table_oid)),
                self._string(str(one.catalog_oid)),
                *map(self._string, texts),
                self._integer(one.section.value),
                *map(self._string, (one.defn, one.drop, one.copy, one.namespace, one.tablespace, one.tableam)),
                self._integer(ord(one.relkind or "\0")) if version >= (1, 16) else b"",
                self._string(one.owner),
                self._string("false"),
                *(self._string(str(other)) for other in one.dependencies),
                self._string(None),
                bytes([3]),
                bytes(self._offset_bytes),
            ]
        )

    def _integer(self, number: int) -> bytes:
        return bytes([number < 0]) + abs(number).to_bytes(self._int_bytes, "little")

    def _string(self, text: str | None) -> bytes:
        if text is None:
            return self._integer(-1)
        data = text.encode()
        return self._integer(len(data)) + data
