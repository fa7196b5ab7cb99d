"""The connector under examination, as the checks see it."""

from __future__ import annotations

from functools import cached_property

from dsync.conformance.changes import Changes
from dsync.conformance.frames import Frames
from dsync.conformance.reading import Reading
from dsync.conformance.scratch import Scratch


class Subject(Reading):
    """What can be read from it, written to it and followed."""

    @cached_property
    def scratch(self) -> Scratch:
        """Writes into the scratch namespace and reads it back."""
        return Scratch(self)

    @cached_property
    def changes(self) -> Changes:
        """Makes changes and follows them."""
        return Changes(self, self.scratch)

    @cached_property
    def frames(self) -> Frames:
        """Makes changes, and follows them by dsync.v1."""
        return Frames(self, self.scratch)
