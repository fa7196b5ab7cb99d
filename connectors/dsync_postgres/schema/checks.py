"""What of a database dsync does not carry over, found in its catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dsync_postgres.schema.catalog import DISTRIBUTING
from dsync_postgres.schema.findings import Finding, stop
from dsync_postgres.schema.server import ExtensionFacts


def source_findings(extensions: Mapping[str, ExtensionFacts]) -> Iterator[Finding]:
    """Yield what would be missing at the sink."""
    for name, reason in DISTRIBUTING.items():
        if name in extensions and extensions[name].installed_version is not None:
            yield stop(
                f"{name}-installed",
                name,
                f"the source uses this extension, and {reason}; dsync would copy empty tables",
                "use the extension's own tools for this database",
            )
