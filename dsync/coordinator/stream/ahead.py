"""Records that the sink has from a later moment than the changes that are being applied: they were read again."""

from __future__ import annotations

from dsync.protocol import frames
from dsync.protocol.types import ChangeFrame, Operation

_MOVE = bytes([Operation.MOVE])


class Ahead:
    """Which keys are ahead, and until where.

    A change that gives a record another key without sending all of its values takes them from the sink's record only
    where that is as old as the change. While rows overlap with the stream nobody knows that of any. Once the stream
    has passed a mark that was set after the last page, it is known of all but of those that were read again since:
    without this, a source whose keys change all the time would have records read again for ever.
    """

    def __init__(self, *, rest_is_exact: bool = True) -> None:
        self._until: dict[tuple[str, bytes], int] = {}
        self._rest_is_exact = rest_is_exact
        self.position = 0
        """The source's own, of the latest moment that a record was read again at."""

    def add(self, changes: ChangeFrame, index: int, position: int) -> None:
        """What a change concerns was read again at a position."""
        self.position = max(self.position, position)
        for key in frames.keys_of(changes, index) or ():
            self._until[key] = max(position, self._until.get(key, 0))

    def rest_is_exact(self) -> None:
        """From now on every other record is as old as the next change."""
        self._rest_is_exact = True

    def reaches(self, transaction: int) -> bool:
        """A record is ahead of this transaction's changes, or may be."""
        return not self._rest_is_exact or self.position >= transaction

    def is_exact(self, changes: ChangeFrame, transaction: int) -> bool:
        """The records that these changes, up to this transaction, find at the sink are those that they were made of."""
        if not self._rest_is_exact or changes.operations != _MOVE:
            return False
        keys = frames.keys_of(changes, 0)
        return keys is not None and all(self._until.get(key, 0) < transaction for key in keys)
