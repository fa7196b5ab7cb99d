"""What of a database dsync does not carry over, found in its catalogue and archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dsync_postgres.schema.archive import Archive
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.server import ExtensionFacts, ServerFacts

# Extensions that keep the rows of a table somewhere else, so that a copy of the table would be empty.
_DISTRIBUTING = {
    "timescaledb": "its hypertables keep their rows in chunks that belong to the extension",
    "citus": "its distributed tables keep their rows on other servers",
}


def source_findings(
    extensions: Mapping[str, ExtensionFacts], large_objects: int, *, whole_database: bool
) -> Iterator[Finding]:
    """Yield what would be missing at the sink; `whole_database`: no choice of tables was made."""
    for name, reason in _DISTRIBUTING.items():
        if name in extensions and extensions[name].installed_version is not None:
            yield stop(
                f"{name}-installed",
                name,
                f"the source uses this extension, and {reason}; dsync would copy empty tables",
                "use the extension's own tools for this database",
            )
    for name, extension in sorted(extensions.items()):
        if extension.installed_version is not None and extension.config_tables and name not in _DISTRIBUTING:
            yield warn(
                "extension-rows",
                name,
                "rows that users added to this extension's own tables are not copied",
                f"copy them by hand if there are any (pg_dump --extension={name} shows them)",
            )
    if large_objects:
        make = stop if whole_database else info
        yield make(
            "large-objects",
            "pg_largeobject",
            f"the source has {large_objects} large objects, which are not copied",
            "choose tables with -n, and copy large objects with pg_dump --large-objects",
        )


def pair_findings(source: ServerFacts, sink: ServerFacts) -> Iterator[Finding]:
    """Yield what differs between the two databases in a way that text notices."""
    if source.encoding != sink.encoding:
        # Bytes of SQL_ASCII are in no known encoding: nothing can convert them, and nothing would complain.
        make = stop if "SQL_ASCII" in (source.encoding, sink.encoding) else warn
        yield make(
            "encoding-differs",
            sink.database,
            f"the source is encoded in {source.encoding}, the sink in {sink.encoding}",
            f"create the sink with ENCODING '{source.encoding}' TEMPLATE template0, or make sure that every "
            "character exists in both",
        )
    elif source.encoding == "SQL_ASCII":
        yield warn(
            "encoding-unknown",
            source.database,
            "the source is SQL_ASCII: its text is whatever bytes were stored, and anything but UTF-8 fails",
        )
    if (source.collate, source.ctype, source.locale) != (sink.collate, sink.ctype, sink.locale):
        yield info(
            "locale-differs",
            sink.database,
            f"text sorts by {source.locale or source.collate} at the source and by {sink.locale or sink.collate} at "
            "the sink",
        )


def archive_findings(archive: Archive) -> Iterator[Finding]:
    """Yield what the archive holds about the database itself, which belongs to whoever made the sink's."""
    for entry in archive.entries:
        if entry.desc == "DATABASE PROPERTIES":
            yield info(
                "database-settings",
                entry.tag,
                "settings made by ALTER DATABASE … SET at the source are not copied",
                "see them with \\drds in psql",
            )
