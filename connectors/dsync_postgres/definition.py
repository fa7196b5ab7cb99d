"""What `describe` packs into SchemaDescription.definition for a PostgreSQL sink: versioned msgpack.

The source writes it, the sink's `prepare` reads it; in between it is opaque.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from dsync.sdk import errors

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A database's schema as the source had it under the copy's snapshot."""

    archive: bytes = field(repr=False)
    """A pg_dump archive in custom format, without data; empty where the schema is not to be created."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What of the catalogue the sink needs beside it, by name: plain msgpack values (maps, lists, str, int, bytes)."""

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb({"v": _VERSION, "archive": self.archive, "facts": dict(self.facts)})
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Definition:
        """The inverse of `encode`; empty bytes are an empty definition.

        Raises:
            RequestError: these bytes were not made by this connector, or by a later version of it.
        """
        if not data:
            return cls(archive=b"")
        try:
            fields = msgpack.unpackb(data)
            if fields["v"] != _VERSION:
                raise errors.RequestError(
                    f"schema definition: version {fields['v']} is not known here; use the same release at both ends"
                )
            return cls(archive=fields["archive"], facts=fields["facts"])
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
            raise errors.RequestError("schema definition: it was not written by a PostgreSQL source of dsync") from exc
