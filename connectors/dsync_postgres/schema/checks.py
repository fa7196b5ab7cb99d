"""What of a database dsync does not carry over, found in its catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dsync_postgres.schema.findings import Finding, stop, warn
from dsync_postgres.schema.server import ExtensionFacts

# Extensions that keep the rows of a table somewhere else, so that a copy of the table would be empty.
_DISTRIBUTING = {
    "timescaledb": "its hypertables keep their rows in chunks that belong to the extension",
    "citus": "its distributed tables keep their rows on other servers",
}


def source_findings(extensions: Mapping[str, ExtensionFacts]) -> Iterator[Finding]:
    """Yield what would be missing at the sink."""
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
