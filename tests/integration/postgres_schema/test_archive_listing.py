"""Our reading of an archive is pg_restore's, for every pg_dump at hand."""

from __future__ import annotations

import re
import subprocess

import pytest
from dsync_postgres.schema import read_archive
from dsync_postgres.schema.errors import ArchiveError

from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.postgres_schema.support import dump, nasty
from tests.support.databases import DatabaseFactory

# Header entries and, in a schema-only archive, the database itself: pg_restore lists them only with --create.
_UNLISTED = {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"}
_HEADER = re.compile(r"(?m)^;\s+(Dump Version|Dumped from database version|Dumped by pg_dump version|dbname): (.*)$")
_FORMATS = {15: (1, 14), 16: (1, 15), 18: (1, 16)}


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
async def test_the_entries_are_those_that_pg_restore_lists(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    """In the same order, with the same numbers, names, schemas and owners."""
    dumped = await dump(database(nasty).uri, source_major=pg.major, sink_major=pg.major)

    listing = subprocess.run(
        [str(dumped.tool.path.with_name("pg_restore")), "--list"], input=dumped.data, capture_output=True, check=True
    ).stdout.decode()

    ours = [
        f"{e.dump_id}; {e.catalog_table_oid} {e.catalog_oid} {e.desc} {e.namespace or '-'} {e.tag} {e.owner or ''}"
        for e in dumped.archive.entries
        if e.desc not in _UNLISTED
    ]
    assert ours == [line for line in listing.splitlines() if line and not line.startswith(";")]
    assert len(ours) > 150
    header = dict(_HEADER.findall(listing))
    assert dumped.archive.header.version[:2] == _FORMATS[pg.major]
    assert header["Dump Version"] == "{}.{}-{}".format(*dumped.archive.header.version)
    assert header["Dumped from database version"] == dumped.archive.header.server_version
    assert header["Dumped by pg_dump version"] == dumped.archive.header.pg_dump_version
    assert header["dbname"] == dumped.archive.header.database


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
async def test_the_definitions_are_those_that_pg_restore_would_run(
    pg: EmbeddedPostgres, database: DatabaseFactory
) -> None:
    dumped = await dump(database(nasty).uri, source_major=pg.major, sink_major=pg.major)

    script = subprocess.run(
        [str(dumped.tool.path.with_name("pg_restore")), "--file=-"],
        input=dumped.data,
        capture_output=True,
        check=True,
    ).stdout.decode()

    missing = [e.tag for e in dumped.archive.entries if e.desc not in _UNLISTED and e.defn.strip() not in script]
    assert missing == []


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_a_cut_archive_is_never_taken_for_a_whole_one(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    """Wherever it ends: nothing follows the last entry, so a shorter one lacks bytes of some entry."""
    dumped = await dump(database(nasty).uri, source_major=pg.major, sink_major=pg.major)

    for end in range(0, len(dumped.data) - 1, 997):
        with pytest.raises(ArchiveError):
            read_archive(dumped.data[:end])
