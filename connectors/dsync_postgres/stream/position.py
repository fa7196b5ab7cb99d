"""Where a stream stands: versioned msgpack, understood here only."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from dsync.sdk import errors

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Up to where changes have been sent, inside of a transaction too."""

    system_id: str
    timeline: int
    end_lsn: int
    """Every transaction that has committed before was sent as a whole."""
    transaction: int = 0
    """Where the commit record of the last transaction begins of which anything was sent; 0: none was."""
    index: int = 0
    """How many of its changes were sent."""

    @property
    def is_inside(self) -> bool:
        """More of that transaction may follow."""
        return self.transaction >= self.end_lsn

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb(
            [_VERSION, self.system_id, self.timeline, self.end_lsn, self.transaction, self.index]
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Position:
        """The inverse of `encode`.

        Raises:
            RequestError: these bytes are not a cursor of a stream of this connector.
        """
        try:
            version, system_id, timeline, end_lsn, transaction, index = msgpack.unpackb(data)
            if version != _VERSION or not isinstance(system_id, str):
                raise ValueError
            if not all(type(number) is int and number >= 0 for number in (timeline, end_lsn, transaction, index)):
                raise ValueError
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            raise errors.RequestError(
                "following changes: the cursor was not issued by this connector, or by another version of it; use the "
                "release that began the flow, or run it with --again"
            ) from exc
        return cls(system_id=system_id, timeline=timeline, end_lsn=end_lsn, transaction=transaction, index=index)
