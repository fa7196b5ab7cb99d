"""What can be wrong with following a database; each says what to do next by its base class and its message."""

from __future__ import annotations

from dsync.sdk import errors


class SlotMissingError(errors.CursorExpiredError):
    """The slot was dropped, and with it the only thing that made the server keep the changes."""


class SlotLostError(errors.CursorExpiredError):
    """The server has removed log that the slot still needed."""


class SlotMovedError(errors.CursorExpiredError):
    """The slot stands after the flow's position: what lies between would be skipped without a word."""


class SlotBusyError(errors.ConflictError):
    """Another session reads from the slot."""


class SlotUnfitError(errors.PermanentError):
    """There is a slot of that name, and it is not one that dsync can follow this database by."""


class SlotTimeoutError(errors.PermanentError):
    """Open transactions have kept the slot from being made."""


class VisibilityError(errors.ConflictError):
    """Transactions from before the stream's position have not ended: what they write cannot be read yet."""


class NotLogicalError(errors.PermanentError):
    """The server does not write what logical replication needs."""


class NoSlotFreeError(errors.PermanentError):
    """All replication slots are in use."""


class PublicationMissingError(errors.MissingObjectError):
    """There is no publication of that name."""


class PublicationChangedError(errors.PermanentError):
    """The publication does not publish all of what the flow follows."""


class ReplicaIdentityError(errors.PermanentError):
    """A table has nothing to tell its changed and deleted rows by; publishing it would break its writers."""


class SpillError(errors.RetryableError):
    """A large transaction could not be set aside on disk."""
