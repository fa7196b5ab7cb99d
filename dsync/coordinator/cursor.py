"""The coordinator's own cursor around a source's: where a unit goes on, to the row.

A sink's ledger and the store keep it as opaque bytes. `skip_rows` is more than 0 only after a page was refused and
halved: that many rows of the page at `source` have landed or are dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from dsync.protocol.errors import PermanentError

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCursor:
    source: bytes = b""
    """Empty: the start of the partition."""
    skip_rows: int = 0

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb((_VERSION, self.source, self.skip_rows))
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> UnitCursor:
        """The cursor behind these bytes; none of them means the start.

        Raises:
            PermanentError: the bytes were written by a later release, or are damaged.
        """
        if not data:
            return cls()
        try:
            version, source, skip_rows = msgpack.unpackb(data)
        except (ValueError, TypeError) as exc:
            raise PermanentError(
                "a checkpoint cannot be read: it is damaged; `dsync reset` starts the flow anew"
            ) from exc
        if version != _VERSION:
            raise PermanentError(f"a checkpoint has format {version}, this release reads {_VERSION}: use a newer dsync")
        return cls(source=source, skip_rows=skip_rows)
