"""Where a lane stands: which changes it has, and where the source goes on to give the next ones."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from dsync.protocol.errors import PermanentError
from dsync.protocol.frames import START, Place
from dsync.protocol.types import ChangeFrame

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the source's history, and a cursor that is not after it. The store and the ledger keep it as bytes."""

    place: Place = START
    cursor: bytes = b""
    """Of the source; empty: from the position that the plan has fixed."""

    @classmethod
    def after(cls, frame: ChangeFrame) -> Position:
        """Where whoever has everything up to the end of a frame stands."""
        return cls(place=frame.place, cursor=frame.cursor)

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb((_VERSION, *self.place, self.cursor))
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Position:
        """The position behind these bytes; none of them means the start.

        Raises:
            PermanentError: the bytes were written by a later release, or are damaged.
        """
        if not data:
            return cls()
        try:
            version, transaction, index, cursor = msgpack.unpackb(data)
        except (ValueError, TypeError) as exc:
            raise PermanentError(
                "a position in the stream cannot be read: it is damaged; `dsync reset` starts the flow anew"
            ) from exc
        if version != _VERSION:
            raise PermanentError(
                f"a position in the stream has format {version}, this release reads {_VERSION}: use a newer dsync"
            )
        return cls(place=(transaction, index), cursor=cursor)
