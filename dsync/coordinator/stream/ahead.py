"""Records that the sink has from a later moment than the changes that are being applied: they were read again."""

from __future__ import annotations

from dsync.protocol import frames
from dsync.protocol.types import ChangeFrame, Operation

_MOVE = bytes([Operation.MOVE])

FOR_EVER = 1 << 64
"""After every transaction."""


class Ahead:
    """Which keys are ahead, and until where.

    A change that gives a record another key without sending all of its values takes them from the sink's record only
    where that is as old as the change. While rows overlap with the stream nobody knows that of any. Once the stream
    has passed a mark that was set after the last page, it is known of all but of those that were read again since:
    without this, a source whose keys change all the time would have records read again for ever.
    """

    def __init__(self, *, all_until: int) -> None:
        """Of every record it is in doubt whether it is ahead of transactions up to there; 0 after an exact copy."""
        self._until: dict[tuple[str, bytes], int] = {}
        self._all_until = all_until
        self.position = 0
        """The source's own, of the latest moment that a record was read again at."""

    def add(self, changes: ChangeFrame, index: int, position: int) -> None:
        """What a change concerns was read again at a position."""
        self.position = max(self.position, position)
        for key in frames.keys_of(changes, index) or ():
            self._until[key] = max(position, self._until.get(key, 0))

    def rest_is_exact(self) -> None:
        """From now on every other record is as old as the next change."""
        self._all_until = 0

    def overlaps(self, changes: ChangeFrame, transaction: int) -> bool:
        """A record that changes up to this transaction find at the sink may not be the one they were made of."""
        if self._all_until >= transaction:
            return True
        if self.position < transaction:
            return False
        # The others are written by key with no loss, and are many: only of a lone move it is asked which key it is.
        keys = frames.keys_of(changes, 0) if changes.operations == _MOVE else None
        return keys is None or any(self._until.get(key, 0) >= transaction for key in keys)
