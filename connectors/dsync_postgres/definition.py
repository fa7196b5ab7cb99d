"""What a PostgreSQL source packs for a PostgreSQL sink: the schema, where sequences stand, and how columns came about.

Versioned msgpack. `describe` and `get_finish_data` write it, the sink's `prepare` and `finish` read it; what is said of
columns are the details of a relation in a stream. In between it is opaque.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.sequences import SequencePosition

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A database's schema as the source had it under the copy's snapshot."""

    archive: bytes = field(repr=False)
    """A pg_dump archive in custom format, without data; empty where the schema is not to be created."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What of the catalogue the sink needs beside it, by name: plain msgpack values (maps, lists, str, int, bytes)."""
    large_objects: Mapping[str, Any] = field(default_factory=dict)
    """Which large objects will come; empty where none is."""

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb(
            {
                "v": _VERSION,
                "archive": self.archive,
                "facts": dict(self.facts),
                "large_objects": dict(self.large_objects),
            }
        )
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
            objects = fields.get("large_objects", {})
            return cls(archive=fields["archive"], facts=fields["facts"], large_objects=objects)
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
            raise errors.RequestError("schema definition: it was not written by a PostgreSQL source of dsync") from exc


def encode_positions(positions: Iterable[SequencePosition]) -> bytes:
    """What `get_finish_data` gives for a step that sets sequences."""
    rows = [[p.name.schema, p.name.name, p.last_value, p.is_called] for p in positions]
    packed: bytes = msgpack.packb({"v": _VERSION, "positions": rows})
    return packed


def decode_positions(data: bytes) -> tuple[SequencePosition, ...]:
    """The inverse of `encode_positions`.

    Raises:
        RequestError: these bytes were not made by this connector, or by a later version of it.
    """
    try:
        fields = msgpack.unpackb(data)
        if fields["v"] != _VERSION:
            raise errors.RequestError(
                f"sequence positions: version {fields['v']} is not known here; use the same release at both ends"
            )
        return tuple(
            SequencePosition(name=TableName(schema=schema, name=name), last_value=last_value, is_called=is_called)
            for schema, name, last_value, is_called in fields["positions"]
        )
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
        raise errors.RequestError("sequence positions: they were not read by a PostgreSQL source of dsync") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """A column as the source has it, for a sink that has to add it; NULL wherever nothing is said."""

    name: str
    default: str = field(default="", repr=False)
    """An expression, every name in it qualified; empty: NULL."""
    old_value: str | None = field(default=None, repr=False)
    """What rows have that were there before it was added; None: NULL, unless it is computed."""
    is_computed: bool = False
    """Those rows may have got values of their own, which nobody has sent."""


def encode_columns(columns: Iterable[ColumnFacts]) -> bytes:
    """The details of a relation in a stream; of columns without a default there is nothing to say."""
    rows = [[column.name, column.default, column.old_value, column.is_computed] for column in columns]
    packed: bytes = msgpack.packb({"v": _VERSION, "columns": rows})
    return packed


def decode_columns(data: bytes) -> dict[str, ColumnFacts] | None:
    """The inverse of `encode_columns`, by name; None for empty bytes, which say nothing of any column.

    Raises:
        RequestError: these bytes were not made by this connector, or by a later version of it.
    """
    if not data:
        return None
    try:
        fields = msgpack.unpackb(data)
        if fields["v"] != _VERSION:
            raise errors.RequestError(
                f"columns of a table: version {fields['v']} is not known here; use the same release at both ends"
            )
        return {
            name: ColumnFacts(name=name, default=default, old_value=old_value, is_computed=is_computed)
            for name, default, old_value, is_computed in fields["columns"]
        }
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
        raise errors.RequestError("columns of a table: they were not read by a PostgreSQL source of dsync") from exc
